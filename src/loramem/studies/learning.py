"""What the modules of a study learn: each source cut into parts, each part's supervision made, checked and encoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from loramem.base.model import Base, load_base
from loramem.base.prompts import Encoded
from loramem.core.config import Config
from loramem.core.errors import InputError, RunFailed
from loramem.core.files import read_json, write_json
from loramem.core.identity import digest
from loramem.modules.spec import Objective
from loramem.retrieval.embed import OFFLINE, Embedder
from loramem.sources.catalogue import Source, leads_of, pairs_of
from loramem.sources.chunking import Chunking, Part, dropped, offsets_of, partition
from loramem.sources.types import OUTSIDE, Document, Probe
from loramem.synthesis import Supervision
from loramem.synthesis.completing import Reply
from loramem.synthesis.contexts import TeacherForms, teacher_forms
from loramem.synthesis.generators import SupervisionChoice, make_writer
from loramem.synthesis.making import synthesize
from loramem.synthesis.overlap import OVERLAP_VERSION, Overlap, guard, overlap
from loramem.synthesis.probing import refuse_same
from loramem.synthesis.recipes import parse_recipe
from loramem.synthesis.units import Unit, units_of
from loramem.training import bucket_length


@dataclass(frozen=True)
class Learnt:
    """What every module of one part of a source learns: its supervision, encoded once.

    Attributes:
        key: The source's key in the study.
        source: The part: its documents, and the probes that its module is asked.
        choice: How the supervision was made.
        partition: How the whole source was cut; `part` is this piece's name.
        length: Padded length of its rows.
    """

    key: str
    source: Source
    supervision: Supervision
    examples: tuple[Encoded, ...]
    length: int
    choice: SupervisionChoice = SupervisionChoice()
    partition: str = "corpus"
    part: str = "corpus"
    _forms: dict[int | None, TeacherForms] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def tokens(self) -> int:
        """Tokens that bear loss, each example once."""
        return sum(len(example.ids) - example.answer_start for example in self.examples)

    def spent(self) -> dict:
        """What the making of this supervision came to; kept with every module that learnt it."""
        made = self.supervision.made
        costs = [one.cost for one in made if one.cost is not None]
        return {
            "recipe": self.choice.recipe, "generator": self.choice.who, "examples": len(self.examples), "tokens": self.tokens,
            **{name: sum(getattr(one, name) for one in made) for name in ("calls", "prompt_tokens", "new_tokens", "seconds")},
            "cost": sum(costs) if costs else None,
        }  # fmt: skip

    def teacher(self, base: Base, objective: Objective) -> tuple[Encoded, ...]:
        """What a teacher reads for `dcd`, made once; nothing for other objectives."""
        if objective.name != "dcd":
            return ()
        tokens = objective.context_tokens
        if tokens not in self._forms:
            self._forms[tokens] = teacher_forms(
                self.supervision, self.source.documents, base.prompts, context_tokens=tokens
            )
        return self._forms[tokens].examples


def parts_of(source: Source, how: str, chunking: str, base: Base) -> list[tuple[Part, Source]]:
    """A source cut into parts, one per module, each as a source: its documents (or pieces) and the probes its module is asked.

    Probes about nothing the source holds (`OUTSIDE`) are dealt out in turn. Every other probe is asked once: of the part that holds its record or the whole of its document (of a record that is cut, the
    piece with the answer, or the longest one), else (where nothing says which passage holds the answer) of the first part
    with a piece of its document.
    """
    if how == "corpus":
        return [(partition(source, how)[0], source)]
    chosen = Chunking.parse(chunking)
    offsets = offsets_of(base.tokenizer) if how == "chunk" else None
    parts = partition(source, how, chunking=chosen, offsets=offsets, count_tokens=base.prompts.count)
    owners: dict[str, list[int]] = {}
    for number, part in enumerate(parts):
        for probe in part.asked(source):
            owners.setdefault(probe.id, []).append(number)
    first = {
        document.id: number
        for number, part in reversed(list(enumerate(parts)))
        for document in part.documents
    }
    asked: list[list[Probe]] = [[] for _ in parts]
    outside = 0
    for probe in source.probes:
        if probe.phrasing in OUTSIDE:
            asked[outside % len(parts)].append(probe)
            outside += 1
            continue
        found = owners.get(probe.id) or [first[name] for name in (probe.document,) if name in first]
        if not found:
            raise InputError(
                f"probe {probe.id!r} belongs to document {probe.document!r}, which no part holds"
            )
        asked[max(found, key=lambda number: _fitness(probe, parts[number]))].append(probe)
    return [
        (part, replace(source, documents=part.documents, probes=tuple(probes)))
        for part, probes in zip(parts, asked, strict=True)
    ]


def _fitness(probe: Probe, part: Part) -> tuple[bool, int]:
    """How well a part can answer a probe: whether an answer stands in its piece of the probe's record, and how long that is."""
    records = [record for document in part.documents for record in document.records]
    said = "\n".join(record.text for record in records if record.id == probe.case) or part.text
    return any(answer.casefold() in said.casefold() for answer in probe.answers), len(said)


