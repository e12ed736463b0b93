"""Fuzz targets: adapters, modules, and what a run folder holds."""

from __future__ import annotations

import json
from pathlib import Path

from loramem.modules import peft_format
from loramem.modules.store import Store
from reliability.targeting import put, target, text_of


def _adapter() -> tuple[bytes, bytes]:
    """(config, weights) of a small adapter as PEFT writes it."""
    import torch
    from safetensors.torch import save

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = save(
        {name.format("A"): torch.zeros(2, 4), name.format("B"): torch.zeros(4, 2)}, metadata={"format": "pt"}
    )
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "bias": "none",
        "layers_to_transform": [0],
        "use_dora": False,
    }
    return json.dumps(config).encode(), weights


@target("adapter-config", [_adapter()[0]], "json")
def _(data: bytes, where: Path) -> None:
    put(where, peft_format.CONFIG, data)
    put(where, peft_format.WEIGHTS, _adapter()[1])
    peft_format.load(where)


@target("adapter-weights", [_adapter()[1]])
def _(data: bytes, where: Path) -> None:
    put(where, peft_format.CONFIG, _adapter()[0])
    put(where, peft_format.WEIGHTS, data)
    peft_format.load(where)


@target(
    "module-recipe",
    [{"id": "a", "recipe": {"type": "trained", "base": "x", "spec": {"rank": 1}, "seed": 0}}],
    "json",
)
def _(data: bytes, where: Path) -> None:
    home = where / "modules" / ("a" * 64)
    home.mkdir(parents=True, exist_ok=True)
    put(home, "recipe.json", data)
    store = Store(where, look=True)
    for one in (*store.modules(), store.module("a")):
        _ = one.recipe.get("base"), one.text


@target("module-name", ["a", "aaaa"])
def _(data: bytes, where: Path) -> None:
    home = where / "modules" / ("a" * 64)
    home.mkdir(parents=True, exist_ok=True)
    put(home, "recipe.json", b'{"recipe": {}}')
    Store(where, look=True).module(text_of(data))
