"""Which matrices of a model a module attaches to, for any family, by structure and not by family name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from loramem.core.errors import InputError, nearest
from loramem.modules.spec import LoraSpec

_LAYER = re.compile(r"\.(\d+)\.")


def is_linear(module: nn.Module) -> bool:
    """`nn.Linear`, or GPT-2's transposed `Conv1D`."""
    return isinstance(module, nn.Linear | Conv1D)


def features(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear layer; Conv1D keeps its weight as [in, out], a quantised one keeps it packed."""
    layer: Any = module
    if isinstance(module, Conv1D):
        return layer.weight.shape[0], layer.weight.shape[1]
    return layer.in_features, layer.out_features


def linears(model: Any) -> dict[str, nn.Module]:
    """Every linear layer but the output head, by full name, in the model's order (PEFT's `all-linear`)."""
    head = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if is_linear(module) and module is not head:
            parent, _, leaf = name.rpartition(".")
            # under an attached bank a layer sits inside its wrapper and keeps the wrapper's name
            banked = leaf == "layer" and hasattr(model.get_submodule(parent), "bank")
            found[parent if banked else name] = module
    return found


def layer_of(name: str) -> int | None:
    """The layer number in a full module name.

    >>> layer_of("model.layers.3.mlp.up_proj"), layer_of("lm_head")
    (3, None)
    """
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def group_of(name: str) -> str:
    """`attention` or `mlp`, from the path: families differ in names, not in this."""
    return "attention" if any("attn" in part or "attention" in part for part in name.split(".")) else "mlp"


def resolve_layers(spec: LoraSpec, count: int) -> list[int]:
    """Layer numbers of a spec, for a model of `count` layers. Raises `InputError` outside them."""
    if spec.layers == "all":
        return list(range(count))
    if spec.layers == "first-half":
        return list(range(count // 2))
    if spec.layers == "second-half":
        return list(range(count // 2, count))
    chosen = sorted(set(int(layer) for layer in spec.layers))
    wrong = [layer for layer in chosen if not 0 <= layer < count]
    if wrong or not chosen:
        raise InputError(f"layers {wrong or 'none'}: this base has layers 0..{count - 1}")
    return chosen


def resolve_targets(model: Any, spec: LoraSpec) -> list[str]:
    """Full names of the linear layers a spec attaches to, in the model's order.

    Raises:
        InputError: a target or layer the model does not have, with the nearest guess.
    """
    names = list(linears(model))
    count = 1 + max((layer for name in names if (layer := layer_of(name)) is not None), default=-1)
    layers = set(resolve_layers(spec, count))
    within = [
        name
        for name in names
        if layer_of(name) in layers or (layer_of(name) is None and spec.layers == "all")
    ]
    if spec.targets == "all-linear":
        return within
    if spec.targets in ("attention", "mlp"):
        return [name for name in within if group_of(name) == spec.targets]
    wanted: Sequence[str] = (spec.targets,) if isinstance(spec.targets, str) else spec.targets
    for target in wanted:
        if not any(matches(name, target) for name in names):
            last = {name.rsplit(".", 1)[-1] for name in names}
            raise InputError(
                f"unknown target {target!r}; {nearest(target, [*last, 'all-linear', 'attention', 'mlp'])}"
            )
    return [name for name in within if any(matches(name, target) for target in wanted)]


def spelled(model: Any, names: Sequence[str]) -> dict[str, Any]:
    """`targets` and `layers` of a spec that attaches to exactly these layers, in the shortest words that say it.

    Raises:
        InputError: a layer that the model does not have, or layers that no names tell from others.
    """
    known = linears(model)
    if odd := [name for name in names if name not in known]:
        raise InputError(f"this base has no layer {odd[0]!r}")
    wanted = [name for name in known if name in set(names)]
    numbers = tuple(sorted({layer for name in wanted if (layer := layer_of(name)) is not None}))
    leaves = tuple(sorted({name.rsplit(".", 1)[-1] for name in wanted}))
    for targets in ("all-linear", "attention", "mlp", leaves, tuple(wanted)):
        for layers in ("all", "first-half", "second-half", *((numbers,) if numbers else ())):
            if resolve_targets(model, LoraSpec(rank=1, targets=targets, layers=layers)) == wanted:
                return {"targets": targets, "layers": layers}
    raise InputError(f"no names of this base's layers say exactly these {len(wanted)}")


def matches(name: str, target: str) -> bool:
    """PEFT's rule: a full name, or the end of one from a dot on."""
    return name == target or name.endswith(f".{target}")


def parameter_count(model: Any, spec: LoraSpec) -> int:
    """Trainable parameters of a module: rank * (in + out), summed over its targets, and DoRA's magnitude per output."""
    modules = linears(model)
    sizes = [features(modules[name]) for name in resolve_targets(model, spec)]
    magnitudes = sum(outer for _, outer in sizes) if spec.variant == "dora" else 0
    return spec.rank * sum(inner + outer for inner, outer in sizes) + magnitudes
