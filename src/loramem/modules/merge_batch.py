"""Many merges at once: the parents of all of them side by side, and one layer of a group of merges.

Merges of parents of equal ranks form a group, whose layers are batches of matrices. What a rule does to one parent alone is done once per
parent, however many merges it is in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.modules import merging as maths
from loramem.modules.bank import PEFT_PREFIX
from loramem.modules.merge_rules import RULES, Merging
from loramem.modules.spec import LoraSpec

WORK_BYTES = 256 * 2**20
"""About the most memory that one batch of merges of a layer takes."""


class Parents:
    """The parents of all merges, in the order of their ids.

    Attributes:
        specs: As stored: PiSSA is plain LoRA of twice the rank, as its tensors are.
        shapes: (inputs, outputs) of every layer.

    Raises:
        InputError: DoRA; other layers or shapes than the first parent's; tensors that are not of the spec's rank.
    """

    def __init__(self, modules: Mapping[str, tuple[LoraSpec, dict[str, Tensor]]]):
        self.ids = list(modules)
        self.specs = [spec.stored for spec, _ in modules.values()]
        self.tensors = [tensors for _, tensors in modules.values()]
        self.layers = [name.removesuffix(_A) for name in self.tensors[0] if name.endswith(_A)]
        for identity, spec in zip(self.ids, self.specs, strict=True):
            if spec.variant != "lora":
                raise InputError(
                    f"module {identity[:12]} is {spec.variant}: its magnitudes are no part of an update B A, so it cannot be merged"
                )
        names = {f"{layer}{which}" for layer in self.layers for which in (_A, _B)}
        for identity, own in zip(self.ids, self.tensors, strict=True):
            if odd := sorted(names ^ set(own)):
                raise InputError(
                    f"modules {self.ids[0][:12]} and {identity[:12]} are on different layers: {len(odd)} tensors differ, e.g. {odd[0].removeprefix(PEFT_PREFIX)}; only modules of the same targets and layers are merged"
                )
        self.shapes = {
            layer: (self.tensors[0][layer + _A].shape[1], len(self.tensors[0][layer + _B]))
            for layer in self.layers
        }
        for number, (identity, spec) in enumerate(zip(self.ids, self.specs, strict=True)):
            for layer, (inputs, outputs) in self.shapes.items():
                found = [tuple(self.tensors[number][layer + which].shape) for which in (_A, _B)]
                if found != [(spec.rank, inputs), (outputs, spec.rank)]:
                    raise InputError(
                        f"module {identity[:12]}: A and B of {layer.removeprefix(PEFT_PREFIX)} are {found[0]} and {found[1]}, expected {(spec.rank, inputs)} and {(outputs, spec.rank)}; it belongs to another base or is damaged"
                    )

    def a(self, layer: str) -> list[Tensor]:
        return [own[layer + _A].float() for own in self.tensors]

    def b(self, layer: str) -> list[Tensor]:
        return [own[layer + _B].float() for own in self.tensors]

    def scaled(self, layer: str) -> list[Tensor]:
        """A factors with the module's scale in them."""
        return [spec.scale * a_RI for spec, a_RI in zip(self.specs, self.a(layer), strict=True)]


