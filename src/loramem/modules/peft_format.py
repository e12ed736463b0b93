"""Modules on disk in PEFT's own form: what is saved loads in PEFT and in vLLM, and computes the same.

An adapter folder may come from anywhere, so nothing of it is believed: weights are safetensors, never a pickle; names, shapes
and kinds of numbers are read from the header of the file and compared with its config before a tensor is loaded; a key of
the config that could change what the adapter computes, and that is not known here, is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from loramem.core.config import faults_of, parse
from loramem.core.errors import Faults, InputError
from loramem.core.files import read_json, write_json
from loramem.modules.bank import MAGNITUDE, PEFT_PREFIX
from loramem.modules.spec import MAX_ALPHA, MAX_RANK, LoraSpec
from loramem.modules.targets import layer_of, linears, resolve_layers, resolve_targets

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""PEFT's starts that leave the base's weights as they are."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONFIG_BYTES = 16 * 2**20
"""A config larger than this is none."""
_FLOATS = ("F16", "BF16", "F32", "F64")
_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "target_modules", "layers_to_transform", "bias", "init_lora_weights")  # fmt: skip
_INERT = (
    "task_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version", "fan_in_fan_out", "exclude_modules", "layers_pattern",
    "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
)  # fmt: skip
"""Keys of a config that change nothing of what a saved adapter computes: where it came from, how it was begun."""


def adapter_config(spec: LoraSpec, *, model: Any, base_name: str) -> dict[str, Any]:
    """The content of adapter_config.json.

    A PiSSA module is described as the plain LoRA adapter it comes to (`LoraSpec.stored`), rsLoRA with its scale in
    `lora_alpha`, so that every reader of the format computes the same.
    """
    spec = spec.stored
    names = resolve_targets(model, spec)
    layers = linears(model)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "inference_mode": True,
        "r": spec.rank,
        "lora_alpha": spec.scale * spec.rank,
        "lora_dropout": spec.dropout,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(layers[name], Conv1D) for name in names),
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in names}),
        "use_rslora": False,
        "use_dora": spec.variant == "dora",
    }
    if spec.layers != "all":
        count = 1 + max(layer for name in layers if (layer := layer_of(name)) is not None)
        config["layers_to_transform"] = resolve_layers(spec, count)
    # names may be ambiguous by suffix alone (GPT-2's two c_proj): then the full names are listed
    ambiguous = {name for name in layers if name.rsplit(".", 1)[-1] in config["target_modules"]}
    if "layers_to_transform" not in config and ambiguous != set(names):
        config["target_modules"] = names
    elif "layers_to_transform" in config and {
        name for name in ambiguous if layer_of(name) in config["layers_to_transform"]
    } != set(names):
        config["target_modules"] = names
        del config["layers_to_transform"]
    return config


def write(folder: Path, spec: LoraSpec, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    PEFT ignores what it does not know only in its own keys, so the spec as it was written (`all-linear`, `first-half`)
    goes into the weights' metadata, as `loramem_spec`.
    """
    write_json(folder / CONFIG, config)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt", "loramem_spec": spec.stored.model_dump_json()},
    )
    _settle(folder / WEIGHTS)


