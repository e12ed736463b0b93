"""Probes become prompts, go through the model in batches, and come back as prediction rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from loramem.base.model import Base
from loramem.inference.generate import Generation, Request, generate
from loramem.inference.limits import MAX_CONTINUATION, MAX_NEW_TOKENS
from loramem.inference.loglik import Score, ScoreRequest, loglikelihood
from loramem.modules.bank import Bank
from loramem.modules.store import Store
from loramem.retrieval import Retrieval, search
from loramem.sources.types import Document, Probe


@dataclass
class _Queue:
    """Requests of many probes: what is decoded and what is scored, with where each result belongs."""

    asks: list[tuple[int, int, Request]] = field(default_factory=list)
    scores: list[tuple[int, int, ScoreRequest]] = field(default_factory=list)

    def put(self, base: Base, task: int, number: int, probe: Probe, slot: int | None) -> None:
        """A probe without a context. The gold answer of a trained question is scored as well: bits stored."""
        if probe.kind == "compare":
            prompt = tuple(base.prompts.cloze(probe.prompt))
            for answer in probe.answers:
                self.scores.append(
                    (task, number, ScoreRequest(prompt, tuple(base.prompts.target(answer)), slot))
                )
        elif probe.kind == "choice":
            prompt = tuple(base.prompts.chat(probe.prompt))
            for option in probe.answers:
                self.scores.append(
                    (task, number, ScoreRequest(prompt, tuple(base.prompts.answer(option)), slot))
                )
        elif probe.kind == "continue":
            self.asks.append(
                (task, number, Request(tuple(base.prompts.cloze(probe.prompt)), slot, MAX_CONTINUATION))
            )
        else:
            prompt = tuple(base.prompts.chat(probe.prompt))
            self.asks.append((task, number, Request(prompt, slot, MAX_NEW_TOKENS)))
            if probe.phrasing == "trained":
                gold = tuple(base.prompts.answer(probe.answers[0]))
                self.scores.append((task, number, ScoreRequest(prompt, gold, slot)))


def answer_without_context(
    base: Base, tasks: Sequence[tuple[Sequence[Probe], str | None]], store: Store, rows: int
) -> list[list[dict]]:
    """Answer (probes, module id or None) pairs together; every row goes with its own module."""
    ids = list(dict.fromkeys(module for _, module in tasks if module is not None))
    loaded = [store.module(identity).load() for identity in ids]
    bank = Bank(base.model, [spec for spec, _ in loaded], frozen=True) if loaded else None
    queue = _Queue()
    for task, (probes, module) in enumerate(tasks):
        for number, probe in enumerate(probes):
            queue.put(base, task, number, probe, None if module is None else ids.index(module))
    try:
        if bank is not None:
            for position, (_, tensors) in enumerate(loaded):
                bank.load(position, tensors)
        generations = generate(base, [ask[2] for ask in queue.asks], bank=bank, rows=rows)
        scores = loglikelihood(base, [ask[2] for ask in queue.scores], bank=bank, rows=rows)
    finally:
        if bank is not None:
            bank.detach()
    said = {(task, number): out for (task, number, _), out in zip(queue.asks, generations, strict=True)}
    scored: dict[tuple[int, int], list[Score]] = {}
    for (task, number, _), score in zip(queue.scores, scores, strict=True):
        scored.setdefault((task, number), []).append(score)
    return [
        [
            row_of(probe, said.get((task, number)), scored.get((task, number), []))
            for number, probe in enumerate(probes)
        ]
        for task, (probes, _) in enumerate(tasks)
    ]


def answer_in_context(
    base: Base, probes: Sequence[Probe], documents: Sequence[Document], rows: int
) -> list[dict]:
    """Every probe with all documents before it; what does not fit is cut from their end and counted, alike for all."""
    context = "\n".join(document.text for document in documents)
    asks = [probe for probe in probes if probe.kind in ("generate", "choice")]
    compares = [
        (probe.prompt, answer) for probe in probes if probe.kind == "compare" for answer in probe.answers
    ]
    goes_on = [(probe.prompt, "") for probe in probes if probe.kind == "continue"]
    cut: dict[str, int] = {}
    chat: list[int] = []
    if asks:
        reserve = max(_answer_room(base, probe) for probe in asks)
        chat, cut["generate"] = base.prompts.fit_context(context, [p.prompt for p in asks], reserve=reserve)
        cut["choice"] = cut["generate"]
    compared, cut["compare"], _ = base.prompts.fit_statements(context, compares)
    plain, cut["continue"], _ = base.prompts.fit_statements(context, goes_on, reserve=MAX_CONTINUATION)
    prefix = {"generate": chat, "choice": chat, "compare": compared, "continue": plain}
    return _answer_after(base, probes, [(prefix[p.kind], cut[p.kind]) for p in probes], rows)


def answer_with_passages(
    base: Base, probes: Sequence[Probe], documents: Sequence[Document], retrieval: Retrieval, rows: int
) -> list[dict]:
    """Every probe with its own passages in the context; cut at their end where they do not fit, and counted."""
    passages = search(retrieval, documents, probes, base.prompts.count)
    placed = []
    for probe, found in zip(probes, passages, strict=True):
        if probe.kind in ("generate", "choice"):
            placed.append(
                base.prompts.fit_context(found.text, [probe.prompt], reserve=_answer_room(base, probe))
            )
        elif probe.kind == "compare":
            placed.append(
                base.prompts.fit_statements(found.text, [(probe.prompt, a) for a in probe.answers])[:2]
            )
        else:
            fitted = base.prompts.fit_statements(found.text, [(probe.prompt, "")], reserve=MAX_CONTINUATION)
            placed.append(fitted[:2])
    rows_found = _answer_after(base, probes, placed, rows)
    for row, found in zip(rows_found, passages, strict=True):
        row.update(route=[chunk.id for chunk in found.chunks], passage_hit=found.hit)
    return rows_found


def _answer_room(base: Base, probe: Probe) -> int:
    """Tokens that must be left free for the answer of a question."""
    if probe.kind == "choice":
        return max(len(base.prompts.answer(option)) for option in probe.answers)
    return MAX_NEW_TOKENS


def _answer_after(
    base: Base, probes: Sequence[Probe], placed: Sequence[tuple[list[int], int]], rows: int
) -> list[dict]:
    """Answer each probe after its own (context ids, tokens cut); equal contexts are encoded once."""
    found: dict[int, dict] = {}
    for kind, limit in (("generate", MAX_NEW_TOKENS), ("continue", MAX_CONTINUATION)):
        own = [number for number, probe in enumerate(probes) if probe.kind == kind]
        ask = base.prompts.suffix if kind == "generate" else base.prompts.following
        asks = [
            Request(tuple(ask(probes[number].prompt)), None, limit, prefix=tuple(placed[number][0]))
            for number in own
        ]
        said = generate(base, asks, rows=rows)
        found |= {n: row_of(probes[n], out, [], cut=placed[n][1]) for n, out in zip(own, said, strict=True)}
    own = [number for number, probe in enumerate(probes) if probe.kind in ("compare", "choice")]
    asked = []
    for number in own:
        probe, prefix = probes[number], tuple(placed[number][0])
        for answer in probe.answers:
            if probe.kind == "choice":
                prompt, target = base.prompts.suffix(probe.prompt), base.prompts.answer(answer)
            else:
                prompt, target = base.prompts.following(probe.prompt), base.prompts.target(answer)
            asked.append(ScoreRequest(tuple(prompt), tuple(target), prefix=prefix))
    scores = iter(loglikelihood(base, asked, rows=rows))
    for number in own:
        scored = [next(scores) for _ in probes[number].answers]
        found[number] = row_of(probes[number], None, scored, cut=placed[number][1])
    return [found[number] for number in range(len(probes))]


def row_of(probe: Probe, said: Generation | None, scored: Sequence[Score], *, cut: int = 0) -> dict:
    """One line of predictions.jsonl. `gold_nats`: log-probability of each token of the answer that was learnt (of a
    choice: the right option)."""
    row: dict = {"probe": probe.id, "kind": probe.kind, "prompt": probe.prompt}
    if said is not None:
        row.update(
            prediction=said.text, truncated=said.truncated, prompt_tokens=said.prompt_tokens, new_tokens=len(said.ids),
        )  # fmt: skip
    if probe.kind in ("compare", "choice"):
        row.update(
            options=list(probe.answers), sum_nats=[score.sum_nats for score in scored],
            tokens=[score.tokens for score in scored], greedy=[score.greedy for score in scored],
        )  # fmt: skip
    if scored:
        row["gold_nats"] = list(scored[probe.gold if probe.kind == "choice" else 0].nats)
    return {**row, "context_cut": cut, "route": None, "failure": None}
