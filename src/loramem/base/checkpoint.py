"""What a checkpoint's folder may hold: nothing in it runs, and the weights that are loaded are those that are fingerprinted.

The libraries that load a folder follow what its files say: an index leads to weight files, pickles among them; an adapter's config beside the
weights is loaded on top of them; the name of a kernel is fetched and imported. Each of these is refused here, before any of them reads it.
What they made of the files is tried at the end: a model that gives no numbers, or that reads both ways, loads like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from loramem.base.fingerprint import weight_files
from loramem.core.errors import InputError
from loramem.core.files import read_json
from loramem.core.shown import quoted

WHOLE, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"


def check_folder(folder: Path, name: str) -> None:
    """Raises `InputError` for a folder without safetensors, or whose files lead to code or to weights that are no such file of it.

    Args:
        name: What the user called the base.
    """
    try:
        _check(folder)
    except InputError as error:
        raise InputError(f"base {name!r}: {error}") from None


def _check(folder: Path) -> None:
    own = {path.name for path in weight_files(folder)}
    if (folder / ADAPTER).exists():
        raise InputError(
            f"{folder}: holds {ADAPTER}, so it is an adapter's folder, or would load one on top of the base; give the base's own "
            "folder, and the adapter to: loramem modules import FOLDER --base BASE"
        )
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'}: not an object")
    for key, value in _items(config):
        if key == "transformers_weights" and value is not None:
            raise InputError(
                f"{folder / 'config.json'}: {key} = {value!r}: weights are read from {WHOLE} or by {INDEX} only"
            )
        if key.strip("_").startswith("attn_implementation") and "/" in str(value):
            raise InputError(
                f"{folder / 'config.json'}: {key} = {value!r} names code that would be downloaded and run; remove it, or use eager or sdpa"
            )
    if not (folder / WHOLE).exists() and (folder / INDEX).exists():
        index = read_json(folder / INDEX)
        weights = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weights, dict):
            raise InputError(f"{folder / INDEX}: no weight_map")
        if odd := sorted({str(name) for name in weights.values() if str(name) not in own}):
            raise InputError(
                f"{folder / INDEX}: {odd[0]!r} is no *.safetensors file of this folder ({len(odd)} such names); other weights are refused"
            )


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of a nested object with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from _items(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _items(inner)


def context_length(config: Any, name: str) -> int:
    """Longest sequence in tokens. Raises `InputError` for a config that makes none, or no layer."""
    known = (getattr(config, key, None) for key in ("max_position_embeddings", "n_positions"))
    length = next((one for one in known if one is not None), 2048)
    for what, value in (("context", length), ("layer", getattr(config, "num_hidden_layers", 1))):
        if type(value) is not int or value < 1:
            raise InputError(f"base {name!r}: its config makes no {what} ({quoted(value)})")
    return length


@torch.inference_mode()
def check_computes(model: Any, name: str) -> None:
    """A few tokens through the model, for what no config tells.

    Raises:
        InputError: it gives numbers that are not finite; or tokens that follow change what is said of those before them (an
            encoder, which nothing can be decoded with).
    """
    ids_BT = torch.zeros(2, 8, dtype=torch.long, device=model.device)
    ids_BT[0, 1:], ids_BT[1, 1:] = 1, 2  # one beginning, two ways to go on
    logits_BTV = model(
        input_ids=ids_BT % model.get_input_embeddings().weight.shape[0], use_cache=False
    ).logits
    if not torch.isfinite(logits_BTV).all():
        raise InputError(f"base {name!r}: its weights give numbers that are not finite")
    one, other = logits_BTV[:, 0].float()
    rounding = 4 * max(torch.finfo(logits_BTV.dtype).eps, 3e-5)
    if (one - other).abs().max() > rounding * one.abs().max():
        raise InputError(
            f"base {name!r} is no causal model: what follows changes what is said of the tokens before it"
        )
