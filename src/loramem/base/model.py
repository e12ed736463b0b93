"""The frozen model: loaded once, resident, never written to."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
)
from transformers.utils import logging as transformers_logging

from loramem.base.checkpoint import check_computes, check_folder, context_length
from loramem.base.fingerprint import fingerprint
from loramem.base.prompts import PromptBuilder
from loramem.core.errors import InputError, nearest
from loramem.core.files import read_json
from loramem.core.memory import keep_freed_memory
from loramem.core.paths import check_new_folder, make_folder, user_path
from loramem.core.shown import quoted

EMBEDDED = "embedded"
SHIPPED = (EMBEDDED, "embedded-small", "embedded-large")
"""Bases that come with the package: the main one, and its siblings with fewer and more layers."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
QUANTISED = "nf4"
"""A dtype as well: weights in 4 bits (NormalFloat, arXiv 2305.14314), products in the device's own precision."""


@dataclass
class Base:
    """A frozen causal language model with its tokenizer.

    Attributes:
        name: What the user called it.
        model: In eval mode, no parameter requires a gradient.
        tokenizer: Its Hugging Face tokenizer.
        fingerprint: Identity of weights, architecture and tokenizer.
        device, dtype: Where and in which precision it computes.
        context_length: Longest sequence in tokens.
        prompts: The one prompt and label builder, for this tokenizer.
        card: What is known about it (the embedded base's measured card; empty for others).
    """

    name: str
    model: Any
    tokenizer: Any
    fingerprint: str
    device: torch.device
    dtype: torch.dtype
    context_length: int
    prompts: PromptBuilder
    card: dict
    quantised: bool = False

    @property
    def computes(self) -> bool:
        """Whether it holds weights; without them it can only be planned with (`load_base`)."""
        return self.device.type != "meta"

    @property
    def precision(self) -> str:
        """Name of what its weights are kept in; part of every identity."""
        return QUANTISED if self.quantised else str(self.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        """Weights, however they are packed."""
        packed = {
            id(m.weight): m.in_features * m.out_features
            for m in self.model.modules()
            if isinstance(m, torch.nn.Linear)
        }
        return sum(packed.get(id(p), p.numel()) for p in self.model.parameters())


def embedded_folder(name: str = EMBEDDED) -> Path:
    """The folder of a base that is shipped with the package."""
    return Path(str(resources.files("loramem.base") / name))


def resolve(name: str, *, offline: bool = False, revision: str | None = None) -> Path:
    """The local folder of a base: `embedded`, a path, or a hub id (downloaded to the hub's cache unless `offline`).

    Raises:
        InputError: the folder is no checkpoint, or the hub id cannot be had; says what to do.
    """
    if name in SHIPPED:
        return embedded_folder(name)
    path = user_path(name, "base")
    if name and path.exists():
        if not path.is_dir():
            raise InputError(f"base {name!r} is a file; give the folder that holds config.json")
        if not (path / "config.json").exists():
            raise InputError(
                f"base {name!r}: no config.json in that folder; give the folder of a Hugging Face checkpoint"
            )
        return path
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise InputError(
            f"base {quoted(name)} is neither {EMBEDDED!r} or a sibling of it, nor an existing folder, nor a hub id such as Qwen/Qwen3-0.6B; {nearest(name, SHIPPED)}"
        )
    from huggingface_hub import snapshot_download  # imported here: only a hub id needs it
    from huggingface_hub.errors import HFValidationError

    offline = offline or os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
        return Path(
            snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=offline)
        )
    except HFValidationError as error:
        raise InputError(f"base {name!r} is no valid hub id: {error}") from None
    except Exception as error:  # the hub client raises a dozen kinds: all mean "not to be had"
        how = (
            "it is not in the local cache and --offline was given"
            if offline
            else f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
        )
        raise InputError(
            f"base {name!r} cannot be had: {how}. On a machine with a network run "
            f"'loramem base prepare {name} --to DIR', copy DIR here, and give --base DIR"
        ) from None


def choose_device(device: str | None) -> torch.device:
    """`None` or `auto`: CUDA where present, else CPU. Raises `InputError` for a device that is not there."""
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(str(device))
        if chosen.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {device!r} cannot be used: {str(error).splitlines()[0]}; allowed here: auto, cpu"
            + (", cuda" if torch.cuda.is_available() else "")
        ) from None
    return chosen


def choose_dtype(dtype: str | None, device: torch.device) -> torch.dtype:
    """`None` or `auto`: float32 on CPU (exact, and no slower for small bases), bfloat16 on CUDA."""
    if dtype in (None, "auto"):
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}; {nearest(str(dtype), [*DTYPES, QUANTISED, 'auto'])}")
    return DTYPES[str(dtype)]