_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Group:
    """Merges of as many parents, of the same ranks.

    Attributes:
        keys: Ids of the merges.
        index_SN: Positions of the parents in `Parents`.
        weights_SN: Their weights, in double precision.
        ranks: Of the parents, in the order of their ids.
        rank: Of the merges.
    """

    keys: tuple[str, ...]
    index_SN: Tensor
    weights_SN: Tensor
    ranks: tuple[int, ...]
    rank: int

    def parts(self, shape: tuple[int, int], merging: Merging) -> Iterator[Group]:
        """The group in pieces whose work on a layer of (inputs, outputs) fits in memory."""
        inputs, outputs = shape
        dense = RULES.get(merging.rule).on == "delta"
        elements = len(self.ranks) * inputs * outputs if dense else sum(self.ranks) * (inputs + outputs)
        height = max(1, WORK_BYTES // (16 * elements))  # the elements, and what is made of them on the way
        for start in range(0, len(self.keys), height):
            of = slice(start, start + height)
            yield Group(self.keys[of], self.index_SN[of], self.weights_SN[of], self.ranks, self.rank)


def groups_of(
    sets: Mapping[str, Sequence[tuple[str, float]]], parents: Parents, merging: Merging
) -> list[Group]:
    """Merges, by id as (parent, weight) pairs, in groups. Raises `InputError` for a rule on the factors with unequal ranks."""
    place = {identity: number for number, identity in enumerate(parents.ids)}
    alike: dict[tuple[int, ...], list[str]] = {}
    for key, own in sets.items():
        alike.setdefault(tuple(parents.specs[place[name]].rank for name, _ in own), []).append(key)
    return [
        Group(
            tuple(keys),
            torch.tensor([[place[name] for name, _ in sets[key]] for key in keys]),
            torch.tensor([[weight for _, weight in sets[key]] for key in keys], dtype=torch.float64),
            ranks,
            _rank(ranks, parents, merging),
        )
        for ranks, keys in alike.items()
    ]


def _rank(ranks: tuple[int, ...], parents: Parents, merging: Merging) -> int:
    """The rank of a merge: what is asked for, as far as an update can have it."""
    rule = RULES.get(merging.rule)
    if rule.on == "factors" and len(set(ranks)) > 1:
        raise InputError(
            f"{merging.rule} adds up factors entry by entry, so all modules need one rank; given {list(ranks)}. {merging.rule.replace('-factors', '-delta')} takes any"
        )
    wanted = merging.rank or (sum(ranks) if rule.rank == "sum" else max(ranks))
    if rule.on in ("sum", "rows", "factors"):
        return min(wanted, sum(ranks))
    return min(wanted, max(min(shape) for shape in parents.shapes.values()))


def merge_layer(
    parents: Parents, layer: str, group: Group, merging: Merging, a: Sequence[Tensor], b: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of a group of merges.

    Args:
        a, b: The layer of all parents: A `[R_i, I]` with the scale in it, B `[O, R_i]`.

    Returns:
        A `[S, R, I]` and B `[S, O, R]` of the merged updates at scale 1, fp32; squared Frobenius norm `[S]` of what the cut to
        this rank took away.
    """
    rule = RULES.get(merging.rule)
    nothing_S = torch.zeros(len(group.keys), dtype=torch.float64)
    if rule.on == "factors":
        return *_merge_factors(parents, layer, group, merging), nothing_S
    if rule.on == "delta":
        inputs, outputs = parents.shapes[layer]
        x_SNE = _gather(group, lambda i: _pruned((b[i] @ a[i]).flatten(), merging, layer, parents.ids[i]))
        merged_SE = _combined(x_SNE, group.weights_SN, merging)
        return maths.cut_dense(merged_SE.view(-1, outputs, inputs), group.rank)
    if rule.on == "knots":
        made = [
            _merge_blocks([a[i] for i in index], [b[i] for i in index], weights_N, merging, group.rank)
            for index, weights_N in zip(group.index_SN.tolist(), group.weights_SN, strict=True)
        ]
        all_a, all_b, lost = zip(*made, strict=True)
        return torch.stack(all_a), torch.stack(all_b), torch.stack(lost)
    weights_SN = group.weights_SN
    if merging.rule == "cat-sqrt":
        weights_SN = weights_SN / math.sqrt(len(group.ranks))
    ranks = torch.tensor(group.ranks)
    columns = group.index_SN.T.tolist()
    weights_SR = weights_SN.repeat_interleave(ranks, dim=1)
    a_SRI = (
        torch.cat([torch.stack([a[i] for i in own]) for own in columns], dim=1)
        * weights_SR[..., None].float()
    )
    b_SOR = torch.cat([torch.stack([b[i] for i in own]) for own in columns], dim=2)
    if rule.on == "rows":
        # the space is that of the factors as PEFT weighs them: sqrt(w s) A
        roots_SN = (weights_SN * _scales(parents, group)).clamp(min=torch.finfo(torch.float64).tiny).rsqrt()
        return maths.shared_rows(a_SRI, b_SOR, roots_SN.repeat_interleave(ranks, dim=1), group.rank)
    if group.rank < sum(group.ranks):
        return maths.cut_factors(a_SRI, b_SOR, group.rank)
    return a_SRI, b_SOR, nothing_S


def _scales(parents: Parents, group: Group) -> Tensor:
    """Scale of every parent of every merge, `[S, N]`."""
    return torch.tensor([spec.scale for spec in parents.specs], dtype=torch.float64)[group.index_SN]


def _combined(x_SNE: Tensor, weights_SN: Tensor, merging: Merging) -> Tensor:
    """Pruned entries of the parents as one, `[S, E]`."""
    elect = RULES.get(merging.rule).elect
    return maths.disjoint_mean(x_SNE, weights_SN) if elect else maths.weighted_sum(x_SNE, weights_SN)


def _merge_factors(parents: Parents, layer: str, group: Group, merging: Merging) -> tuple[Tensor, Tensor]:
    """A and B merged apart, each with the root of weight times scale, as PEFT spreads them."""
    elect = RULES.get(merging.rule).elect
    # PEFT's TIES divides by how many agree: equal weights must be 1 there, or the result shrinks with N
    whole = len(group.ranks) if elect else 1
    roots_SN = (whole * group.weights_SN * _scales(parents, group)).sqrt()
    combine = maths.disjoint_count if elect else maths.weighted_sum

    def merged(which: str, factors: Sequence[Tensor]) -> Tensor:
        place = f"{layer}.{which}"
        x_SNE = _gather(group, lambda i: _pruned(factors[i].flatten(), merging, place, parents.ids[i]))
        return combine(x_SNE, roots_SN).view(-1, *factors[int(group.index_SN[0, 0])].shape)

    return merged("A", parents.a(layer)), merged("B", parents.b(layer))


def _merge_blocks(
    a: Sequence[Tensor], b: Sequence[Tensor], weights_N: Tensor, merging: Merging, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of one merge by KnOTS: A `[rank, I]`, B `[O, rank]`, what the cut took away."""
    b_OK, v_NKI = maths.knots_blocks(a, b)
    x_NE = v_NKI.flatten(1)
    if RULES.get(merging.rule).prune:
        assert merging.density is not None
        x_NE = maths.trim(x_NE, merging.density)
    a_KI = _combined(x_NE[None], weights_N[None], merging).view(v_NKI.shape[1:])
    if len(a_KI) > rank:
        a_RI, b_OR, lost = maths.cut_factors(a_KI, b_OK, rank)
    else:
        (a_RI, b_OR), lost = maths.pad(a_KI, b_OK, rank), torch.zeros((), dtype=torch.float64)
    return a_RI.float(), b_OR.float(), lost


def _gather(group: Group, prepared: Callable[[int], Tensor]) -> Tensor:
    """`prepared(position)` `[E]` of every parent of every merge, `[S, N, E]`; worked out once per parent."""
    used, place_SN = group.index_SN.unique(return_inverse=True)
    return torch.stack([prepared(i) for i in used.tolist()])[place_SN]


def _pruned(x_E: Tensor, merging: Merging, place: str, parent: str) -> Tensor:
    """A parent's entries, without those that the rule drops before it merges."""
    prune = RULES.get(merging.rule).prune
    if prune is None:
        return x_E
    assert merging.density is not None
    if prune == "magnitude":
        return maths.trim(x_E, merging.density)
    generator = torch.Generator().manual_seed(seed_from("merge-mask", merging.seed, place, parent))
    return maths.drop(x_E, merging.density, generator)
