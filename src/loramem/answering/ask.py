"""Probes that are ready to be asked go through the model in batches, each under its own module or none, and come back as
prediction rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from loramem.answering.contexts import Asked
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.divergence import divergence
from loramem.inference.generate import Generation, ModuleOn, Request, generate
from loramem.inference.limits import LETTER_TOKENS, MAX_CONTINUATION, MAX_NEW_TOKENS
from loramem.inference.loglik import Score, ScoreRequest, loglikelihood
from loramem.metrics.choice import letters_prompt
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec
from loramem.sources.types import Probe

MODULES_AT_ONCE = 16
NOT_IN_MEMORY = "not in memory"
Adapters = Callable[[Sequence[Hashable]], Sequence[tuple[LoraSpec, dict[str, Tensor]]]]
"""Weights of the modules that the keys name, all at once: what is made on the fly is made in batch."""


def answer(
    base: Base,
    asked: Sequence[Asked],
    adapters: Adapters | None = None,
    *,
    rows: int,
    module_on: ModuleOn = "all",
    letters: bool = False,
) -> list[dict]:
    """Prediction rows, in the order asked; at most `MODULES_AT_ONCE` modules are in memory at a time.

    Args:
        adapters: Where any probe goes with a module.
        module_on: As in `inference.generate.Request`.
        letters: Choices are also asked with lettered options, and what is said is kept for `metrics.choice`.

    Raises:
        InputError: a choice or comparison, whose options are scored, with the module on while answers are decoded only.
    """
    found: list[dict] = [{}] * len(asked)
    for keys, own in _waves(asked):
        loaded = [] if adapters is None or not keys else list(adapters(keys))
        assert len(loaded) == len(keys), "every key has its module"
        bank = Bank(base.model, [spec for spec, _ in loaded], frozen=True) if loaded else None
        slots: dict[Hashable | None, int | None] = {key: slot for slot, key in enumerate(keys)}
        slots[None] = None
        batch = _Batch(base, bank, rows, module_on, letters)
        try:
            if bank is not None:
                for position, (_, tensors) in enumerate(loaded):
                    bank.load(position, tensors)
            answered = batch.answer([(asked[index], slots[asked[index].adapter]) for index in own])
        finally:
            if bank is not None:
                bank.detach()
        for index, row in zip(own, answered, strict=True):
            found[index] = row
    return found


def _waves(asked: Sequence[Asked]) -> Iterator[tuple[list[Hashable], list[int]]]:
    """(modules, numbers of the probes that go with them): probes of no module go with the first."""
    keys = list(dict.fromkeys(one.adapter for one in asked if one.adapter is not None))
    waves = [keys[start : start + MODULES_AT_ONCE] for start in range(0, len(keys), MODULES_AT_ONCE)] or [[]]
    wave_of: dict[Hashable | None, int] = {key: number for number, wave in enumerate(waves) for key in wave}
    wave_of[None] = 0
    members: list[list[int]] = [[] for _ in waves]
    for index, one in enumerate(asked):
        members[wave_of[one.adapter]].append(index)
    yield from zip(waves, members, strict=True)


class _Batch:
    """One wave: what is decoded, what is scored and what is compared with the base, each in one call."""

    def __init__(self, base: Base, bank: Bank | None, rows: int, module_on: ModuleOn, letters: bool):
        self.base, self.bank, self.rows = base, bank, rows
        self.module_on, self.letters = module_on, letters

    def answer(self, asked: Sequence[tuple[Asked, int | None]]) -> list[dict]:
        requests: list[tuple[tuple[int, str], Request]] = []
        scores: list[tuple[int, ScoreRequest]] = []
        passages: list[tuple[int, tuple[tuple[int, ...], int | None]]] = []
        for number, (one, slot) in enumerate(asked):
            if one.silent:
                continue
            if one.probe.kind == "passage":
                passages.append((number, (tuple(self.base.prompts.cloze(one.probe.prompt)), slot)))
                continue
            requests += [((number, what), request) for what, request in self._requests(one, slot)]
            scores += [(number, request) for request in self._scores(one, slot)]
        said = generate(self.base, [request for _, request in requests], bank=self.bank, rows=self.rows)
        told = loglikelihood(self.base, [request for _, request in scores], bank=self.bank, rows=self.rows)
        apart = divergence(self.base, [one for _, one in passages], bank=self.bank, rows=self.rows)
        spoken = {place: out for (place, _), out in zip(requests, said, strict=True)}
        scored: dict[int, list[Score]] = {}
        for (number, _), score in zip(scores, told, strict=True):
            scored.setdefault(number, []).append(score)
        nats = {number: value for (number, _), value in zip(passages, apart, strict=True)}
        found = []
        for number, (one, _) in enumerate(asked):
            row = row_of(one.probe, spoken.get((number, "answer")), scored.get(number, []), cut=one.cut)
            if (number, "letter") in spoken:
                row["letter_prediction"] = spoken[number, "letter"].text
            if number in nats:
                row["kl_nats"] = nats[number]
            if one.silent:
                row["prediction"] = NOT_IN_MEMORY
            found.append({**row, **one.notes})
        return found

    def _requests(self, one: Asked, slot: int | None) -> Iterator[tuple[str, Request]]:
        """What is decoded for a probe: its answer, and the letter of a choice where that is wanted."""
        prompts, probe = self.base.prompts, one.probe
        if probe.kind == "continue":
            ids = prompts.following(probe.prompt) if one.context else prompts.cloze(probe.prompt)
            yield "answer", self._request(one, ids, slot, MAX_CONTINUATION)
        elif probe.kind == "generate":
            ids = prompts.suffix(probe.prompt) if one.context else prompts.chat(probe.prompt)
            yield "answer", self._request(one, ids, slot, MAX_NEW_TOKENS)
        elif probe.kind == "choice" and self.letters:
            text = letters_prompt(probe.prompt, probe.answers)
            ids = prompts.suffix(text) if one.context else prompts.chat(text)
            yield "letter", self._request(one, ids, slot, LETTER_TOKENS)

    def _request(self, one: Asked, ids: list[int], slot: int | None, limit: int) -> Request:
        return Request(tuple(ids), slot, limit, prefix=one.context, module_on=self.module_on)

    def _scores(self, one: Asked, slot: int | None) -> Iterator[ScoreRequest]:
        """What is scored for a probe: its options, or (without a context) the gold answer of a question that was learnt: bits
        stored."""
        prompts, probe = self.base.prompts, one.probe
        late = self.module_on != "all" and slot is not None
        if probe.kind in ("compare", "choice"):
            if late:
                raise InputError(
                    f"module_on {self.module_on}: probe {probe.id!r} is a {probe.kind}, whose options are scored with the module on from "
                    "the start; use module_on all"
                )
            chat = probe.kind == "choice"
            if one.context:
                ids = prompts.suffix(probe.prompt) if chat else prompts.following(probe.prompt)
            else:
                ids = prompts.chat(probe.prompt) if chat else prompts.cloze(probe.prompt)
            for text in probe.answers:
                target = prompts.answer(text) if chat else prompts.target(text)
                yield ScoreRequest(tuple(ids), tuple(target), slot, prefix=one.context)
        elif probe.kind == "generate" and probe.phrasing == "trained" and not one.context and not late:
            gold = tuple(prompts.answer(probe.answers[0]))
            yield ScoreRequest(tuple(prompts.chat(probe.prompt)), gold, slot)


def with_adapter(asked: Sequence[Asked], adapter: Hashable) -> list[Asked]:
    """The same probes, all under one module."""
    return [replace(one, adapter=adapter) for one in asked]


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