def gold_of(source: Source, parts: Sequence[Source]) -> dict[str, frozenset[int]]:
    """Which parts hold the answer to each probe, by their positions: those with its record or the whole of its document, else
    (where nothing says which passage answers) every part with a piece of its document; nothing for probes of `OUTSIDE`."""
    sizes = {document.id: len(document.text) for document in source.documents}
    by_case: dict[str, set[int]] = {}
    whole: dict[str, set[int]] = {}
    pieces: dict[str, set[int]] = {}
    for number, part in enumerate(parts):
        for document in part.documents:
            pieces.setdefault(document.id, set()).add(number)
            if len(document.text) == sizes.get(document.id):
                whole.setdefault(document.id, set()).add(number)
            for record in document.records:
                by_case.setdefault(record.id, set()).add(number)
    found = {}
    for probe in source.probes:
        if probe.phrasing in OUTSIDE:
            continue
        sure = by_case.get(probe.case, set()) | whole.get(probe.document, set())
        found[probe.id] = frozenset(sure or pieces.get(probe.document, set()))
    return found


class Synthesis:
    """Makes the supervision of a study, each once, and keeps an account of all of it.

    Args:
        cache: Folder in which completions are kept; None: they are not.
        on_reply: Called after every answer of a model, for progress.
        dry: Ask no model and keep nothing: only what is cached is there, and overlap by meaning is not measured.
        pieces: Chunk size of partition `chunk`.
    """

    def __init__(
        self,
        base: Base,
        cache: Path | None = None,
        *,
        pieces: str = "512",
        on_reply: Callable[[int, Reply], None] | None = None,
        dry: bool = False,
    ):
        self.base, self.cache, self.pieces, self.on_reply, self.dry = base, cache, pieces, on_reply, dry
        self.accounts: list[dict] = []
        self._bases: dict[str, Base] = {base.name: base}
        self._embedder: Embedder | None = None
        self._learnt: dict[tuple, list[Learnt]] = {}

    def load(self, name: str) -> Base:
        """Another base that writes or reads; loaded once."""
        known = self._bases.get(name)
        if known is None:
            self._bases[name] = load_base(name, device=str(self.base.device) if self.base.computes else None)
        elif not known.computes:  # workers elsewhere compute with it; what writes here is loaded here
            self._bases[name] = load_base(name, dtype=known.precision)
        return self._bases[name]

    def learn(
        self,
        key: str,
        config: Config | None,
        source: Source,
        choice: SupervisionChoice,
        how: str = "corpus",
        *,
        every: bool = True,
    ) -> list[Learnt]:
        """What each part of a source learns.

        Args:
            config: Where published pairs are found.
            every: Refuse a part for which nothing was written; else it is left out.

        Raises:
            InputError: settings that cannot work, or an overlap with the probes beyond what is allowed.
            RunFailed: the generator gave nothing for a part.
        """
        mark = (key, source.hash, choice.model_dump_json(), how, every)
        if mark in self._learnt:
            return self._learnt[mark]
        whole = {document.id: document for document in source.documents}
        leads = leads_of(source)
        cut = parts_of(source, how, self.pieces, self.base)
        pieces = self._by_document(source, whole, leads) if choice.per == "chunk" and how != "chunk" else None
        if pieces is not None and how not in ("corpus", "document"):
            raise InputError(
                f"per: chunk with partition {how}: its parts hold pieces of documents already; use per: part"
            )
        parts = [
            (
                part,
                own,
                units_of(part, whole, leads)
                if pieces is None
                else [unit for document in part.documents for unit in pieces[document.id]],
            )
            for part, own in cut
        ]
        names = {portion.kind.name for portion in parse_recipe(choice.recipe)}
        pairs = pairs_of(config) if "published" in names and config is not None else None
        writer = make_writer(
            choice, source, self.base, self.cache, load=self.load, on_reply=self.on_reply, dry=self.dry
        )
        if writer is not None and not choice.same_examiner:
            refuse_same(source.settings.get("probe_generators", ()), writer.name)
        units = [unit for _, _, group in parts for unit in group]
        made = synthesize(
            units, choice.recipe, writer, exclude={p.prompt for p in source.probes}, pairs=pairs
        )
        found: list[Learnt] = []
        for part, own, group in parts:
            learnt = made.of({unit.id for unit in group})
            if not learnt.examples and not every:
                continue
            if not learnt.examples:
                why = "; ".join(dict.fromkeys(one.why for one in learnt.made))
                raise RunFailed(f"{choice.recipe} by {choice.who} gave no examples for {part.id} ({why})")
            examples = learnt.encode(self.base.prompts)
            length = bucket_length(examples, self.base.context_length)
            found.append(Learnt(key, own, learnt, examples, length, choice, how, part.id))
        plain = overlap(made.examples, source.probes)
        guard(plain, allow=choice.allow_overlap)
        measured = writer is None or not source.probes
        shared = plain.as_dict() if measured else self._with_meaning(made, source, plain)
        lost = (
            dropped(source, [part for part, _, _ in parts], offsets_of(self.base.tokenizer))
            if how == "chunk"
            else 0
        )
        self.accounts.append(
            {**account(key, source, choice, how, found, made, shared), "dropped_tokens": lost}
        )
        self._learnt[mark] = found
        return found

    def _by_document(
        self, source: Source, whole: dict[str, Document], leads: dict[str, str]
    ) -> dict[str, list[Unit]]:
        """The chunks of each document as units."""
        found: dict[str, list[Unit]] = {document.id: [] for document in source.documents}
        for part, _ in parts_of(source, "chunk", self.pieces, self.base):
            for unit in units_of(part, whole, leads):
                found[unit.document.id].append(unit)
        return found

    def _with_meaning(self, made: Supervision, source: Source, plain: Overlap) -> dict:
        """`Overlap.as_dict` with that of embeddings, where an embedder is installed; kept on disk, for embedding takes long."""
        kept = None
        if self.dry:
            return plain.as_dict()
        if self.cache is not None:
            asked = [[p.id, p.document, p.kind, p.phrasing, p.prompt] for p in source.probes]
            learnt = [[e.form, e.prompt, e.answer, e.document, e.generator] for e in made.examples]
            kept = self.cache.parent / "overlap" / f"{digest([OVERLAP_VERSION, OFFLINE, asked, learnt])}.json"
            if kept.exists():
                return read_json(kept)
        try:
            self._embedder = self._embedder or Embedder()
        except InputError:  # reported as not measured
            return plain.as_dict()
        found = overlap(made.examples, source.probes, embedder=self._embedder).as_dict()
        if kept is not None:
            write_json(kept, found)
        return found


