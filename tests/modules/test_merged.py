"""Merges: laws of every rule, equality with PEFT's own merging, refusals, and what is saved."""

from __future__ import annotations

import copy
import math
import re

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import merge_utils
from pydantic import ValidationError

from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.modules import merging as maths
from loramem.modules import peft_format
from loramem.modules.merged import RULES, Merging, Parent, merge_many, merged_recipe, weights_for
from loramem.modules.recipe import module_hash
from loramem.modules.spec import LoraSpec

LAYERS = {
    "model.layers.0.q_proj": (6, 9),
    "model.layers.0.down_proj": (8, 5),
    "model.layers.1.q_proj": (6, 9),
}
PRUNING = [name for name in RULES if RULES.get(name).prune]
FACTORS = [name for name in RULES if RULES.get(name).on == "factors"]
DARE = [name for name in RULES if RULES.get(name).prune == "random"]
Module = tuple[LoraSpec, dict[str, torch.Tensor]]
quick = settings(deadline=None, max_examples=7)
seeds = st.integers(0, 10**6)
shapes = st.lists(st.tuples(st.integers(1, 4), st.sampled_from([0.5, 1.0, 4.0])), min_size=1, max_size=4)


def module(rank: int = 2, scale: float = 1.0, *, seed: int = 0, layers=None, size: float = 1.0) -> Module:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (inputs, outputs) in (layers or LAYERS).items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        tensors[f"base_model.model.{name}.lora_B.weight"] = (
            torch.randn(outputs, rank, generator=generator) * size
        )
    return LoraSpec(rank=rank, alpha=scale * rank, targets=("q_proj", "down_proj")), tensors


def pool(described, seed: int) -> dict[str, Module]:
    return {f"m{i}": module(rank, scale, seed=seed + i) for i, (rank, scale) in enumerate(described)}


def updates(made: Module) -> dict[str, torch.Tensor]:
    spec, tensors = made
    return {
        name.removesuffix(".lora_A.weight"): spec.scale
        * (tensors[name.replace("lora_A", "lora_B")].double() @ a.double())
        for name, a in tensors.items()
        if "lora_A" in name
    }  # fmt: skip


def merge(modules: dict[str, Module], merging: Merging, weights=None, order=None):
    names = list(order or modules)
    given_weights = weights or weights_for(merging, [1 / len(names)] * len(names))
    parents = [Parent(*pair) for pair in zip(names, given_weights, strict=True)]
    return merge_many([parents], merging, modules.__getitem__, base="base")[0]


def same(left: dict, right: dict, tolerance: float = 1e-5) -> bool:
    """Whether two updates are equal, relative to the larger norm of each layer."""
    assert left.keys() == right.keys()
    return all(
        (left[name] - right[name]).norm() <= tolerance * max(left[name].norm(), right[name].norm())
        for name in left
    )


def combined(modules: dict[str, Module], weights) -> dict[str, torch.Tensor]:
    found = [updates(one) for one in modules.values()]
    return {name: sum(w * one[name] for w, one in zip(weights, found, strict=True)) for name in found[0]}


def rule(name: str, **settings) -> Merging:
    """A rule that prunes nothing, so that its laws are exact."""
    return Merging(rule=name, **({"density": 1.0} if name in PRUNING else {}), **settings)


# -- laws --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(RULES))
@quick
@given(st.integers(1, 6), st.sampled_from([0.5, 1.0, 4.0]), seeds)
def test_one_module_at_weight_1_is_itself(name, rank, scale, seed):
    one = {"m": module(rank, scale, seed=seed)}
    made = merge(one, rule(name))
    assert made.spec.scale == 1 and made.spec.variant == "lora" and made.spec.targets == one["m"][0].targets
    assert same(updates((made.spec, made.tensors)), updates(one["m"]))
    assert made.measures["distance_to_mean"] < 1e-5 and made.measures["rank_residual"] < 1e-5
    assert made.measures["norm_ratio"] == pytest.approx(1, rel=1e-5)
    assert made.measures["sign_conflicts"] == made.measures["subspace_overlap"] == 0


