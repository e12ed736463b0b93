"""Readings: the ways of answering probes, and one function that answers many of them in few batches.

A reading is a stem, which says what is switched on, and perhaps `+` what stands in the context:

| stem | asks |
|---|---|
| `closed` | the base alone |
| `module` | with the module that learnt the documents |
| `wrong-module`, `random-module` | with a module of the same spec that learnt something else, or random weights of its size: controls |
| `routed` | with the module that a router chose for the question |
| `merged` | with several modules that a router chose, merged into one |

| context | holds |
|---|---|
| `icl` | the documents (of many modules: the question's own), encoded once and shared by all questions |
| `rag` | the passages found for the question |
| `gold-passage`, `gold-summary` | the passage that holds the answer; the gold summary of the question's document |

`icl` alone is short for `closed+icl`. All go through the same prompt builder and decoder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

from loramem.answering.ask import MODULES_AT_ONCE, answer, with_adapter
from loramem.answering.contexts import (
    Asked,
    alone,
    in_documents,
    in_own_document,
    in_passages,
    in_summary,
    inside,
)
from loramem.answering.pools import Pool, merge_lines, switch
from loramem.answering.routers import Routing
from loramem.base.model import Base
from loramem.base.prompts import PROMPT_VERSION
from loramem.core.identity import digest
from loramem.core.registry import Registry
from loramem.inference.generate import ModuleOn
from loramem.inference.limits import MAX_CONTINUATION, MAX_NEW_TOKENS
from loramem.modules.merged import Merging
from loramem.modules.store import Store
from loramem.retrieval import Retrieval
from loramem.sources.types import Document, Probe, Source

READING_VERSION = 2
Context = Literal["none", "documents", "passages", "summary"]


@dataclass(frozen=True)
class Stem:
    """What a reading needs.

    Attributes:
        which: The module that is switched on: `none`, the `own` one, a `wrong` or a `random` one, or what is chosen from the
            `pool`.
        context: What stands before the question.
        merges: Modules of the pool are merged.
    """

    name: str
    which: Literal["none", "own", "wrong", "random", "pool"]
    context: Context
    summary: str
    merges: bool = False

    @property
    def uses_module(self) -> bool:
        return self.which != "none"

    @property
    def in_context(self) -> bool:
        return self.context != "none"

    @property
    def control(self) -> bool:
        """The module is one that should not know the answers."""
        return self.which in ("wrong", "random")


STEMS: Registry[Stem] = Registry("reading")
_CONTEXTS: dict[str, tuple[Context, str]] = {
    "icl": ("documents", "the documents in its context"),
    "rag": ("passages", "the passages found for the question in its context"),
    "gold-passage": ("passages", "the passage that holds the answer in its context: an upper bound"),
    "gold-summary": ("summary", "the gold summary of the question's document in its context"),
}
for _stem in (
    Stem("closed", "none", "none", "the base alone, closed book"),
    Stem("module", "own", "none", "the base with the module that learnt the documents"),
    Stem("wrong-module", "wrong", "none", "the base with another module of the same spec: a control"),
    Stem(
        "random-module", "random", "none", "the base with random weights of the module's spec and norms: a control",
    ),
    Stem("routed", "pool", "none", "the base with the module that a router chose"),
    Stem("merged", "pool", "none", "the base with several chosen modules merged into one", merges=True),
):  # fmt: skip
    STEMS.add(_stem.name, _stem)
    for _name, (_context, _words) in _CONTEXTS.items():
        _joined = _name if _stem.name == "closed" else f"{_stem.name}+{_name}"
        _with = " and " if _stem.uses_module else " with "
        STEMS.add(_joined, Stem(_joined, _stem.which, _context, _stem.summary + _with + _words, _stem.merges))


def context_name(reading: str) -> str | None:
    """`icl`, `rag`, ... of a reading; None where nothing stands before the question.

    >>> context_name("module+rag"), context_name("icl"), context_name("routed")
    ('rag', 'icl', None)
    """
    name = reading.rpartition("+")[2]
    return name if name in _CONTEXTS else None


@dataclass(frozen=True)
class ReadingTask:
    """One reading to be made.

    Attributes:
        stem: Name in `STEMS`.
        source: Its probes are asked.
        module: Id of the module that is switched on, if any; `ID@STEP` for a snapshot of it.
        retrieval: How passages are found, for readings with passages.
        documents: What an in-context reading may read; None: the source's own.
        own_document: Each question reads its own document only, not all of them.
        pool: The modules among which questions are routed, and how: `routing`, and `merging` where several become one.
        module_on: Where the module works (`inference.generate.Request`).
        abstain: A question that no module of the pool fits is not answered.
        letters: Choices are also asked with lettered options.
    """

    stem: str
    source: Source
    module: str | None = None
    retrieval: Retrieval | None = None
    documents: tuple[Document, ...] | None = None
    own_document: bool = False
    pool: Pool | None = None
    routing: Routing | None = None
    merging: Merging | None = None
    module_on: ModuleOn = "all"
    abstain: bool = False
    letters: bool = False

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What is asked: of a reading with a context only what the documents could answer, of a module that is not on from the
        start only what is decoded (options are scored as a whole)."""
        asked = inside(self.source.probes) if STEMS.get(self.stem).in_context else self.source.probes
        if self.module_on == "all":
            return asked
        return tuple(probe for probe in asked if probe.kind in ("generate", "continue"))

    @property
    def readable(self) -> tuple[Document, ...]:
        return self.source.documents if self.documents is None else self.documents

    def describe(self, base: Base) -> dict:
        """Everything that decides the predictions; hashed, it is the reading's id. What does not apply is left out, so that
        a reading keeps its id when readings learn to do more."""
        stem = STEMS.get(self.stem)
        body: dict = {
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
        if stem.in_context and self.documents is not None:
            body["context"] = digest([[one.id, one.text] for one in self.documents])
        if stem.context == "summary":
            body["context"] = digest([[one.id, one.summary] for one in self.readable])
        if stem.context == "documents" and self.own_document:
            body["own_document"] = True
        if self.pool is not None and self.routing is not None:
            body["pool"] = self.pool.describe(self.routing.router)
            body["routing"] = self.routing.describe()
            body["abstain"] = self.abstain
            if self.merging is not None:
                body["merging"] = self.merging.identity()
        if self.module_on != "all":
            body["module_on"] = self.module_on
        if self.letters and any(probe.kind == "choice" for probe in self.probes):
            body["letters"] = True
        return body

    def identity(self, base: Base) -> str:
        return digest(self.describe(base))

    def placed(self, base: Base) -> list[Asked]:
        """Its probes with what stands before them."""
        kind = STEMS.get(self.stem).context
        if kind == "none":
            return alone(self.probes)
        if kind == "summary":
            return in_summary(base, self.probes, self.readable, letters=self.letters)
        if kind == "passages":
            assert self.retrieval is not None, "a reading with passages says how they are found"
            return in_passages(base, self.probes, self.readable, self.retrieval, letters=self.letters)
        place = in_own_document if self.own_document else in_documents
        return place(base, self.probes, self.readable, letters=self.letters)


@dataclass(frozen=True)
class Done:
    """A reading that was made: prediction rows, what they cost, and every merge that was built for them."""

    predictions: list[dict]
    costs: dict
    merges: list[dict]


def read(
    base: Base,
    tasks: Sequence[ReadingTask],
    store: Store,
    *,
    rows: int = 64,
    on_done: Callable[[int, Done], None],
    on_fail: Callable[[int, Exception], None],
) -> None:
    """Answer every task; tasks that use one module each are read together, each row with its own module.

    `on_done(index, done)` is called as soon as a task is complete, so that what is finished is kept when a later one fails. A
    module that cannot be loaded fails its own tasks by `on_fail`, and those beside it are answered without it; any other failure
    is reported for each task of its group.
    """
    for group in _groups(tasks):
        waiting = group
        while waiting:
            broken: dict[str, Exception] = {}
            try:
                done = _read(base, [tasks[index] for index in waiting], store, rows, broken)
            except Exception as error:  # recorded per cell by the caller; the others go on
                lost = [index for index in waiting if tasks[index].module in broken] or waiting
                for index in lost:
                    on_fail(index, broken.get(tasks[index].module or "", error))
                waiting = [index for index in waiting if index not in lost]
                continue
            for index, one in zip(waiting, done, strict=True):
                on_done(index, one)
            break


def _groups(tasks: Sequence[ReadingTask]) -> list[list[int]]:
    """Tasks that are answered in one call: each alone, or those of up to `MODULES_AT_ONCE` modules that work alike."""
    groups: list[list[int]] = [[index] for index, task in enumerate(tasks) if task.module is None]
    by_way: dict[tuple, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for index, task in enumerate(tasks):
        if task.module is not None:
            way = (task.module_on, task.letters, STEMS.get(task.stem).in_context)
            by_way[way][task.module].append(index)
    for by_module in by_way.values():
        modules = list(by_module)
        for start in range(0, len(modules), MODULES_AT_ONCE):
            groups.append(
                [index for module in modules[start : start + MODULES_AT_ONCE] for index in by_module[module]]
            )
    return groups


def _read(
    base: Base, tasks: Sequence[ReadingTask], store: Store, rows: int, broken: dict[str, Exception]
) -> list[Done]:
    """Answer a group in one call; modules that cannot be loaded are put into `broken` before it fails."""

    def load(keys: Sequence[Hashable]) -> list:
        found = []
        for key in map(str, keys):
            try:
                found.append(store.module(key).load())
            except Exception as error:
                broken[key] = error
        if broken:
            raise next(iter(broken.values()))
        return found

    first = tasks[0]
    how = {"rows": rows, "module_on": first.module_on, "letters": first.letters}
    if first.pool is not None:
        (task,) = tasks
        assert task.pool is not None and task.routing is not None, "a pool comes with a routing"
        switched = switch(
            base, task.placed(base), task.pool, task.routing, task.merging, lambda one: store.module(one).load(),
            abstain=task.abstain, rows=rows,
        )  # fmt: skip
        found = answer(base, switched.asked, switched.adapters, **how)  # type: ignore[arg-type]
        return [Done(found, costs_of(found), merge_lines(switched.merges))]
    asked: list[Asked] = []
    counts: list[int] = []
    for task in tasks:
        own = task.placed(base)
        asked += own if task.module is None else with_adapter(own, task.module)
        counts.append(len(own))
    found = answer(base, asked, load, **how)  # type: ignore[arg-type]
    rest = iter(found)
    parts = [[next(rest) for _ in range(count)] for count in counts]
    return [Done(part, costs_of(part), []) for part in parts]


def costs_of(found: Sequence[dict]) -> dict:
    """What a reading came to, for its ledger."""
    return {
        "probes": len(found),
        "prompt_tokens": sum(row.get("prompt_tokens", 0) for row in found),
        "new_tokens": sum(row.get("new_tokens", 0) for row in found),
        "context_cut_tokens": max((row["context_cut"] for row in found), default=0),
        "context_cut_probes": sum(row["context_cut"] > 0 for row in found),
        "passage_hits": sum(bool(row.get("passage_hit")) for row in found),
    }
