"""One way of answering questions, with a clock in every part of it. `studies.latency` says what is compared and how often.

The parts, in the order in which a question meets them:

| part | what it is |
|---|---|
| `context` | passages found and placed before the question, or documents; turning text into ids. An index made beforehand is not in it |
| `route` | the router's choice |
| `load` | weights from disk (a warm file cache) where they are not held, and attaching them to the base |
| `merge` | several modules become one |
| `prefill` | the prompt is read and the first token chosen: a decoding with one new token |
| `decode` | the rest: the same decoding to its end, less `prefill` |

Everything goes through the functions that make the readings (`answering`, `inference.generate`), save that passages are found
in an index that is kept, since `retrieval.search` makes it anew at each call. What these functions remember of a question
(its embedding) is forgotten before every pass, else a second asking would cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from loramem.answering.ask import MODULES_AT_ONCE, Adapters, with_adapter
from loramem.answering.contexts import Asked
from loramem.answering.pools import switch
from loramem.answering.readings import STEMS, ReadingTask
from loramem.answering.routers import ROUTERS
from loramem.answering.text_routers import pieces_of
from loramem.base.model import Base
from loramem.inference.generate import Generation, Request, generate
from loramem.inference.limits import MAX_NEW_TOKENS
from loramem.inference.prefix import PrefixCache
from loramem.modules import peft_format
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.retrieval.embed import load_embedder
from loramem.sources.types import Probe
from loramem.studies.timed_parts import Clock, Finder, fresh

PARTS = ("context", "route", "load", "merge", "prefill", "decode")
Weights = tuple[LoraSpec, dict[str, Tensor]]
Load = Callable[[str], Weights]


@dataclass(frozen=True)
class Posed:
    """A question, and the reading of its part that answers it."""

    probe: Probe
    task: ReadingTask


@dataclass
class Pass:
    """All questions asked once.

    Attributes:
        clocks: One per question, or one for all that were asked together. `answer` in them is the whole decoding; `tokens` are
            those that were read, a shared context once.
        said: Answers, in the order asked; None where none was given.
        modules: Ids whose weights each question needed.
        contexts, cuts: Tokens that stood before each question, and those that did not fit.
    """

    clocks: list[Clock]
    said: list[Generation | None]
    modules: list[tuple[str, ...]]
    contexts: list[int]
    cuts: list[int]

    def parts(self) -> dict[str, float]:
        """Seconds per question by part; they add up to what a question took. `decode` is a difference of two measurements, so
        noise may make it negative where almost nothing is decoded."""
        sums = {
            name: sum(clock.seconds.get(name, 0.0) for clock in self.clocks) for name in (*PARTS, "answer")
        }
        sums["decode"] = sums["answer"] - sums["prefill"]
        return {name: sums[name] / len(self.said) for name in PARTS}

    def by_question(self) -> list[float]:
        """Seconds of each question (of one clock each): `prefill` is part of `answer`, so it is not counted again."""
        return [
            sum(seconds for name, seconds in clock.seconds.items() if name != "prefill")
            for clock in self.clocks
        ]


@dataclass
class Kept:
    """Indices that ways share, with the seconds that each took."""

    finders: dict[tuple, Finder] = field(default_factory=dict)
    seconds: dict[tuple, float] = field(default_factory=dict)


@dataclass
class Way:
    """One way of answering: the reading of a cell, and its questions.

    Attributes:
        held: Modules held between questions, by id; `prepare` loads them outside all clocks.
        kept: Indices held between questions.
    """

    base: Base
    posed: Sequence[Posed]
    store: Store
    rows: int
    kept: Kept = field(default_factory=Kept)
    held: dict[str, Weights] = field(default_factory=dict)

    @property
    def tasks(self) -> list[ReadingTask]:
        return list({id(one.task): one.task for one in self.posed}.values())

    @property
    def merges(self) -> bool:
        return self.posed[0].task.merging is not None

    @property
    def ids(self) -> list[str]:
        """Modules that answer, or may."""
        own = [task.module for task in self.tasks if task.module is not None]
        pools = [one.module for task in self.tasks if task.pool for one in task.pool.candidates]
        return list(dict.fromkeys([*own, *pools]))

    def prepare(self) -> float:
        """Load every module and make every index that is not there yet; returns the seconds that its indices took."""
        self.held = {one: self.store.module(one).load() for one in self.ids}
        needed: dict[tuple, float] = {}
        for task in self.tasks:
            if STEMS.get(task.stem).context == "passages":
                assert task.retrieval is not None
                place = self._place(task)
                if place not in self.kept.finders:
                    load_embedder(task.retrieval.embedder).embed(["warm"])  # loaded before the clock runs
                    clock = Clock(self.base.device)
                    with clock.part("index"):
                        finder = Finder(task.retrieval, task.readable, self.base.prompts.count)
                    self.kept.finders[place], self.kept.seconds[place] = finder, clock.seconds["index"]
                needed[place] = self.kept.seconds[place]
            if (routed := _routed_by(task)) is not None:
                if routed not in self.kept.seconds:
                    name, texts = routed
                    load_embedder(name).embed(["warm"])
                    pieces_of.cache_clear()
                    clock = Clock(self.base.device)
                    with clock.part("index"):
                        fresh(load_embedder(name)).embed([p for text in texts for p in pieces_of(text, name)])
                    self.kept.seconds[routed] = clock.seconds["index"]
                needed[routed] = self.kept.seconds[routed]
        return sum(needed.values())

    @staticmethod
    def _place(task: ReadingTask) -> tuple:
        return task.retrieval, tuple(document.id for document in task.readable), id(task.readable)

    def _forget(self) -> None:
        """What routers remember of questions goes. (How a question is cut to the embedder's window stays: a few tokenisings.)"""
        for task in self.tasks:
            if (routed := _routed_by(task)) is not None:
                embedder = load_embedder(routed[0])
                for key in [key for key in embedder._known if key[0]]:
                    del embedder._known[key]

    # -- passes --------------------------------------------------------------------------------------------
    def one_at_a_time(self, *, loaded: bool = False) -> Pass:
        """Every question by itself, nothing shared between any two: a context is read anew for each.

        Args:
            loaded: Nothing of any module is held: weights come from disk and are attached for each question.
        """
        self._forget()
        clocks = [Clock(self.base.device) for _ in self.posed]
        asked: list[Asked] = []
        requests: list[Request] = []
        adapters: list[Adapters | None] = []
        # routers that read weights attach modules of their own, so that all routes come before any is attached
        for posed, clock in zip(self.posed, clocks, strict=True):
            placed, switched = self._routed(
                [posed], clock, self._from_disk(clock) if loaded else self.held.__getitem__
            )
            asked += placed
            adapters.append(switched)
            with clock.part("context"):
                requests.append(self._request(placed[0], posed.task))
        anew = loaded or self.merges
        said: list[Generation | None] = []
        with self._attached([] if anew else self._keys(asked)) as (bank, slots):
            for one, clock, request, switched in zip(asked, clocks, requests, adapters, strict=True):
                if one.silent:
                    said.append(None)
                elif one.adapter is None or not anew:
                    said += self._answer([replace(request, slot=slots[one.adapter])], clock, bank)
                else:
                    assert switched is not None
                    said += self._with_new(switched, [one.adapter], [(request, one.adapter)], clock)
        return self._pass(clocks, asked, said)

    def together(self) -> Pass:
        """All questions in one call, weights held: equal contexts are read once, equal sets of modules merged once."""
        self._forget()
        clock = Clock(self.base.device)
        placed, switched = self._routed(self.posed, clock, self.held.__getitem__)
        with clock.part("context"):
            requests = [self._request(one, posed.task) for one, posed in zip(placed, self.posed, strict=True)]
        live = [number for number, one in enumerate(placed) if not one.silent]
        said: list[Generation | None] = [None] * len(placed)
        keys = self._keys(placed)
        if self.merges and keys:
            assert switched is not None
            for start in range(0, len(keys), MODULES_AT_ONCE):
                wave = keys[start : start + MODULES_AT_ONCE]
                own = [
                    i for i in live if placed[i].adapter in wave or (start == 0 and placed[i].adapter is None)
                ]
                found = self._with_new(switched, wave, [(requests[i], placed[i].adapter) for i in own], clock)
                for number, answer in zip(own, found, strict=True):
                    said[number] = answer
        else:
            with self._attached(keys) as (bank, slots):
                own_requests = [replace(requests[i], slot=slots[placed[i].adapter]) for i in live]
                for number, answer in zip(live, self._answer(own_requests, clock, bank), strict=True):
                    said[number] = answer
        return self._pass([clock], placed, said)

    # -- parts ---------------------------------------------------------------------------------------------
    def _from_disk(self, clock: Clock) -> Load:
        folders = {one: self.store.module(one).folder for one in self.ids}  # found beforehand, like any index

        def load(module: str) -> Weights:
            with clock.part("load"):
                return peft_format.load(folders[module])

        return load

    def _routed(
        self, posed: Sequence[Posed], clock: Clock, load: Load
    ) -> tuple[list[Asked], Adapters | None]:
        """Questions with their contexts and modules, and what turns modules into weights."""
        found: dict[str, Asked] = {}
        for task in {id(one.task): one.task for one in posed}.values():
            with clock.part("context"):
                own = self._contexts(task, [one.probe for one in posed if one.task is task])
            found |= {one.probe.id: one for one in own}
        asked = [found[one.probe.id] for one in posed]
        task = posed[0].task
        if task.pool is not None:
            assert task.routing is not None
            with clock.part("route"):
                switched = switch(
                    self.base, asked, task.pool, task.routing, task.merging, load, abstain=task.abstain, rows=self.rows,
                )  # fmt: skip
            return switched.asked, switched.adapters
        if task.module is None:
            return asked, None
        own_modules = [with_adapter([one], p.task.module)[0] for one, p in zip(asked, posed, strict=True)]
        return own_modules, lambda keys: [load(str(key)) for key in keys]

    def _contexts(self, task: ReadingTask, probes: list[Probe]) -> list[Asked]:
        if STEMS.get(task.stem).context != "passages":
            return replace(task, source=replace(task.source, probes=tuple(probes))).placed(self.base)
        placed = []
        for probe, found in zip(probes, self.kept.finders[self._place(task)].find(probes), strict=True):
            ids, cut = self.base.prompts.fit_context(found.text, [probe.prompt], reserve=MAX_NEW_TOKENS)
            placed.append(Asked(probe, context=tuple(ids), cut=cut))
        return placed

    def _request(self, one: Asked, task: ReadingTask) -> Request:
        prompts = self.base.prompts
        ids = prompts.suffix(one.probe.prompt) if one.context else prompts.chat(one.probe.prompt)
        return Request(tuple(ids), None, MAX_NEW_TOKENS, prefix=one.context, module_on=task.module_on)

    @staticmethod
    def _keys(asked: Sequence[Asked]) -> list[Hashable]:
        return list(dict.fromkeys(one.adapter for one in asked if one.adapter is not None and not one.silent))

    @contextmanager
    def _attached(
        self, keys: Sequence[Hashable]
    ) -> Iterator[tuple[Bank | None, dict[Hashable | None, int | None]]]:
        """Held modules on the base, outside all clocks: all that may be asked for, not only those that are."""
        names = self.ids if keys else []
        slots: dict[Hashable | None, int | None] = {None: None, **{name: n for n, name in enumerate(names)}}
        if not names:
            yield None, slots
            return
        bank = _bank(self.base, [self.held[name] for name in names])
        try:
            yield bank, slots
        finally:
            bank.detach()

    def _with_new(
        self,
        adapters: Adapters,
        keys: list[Hashable],
        own: Sequence[tuple[Request, Hashable | None]],
        clock: Clock,
    ) -> list[Generation]:
        """Weights are made or loaded, attached, used, and taken off again."""
        with clock.part("merge" if self.merges else "load"):
            weights = list(adapters(keys))
        slots: dict[Hashable | None, int | None] = {None: None, **{key: n for n, key in enumerate(keys)}}
        with clock.part("load"):
            bank = _bank(self.base, weights)
        try:
            return self._answer([replace(request, slot=slots[key]) for request, key in own], clock, bank)
        finally:
            with clock.part("load"):
                bank.detach()

    def _answer(self, requests: list[Request], clock: Clock, bank: Bank | None) -> list[Generation]:
        first = [replace(request, max_new_tokens=1) for request in requests]
        prefixes = PrefixCache(self.base)
        with clock.part("prefill"):
            generate(self.base, first, bank=bank, rows=self.rows)
        with clock.part("answer"):
            found = generate(self.base, requests, bank=bank, rows=self.rows, prefixes=prefixes)
        # a base that cannot share contexts reads each with its question, and the cache reads none
        contexts = prefixes.tokens if prefixes.encoded else sum(len(one.prefix) for one in requests)
        clock.tokens += contexts + sum(len(one.prompt) for one in requests)
        return found

    def _pass(self, clocks: list[Clock], asked: Sequence[Asked], said: list[Generation | None]) -> Pass:
        modules = [
            tuple(one.notes.get("route") or ([str(one.adapter)] if one.adapter is not None else []))
            for one in asked
        ]
        if not self.merges:  # of a route only the first is used
            modules = [own[:1] for own in modules]
        return Pass(clocks, said, modules, [len(one.context) for one in asked], [one.cut for one in asked])


def _bank(base: Base, weights: Sequence[Weights]) -> Bank:
    bank = Bank(base.model, [spec for spec, _ in weights], frozen=True)
    try:
        for position, (_, tensors) in enumerate(weights):
            bank.load(position, tensors)
    except BaseException:
        bank.detach()
        raise
    return bank


def _routed_by(task: ReadingTask) -> tuple[str, tuple[str, ...]] | None:
    """(embedder, texts of the modules) of a router that reads texts."""
    if task.pool is None or task.routing is None or not ROUTERS.get(task.routing.router).text:
        return None
    key = task.routing.key
    texts = tuple(one.summary if key == "summary" else one.text for one in task.pool.candidates)
    return task.routing.embedder, texts