@quick
@given(shapes, seeds)
def test_cat_is_the_sum_and_the_mean_is_the_weighted_mean(described, seed):
    modules = pool(described, seed)
    count = len(modules)
    weights = [float(i + 1) for i in range(count)]
    weights = [w / sum(weights) for w in weights]
    for name, wanted in {
        "cat": [1.0] * count, "cat-sqrt": [1 / math.sqrt(count)] * count, "linear-delta": [1 / count] * count,
        "knots-linear": [1 / count] * count,
    }.items():  # fmt: skip
        made = merge(modules, Merging(rule=name))
        assert same(updates((made.spec, made.tensors)), combined(modules, wanted)), name
    assert merge(modules, Merging(rule="cat")).spec.rank == sum(rank for rank, _ in described)
    for name in ("linear-delta", "knots-linear", "cat"):
        made = merge(modules, Merging(rule=name, weights=tuple(weights)))
        assert same(updates((made.spec, made.tensors)), combined(modules, weights)), name


@pytest.mark.parametrize("name", list(RULES))
@quick
@given(shapes, seeds, st.randoms())
def test_the_order_of_parents_decides_nothing(name, described, seed, random):
    if name in FACTORS:
        described = [(described[0][0], scale) for _, scale in described]
    modules = pool(described, seed)
    order = list(modules)
    random.shuffle(order)
    weights = dict(zip(modules, [0.1 * (i + 1) for i in range(len(modules))], strict=True))
    first = merge(modules, Merging(rule=name), weights=list(weights.values()))
    other = merge(modules, Merging(rule=name), weights=[weights[one] for one in order], order=order)
    assert first.id == other.id and first.measures == other.measures
    assert all(torch.equal(tensor, other.tensors[key]) for key, tensor in first.tensors.items())


ADDING_FACTORS = [name for name in FACTORS if not RULES.get(name).elect]


@pytest.mark.parametrize("name", [n for n in RULES if not RULES.get(n).whole and n not in ADDING_FACTORS])
@quick
@given(st.integers(1, 3), st.integers(2, 4), seeds)
def test_equal_modules_give_that_module_whatever_their_number(name, rank, count, seed):
    """Also by TIES: with weights 1/N a mean must not be divided by N again (PITFALLS 27)."""
    one = module(rank, 2.0, seed=seed)
    made = merge({f"m{i}": one for i in range(count)}, rule(name))
    assert same(updates((made.spec, made.tensors)), updates(one), 2e-5)
    assert made.measures["subspace_overlap"] == pytest.approx(1, abs=1e-5)
    assert made.measures["sign_conflicts"] == 0 and made.measures["norm_ratio"] == pytest.approx(1, rel=1e-4)
    twice = merge({"m": one}, rule(name), weights=[0.5, 0.5], order=["m", "m"])
    assert same(updates((twice.spec, twice.tensors)), updates(one), 2e-5)


@pytest.mark.parametrize("name", ADDING_FACTORS)
@pytest.mark.parametrize("count", [2, 3])
def test_pefts_sums_of_factors_make_n_equal_modules_n_times_as_large(name, count):
    """Root weights 1/sqrt(N) on A and on B: the product has N^2 terms of 1/N."""
    one = module(3, 2.0, seed=count)
    made = merge({f"m{i}": one for i in range(count)}, rule(name))
    assert same(updates((made.spec, made.tensors)), {key: count * own for key, own in updates(one).items()})


@pytest.mark.parametrize("name", [name for name in RULES if RULES.get(name).cut])
@quick
@given(shapes, st.integers(1, 5), seeds)
def test_a_cut_leaves_what_the_measures_say(name, described, rank, seed):
    modules = pool(described, seed)
    whole = merge(modules, Merging(rule=name, rank=1000))
    made = merge(modules, Merging(rule=name, rank=rank))
    assert made.spec.rank <= rank and whole.spec.rank <= max(9, sum(rank for rank, _ in described))
    full = (
        combined(modules, [1 / len(modules)] * len(modules))
        if name == "svd-factors"
        else updates((whole.spec, whole.tensors))
    )
    own = updates((made.spec, made.tensors))
    size = math.sqrt(sum(one.square().sum().item() for one in full.values()))
    left = math.sqrt(sum((full[key] - own[key]).square().sum().item() for key in full))
    assert made.measures["rank_residual"] == pytest.approx(left / size, abs=2e-4)
    if name == "svd-factors":
        return
    best = sum(torch.linalg.svdvals(one)[rank:].square().sum().item() for one in full.values())
    assert left == pytest.approx(math.sqrt(best), abs=1e-3 * size), "no approximation of that rank is nearer"


