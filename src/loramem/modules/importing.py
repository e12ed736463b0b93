"""Adapters from anywhere into modules: what a folder must hold before anything of it is believed, and what it then is.

Another program's adapter is read only if every one of its tensors has its place in the base, and every place its config names
has its tensors: a layer that is silently left out, or silently not there, would answer in the adapter's name. A tensor is loaded only
once the header of its file has been checked, so that a file cannot claim more than the base's own sizes allow.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loramem.base.model import Base
from loramem.core.errors import Faults, InputError, nearest
from loramem.core.files import read_json
from loramem.modules.bank import MAGNITUDE, PEFT_PREFIX
from loramem.modules.peft_format import (
    CONFIG,
    WEIGHTS,
    adapter_config,
    read_config,
    read_header,
    read_tensors,
)
from loramem.modules.recipe import module_hash
from loramem.modules.spec import LoraSpec
from loramem.modules.store import MODULE_MARKER
from loramem.modules.targets import features, layer_of, linears, matches, spelled

IMPORTED_VERSION = 1
"""Raised when code changes what the content of an imported module means."""
SHOWN = 3
"""Faults of one kind that are named; the rest are counted."""
_A, _B = ".lora_A.weight", ".lora_B.weight"


@dataclass(frozen=True)
class Imported:
    """An adapter that fits its base.

    Attributes:
        tensors: PEFT-named, fp32, as every module of the store.
        config: Its adapter_config.json, written anew: nothing of the foreign one is kept.
        notes: What is worth knowing and is no fault.
    """

    id: str
    recipe: dict
    spec: LoraSpec
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    notes: tuple[str, ...]


def read_adapter(folder: Path, base: Base) -> Imported:
    """Read a PEFT adapter folder and check that it is a module of this base.

    Raises:
        InputError: no such folder; files that are missing, pickled, damaged, or links that leave the folder; another kind of adapter;
            layers or widths that the base does not have; half a pair; a rank above the base's widths; values that are not finite; a
            config that says something else than the tensors; a recipe.json beside it that names another base.
    """
    check_files(folder)
    config = read_config(folder)
    shapes = read_header(folder, config).shapes
    layers = linears(base.model)
    sizes = {name: features(layer) for name, layer in layers.items()}
    found = _layers_of(shapes)
    faults = _misfits(found, shapes, sizes, config)
    if faults:
        raise Faults([f"{folder}: {fault}" for fault in faults])
    names = [name for name in layers if name in found]
    if contradiction := _contradiction(names, list(layers), config):
        raise InputError(f"{folder / CONFIG}: {contradiction}")
    notes = _origin(folder, config, base)
    tensors = {name: tensor.float().contiguous() for name, tensor in read_tensors(folder).items()}
    if odd := [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]:
        raise InputError(f"{folder / WEIGHTS}: values that are not finite in {_some(odd)}")
    spec = LoraSpec.model_validate(
        {
            "rank": config["r"],
            "alpha": config["lora_alpha"],
            "scaling": "rslora" if config.get("use_rslora") else "standard",
            "variant": "dora" if config.get("use_dora") else "lora",
            **spelled(base.model, names),
        }
    )
    recipe = imported_recipe(spec, tensors, base=base.fingerprint)
    return Imported(
        module_hash(recipe), recipe, spec, tensors, adapter_config(spec, model=base.model, base_name=base.name), notes
    )  # fmt: skip


def imported_recipe(spec: LoraSpec, tensors: Mapping[str, Tensor], *, base: str) -> dict:
    """Recipe of an `imported` module: its base and the hash of what it computes.

    The hash is over tensors, scale and variant, so neither the words of a config nor the kind of number of a file decides it: half
    precision is widened without loss, and rsLoRA is its scale.
    """
    # nine digits: a scale that was written as alpha and divided by the rank again is the same one
    total = hashlib.sha256(f"{spec.variant} {spec.scale:.9g}\n".encode())
    for name in sorted(tensors):
        values: Any = tensors[name].numpy()  # a buffer, which its type does not say
        total.update(f"{name} {values.shape}\n".encode())
        total.update(values)
    return {
        "type": "imported",
        "recipe_version": IMPORTED_VERSION,
        "base": base,
        "content": total.hexdigest(),
    }


def check_files(folder: Path) -> None:
    """Raises `InputError` unless the folder exists and its two files are files of its own.

    A link may lead to another file of the folder, or into the blobs of the hub's cache that the folder is part of.
    """
    if "\0" in str(folder) or not folder.is_dir():
        what = "is a file" if "\0" not in str(folder) and folder.exists() else "no such folder"
        raise InputError(f"{str(folder)!r}: {what}; give the folder that holds {CONFIG} and {WEIGHTS}")
    home = folder.resolve()
    allowed = [home, *([home.parents[1] / "blobs"] if home.parent.name == "snapshots" else [])]
    for name in (CONFIG, WEIGHTS, MODULE_MARKER):
        path = folder / name
        if path.is_symlink() and not any(root in path.resolve().parents for root in allowed):
            raise InputError(f"{path}: a link that leaves the folder; copy the file itself into it")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: not a regular file")


def _layers_of(shapes: Mapping[str, Sequence[int]]) -> dict[str, set[str]]:
    """The tensors of each layer, by what the names end in."""
    found: dict[str, set[str]] = {}
    for name in shapes:
        ending = next(end for end in (_A, _B, f".{MAGNITUDE}") if name.endswith(end))
        found.setdefault(name.removeprefix(PEFT_PREFIX).removesuffix(ending), set()).add(ending)
    return found


def _misfits(
    found: Mapping[str, set[str]],
    shapes: Mapping[str, Sequence[int]],
    sizes: Mapping[str, tuple[int, int]],
    config: Mapping[str, Any],
) -> list[str]:
    """Everything that keeps the tensors from having their places in the base's layers of these (inputs, outputs)."""
    rank = config["r"]
    wanted = {_A, _B, *((f".{MAGNITUDE}",) if config.get("use_dora") else ())}
    unknown = sorted(name for name in found if name not in sizes)
    halves = sorted(f"{name}{end}" for name, own in found.items() for end in wanted - own)
    faults = []
    if unknown:
        guess = nearest(unknown[0][:200], sizes).rpartition(" Did you mean ")
        faults.append(
            f"{len(unknown)} of its {len(found)} layers are not linear layers of this base that modules attach to (embeddings and the output head are not): "
            f"{_some(unknown)}" + (f". Did you mean {guess[2]}" if guess[1] else "")
        )
    if halves:
        faults.append(f"{len(halves)} tensors are missing: {_some(halves)}")
    wrong = []
    for name in found:
        if name not in sizes:
            continue
        inner, outer = sizes[name]
        for end, shape in ((_A, (rank, inner)), (_B, (outer, rank)), (f".{MAGNITUDE}", (outer,))):
            given = shapes.get(f"{PEFT_PREFIX}{name}{end}")
            if given is not None and tuple(given) != shape:
                wrong.append(f"{name}{end} is {tuple(given)}, this base's is {shape}")
    if wrong:
        faults.append(f"{len(wrong)} tensors are of other widths than this base's: {_some(wrong, '; ')}")
    widest = max((max(sizes[name]) for name in found if name in sizes), default=0)
    if not faults and rank > widest:
        faults.append(
            f"rank {rank:,} is above {widest:,}, the largest width of its layers: no update of theirs has such a rank"
        )
    return faults


