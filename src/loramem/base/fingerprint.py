"""The fingerprint of a base: what its weights, architecture and tokenizer hold, never where they lie."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import safe_open

from loramem.core.errors import InputError
from loramem.core.files import read_json
from loramem.core.identity import canonical_json

# Keys of config.json that change no prediction: where it came from and which library wrote it.
_INCIDENTAL = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache", "architectures"}


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint. Raises `InputError` when there are none (pickles are refused)."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(path.name for path in folder.glob("*.bin")) + sorted(
            path.name for path in folder.glob("*.pt*")
        )
        found = (
            f" (found {', '.join(pickles)}: pickled weights can run code and are refused)" if pickles else ""
        )
        raise InputError(f"{folder}: no *.safetensors weights{found}")
    return files


def fingerprint(folder: Path) -> str:
    """sha256 over tensors (name, dtype, shape, bytes), architecture and tokenizer; independent of sharding.

    Raises:
        InputError: weights are missing, pickled or damaged.
    """
    where: dict[str, Path] = {}
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                where.update(dict.fromkeys(file.keys(), path))
        except Exception as error:  # safetensors raises its own untyped errors on damaged headers
            raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    total = hashlib.sha256()
    handles = {path: safe_open(path, framework="pt") for path in set(where.values())}
    for name in sorted(where):
        tensor = handles[where[name]].get_tensor(name).contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy())
    total.update(_described(folder).encode())
    return total.hexdigest()


def _described(folder: Path) -> str:
    config = {
        key: value for key, value in read_json(folder / "config.json").items() if key not in _INCIDENTAL
    }
    parts: dict[str, object] = {"config": config}
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists():
        content = read_json(tokenizer)
        parts["tokenizer"] = {
            key: value for key, value in content.items() if key not in ("padding", "truncation")
        }
    else:  # slow tokenizers: the bytes of their vocabulary files
        parts["tokenizer"] = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.iterdir())
            if path.name in ("vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model")
        }
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        content = read_json(settings)
        parts["specials"] = {
            key: content.get(key) for key in ("bos_token", "eos_token", "pad_token", "chat_template")
        }
    template = folder / "chat_template.jinja"
    if template.exists():
        parts["chat_template"] = template.read_text(encoding="utf-8")
    return canonical_json(json.loads(json.dumps(parts)))