@pytest.mark.parametrize("name", [one for one in RULES if RULES.get(one).on == "delta"])
@quick
@given(shapes, seeds)
def test_rules_on_updates_are_elementwise_on_dense_updates(name, described, seed):
    modules = pool(described, seed)
    merging = Merging(rule=name, density=0.6, rank=9)
    made = merge(modules, merging)
    assert made.spec.rank <= 9
    for layer, own in updates((made.spec, made.tensors)).items():
        dense = torch.stack([updates(one)[layer].float().flatten() for one in modules.values()])
        if name in DARE:
            masked = []
            for identity, row in zip(modules, dense, strict=True):
                generator = torch.Generator().manual_seed(seed_from("merge-mask", 0, layer, identity))
                masked.append(maths.drop(row, 0.6, generator))
            dense = torch.stack(masked)
        else:
            dense = maths.trim(dense, 0.6)
        equal = torch.full((1, len(modules)), 1 / len(modules)).double()
        combine = maths.disjoint_mean if RULES.get(name).elect else maths.weighted_sum
        wanted = combine(dense[None], equal)[0].view(own.shape).double()
        # an entry whose two halves cancel may round to either sign
        assert (own - wanted).norm() <= 1e-4 * max(wanted.norm(), 1)


@pytest.mark.parametrize("name", DARE)
def test_masks_depend_on_seed_layer_and_parent_alone(name):
    modules = pool([(2, 1.0), (2, 1.0), (2, 1.0)], 5)
    before = torch.get_rng_state()
    first = merge(modules, Merging(rule=name))
    torch.manual_seed(77)
    again = merge(modules, Merging(rule=name, seed=0))
    assert first.id == again.id and all(torch.equal(t, again.tensors[k]) for k, t in first.tensors.items())
    torch.set_rng_state(before)
    other = merge(modules, Merging(rule=name, seed=1))
    assert other.id != first.id and not any(
        torch.equal(t, other.tensors[k]) for k, t in first.tensors.items()
    )
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"
    # a parent's mask is the same in every company: merged with modules of zeros, its share is that of the merge of three
    zeros = {n: (s, {k: 0 * t if n != "m1" else t for k, t in ts.items()}) for n, (s, ts) in modules.items()}
    if name == "dare-linear-delta":
        alone = merge({"m1": modules["m1"]}, Merging(rule=name, rank=9))
        third = merge(zeros, Merging(rule=name, rank=9))
        wanted = {key: one / 3 for key, one in updates((alone.spec, alone.tensors)).items()}
        assert same(updates((third.spec, third.tensors)), wanted)


def test_dare_keeps_the_mean_update_in_expectation():
    modules = pool([(2, 1.0), (2, 2.0)], 3)
    wanted = combined(modules, [0.5, 0.5])
    made = [merge(modules, Merging(rule="dare-linear-delta", rank=9, seed=seed)) for seed in range(300)]
    mean = {key: sum(updates((one.spec, one.tensors))[key] for one in made) / len(made) for key in wanted}
    assert same(mean, wanted, 0.15) and not same(updates((made[0].spec, made[0].tensors)), wanted, 0.4)


# -- PEFT --------------------------------------------------------------------------------------------
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_fc"]}


