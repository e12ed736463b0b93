"""Asking modules of a store: questions in people's own words, whose answers nobody knows beforehand.

The machinery is that of readings (`readings`, `routers`, `ask`): one probe per question, one document per text that a module
learnt, so that an answer here is token for token what a study's reading of the same questions gives. What differs:

- nobody knows the right module, so the oracle and the gold passage are refused, and so are controls, which only mean
  something beside what they control;
- a router that can tell has a threshold (`asking_settings.NONE_BELOW`), and a question that no module fits is not answered: `not in memory`;
- nothing is kept: the store is only looked at.

All questions of a call go through the model together. With `+icl` they share one context, cut for the longest of them.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from loramem.answering.ask import answer, with_adapter
from loramem.answering.asking_checks import (
    SHOWN,
    begins,
    check_documents,
    check_lengths,
    check_modules,
    check_questions,
    lacking,
)
from loramem.answering.asking_settings import Asking
from loramem.answering.contexts import Asked
from loramem.answering.pools import Pool
from loramem.answering.readings import STEMS, ReadingTask
from loramem.answering.routers import ROUTERS, Candidate, Route, Routing, route, shares_of
from loramem.base.model import Base
from loramem.core.errors import Corrupt, InputError
from loramem.modules.merged import Merged, Merging, Parent, merge_many, weights_for
from loramem.modules.spec import LoraSpec
from loramem.modules.store import StoredModule
from loramem.retrieval import search
from loramem.retrieval.embed import load_embedder
from loramem.sources.text import document
from loramem.sources.types import Document, Probe, Source

Weights = tuple[LoraSpec, dict[str, Tensor]]


@dataclass(frozen=True)
class Choice:
    """A module that was, or might have been, chosen.

    Attributes:
        learnt: How the text it learnt begins.
        score, share: By the router; None where there was none.
        used: It answers, alone or as a parent of the merge.
    """

    module: str
    learnt: str
    score: float | None
    share: float | None
    used: bool


@dataclass(frozen=True)
class Answered:
    """An answer and how it came about.

    Attributes:
        answer: None where the question is not in memory.
        truncated: It reached the most tokens of an answer.
        candidates: Best first: those used and at least the best `SHOWN`, of `pool_size`.
        router, confidence, none_below: Where modules were chosen; the threshold is None where there is none.
        passages: `{"id", "begins"}` of each passage that was read, best first.
        documents: Ids of the documents in the context.
        read_from: Where passages and documents come from.
        merge: Rule, parents with their weights, and measures of the merged module.
        seconds: `load`, `route`, `answer` (retrieval included) of the whole call, and its number of `questions`.
        prompt_tokens, new_tokens, cut_tokens: Read, written, and left out of the context because it was full.
    """

    question: str
    answer: str | None
    not_in_memory: bool
    reading: str
    base: str
    truncated: bool
    candidates: tuple[Choice, ...]
    pool_size: int
    router: str | None
    confidence: float | None
    none_below: float | None
    passages: tuple[dict[str, str], ...]
    documents: tuple[str, ...]
    read_from: str | None
    merge: dict | None
    seconds: dict[str, float]
    prompt_tokens: int
    new_tokens: int
    cut_tokens: int

    def row(self) -> dict:
        """As JSON."""
        return asdict(self)


# -- asking ----------------------------------------------------------------------------------------------------
class _Weights:
    """Weights of modules, each loaded once; `seconds` is what that took."""

    def __init__(self, modules: Sequence[StoredModule]):
        self.modules = {one.id: one for one in modules}
        self.kept: dict[str, Weights] = {}
        self.seconds = 0.0

    def __call__(self, module: str) -> Weights:
        if module not in self.kept:
            began = time.perf_counter()
            try:
                self.kept[module] = self.modules[module].load()
            except Corrupt as error:  # here it is what the user named that cannot be used
                raise InputError(str(error)) from None
            self.seconds += time.perf_counter() - began
        return self.kept[module]


def ask(
    base: Base,
    questions: Sequence[str],
    modules: Sequence[StoredModule],
    asking: Asking | None = None,
    *,
    documents: Sequence[Document] | None = None,
    read_from: str | None = None,
    loading: float = 0.0,
    rows: int = 64,
) -> list[Answered]:
    """The answer to every question, in order.

    Args:
        modules: Of this base; which of them answers is for the reading to say.
        documents: What `+icl` and `+rag` read; None: what the modules learnt.
        read_from: Where `documents` are from, for people.
        loading: Seconds that were already spent on loading the base.
        rows: Rows that are decoded at once.

    Raises:
        InputError: a setting or question that cannot be used; a reading without the modules or texts it needs; a module
            of another base, or damaged.
    """
    began = time.perf_counter()
    asking = (asking or Asking()).settled(len(modules))
    stem = STEMS.get(str(asking.reading))
    check_questions(questions)
    check_lengths(base, questions, in_context=stem.in_context)
    check_documents(stem, given=documents is not None)
    check_modules(base, modules, stem)
    texts = [one.text for one in modules]
    if asking.routing is not None and ROUTERS.get(asking.routing.router).text:
        lacking(modules, texts, f"router {asking.routing.router}", "use router perplexity, which reads none")
    if stem.in_context and documents is None:
        lacking(modules, texts, f"{stem.name} without documents", "give documents")
        pairs = zip(modules, texts, strict=True)
        documents = [document(one.id[:12], text, "", base.prompts.count) for one, text in pairs]
        read_from = "the texts that the modules learnt"
    if stem.in_context and not documents:
        raise InputError(f"{stem.name} needs documents to read: give documents, or modules whose texts are read")  # fmt: skip
    task = _task(questions, modules, texts, documents or (), asking)
    load = _Weights(modules)
    for embedder in _embedders(task):  # loaded once per process: no part of a route or an answer
        load_embedder(embedder)
    started = time.perf_counter()
    routes: list[Route] = []
    if task.pool is not None and task.routing is not None:
        routes = route(base, task.routing, task.pool.candidates, task.probes, load=load, rows=rows)
    routed = time.perf_counter()
    spent = load.seconds
    placed = _switched(task.placed(base), routes, task)
    made: dict[Hashable, Merged] = {}

    def adapters(keys: Sequence[Hashable]) -> Sequence[Weights]:
        if task.merging is None:
            return [load(str(key)) for key in keys]
        sets: list[Any] = list(keys)
        made.update(zip(keys, merge_many(sets, task.merging, load, base=base.fingerprint), strict=True))
        return [(made[key].spec, made[key].tensors) for key in keys]

    found = answer(base, placed, adapters, rows=rows)
    seconds = {
        "load": loading + (started - began) + load.seconds,
        "route": routed - started - spent,
        "answer": time.perf_counter() - routed - (load.seconds - spent),
        "questions": len(questions),
    }
    passages = _passages(task, base)
    told = []
    for number, (one, row) in enumerate(zip(placed, found, strict=True)):
        chosen = routes[number] if routes else None
        told.append(
            Answered(
                question=questions[number], answer=None if one.silent else row["prediction"], not_in_memory=one.silent,
                reading=stem.name, base=base.name, truncated=bool(row.get("truncated")),
                candidates=_candidates(modules if stem.uses_module else (), texts, chosen, task.routing),
                pool_size=len(modules) if stem.uses_module else 0,
                router=task.routing.label if task.routing else None, confidence=chosen.confidence if chosen else None,
                none_below=task.routing.none_below if task.routing else None,
                passages=tuple({"id": id, "begins": begins(passages[id])} for id in row.get("passages", ()) if not one.silent),
                documents=tuple(d.id for d in task.source.documents) if stem.context == "documents" and not one.silent else (),
                read_from=read_from if stem.in_context else None, merge=_merge(made.get(one.adapter), asking.merging),
                seconds={name: round(value, 4) for name, value in seconds.items()},
                prompt_tokens=row.get("prompt_tokens", 0), new_tokens=row.get("new_tokens", 0),
                cut_tokens=0 if one.silent else row["context_cut"],
            )
        )  # fmt: skip
    return told


def _task(
    questions: Sequence[str], modules: Sequence[StoredModule], texts: Sequence[str], documents: Sequence[Document], asking: Asking
) -> ReadingTask:  # fmt: skip
    """The questions as a reading of a study: gold unknown."""
    stem = STEMS.get(str(asking.reading))
    # retrieval notes whether it found a probe's record; nobody knows which that is, and what it notes is not used
    case = documents[0].records[0].id if documents else ""
    probes = tuple(Probe(text, case, "", "generate", "heldout", text, ()) for text in questions)
    pool = None
    if stem.which == "pool":
        pairs = zip(modules, texts, strict=True)
        pool = Pool(
            f"{len(modules)} modules", tuple(Candidate(one.id, one.id[:12], text) for one, text in pairs)
        )
    return ReadingTask(
        stem.name, Source("ask", tuple(documents), probes), modules[0].id if stem.which == "own" else None, asking.retrieval,
        pool=pool, routing=asking.routing, merging=asking.merging, abstain=pool is not None,
    )  # fmt: skip


def _embedders(task: ReadingTask) -> list[str]:
    """Embedders that routes and passages are found with, or whose window they keep."""
    by_text = task.routing is not None and ROUTERS.get(task.routing.router).text
    routed = [task.routing.embedder] if task.routing is not None and by_text else []
    return routed + ([task.retrieval.embedder] if task.retrieval is not None else [])


def _switched(placed: list[Asked], routes: Sequence[Route], task: ReadingTask) -> list[Asked]:
    """Every question with the module that answers it, as `pools.switch` has it; the key of a merge is the set of its parents."""
    if task.pool is None:
        return placed if task.module is None else with_adapter(placed, task.module)
    found = []
    for one, chosen in zip(placed, routes, strict=True):
        key: Hashable = chosen.modules[0] if chosen.modules else None
        if chosen.modules and task.merging is not None:
            weights = weights_for(task.merging, chosen.shares)
            pairs = zip(chosen.modules, weights, strict=True)
            key = tuple(sorted((Parent(*pair) for pair in pairs), key=lambda one: one.id))
        found.append(replace(one, adapter=key, silent=not chosen.modules))
    return found


# -- what is told ----------------------------------------------------------------------------------------------
def _candidates(
    modules: Sequence[StoredModule], texts: Sequence[str], chosen: Route | None, routing: Routing | None
) -> tuple[Choice, ...]:
    if chosen is None or routing is None:
        pairs = zip(modules, texts, strict=False)
        return tuple(Choice(one.id, begins(text), None, None, True) for one, text in pairs)
    shares_M = shares_of(np.array(chosen.scores), routing.temperature)
    used = len(chosen.modules)
    return tuple(
        Choice(modules[i].id, begins(texts[i]), chosen.scores[i], round(float(shares_M[i]), 6), place < used)
        for place, i in enumerate(chosen.ranking[: max(SHOWN, used)])
    )


def _merge(made: Merged | None, merging: Merging | None) -> dict | None:
    if made is None or merging is None:
        return None
    return {"rule": merging.label, "parents": made.recipe["parents"], "rank": made.spec.rank, "measures": made.measures}  # fmt: skip


def _passages(task: ReadingTask, base: Base) -> dict[str, str]:
    """Text of every passage by its id: a search that keeps all of them."""
    if STEMS.get(task.stem).context != "passages":
        return {}
    assert task.retrieval is not None, "a reading with passages says how they are found"
    every = task.retrieval.model_copy(update={"passages_k": 1 + sum(len(d.records) for d in task.readable)})
    [found] = search(every, task.readable, task.probes[:1], base.prompts.count)
    return {chunk.id: chunk.text for chunk in found.chunks}