def account(
    key: str,
    source: Source,
    choice: SupervisionChoice,
    how: str,
    found: Sequence[Learnt],
    made: Supervision,
    shared: dict,
) -> dict:
    """One line for the report: how much was asked and written, what was left out, what it covers and what it cost."""
    failures: dict[str, int] = {}
    for one in made.made:
        for kind, count in one.failures.items():
            failures[kind] = failures.get(kind, 0) + count
    facts = [one for one in made.made if one.facts is not None]
    valued = [one for one in made.made if one.values]
    costs = [one.cost for one in made.made if one.cost is not None]
    by_document: dict[str, dict[str, float]] = {}
    for one in made.made:
        row = by_document.setdefault(
            one.document, dict.fromkeys(("written", "shortfall", "calls", "tokens", "seconds"), 0)
        )
        row["written"] += one.written
        row["shortfall"] += one.shortfall
        row["calls"] += one.calls
        row["tokens"] += one.prompt_tokens + one.new_tokens
        row["seconds"] += one.seconds
    values = sum(one.values or 0 for one in valued)
    return {
        "source": key, "size_tokens": source.size_tokens, "split": source.settings.get("split", "test"), "supervision": choice.recipe, "generator": choice.who,
        "partition": how, "parts": len(found), "units": len({one.unit for one in made.made}),
        "examples": len(made.examples), "tokens": sum(learnt.tokens for learnt in found),
        **{name: sum(getattr(one, name) for one in made.made)
           for name in ("asked", "written", "shortfall", "duplicates", "ungrounded", "calls", "cached", "prompt_tokens", "new_tokens", "seconds", "cut_tokens")},
        "cost": sum(costs) if costs else None, "failures": failures,
        "covered": _share(facts) if facts else None,
        "error_rate": sum(one.wrong or 0 for one in valued) / values if values else None,
        "overlap": shared, "documents": by_document, "choice": choice.identity(),
    }  # fmt: skip


def _share(accounts: Sequence) -> float | None:
    """Share of the facts that some part of the recipe covers, unit by unit the best part counted."""
    best: dict[str, tuple[int, int]] = {}
    for one in accounts:
        best[one.unit] = max(best.get(one.unit, (0, one.facts)), (one.covered or 0, one.facts))
    total = sum(facts for _, facts in best.values())
    return sum(covered for covered, _ in best.values()) / total if total else None