def in_peft(base, family: str, described) -> tuple:
    """A PEFT model with random adapters, and the same as modules."""
    model, modules = None, {}
    for number, (rank, alpha) in enumerate(described):
        name = f"m{number}"
        config = peft.LoraConfig(
            r=rank, lora_alpha=alpha, target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2"
        )
        if model is None:
            model = peft.get_peft_model(copy.deepcopy(base.model), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
        generator = torch.Generator().manual_seed(number)
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
        state = peft.get_peft_model_state_dict(model, adapter_name=name)
        spec = LoraSpec(rank=rank, alpha=alpha, targets=tuple(TARGETS[family]))
        modules[name] = spec, {key: tensor.clone() for key, tensor in state.items()}
    return model, modules


def peft_merge(model, modules, kind: str, weights, **options) -> dict[str, torch.Tensor]:
    model.add_weighted_adapter(list(modules), list(weights), "merged", kind, **options)
    config = model.peft_config["merged"]
    state = peft.get_peft_model_state_dict(model, adapter_name="merged")
    return updates((LoraSpec(rank=config.r, alpha=config.lora_alpha), state))


def with_our_masks(monkeypatch, modules, density: float, *, dense: bool) -> None:
    """PEFT draws its masks from the global generator; here each tensor that it prunes gets ours."""
    ours = []
    for identity, (spec, tensors) in modules.items():
        for key, tensor in tensors.items():
            layer, which = re.fullmatch(r"(.*)\.lora_([AB])\.weight", key).groups()
            place = layer if dense else f"{layer}.{which}"
            if dense and which == "B":
                continue
            value = spec.scale * tensors[f"{layer}.lora_B.weight"] @ tensor if dense else tensor
            generator = torch.Generator().manual_seed(seed_from("merge-mask", 0, place, identity))
            ours.append((value, maths.drop(value.flatten(), density, generator).view(value.shape)))

    def pruned(tensor, given, rescale):
        assert given == density and rescale
        found = [
            drop
            for value, drop in ours
            if value.shape == tensor.shape and torch.allclose(value, tensor, atol=1e-6)
        ]
        assert len(found) == 1, "every tensor is known once"
        return found[0]

    monkeypatch.setattr(merge_utils, "random_pruning", pruned)


@pytest.mark.parametrize("family", TARGETS)
@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.6, 0.3, 0.1)])
def test_rules_on_factors_are_pefts(bases, monkeypatch, family, name, weights):
    model, modules = in_peft(bases[family], family, [(4, 8), (4, 2), (4, 4)])
    density = None if name == "linear-factors" else 0.5
    if name in DARE:
        with_our_masks(monkeypatch, modules, 0.5, dense=False)
    made = merge(modules, Merging(rule=name, weights=weights))
    # where PEFT divides by how many agree, ours calls it with weights whose mean is 1
    theirs = [3 * w if RULES.get(name).elect else w for w in weights]
    kind = name.removesuffix("-factors").replace("-", "_")
    wanted = peft_merge(model, modules, kind, theirs, density=density)
    assert made.spec.rank == 4 and same(updates((made.spec, made.tensors)), wanted, 1e-5)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("cat", "cat"), ("svd-delta", "svd"), ("ties-delta", "ties_svd"), ("dare-linear-delta", "dare_linear_svd"),
     ("dare-ties-delta", "dare_ties_svd"), ("magnitude-prune-delta", "magnitude_prune_svd")],
)  # fmt: skip
def test_rules_on_updates_are_pefts_where_it_has_them(bases, monkeypatch, name, kind):
    model, modules = in_peft(bases["llama"], "llama", [(2, 8), (4, 2), (3, 3)])
    rule = RULES.get(name)
    if name in DARE:
        with_our_masks(monkeypatch, modules, 0.5, dense=True)
    made = merge(modules, Merging(rule=name, rank=5 if rule.on == "delta" else None))
    weights = [1.0 if rule.elect or rule.whole else 1 / 3] * 3
    options = {"density": 0.5, "svd_rank": 5} if rule.on == "delta" else {}
    wanted = peft_merge(model, modules, kind, weights, **options)
    assert same(updates((made.spec, made.tensors)), wanted, 1e-4)


