"""Readings: the ways of answering probes, and one function that answers many of them in few batches.

A reading is named by a stem. `closed` asks the base alone; `module` asks it with the module switched on;
`wrong-module` with a module of the same spec that learnt something else; `icl` puts the documents in the
context, encoded once and shared by all questions. All go through the same prompt builder and decoder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loramem.base.model import Base
from loramem.base.prompts import PROMPT_VERSION
from loramem.core.identity import digest
from loramem.core.registry import Registry
from loramem.inference.generate import Request, generate
from loramem.inference.loglik import ScoreRequest, loglikelihood
from loramem.inference.prefix import generate_shared, loglikelihood_shared
from loramem.modules.bank import Bank
from loramem.modules.store import Store
from loramem.sources.types import Document, Probe

READING_VERSION = 1
MAX_NEW_TOKENS = 50
MODULES_AT_ONCE = 16


@dataclass(frozen=True)
class Stem:
    """What a reading needs: a module (or not), and the documents in the context (or not)."""

    name: str
    uses_module: bool
    in_context: bool
    summary: str


STEMS: Registry[Stem] = Registry("reading")
STEMS.add("closed", Stem("closed", False, False, "the base alone, closed book"))
STEMS.add("module", Stem("module", True, False, "the base with the module that learnt the documents"))
STEMS.add(
    "wrong-module",
    Stem("wrong-module", True, False, "the base with another module of the same spec: a control"),
)
STEMS.add("icl", Stem("icl", False, True, "the base with the documents in its context"))


@dataclass(frozen=True)
class ReadingTask:
    """Probes answered in one way; its identity leaves out how it is batched.

    Attributes:
        stem: Name in `STEMS`.
        probes: What is asked.
        module: Id of the module that is switched on, if any.
        documents: What stands in the context of an in-context reading.
    """

    stem: str
    probes: tuple[Probe, ...]
    module: str | None = None
    documents: tuple[Document, ...] = ()

    def describe(self, base: Base) -> dict:
        """Everything that decides the predictions; hashed, it is the reading's id."""
        context = "\n".join(document.text for document in self.documents)
        return {
            "reading_version": READING_VERSION,
            "prompt_version": PROMPT_VERSION,
            "stem": self.stem,
            "base": base.fingerprint,
            "dtype": str(base.dtype).removeprefix("torch."),
            "module": self.module,
            "probes": digest([[p.id, p.kind, p.prompt, list(p.answers), p.gold] for p in self.probes]),
            "context": digest(context) if STEMS.get(self.stem).in_context else None,
            "decoding": {"greedy": True, "max_new_tokens": MAX_NEW_TOKENS},
        }

    def identity(self, base: Base) -> str:
        return digest(self.describe(base))


def read(
    base: Base,
    tasks: Sequence[ReadingTask],
    store: Store,
    *,
    rows: int = 64,
    on_done: Callable[[int, list[dict], dict], None],
    on_fail: Callable[[int, Exception], None],
) -> None:
    """Answer every task; tasks that use modules are read together, each row with its own module.

    `on_done(index, predictions, costs)` is called as soon as a task is complete, so that what is finished
    is kept when a later one fails. A failure of one group is reported for each of its tasks by `on_fail`.
    """
    groups: list[list[int]] = [[index] for index, task in enumerate(tasks) if task.module is None]
    by_module: dict[str, list[int]] = defaultdict(list)
    for index, task in enumerate(tasks):
        if task.module is not None:
            by_module[task.module].append(index)
    modules = list(by_module)
    for start in range(0, len(modules), MODULES_AT_ONCE):
        groups.append(
            [index for module in modules[start : start + MODULES_AT_ONCE] for index in by_module[module]]
        )
    for group in groups:
        try:
            answered = _answer(base, [tasks[index] for index in group], store, rows)
        except Exception as error:  # recorded per cell by the caller; the other groups go on
            for index in group:
                on_fail(index, error)
            continue
        for index, (predictions, costs) in zip(group, answered, strict=True):
            on_done(index, predictions, costs)