def _contradiction(names: Sequence[str], known: Sequence[str], config: Mapping[str, Any]) -> str:
    """What the config says of the layers that the tensors do not; empty where they agree or it says it by a pattern.

    A pattern of a foreign file is not run: it may be written to run for ever. The tensors alone then say which layers are meant.
    """
    targets, only = config.get("target_modules"), config.get("layers_to_transform")
    if targets is None or isinstance(targets, str) and targets != "all-linear":
        return ""
    only = [only] if isinstance(only, int) else only or None
    words = [targets] if isinstance(targets, str) else targets
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "target_modules must be a list of names"
    if only is not None and not (isinstance(only, list) and all(type(one) is int for one in only)):
        return "layers_to_transform must be a list of layer numbers"
    meant = {
        name
        for name in known
        if (words == ["all-linear"] or any(matches(name, word) for word in words))
        and (only is None or layer_of(name) in only)
    }
    if beyond := [name for name in names if name not in meant]:
        return f"its targets leave out layers that have tensors in {WEIGHTS}: {_some(beyond)}"
    lacking = [name for name in known if name in meant and name not in set(names)]
    if lacking and not config.get("exclude_modules"):
        return f"its targets name {len(meant)} layers of this base, {len(lacking)} of them have no tensors in {WEIGHTS}: {_some(lacking)}"
    return ""


def _origin(folder: Path, config: Mapping[str, Any], base: Base) -> tuple[str, ...]:
    """Notes on where an adapter says it is from. Raises `InputError` where our own recipe beside it names another base."""
    notes = []
    marker = folder / MODULE_MARKER
    if marker.exists():
        body = read_json(marker)
        recipe = body.get("recipe") if isinstance(body, dict) else None
        own = recipe.get("base") if isinstance(recipe, dict) else None
        if isinstance(own, str) and own and own != base.fingerprint:
            raise InputError(
                f"{folder}: its {MODULE_MARKER} says that it was made on base {own[:8]!r}, not on {base.name} ({base.fingerprint[:8]}); give the base it was made on"
            )
    named = config.get("base_model_name_or_path")
    if isinstance(named, str) and named and named != base.name:
        notes.append(f"its config names the base {named[:200]!r}; it was imported for {base.name!r}, whose layers it fits")  # fmt: skip
    if isinstance(config.get("target_modules"), str) and config["target_modules"] != "all-linear":
        notes.append("its config names its layers by a pattern; those that have tensors were taken")
    return tuple(notes)


def _some(names: Sequence[str], between: str = ", ") -> str:
    """The first few, each cut to a line's part, and how many more there are."""
    shown = between.join(name if len(name) <= 160 else name[:157] + "..." for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