@pytest.mark.parametrize("name", ["cat", "linear-delta", "ties-delta", "knots-ties"])
def test_a_saved_merge_gives_base_plus_its_update_in_peft(bases, tmp_path, name):
    base = bases["llama"]
    modules = {
        key: (spec, {n: 0.05 * t for n, t in tensors.items()})
        for key, (spec, tensors) in in_peft(base, "llama", [(2, 4), (3, 3)])[1].items()
    }
    made = merge(modules, Merging(rule=name))
    (tmp_path / "merged").mkdir()
    peft_format.save(tmp_path / "merged", made.spec, made.tensors, model=base.model, base_name="tiny")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base.model), str(tmp_path / "merged"))
    by_hand = copy.deepcopy(base.model)
    added = combined(modules, [1, 1]) if name == "cat" else updates((made.spec, made.tensors))
    with torch.no_grad():
        for layer, update in added.items():
            by_hand.get_submodule(layer.removeprefix("base_model.model.")).weight += update.float()
        ids = torch.randint(5, 200, (2, 12), generator=torch.Generator().manual_seed(0))
        wanted, plain = by_hand(ids).logits, base.model(ids).logits
        assert torch.allclose(loaded(ids).logits, wanted, atol=1e-4)
    assert not torch.allclose(wanted, plain, atol=1e-3)
    spec, tensors = peft_format.load(tmp_path / "merged")
    assert spec == made.spec and all(
        torch.equal(tensors[key], tensor) for key, tensor in made.tensors.items()
    )


def test_rslora_and_pissa_parents_count_at_their_own_scale():
    spec, tensors = module(4, seed=1)
    rs = spec.model_copy(update={"alpha": 6.0, "scaling": "rslora"})
    pissa = LoraSpec(
        rank=2, alpha=3.0, variant="pissa", targets=spec.targets
    )  # its tensors have twice the rank
    modules = {"rs": (rs, tensors), "pissa": (pissa, module(4, seed=2)[1])}
    made = merge(modules, Merging(rule="linear-delta"))
    assert rs.scale == 3.0 and pissa.scale == 1.5
    wanted = combined({"rs": (rs, tensors), "pissa": (pissa.stored, modules["pissa"][1])}, [0.5, 0.5])
    assert same(updates((made.spec, made.tensors)), wanted)


# -- numbers -----------------------------------------------------------------------------------------
WIDE = {f"model.layers.{i}.q_proj": (96, 64) for i in range(2)}


def test_on_factors_independent_modules_end_far_from_their_mean_on_updates_near_it():
    """PITFALLS 28: about 100 % away by factors, for modules trained apart."""
    modules = {f"m{i}": module(8, seed=i, layers=WIDE) for i in range(3)}
    away = {name: merge(modules, Merging(rule=name)).measures["distance_to_mean"] for name in RULES}
    assert away["linear-delta"] < 1e-5 and away["knots-linear"] < 1e-5
    assert away["linear-factors"] > 0.8 and away["ties-factors"] > 0.8
    assert away["dare-linear-factors"] > 1.5 and away["dare-ties-factors"] > 1.0
    assert away["magnitude-prune-delta"] < away["linear-factors"]
    assert away["cat"] == pytest.approx(2, rel=1e-4) and away["cat-sqrt"] == pytest.approx(
        math.sqrt(3) - 1, rel=1e-4
    )