def _answer(
    base: Base, tasks: Sequence[ReadingTask], store: Store, rows: int
) -> list[tuple[list[dict], dict]]:
    if STEMS.get(tasks[0].stem).in_context:
        assert len(tasks) == 1, "an in-context reading is a group of its own"
        return [_answer_in_context(base, tasks[0], rows)]
    ids = list(dict.fromkeys(task.module for task in tasks if task.module is not None))
    slot_of = {identity: slot for slot, identity in enumerate(ids)}
    loaded = [store.module(identity).load() for identity in ids]
    bank = Bank(base.model, [spec for spec, _ in loaded]) if loaded else None
    try:
        if bank is not None:
            for position, (_, tensors) in enumerate(loaded):
                bank.load(position, tensors)
        asks, compares = [], []
        for number, task in enumerate(tasks):
            slot = None if task.module is None else slot_of[task.module]
            for probe in task.probes:
                if probe.kind == "generate":
                    asks.append(
                        (number, probe, Request(tuple(base.prompts.chat(probe.prompt)), slot, MAX_NEW_TOKENS))
                    )
                else:
                    prompt = tuple(base.prompts.cloze(probe.prompt))
                    compares += [
                        (number, probe, ScoreRequest(prompt, tuple(base.prompts.target(answer)), slot))
                        for answer in probe.answers
                    ]
        generations = generate(base, [ask[2] for ask in asks], bank=bank, rows=rows)
        scores = loglikelihood(base, [compare[2] for compare in compares], bank=bank, rows=rows)
    finally:
        if bank is not None:
            bank.detach()
    rows_of: list[list[dict]] = [[] for _ in tasks]
    for (number, probe, _), generation in zip(asks, generations, strict=True):
        rows_of[number].append(_generated(probe, generation, 0))
    for position in range(0, len(compares), 2):
        number, probe, _ = compares[position]
        rows_of[number].append(_compared(probe, scores[position : position + 2], 0))
    return [(found, _costs(found)) for found in rows_of]


def _answer_in_context(base: Base, task: ReadingTask, rows: int) -> tuple[list[dict], dict]:
    """The context is encoded once per prompt form (chat for questions, plain text before statements)."""
    context = "\n".join(document.text for document in task.documents)
    found: list[dict] = []
    asks = [probe for probe in task.probes if probe.kind == "generate"]
    if asks:
        prefix, cut = base.prompts.fit_context(
            context, [probe.prompt for probe in asks], reserve=MAX_NEW_TOKENS
        )
        suffixes = [base.prompts.suffix(probe.prompt) for probe in asks]
        generations, _ = generate_shared(base, prefix, suffixes, max_new_tokens=MAX_NEW_TOKENS, rows=rows)
        found += [
            _generated(probe, generation, cut) for probe, generation in zip(asks, generations, strict=True)
        ]
    compares = [probe for probe in task.probes if probe.kind == "compare"]
    if compares:
        prefix, cut, pairs = base.prompts.fit_statements(
            context, [(probe.prompt, answer) for probe in compares for answer in probe.answers]
        )
        scores, _ = loglikelihood_shared(base, prefix, pairs, rows=rows)
        found += [_compared(probe, scores[2 * i : 2 * i + 2], cut) for i, probe in enumerate(compares)]
    return found, _costs(found)


def _generated(probe: Probe, generation, cut: int) -> dict:
    return {
        "probe": probe.id, "kind": "generate", "prompt": probe.prompt, "prediction": generation.text,
        "truncated": generation.truncated, "context_cut": cut, "prompt_tokens": generation.prompt_tokens,
        "new_tokens": len(generation.ids), "route": None, "failure": None,
    }  # fmt: skip


def _compared(probe: Probe, scores, cut: int) -> dict:
    return {
        "probe": probe.id, "kind": "compare", "prompt": probe.prompt, "options": list(probe.answers),
        "sum_nats": [score.sum_nats for score in scores], "tokens": [score.tokens for score in scores],
        "greedy": [score.greedy for score in scores], "context_cut": cut, "route": None, "failure": None,
    }  # fmt: skip


def _costs(found: Sequence[dict]) -> dict:
    return {
        "probes": len(found),
        "prompt_tokens": sum(row.get("prompt_tokens", 0) for row in found),
        "new_tokens": sum(row.get("new_tokens", 0) for row in found),
        "context_cut_tokens": max((row["context_cut"] for row in found), default=0),
    }
