"""Many merges at once: the parents of all of them side by side, and one layer of a group of merges.

Merges of parents of equal ranks form a group, whose layers are batches of matrices. What a rule does to one parent alone is done once per
parent, however many merges it is in.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
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
    parents: Parents, layer: str, group: Group, merging: Merging
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of a group of merges.

    Returns:
        A `[S, R, I]` and B `[S, O, R]` of the merged updates at scale 1, fp32; squared Frobenius norm `[S]` of what the cut to
        this rank took away.
    """
    rule = RULES.get(merging.rule)
    weights_SN = group.weights_SN
    nothing_S = torch.zeros(len(group.keys), dtype=torch.float64)
    if rule.on == "factors":
        return *_merge_factors(parents, layer, group, merging), nothing_S
    if rule.on == "delta":
        a, b = parents.scaled(layer), parents.b(layer)
        inputs, outputs = parents.shapes[layer]

        def update(number: int) -> Tensor:
            return _pruned((b[number] @ a[number]).flatten(), merging, layer, parents.ids[number])

        x_SNE = _gather(group, update)
        merged_SE = (
            maths.disjoint_mean(x_SNE, weights_SN) if rule.elect else maths.weighted_sum(x_SNE, weights_SN)
        )
        return maths.cut_dense(merged_SE.view(-1, outputs, inputs), group.rank)
    if rule.on == "knots":
        made = [
            _merge_blocks(parents, layer, index_N.tolist(), weights_N, merging, group.rank)
            for index_N, weights_N in zip(group.index_SN, weights_SN, strict=True)
        ]
        return (
            torch.stack([a for a, _, _ in made]),
            torch.stack([b for _, b, _ in made]),
            torch.stack([lost for _, _, lost in made]),
        )
    a, b = parents.scaled(layer), parents.b(layer)
    if merging.rule == "cat-sqrt":
        weights_SN = weights_SN / math.sqrt(len(group.ranks))
    columns = list(enumerate(group.index_SN.T.tolist()))
    a_SRI = torch.cat(
        [torch.stack([a[i] for i in own]) * weights_SN[:, n, None, None].float() for n, own in columns], dim=1
    )
    b_SOR = torch.cat([torch.stack([b[i] for i in own]) for _, own in columns], dim=2)
    if rule.on == "rows":
        # the space is that of the factors as PEFT weighs them, sqrt(w s) A
        roots = [
            torch.tensor([parents.specs[i].scale for i in own]) * weights_SN[:, n].float()
            for n, own in columns
        ]
        inverse = torch.cat(
            [root.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()[:, None].expand(-1, rank) for root, rank in zip(roots, group.ranks, strict=True)],
            dim=1,
        )  # fmt: skip
        return maths.shared_rows(a_SRI, b_SOR, inverse, group.rank)
    if group.rank < sum(group.ranks):
        return maths.cut_factors(a_SRI, b_SOR, group.rank)
    return a_SRI, b_SOR, nothing_S


def _merge_factors(parents: Parents, layer: str, group: Group, merging: Merging) -> tuple[Tensor, Tensor]:
    """A and B merged apart, each with the root of weight times scale, as PEFT spreads them."""
    rule = RULES.get(merging.rule)
    scales_SN = torch.tensor(
        [[parents.specs[i].scale for i in own] for own in group.index_SN.tolist()]
    ).double()
    # PEFT's TIES divides by how many agree: equal weights must be 1 there, or the result shrinks with N
    whole = len(group.ranks) if rule.elect else 1
    roots_SN = (whole * group.weights_SN * scales_SN).sqrt()
    found = []
    for which, factors in (("A", parents.a(layer)), ("B", parents.b(layer))):

        def prepared(number: int, which: str = which, factors: list[Tensor] = factors) -> Tensor:
            return _pruned(factors[number].flatten(), merging, f"{layer}.{which}", parents.ids[number])

        x_SNE = _gather(group, prepared)
        merged_SE = (
            maths.disjoint_count(x_SNE, roots_SN) if rule.elect else maths.weighted_sum(x_SNE, roots_SN)
        )
        found.append(merged_SE.view(-1, *factors[int(group.index_SN[0, 0])].shape))
    return found[0], found[1]


def _merge_blocks(
    parents: Parents, layer: str, index: list[int], weights_N: Tensor, merging: Merging, rank: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of one merge by KnOTS."""
    rule = RULES.get(merging.rule)
    a, b = parents.scaled(layer), parents.b(layer)
    b_OK, v_NKI = maths.knots_blocks([a[i] for i in index], [b[i] for i in index])
    x_1NE = v_NKI.flatten(1)[None]
    if rule.prune:
        assert merging.density is not None
        x_1NE = maths.trim(x_1NE, merging.density)
    merged_1E = (maths.disjoint_mean if rule.elect else maths.weighted_sum)(x_1NE, weights_N[None])
    a_KI = merged_1E.view(v_NKI.shape[1:])
    if len(a_KI) > rank:
        a_RI, b_OR, lost = maths.cut_factors(a_KI, b_OK, rank)
    else:
        (a_RI, b_OR), lost = maths.pad(a_KI, b_OK, rank), torch.zeros((), dtype=torch.float64)
    return a_RI.float(), b_OR.float(), lost


def _gather(group: Group, prepared) -> Tensor:
    """`prepared(number)` `[E]` for every parent of every merge, `[S, N, E]`, worked out once per parent."""
    used = sorted(set(group.index_SN.flatten().tolist()))
    place = {number: position for position, number in enumerate(used)}
    x_PE = torch.stack([prepared(number) for number in used])
    return x_PE[torch.tensor([[place[i] for i in own] for own in group.index_SN.tolist()])]


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