def _settle(path: Path) -> None:
    """Put a weight file's metadata in order: safetensors writes it in one that changes, and equal modules have equal bytes."""
    with open(path, "rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size, "the same entries take as many bytes"
        file.seek(8)
        file.write(text)


def save(folder: Path, spec: LoraSpec, tensors: Mapping[str, Tensor], *, model: Any, base_name: str) -> None:
    """`write` with the `adapter_config` of a model."""
    write(folder, spec, tensors, adapter_config(spec, model=model, base_name=base_name))


class Header(NamedTuple):
    """What the header of a weight file says, checked against its config."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def load(folder: Path) -> tuple[LoraSpec, dict[str, Tensor]]:
    """Spec and tensors of a saved adapter.

    Raises:
        InputError: files missing, pickled, damaged, of another kind than LoRA, rsLoRA or DoRA, or of shapes that
            contradict the config.
    """
    config = read_config(folder)
    header = read_header(folder, config)
    spec = _written_spec(folder, config, header.metadata) or parse(
        LoraSpec, _described(config), str(folder / CONFIG)
    )
    return spec, read_tensors(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """The config of an adapter that is LoRA, rsLoRA or DoRA of one rank on a base that stays as it is.

    Raises:
        InputError: files missing, pickled or damaged; another kind of adapter; a key that is not known here.
    """
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(
            path.name for end in ("*.bin", "*.pt", "*.pth", "*.pkl") for path in folder.glob(end)
        )
        hint = (
            f" (found {', '.join(pickles)}: pickled weights can run code and are refused)" if pickles else ""
        )
        raise InputError(f"{folder}: no {WEIGHTS}{hint}")
    path = folder / CONFIG
    if path.is_file() and path.stat().st_size > CONFIG_BYTES:
        raise InputError(f"{path}: {path.stat().st_size:,} bytes are no adapter's config")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise InputError(
            f"{path}: not a LoRA adapter (peft_type {_short(kind)}); LoRA, rsLoRA and DoRA of one rank are read"
        )
    for key, value in config.items():
        odd = value not in ("none", None) if key == "bias" else value and key not in (*_READ, *_INERT)
        if odd:
            raise InputError(
                f"{path}: {_short(key)} = {_short(value)} is not supported; LoRA, rsLoRA and DoRA of one rank are"
            )
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise InputError(
            f"{path}: init_lora_weights = {_short(start)} is not supported: such a start changes the base's own weights, and on the plain base the adapter says something else; convert it to plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )
    if type(config.get("r")) is not int or not 1 <= config["r"] <= MAX_RANK:
        raise InputError(f"{path}: r = {_short(config.get('r'))} is no rank; 1 to {MAX_RANK:,} are")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < MAX_ALPHA:
        raise InputError(f"{path}: lora_alpha = {_short(alpha)} is no scale; a number above 0 is")
    return config


def read_header(folder: Path, config: Mapping[str, Any]) -> Header:
    """Names and shapes in the weight file, of which no tensor is loaded.

    Raises:
        InputError: not safetensors, or less or more bytes than its header says; a name that is no adapter's; a shape or a kind
            of number that contradicts the config.
    """
    path, rank, dora = folder / WEIGHTS, config["r"], bool(config.get("use_dora"))
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}
    except Exception as error:  # safetensors raises its own untyped errors on damaged files
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    if not found:
        raise InputError(f"{path}: holds no tensors")
    for name, (kind, shape) in found.items():
        if kind not in _FLOATS:
            raise InputError(f"{path}: {_short(name)} holds {kind}; {', '.join(_FLOATS)} are read")
        vector = name.endswith(f".{MAGNITUDE}")
        if not name.startswith(PEFT_PREFIX) or not (
            vector or name.endswith((".lora_A.weight", ".lora_B.weight"))
        ):
            raise InputError(
                f"{path}: {_short(name)} is no part of LoRA or DoRA on a linear layer (those are {PEFT_PREFIX}LAYER.lora_A.weight, lora_B.weight, {MAGNITUDE})"
            )
        if vector and not dora:
            raise InputError(f"{path}: {_short(name)} is DoRA's, but the config does not say use_dora")
        fits = (
            len(shape) == 1
            if vector
            else len(shape) == 2 and shape[0 if name.endswith(".lora_A.weight") else 1] == rank
        )
        if not fits:
            raise InputError(f"{path}: {_short(name)} of shape {shape} does not fit rank {rank}")
    return Header({name: shape for name, (_, shape) in found.items()}, metadata)


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of a weight file whose header is known to be right.

    Raises:
        InputError: damaged, or a number in it is none: every answer would be.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:  # as above
        raise InputError(f"{folder / WEIGHTS}: not a readable safetensors file ({error})") from None
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise InputError(f"{folder / WEIGHTS}: {_short(name)} holds numbers that are not finite")
    return found


def _written_spec(folder: Path, config: Mapping[str, Any], metadata: Mapping[str, str]) -> LoraSpec | None:
    """The spec that `write` left in the weights; None where another program wrote them."""
    if "loramem_spec" not in metadata:
        return None
    try:
        spec = LoraSpec.model_validate_json(metadata["loramem_spec"])
    except ValidationError as error:
        raise Faults(faults_of(LoraSpec, error, f"{folder / WEIGHTS}: loramem_spec")) from None
    said = (config["r"], config.get("lora_alpha"), bool(config.get("use_rslora")), bool(config.get("use_dora")))  # fmt: skip
    if said != (spec.rank, spec.scale * spec.rank, False, spec.variant == "dora"):
        raise InputError(
            f"{folder}: {CONFIG} and the spec in {WEIGHTS} contradict each other; one was changed"
        )
    return spec


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an adapter of another program, in the words of `LoraSpec`."""
    layers = config.get("layers_to_transform")
    return {
        "rank": config["r"],
        "alpha": config["lora_alpha"],
        "dropout": config.get("lora_dropout", 0.0),
        "scaling": "rslora" if config.get("use_rslora") else "standard",
        "variant": "dora" if config.get("use_dora") else "lora",
        "targets": config.get("target_modules"),
        "layers": "all" if layers in (None, []) else [layers] if isinstance(layers, int) else layers,
    }


def _short(value: Any) -> str:
    """A value of a foreign file in a message: its beginning, on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