def test_measures_against_dense_updates():
    modules = pool([(2, 1.0), (3, 2.0), (1, 0.5)], 9)
    made = merge(modules, Merging(rule="ties-delta", rank=4, weights=(0.5, 0.3, 0.2)))
    own, mean = updates((made.spec, made.tensors)), combined(modules, [0.5, 0.3, 0.2])

    def norm(of: dict) -> float:
        return math.sqrt(sum(one.square().sum().item() for one in of.values()))

    norms = [norm(updates(one)) for one in modules.values()]
    measures = made.measures
    assert measures["norm"] == pytest.approx(norm(own), rel=1e-5)
    assert measures["parent_norms"] == pytest.approx(norms, rel=1e-5)
    assert measures["norm_ratio"] == pytest.approx(norm(own) / (sum(norms) / 3), rel=1e-5)
    assert measures["distance_to_mean"] == pytest.approx(
        norm({k: own[k] - mean[k] for k in own}) / norm(mean), rel=1e-4
    )
    flat = [torch.cat([one.flatten() for one in updates(each).values()]) for each in modules.values()]
    conflicts = [(flat[i] * flat[j] < 0).double().mean().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert measures["sign_conflicts"] == pytest.approx(sum(conflicts) / 3, rel=1e-6)
    assert 0 < measures["subspace_overlap"] < 1 and 0 < measures["rank_residual"] < 1


def test_modules_that_learnt_nothing_have_finite_measures():
    modules = {f"m{i}": module(2, seed=i, size=0.0) for i in range(2)}
    for name in RULES:
        made = merge(modules, Merging(rule=name))
        numbers = [
            v for value in made.measures.values() for v in (value if isinstance(value, list) else [value])
        ]
        assert numbers == [0.0] * 8 and not any(
            one.any() for one in updates((made.spec, made.tensors)).values()
        )


# -- batches -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(RULES))
def test_a_batch_is_what_its_merges_are_alone_and_loads_each_parent_once(name, monkeypatch):
    modules = pool([(2, 1.0), (2, 2.0), (2, 0.5), (2, 1.0)], 4)
    if name not in FACTORS:
        modules["m4"] = module(3, 2.0, seed=40)
    ids = list(modules)
    sets = [
        [Parent(ids[0], 0.5), Parent(ids[1], 0.5)], [Parent(ids[2], 1.0)], [Parent(ids[3], 0.2), Parent(ids[-1], 0.8)],
        [Parent(ids[1], 0.5), Parent(ids[0], 0.5)], [Parent(one, 0.25) for one in ids[:4]],
    ]  # fmt: skip
    loads = []

    def load(identity):
        loads.append(identity)
        return modules[identity]

    together = merge_many(sets, Merging(rule=name), load, base="base")
    assert sorted(loads) == sorted(ids)
    assert together[0].id == together[3].id and len({one.id for one in together}) == 4
    monkeypatch.setattr("loramem.modules.merge_batch.WORK_BYTES", 1)  # one merge at a time
    for made, chosen in zip(together, sets, strict=True):
        [alone] = merge_many([chosen], Merging(rule=name), modules.__getitem__, base="base")
        assert alone.id == made.id == module_hash(made.recipe) and alone.recipe == made.recipe
        assert same(updates((alone.spec, alone.tensors)), updates((made.spec, made.tensors)), 1e-4)
        for key, value in alone.measures.items():
            assert made.measures[key] == pytest.approx(value, rel=1e-3, abs=2e-5), key
        assert all(t.dtype == torch.float32 and t.is_contiguous() for t in made.tensors.values())
    assert merge_many([], Merging(rule=name), load, base="base") == []


# -- settings and refusals ---------------------------------------------------------------------------
def test_the_recipe_holds_what_decides_a_merge_and_nothing_else():
    parents = [Parent("b", 0.25), Parent("a", 0.75)]
    recipe = merged_recipe(parents, Merging(weights=(0.25, 0.75)), base="f")
    assert recipe == {
        "type": "merged", "recipe_version": 1, "base": "f", "rule": "ties-delta", "density": 0.5,
        "parents": [{"module": "a", "weight": 0.75}, {"module": "b", "weight": 0.25}],
    }  # fmt: skip
    assert merged_recipe(parents[::-1], Merging(weights="confidence", density=0.5), base="f") == recipe
    others = [
        merged_recipe(parents, Merging(density=0.4), base="f"), merged_recipe(parents, Merging(rank=3), base="f"),
        merged_recipe(parents, Merging(rule="linear-delta"), base="f"), merged_recipe(parents, Merging(), base="g"),
        merged_recipe([Parent("a", 0.25), Parent("b", 0.75)], Merging(), base="f"),
        merged_recipe(parents, Merging(rule="dare-ties-delta"), base="f"),
        merged_recipe(parents, Merging(rule="dare-ties-delta", seed=1), base="f"),
    ]  # fmt: skip
    assert len({module_hash(one) for one in [recipe, *others]}) == 8


def test_weights():
    assert weights_for(Merging(), [0.9, 0.1]) == (0.5, 0.5) and weights_for(
        Merging(rule="cat-sqrt"), [0.9, 0.1]
    ) == (1, 1)
    assert weights_for(Merging(weights="confidence"), [0.75, 0.25]) == (0.75, 0.25)
    assert weights_for(Merging(rule="cat", weights="confidence"), [0.375, 0.125]) == (1.5, 0.5)
    assert weights_for(Merging(weights=[2, 1]), [0.5, 0.5]) == (2.0, 1.0)
    for merging, shares, said in (
        (Merging(weights=(0.5, 0.5)), [0.2, 0.2, 0.2], "2 weights for 3 modules"),
        (Merging(weights=(0.5, 0.3, 0.2)), [0.5, 0.5], "3 weights for 2 modules"),
        (Merging(), [], "at least one module"), (Merging(weights="confidence"), [0.0, 0.0], "give no weights"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            weights_for(merging, shares)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"rule": "tie-delta"}, "Did you mean 'ties-delta'"), ({"rule": "cat", "density": 0.5}, "prunes nothing"),
     ({"rule": "svd-delta", "density": 0.5}, "rules that have density: ties-factors"), ({"density": 0.0}, "greater than 0"),
     ({"density": 1.5}, "less than or equal to 1"), ({"rule": "cat", "rank": 4}, "never cut"), ({"rank": 0}, "greater than or equal to 1"),
     ({"rule": "ties-factors", "rank": 4}, "never cut"), ({"rule": "ties-delta", "seed": 3}, "draws nothing"),
     ({"weights": []}, "empty list"), ({"weights": [-1.0]}, "greater than or equal to 0"), ({"weights": "eqal"}, "'equal' or 'confidence'"),
     ({"weight": "equal"}, "Extra inputs")],
)  # fmt: skip
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        Merging.model_validate(settings)


