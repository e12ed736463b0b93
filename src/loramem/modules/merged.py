"""Merged modules: the recipe of a merge, and many merges built at once in memory.

A merged module is an ordinary LoRA module of scale 1: it is saved, loaded, exported and trained on like any other. A merge that cannot
be made raises; no other rule and no parent ever stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loramem.core.errors import InputError
from loramem.modules.merge_batch import Group, Parents, groups_of, merge_layer
from loramem.modules.merge_measures import Measuring
from loramem.modules.merge_rules import RULES, Merging, Rule
from loramem.modules.recipe import module_hash
from loramem.modules.spec import LoraSpec

__all__ = ["RULES", "Merged", "Merging", "Parent", "Rule", "merge_many", "merged_recipe", "weights_for"]

MERGED_VERSION = 1
"""Raised when code changes what a merge's recipe means."""


@dataclass(frozen=True)
class Parent:
    """A module that is merged, and its weight."""

    id: str
    weight: float


@dataclass
class Merged:
    """A module made of others.

    Attributes:
        tensors: PEFT-named `lora_A [R, in]` and `lora_B [out, R]`, fp32; the scale is 1.
        measures: What the merge did (`Measuring.measures`).
    """

    id: str
    recipe: dict
    spec: LoraSpec
    tensors: dict[str, Tensor]
    measures: dict


def weights_for(merging: Merging, shares: Sequence[float]) -> tuple[float, ...]:
    """Weights of the parents of one merge.

    Args:
        shares: A router's confidence in each parent, best first; only their number matters unless weights are `confidence`.

    Raises:
        InputError: no parent, another number of weights than of parents, or shares that give no weights.

    >>> weights_for(Merging(weights="confidence"), [0.375, 0.125]), weights_for(Merging(rule="cat"), [0.6, 0.2])
    ((0.75, 0.25), (1.0, 1.0))
    """
    count = len(shares)
    if not count:
        raise InputError("a merge needs at least one module; none was given")
    total = float(count) if RULES.get(merging.rule).whole else 1.0
    if merging.weights == "equal":
        return (total / count,) * count
    if merging.weights == "confidence":
        if not all(math.isfinite(one) and one >= 0 for one in shares) or not sum(shares) > 0:
            raise InputError(f"weights confidence: shares {list(shares)} give no weights")
        return tuple(float(total * one / sum(shares)) for one in shares)
    if len(merging.weights) != count:
        raise InputError(
            f"weights {list(merging.weights)}: {len(merging.weights)} weights for {count} modules; give one per module"
        )
    return tuple(map(float, merging.weights))


def merged_recipe(parents: Sequence[Parent], merging: Merging, *, base: str) -> dict:
    """Recipe of a `merged` module. The order of parents decides nothing, so they are sorted.

    Args:
        parents: Their weights are what counts; `merging.weights` says how they came about and is left out.
        base: Fingerprint of the base that all of them belong to.
    """
    recipe: dict[str, Any] = {
        "type": "merged", "recipe_version": MERGED_VERSION, "base": base, "rule": merging.rule,
        "parents": [{"module": name, "weight": weight} for name, weight in sorted((one.id, float(one.weight)) for one in parents)],
    }  # fmt: skip
    given = {"density": merging.density, "rank": merging.rank, "seed": merging.seed or None}
    return recipe | {name: value for name, value in given.items() if value is not None}


def merge_many(
    sets: Sequence[Sequence[Parent]],
    merging: Merging,
    load: Callable[[str], tuple[LoraSpec, dict[str, Tensor]]],
    *,
    base: str,
) -> list[Merged]:
    """Merge several sets of modules, in the order given; nothing touches the disk but `load`.

    Every parent is loaded once, and what depends on it alone (its pruned update, norms, signs, row space) is worked out once for
    all sets; sets that are the same merge are built once.

    Args:
        load: Spec and PEFT-named tensors of a module.
        base: Fingerprint of the base that all modules belong to.

    Raises:
        InputError: no parents; weights that are no weights; an unknown base; DoRA; modules on other layers or of other shapes
            than their neighbours; a rule on the factors with unequal ranks.
    """
    if not base:
        raise InputError(
            "the base of these modules is unknown; modules of different bases have no common merge"
        )
    wanted = [merged_recipe(_checked(one), merging, base=base) for one in sets]
    keys = [module_hash(recipe) for recipe in wanted]
    recipes = dict(zip(keys, wanted, strict=True))
    unique = {key: [(one["module"], one["weight"]) for one in own["parents"]] for key, own in recipes.items()}
    if not unique:
        return []
    parents = Parents(
        {name: load(name) for name in sorted({name for own in unique.values() for name, _ in own})}
    )
    groups = groups_of(unique, parents, merging)
    made = {
        key: Merged(key, recipes[key], _spec(group, parents), {}, {})
        for group in groups
        for key in group.keys
    }
    sums = Measuring(len(parents.ids))
    for layer in parents.layers:
        scaled, b = parents.scaled(layer), parents.b(layer)
        sums.add_parents(scaled, b)
        for group in groups:
            for part in group.parts(parents.shapes[layer], merging):
                a_SRI, b_SOR, lost_S = merge_layer(parents, layer, part, merging, scaled, b)
                sums.add_merges(part.keys, part.index_SN, part.weights_SN, a_SRI, b_SOR, lost_S, scaled, b)
                for key, own_a, own_b in zip(part.keys, a_SRI, b_SOR, strict=True):
                    made[key].tensors[f"{layer}.lora_A.weight"] = own_a.clone(
                        memory_format=torch.contiguous_format
                    )
                    made[key].tensors[f"{layer}.lora_B.weight"] = own_b.clone(
                        memory_format=torch.contiguous_format
                    )
    for group in groups:
        for key, index_N, weights_N in zip(group.keys, group.index_SN, group.weights_SN, strict=True):
            made[key].measures = sums.measures(key, index_N, weights_N)
    return [made[key] for key in keys]


def _checked(parents: Sequence[Parent]) -> Sequence[Parent]:
    """The parents, once it is known that their weights are weights."""
    if not parents:
        raise InputError("a merge needs at least one module; none was given")
    weights = [one.weight for one in parents]
    if not all(math.isfinite(one) and one >= 0 for one in weights) or not sum(weights) > 0:
        raise InputError(f"weights {weights}: each must be finite and 0 or more, and one of them above 0")
    return parents


def _spec(group: Group, parents: Parents) -> LoraSpec:
    """The spec of a group's merges. Parents may spell their targets in different ways; that of the first is taken."""
    first = parents.specs[int(group.index_SN[0, 0])]
    return LoraSpec(rank=group.rank, targets=first.targets, layers=first.layers)
