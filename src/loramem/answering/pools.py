"""Many modules and one question each: which of them answer, alone or merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from loramem.answering.ask import Adapters
from loramem.answering.contexts import Asked
from loramem.answering.routers import Candidate, Route, Routing, route
from loramem.base.model import Base
from loramem.core.identity import digest
from loramem.modules.merged import Merged, Merging, Parent, merge_many, merged_recipe, weights_for
from loramem.modules.recipe import module_hash
from loramem.modules.spec import LoraSpec

Load = Callable[[str], tuple[LoraSpec, dict[str, Tensor]]]


@dataclass(frozen=True)
class Pool:
    """The modules among which questions are routed.

    Attributes:
        name: For people: whose modules they are, and how many.
        gold: Positions of the modules that learnt the answer, by probe id; a probe that is not named, or has none, belongs to
            none of them.
    """

    name: str
    candidates: tuple[Candidate, ...]
    gold: Mapping[str, frozenset[int]] = field(default_factory=dict)

    def describe(self, router: str) -> dict:
        """What of the pool decides a route: for the oracle also what is right."""
        body: dict = {
            "modules": [[one.module, digest([one.text, one.summary])] for one in self.candidates],
        }
        if router == "oracle":
            body["gold"] = digest(sorted((probe, sorted(right)) for probe, right in self.gold.items()))
        return body


@dataclass
class Switched:
    """Questions with their modules chosen.

    Attributes:
        merges: What every merge came to: recipe and measures; filled while the questions are answered.
    """

    asked: list[Asked]
    adapters: Adapters
    merges: list[dict]


def switch(
    base: Base,
    asked: Sequence[Asked],
    pool: Pool,
    routing: Routing,
    merging: Merging | None,
    load: Load,
    *,
    abstain: bool = False,
    rows: int = 64,
) -> Switched:
    """Route every question, and say which weights answer it.

    Args:
        merging: How the modules of a question become one; None: only the best one is used.
        load: Weights of a module of the pool; each is loaded once.
        abstain: A question that no module fits is not answered; else the base answers it alone.
    """
    kept: dict[str, tuple[LoraSpec, dict[str, Tensor]]] = {}

    def once(module: str) -> tuple[LoraSpec, dict[str, Tensor]]:
        if module not in kept:
            kept[module] = load(module)
        return kept[module]

    probes = [one.probe for one in asked]
    gold = [pool.gold.get(probe.id, frozenset()) for probe in probes]
    if routing.router == "oracle" and routing.none_below is None:  # it knows when nothing fits
        routing = routing.model_copy(update={"none_below": 0.5})
    found = route(base, routing, pool.candidates, probes, gold=gold, load=once, rows=rows)
    sets: dict[Hashable, tuple[Parent, ...]] = {}
    placed = []
    for one, chosen, right in zip(asked, found, gold, strict=True):
        key = _adapter(base, chosen, merging, sets)
        silent = abstain and not chosen.modules and one.probe.kind == "generate"
        notes = {**one.notes, **_notes(chosen, right, silent=silent)}
        placed.append(replace(one, adapter=key, notes=notes, silent=silent))
    merges: list[dict] = []

    def adapters(keys: Sequence[Hashable]) -> Sequence[tuple[LoraSpec, dict[str, Tensor]]]:
        if merging is None:
            return [once(str(key)) for key in keys]
        made: list[Merged] = merge_many([sets[key] for key in keys], merging, once, base=base.fingerprint)
        merges.extend({"module": one.id, "recipe": one.recipe, "measures": one.measures} for one in made)
        return [(one.spec, one.tensors) for one in made]

    return Switched(placed, adapters, merges)


def _adapter(
    base: Base, chosen: Route, merging: Merging | None, sets: dict[Hashable, tuple[Parent, ...]]
) -> str | None:
    """The id of the module that answers: one of the pool, or a merge of several; None: the base alone."""
    if not chosen.modules:
        return None
    if merging is None:
        return chosen.modules[0]
    weights = weights_for(merging, chosen.shares)
    parents = tuple(Parent(*pair) for pair in zip(chosen.modules, weights, strict=True))
    identity = module_hash(merged_recipe(parents, merging, base=base.fingerprint))
    sets[identity] = parents
    return identity


def _notes(chosen: Route, right: frozenset[int], *, silent: bool) -> dict:
    """What a routed row says of its route. `gold_rank`: place of the best right module, from 1; None where none is right."""
    places = [place for place, position in enumerate(chosen.ranking, start=1) if position in right]
    return {
        "route": list(chosen.modules), "shares": [round(share, 6) for share in chosen.shares], "confidence": chosen.confidence,
        "gold_rank": places[0] if places else None, "pool_size": len(chosen.ranking), "abstained": silent,
    }  # fmt: skip


def merge_lines(merges: Sequence[dict]) -> list[dict]:
    """Each merge once, however many questions it answered.

    >>> merge_lines([{"module": "a", "measures": {}}, {"module": "a", "measures": {}}])
    [{'module': 'a', 'measures': {}}]
    """
    return [json.loads(line) for line in dict.fromkeys(json.dumps(one, sort_keys=False) for one in merges)]