def test_labels_say_what_differs():
    assert (
        Merging(rule="cat").label == "cat" and Merging(density=0.5).label == "ties-delta" == Merging().label
    )
    assert Merging(weights=(0.5, 0.3, 0.2)).label == "ties-delta-w0.5_0.3_0.2"
    assert (
        Merging(rule="knots-ties", weights="confidence", density=0.2, rank=8).label
        == "knots-ties-wconfidence-d0.2-r8"
    )
    assert (
        Merging(density=0.5) == Merging()
        and Merging(rule="dare-linear-delta", seed=3).label == "dare-linear-delta-s3"
    )


def unlike(**changes) -> dict[str, Module]:
    return {"m0": module(seed=1), "m1": module(seed=2, **changes)}


def renamed(one: Module, **changes) -> Module:
    return one[0].model_copy(update=changes), one[1]


REFUSED = {
    "dora": ({"m0": renamed(module(), variant="dora"), "m1": module()}, "m0 is dora"),
    "other layers": (unlike(layers={**LAYERS, "model.layers.2.q_proj": (6, 9)}), "different layers: 2 tensors"),
    "fewer layers": (unlike(layers=dict(list(LAYERS.items())[:2])), "different layers: 2 tensors"),
    "other shapes": (unlike(layers={**LAYERS, "model.layers.1.q_proj": (7, 9)}), "another base"),
    "another rank than its spec": ({"m0": module(), "m1": renamed(module(3), rank=2)}, "m1: A and B"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("name", ["cat", "ties-delta", "linear-factors", "knots-ties"])
def test_modules_that_do_not_go_together_are_refused(case, name):
    modules, said = REFUSED[case]
    with pytest.raises(InputError, match=said):
        merge(modules, Merging(rule=name))


@pytest.mark.parametrize("name", FACTORS)
def test_rules_on_factors_refuse_unequal_ranks_and_never_take_the_first_module(name):
    with pytest.raises(InputError, match=r"need one rank; given \[2, 3\]"):
        merge({"m0": module(2), "m1": module(3)}, Merging(rule=name))


def test_merges_without_parents_base_or_weights_are_refused():
    modules = pool([(2, 1.0), (2, 1.0)], 0)
    for parents, base, said in (
        ([], "base", "at least one module"), ([Parent("m0", 1.0)], "", "base of these modules is unknown"),
        ([Parent("m0", -1.0), Parent("m1", 2.0)], "base", "0 or more"), ([Parent("m0", 0.0)], "base", "one of them above 0"),
        ([Parent("m0", math.nan)], "base", "finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            merge_many([parents], Merging(), modules.__getitem__, base=base)
