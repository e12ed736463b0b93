"""What a checkpoint's folder may hold: nothing in it runs, and the weights that are loaded are those that are fingerprinted.

The libraries that load a folder follow what its files say: an index leads to weight files, pickles among them; an adapter's config beside the
weights is loaded on top of them; the name of a kernel is fetched and imported. Each of these is refused here, before any of them reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loramem.base.fingerprint import weight_files
from loramem.core.errors import InputError
from loramem.core.files import read_json

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
