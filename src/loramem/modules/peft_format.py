"""Modules on disk in PEFT's own form: what is saved loads in PEFT and in vLLM, and computes the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from loramem.core.config import parse
from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json
from loramem.modules.bank import MAGNITUDE, PEFT_PREFIX
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import layer_of, linears, resolve_layers, resolve_targets

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")
"""PEFT's starts that leave the base's weights as they are."""
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


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


def save(folder: Path, spec: LoraSpec, tensors: Mapping[str, Tensor], *, model: Any, base_name: str) -> None:
    """`write` with the `adapter_config` of a model."""
    write(folder, spec, tensors, adapter_config(spec, model=model, base_name=base_name))


def load(folder: Path) -> tuple[LoraSpec, dict[str, Tensor]]:
    """Spec and tensors of a saved adapter.

    Raises:
        InputError: files missing, pickled, damaged, of another kind than LoRA, rsLoRA or DoRA, or of shapes that
            contradict the config.
    """
    if not (folder / WEIGHTS).exists():
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        hint = (
            f" (found {', '.join(pickles)}: pickled weights can run code and are refused)" if pickles else ""
        )
        raise InputError(f"{folder}: no {WEIGHTS}{hint}")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise InputError(f"{folder / CONFIG}: not a LoRA adapter")
    for key, plain in (
        ("bias", "none"),
        ("rank_pattern", {}),
        ("alpha_pattern", {}),
        ("modules_to_save", None),
        ("alora_invocation_tokens", None),
    ):
        if config.get(key, plain) not in (plain, None):
            raise InputError(
                f"{folder / CONFIG}: {key} = {config[key]!r} is not supported; LoRA, rsLoRA and DoRA of one rank are"
            )
    start = config.get("init_lora_weights", True)
    if start not in PLAIN_STARTS:
        raise InputError(
            f"{folder / CONFIG}: init_lora_weights = {start!r} is not supported: such a start changes the base's own weights, and on the plain base the adapter says something else; convert it to plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
        )
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except Exception as error:  # safetensors raises its own untyped errors on damaged files
        raise InputError(f"{folder / WEIGHTS}: not a readable safetensors file ({error})") from None
    rank, dora = config.get("r"), bool(config.get("use_dora"))
    for name, tensor in tensors.items():
        if dora and name.startswith(PEFT_PREFIX) and name.endswith(MAGNITUDE) and tensor.ndim == 1:
            continue
        inner = tensor.shape[0] if ".lora_A." in name else tensor.shape[-1]
        if not name.startswith(PEFT_PREFIX) or tensor.ndim != 2 or inner != rank:
            raise InputError(
                f"{folder / WEIGHTS}: {name} of shape {tuple(tensor.shape)} does not fit rank {rank}"
            )
    if "loramem_spec" in metadata:
        spec = LoraSpec.model_validate_json(metadata["loramem_spec"])
        said = (rank, config.get("lora_alpha"), bool(config.get("use_rslora")), dora)
        if said != (spec.rank, spec.scale * spec.rank, False, spec.variant == "dora"):
            raise InputError(
                f"{folder}: {CONFIG} and the spec in {WEIGHTS} contradict each other; one was changed"
            )
        return spec, tensors
    targets = config.get("target_modules")
    layers = config.get("layers_to_transform")
    described = {
        "rank": rank,
        "alpha": config.get("lora_alpha", rank),
        "dropout": config.get("lora_dropout", 0.0),
        "scaling": "rslora" if config.get("use_rslora") else "standard",
        "variant": "dora" if dora else "lora",
        "targets": targets,
        "layers": "all" if layers is None else layers,
    }
    return parse(LoraSpec, described, str(folder / CONFIG)), tensors