def _four_bits(precision: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Options of the loader for 4-bit weights. Raises `InputError` where the extra is not installed."""
    missing = [name for name in ("bitsandbytes", "accelerate") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"dtype {QUANTISED} needs {' and '.join(missing)}: pip install 'loramem[quant]'")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its remarks on kernels it does not find
    packing = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=QUANTISED, bnb_4bit_compute_dtype=precision, bnb_4bit_use_double_quant=True
    )  # fmt: skip
    return {"quantization_config": packing, "device_map": {"": str(device)}}


def load_base(
    name: str = EMBEDDED,
    *,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
    revision: str | None = None,
    weights: bool = True,
) -> Base:
    """Load a frozen base: the embedded one, a local checkpoint folder, or a hub id.

    No code of the checkpoint runs unless `trust_remote_code`; weights are read from safetensors only.

    Args:
        weights: Without them (device `meta`) a base tells its layers, tokens and fingerprint, which is all that planning
            needs, and takes no memory; it computes nothing. `dtype` must then be given as it computes elsewhere.

    Raises:
        InputError: unknown name, damaged or pickled checkpoint, unknown device or dtype.
    """
    keep_freed_memory()
    where = choose_device(device) if weights else torch.device("meta")
    quantised = dtype == QUANTISED
    precision = choose_dtype(None if quantised else dtype, where)
    folder = resolve(name, offline=offline, revision=revision)
    check_folder(folder, name)
    options = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    transformers_logging.disable_progress_bar()  # a bar per weight file would cut through our own progress
    try:
        config = AutoConfig.from_pretrained(folder, **options)
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model: Any
        if weights:
            packing = _four_bits(precision, where) if quantised else {}
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=precision,
                use_safetensors=True,
                output_loading_info=True,
                **options,
                **packing,
            )
            model, report = loaded
            lost = sorted(map(str, report["missing_keys"]))
            if lost:  # the library would draw them at random
                raise InputError(
                    f"base {name!r}: its files lack {len(lost)} tensors that its config asks for, e.g. {lost[0]}"
                )
        else:
            with where:
                model = AutoModelForCausalLM.from_config(
                    config, dtype=precision, trust_remote_code=trust_remote_code
                )
    except InputError:
        raise
    except (
        Exception
    ) as error:  # transformers raises many kinds for a damaged checkpoint; all are bad input here
        raise InputError(
            f"base {name!r} does not load: {type(error).__name__}: {str(error).splitlines()[0][:300]}"
        ) from None
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        raise InputError(
            f"base {name!r}: the tokenizer has {len(tokenizer)} tokens, the model {model.get_input_embeddings().weight.shape[0]} embeddings"
        )
    tokenizer.model_max_length = (
        10**12
    )  # lengths are counted, cut and refused by us, before the model sees them
    if weights and not quantised:  # its loader put it there
        model.to(where)
    model.eval().requires_grad_(False)
    model.generation_config = (
        GenerationConfig()
    )  # decoding settings are ours and recorded, not the checkpoint's
    length = context_length(model.config.get_text_config(), name)
    if weights and not quantised:  # after a pass without gradients bitsandbytes gives none on a CPU any more
        check_computes(model, name)
    card = folder / "card.json"
    return Base(
        name=name,
        model=model,
        tokenizer=tokenizer,
        fingerprint=fingerprint(folder),
        device=where,
        dtype=precision,
        context_length=length,
        prompts=PromptBuilder(tokenizer, length),
        card=read_json(card) if card.exists() else {},
        quantised=quantised,
    )


def check_base(name: str, *, device: str | None, dtype: str | None, offline: bool) -> None:
    """Raises `InputError` for what `load_base` would refuse without looking at weights; a hub id is downloaded."""
    choose_dtype(None if dtype == QUANTISED else dtype, choose_device(device))
    check_folder(resolve(name, offline=offline), name)


def prepare(name: str, to: Path, *, offline: bool = False, revision: str | None = None) -> Path:
    """Copy a base into `to` (weights, config, tokenizer, card): a folder that needs no network.

    Raises:
        InputError: `to` exists and is not empty, or the base cannot be had.
    """
    folder = resolve(name, offline=offline, revision=revision)
    check_folder(folder, name)
    check_new_folder(to, "--to")
    make_folder(to, "--to")
    # the config last: without it no folder passes for a base, so a copy that was cut short does not either
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == "config.json", path.name)):
        if path.suffix in (".json", ".safetensors", ".txt", ".model", ".jinja", ".md") and path.is_file():
            shutil.copyfile(path, to / path.name)  # follows the hub cache's links
    return to


def describe(base: Base) -> dict:
    """What `loramem base info` shows."""
    return {
        "name": base.name,
        "architecture": type(base.model).__name__,
        "parameters": base.parameters,
        "fingerprint": base.fingerprint,
        "context_length": base.context_length,
        "vocabulary": len(base.tokenizer),
        "dtype": base.precision,
        "device": str(base.device),
        "chat_template": base.prompts.has_chat,
        "card": json.loads(json.dumps(base.card)),
    }
