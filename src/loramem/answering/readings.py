"""Readings: the ways of answering probes, and one function that answers many of them in few batches.

A reading is named by a stem. `closed` asks the base alone; `module` asks it with the module switched on;
`wrong-module` with a module of the same spec that learnt something else; `random-module` with random weights
of the module's size; `icl` puts the documents in the context, encoded once and shared by all questions; `rag`
puts the passages found for each question there; `gold-passage` the passage that holds the answer. All go
through the same prompt builder and decoder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loramem.answering.ask import answer_in_context, answer_with_passages, answer_without_context
from loramem.base.model import Base
from loramem.base.prompts import PROMPT_VERSION
from loramem.core.identity import digest
from loramem.core.registry import Registry
from loramem.inference.limits import MAX_CONTINUATION, MAX_NEW_TOKENS
from loramem.modules.store import Store
from loramem.retrieval import Retrieval
from loramem.sources.types import Probe, Source

READING_VERSION = 2
MODULES_AT_ONCE = 16


@dataclass(frozen=True)
class Stem:
    """What a reading needs.

    Attributes:
        uses_module: A module is switched on.
        context: `none`, `documents` (all of them) or `passages` (found for each probe).
        control: The module is one that should not know the answers.
    """

    name: str
    uses_module: bool
    context: str
    summary: str
    control: bool = False

    @property
    def in_context(self) -> bool:
        return self.context != "none"


STEMS: Registry[Stem] = Registry("reading")
for _stem in (
    Stem("closed", False, "none", "the base alone, closed book"),
    Stem("module", True, "none", "the base with the module that learnt the documents"),
    Stem(
        "wrong-module", True, "none", "the base with another module of the same spec: a control", control=True
    ),
    Stem(
        "random-module",
        True,
        "none",
        "the base with random weights of the module's spec and norms: a control",
        control=True,
    ),
    Stem("icl", False, "documents", "the base with the documents in its context"),
    Stem("rag", False, "passages", "the base with the passages found for the question in its context"),
    Stem(
        "gold-passage", False, "passages", "the base with the passage that holds the answer: an upper bound"
    ),
):
    STEMS.add(_stem.name, _stem)


@dataclass(frozen=True)
class ReadingTask:
    """One reading to be made.

    Attributes:
        stem: Name in `STEMS`.
        source: Its probes are asked; its documents are what an in-context reading may read.
        module: Id of the module that is switched on, if any; `ID@STEP` for a snapshot of it.
        retrieval: How passages are found, for readings with passages.
    """

    stem: str
    source: Source
    module: str | None = None
    retrieval: Retrieval | None = None

    @property
    def probes(self) -> tuple[Probe, ...]:
        return self.source.probes

    def describe(self, base: Base) -> dict:
        """Everything that decides the predictions; hashed, it is the reading's id."""
        stem = STEMS.get(self.stem)
        return {
            "reading_version": READING_VERSION,
            "prompt_version": PROMPT_VERSION,
            "base": base.fingerprint,
            "dtype": base.precision,
            "stem": self.stem,
            "module": self.module,
            "probes": self.source.probes_hash,
            "context": self.source.documents_hash if stem.in_context else None,
            "retrieval": self.retrieval.describe() if self.retrieval else None,
            "decoding": {
                "greedy": True,
                "max_new_tokens": MAX_NEW_TOKENS,
                "max_continuation": MAX_CONTINUATION,
            },
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
        for index, predictions in zip(group, answered, strict=True):
            on_done(index, predictions, _costs(predictions))


def _answer(base: Base, tasks: Sequence[ReadingTask], store: Store, rows: int) -> list[list[dict]]:
    first = tasks[0]
    kind = STEMS.get(first.stem).context
    if kind == "documents":
        return [answer_in_context(base, first.probes, first.source.documents, rows)]
    if kind == "passages":
        assert first.retrieval is not None, "a reading with passages says how they are found"
        return [answer_with_passages(base, first.probes, first.source.documents, first.retrieval, rows)]
    return answer_without_context(base, [(task.probes, task.module) for task in tasks], store, rows)


def _costs(found: Sequence[dict]) -> dict:
    return {
        "probes": len(found),
        "prompt_tokens": sum(row.get("prompt_tokens", 0) for row in found),
        "new_tokens": sum(row.get("new_tokens", 0) for row in found),
        "context_cut_tokens": max((row["context_cut"] for row in found), default=0),
        "context_cut_probes": sum(row["context_cut"] > 0 for row in found),
        "passage_hits": sum(bool(row.get("passage_hit")) for row in found),
    }
