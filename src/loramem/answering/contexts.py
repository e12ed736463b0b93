"""What stands before a question: nothing, documents, passages found for it, or the summary of its document."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.limits import LETTER_TOKENS, MAX_CONTINUATION, MAX_NEW_TOKENS
from loramem.metrics.choice import letters_prompt
from loramem.retrieval import Retrieval, search
from loramem.sources.types import OUTSIDE, Document, Probe


@dataclass(frozen=True)
class Asked:
    """A probe and all that decides its answer.

    Attributes:
        adapter: Which module is switched on (a key that the caller can turn into weights); None: the base alone.
        context: Ids that stand before it; empty: nothing does.
        cut: Tokens of the context that did not fit.
        notes: Further entries of its row: route, passages, ...
        silent: It is not answered at all: `prediction` says so.
    """

    probe: Probe
    adapter: Hashable | None = None
    context: tuple[int, ...] = ()
    cut: int = 0
    notes: dict = field(default_factory=dict)
    silent: bool = False


def alone(probes: Sequence[Probe]) -> list[Asked]:
    """Probes without a context."""
    return [Asked(probe) for probe in probes]


def in_documents(
    base: Base, probes: Sequence[Probe], documents: Sequence[Document], *, letters: bool = False
) -> list[Asked]:
    """Every probe with all documents before it; what does not fit is cut from their end and counted, alike for all.

    Args:
        letters: Choices are asked with lettered options too, which need more room.
    """
    return _before(base, probes, "\n".join(document.text for document in documents), letters)


def in_own_document(
    base: Base, probes: Sequence[Probe], documents: Sequence[Document], *, letters: bool = False
) -> list[Asked]:
    """Every probe with its own document before it."""
    texts = {document.id: document.text for document in documents}
    return _by_document(base, probes, texts, "text", letters)


def in_summary(
    base: Base, probes: Sequence[Probe], documents: Sequence[Document], *, letters: bool = False
) -> list[Asked]:
    """Every probe with the gold summary of its document before it.

    Raises:
        InputError: a document has no summary.
    """
    texts = {document.id: document.summary for document in documents}
    if lacking := [name for name, text in texts.items() if not text]:
        raise InputError(
            f"gold-summary: {len(lacking)} documents have no summary, e.g. {lacking[0]}; this source has none to read"
        )
    return _by_document(base, probes, texts, "summary", letters)


def _by_document(
    base: Base, probes: Sequence[Probe], texts: dict[str, str], what: str, letters: bool
) -> list[Asked]:
    groups: dict[str, list[int]] = {}
    for number, probe in enumerate(probes):
        if probe.document not in texts:
            raise InputError(f"probe {probe.id!r}: no {what} of document {probe.document!r} to read")
        groups.setdefault(probe.document, []).append(number)
    found: dict[int, Asked] = {}
    for name, numbers in groups.items():
        own = _before(base, [probes[number] for number in numbers], texts[name], letters)
        found |= dict(zip(numbers, own, strict=True))
    return [found[number] for number in range(len(probes))]


def _before(base: Base, probes: Sequence[Probe], context: str, letters: bool) -> list[Asked]:
    """One context before all of `probes`; equal for all of a kind, so that it is encoded once."""
    asks = [probe for probe in probes if probe.kind in ("generate", "choice")]
    compares = [
        (probe.prompt, answer) for probe in probes if probe.kind == "compare" for answer in probe.answers
    ]
    goes_on = [(probe.prompt, "") for probe in probes if probe.kind == "continue"]
    cut: dict[str, int] = {}
    chat: list[int] = []
    if asks:
        chat, cut["generate"] = _fitted(base, asks, context, letters)
        cut["choice"] = cut["generate"]
    compared, cut["compare"], _ = base.prompts.fit_statements(context, compares)
    plain, cut["continue"], _ = base.prompts.fit_statements(context, goes_on, reserve=MAX_CONTINUATION)
    prefix = {"generate": chat, "choice": chat, "compare": compared, "continue": plain}
    return [Asked(p, context=tuple(prefix[p.kind]), cut=cut[p.kind]) for p in probes]


def in_passages(
    base: Base,
    probes: Sequence[Probe],
    documents: Sequence[Document],
    retrieval: Retrieval,
    *,
    letters: bool = False,
) -> list[Asked]:
    """Every probe with its own passages in the context; cut at their end where they do not fit, and counted."""
    passages = search(retrieval, documents, probes, base.prompts.count)
    placed = []
    for probe, found in zip(probes, passages, strict=True):
        if probe.kind in ("generate", "choice"):
            ids, cut = _fitted(base, [probe], found.text, letters)
        elif probe.kind == "compare":
            pairs = [(probe.prompt, answer) for answer in probe.answers]
            ids, cut, _ = base.prompts.fit_statements(found.text, pairs)
        else:
            ids, cut, _ = base.prompts.fit_statements(
                found.text, [(probe.prompt, "")], reserve=MAX_CONTINUATION
            )
        chunks = [chunk.id for chunk in found.chunks]
        placed.append(
            Asked(probe, context=tuple(ids), cut=cut, notes={"passages": chunks, "passage_hit": found.hit})
        )
    return placed


def inside(probes: Sequence[Probe]) -> tuple[Probe, ...]:
    """The probes that ask about the source's own documents: only these can be answered out of a context."""
    return tuple(probe for probe in probes if probe.phrasing not in OUTSIDE)


def _fitted(base: Base, asks: Sequence[Probe], context: str, letters: bool) -> tuple[list[int], int]:
    """(context ids, tokens cut) that leave room for every question in every form it is asked in, and for its answer."""
    questions = [probe.prompt for probe in asks]
    reserve = max(_answer_room(base, probe) for probe in asks)
    if letters:
        questions += [letters_prompt(one.prompt, one.answers) for one in asks if one.kind == "choice"]
        reserve = max(reserve, LETTER_TOKENS)
    return base.prompts.fit_context(context, questions, reserve=reserve)


def _answer_room(base: Base, probe: Probe) -> int:
    """Tokens that must be left free for the answer of a question."""
    if probe.kind == "choice":
        return max(len(base.prompts.answer(option)) for option in probe.answers)
    return MAX_NEW_TOKENS
