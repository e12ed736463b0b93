"""What vLLM's LoRA loader takes, checked before a folder is handed over, and the line that serves it.

vLLM reads r, lora_alpha, use_rslora, use_dora, bias and modules_to_save of adapter_config.json, and the tensors
`base_model.model.<layer>.lora_A.weight` and `lora_B.weight`; it refuses a rank above `--max-lora-rank`, which takes a few values only, and
DoRA, and it loads a layer by its name: one that its own model does not have is skipped, with a warning at most. So what is exported is plain
LoRA of one rank with one scale, under the layers' full names; keys that vLLM does not read (rank_pattern, layers_to_transform) decide nothing.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loramem.core.errors import InputError
from loramem.modules.spec import LoraSpec

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of `--max-lora-rank`."""
DEFAULT_RANK = 16
"""vLLM's own, where the flag is not given."""


def limit_for(rank: int) -> int | None:
    """The smallest value of `--max-lora-rank` that takes a rank; None where there is none.

    >>> limit_for(12), limit_for(16), limit_for(513)
    (16, 16, None)
    """
    return next((limit for limit in RANKS if rank <= limit), None)


def check_limit(limit: int) -> None:
    """Raises `InputError` for a value that `--max-lora-rank` does not take, and says which one serves."""
    if limit not in RANKS:
        serves = limit_for(limit)
        advice = f"; {serves} serves ranks up to {limit}" if serves and limit > 0 else ""
        raise InputError(f"--max-lora-rank {limit}: vLLM takes {', '.join(map(str, RANKS))}{advice}")


def refusal(name: str, spec: LoraSpec, config: Mapping[str, Any], limit: int | None) -> str:
    """Why vLLM would not load a module, and the way out; empty where it would.

    Args:
        name: What the module is called in messages and commands.
        spec: As stored.
        config: Its adapter_config.json.
        limit: `--max-lora-rank`; None: whichever serves.
    """
    if spec.variant == "dora":
        return (
            f"module {name} is DoRA, which vLLM does not load: train it with --variant lora or pissa, read it with PEFT (--for peft), "
            "or fold it into a copy of the base (PEFT's merge_and_unload) and serve that"
        )
    if config.get("fan_in_fan_out"):
        return f"module {name} is on a base of transposed layers (GPT-2), for which vLLM has no LoRA: read it with PEFT (--for peft)"
    if spec.rank > (limit or RANKS[-1]):
        serves = limit_for(spec.rank)
        cut = f"cut it: loramem modules merge {name} --rule svd-delta --rank {limit or RANKS[-1]} (rank_residual says what that loses)"
        wider = f"give --max-lora-rank {serves} here and to vllm serve, or " if serves else ""
        return f"module {name} has rank {spec.rank}, above the limit of {limit or RANKS[-1]}: {wider}{cut}"
    return ""


def serve_command(base: str, folders: Mapping[str, Path], limit: int) -> str:
    """The line that serves exported modules by name.

    `NAME=DIR` is vLLM's short form; a folder whose path has a comma or an equals sign in it is said in its JSON form, because vLLM tells
    the two forms apart by these characters.

    >>> print(serve_command("org/base", {"a1": Path("/x/a1"), "b2": Path("/x,y/b2")}, 16))
    vllm serve org/base --enable-lora --max-lora-rank 16 --lora-modules a1=/x/a1 '{"name": "b2", "path": "/x,y/b2"}'
    """
    said = [
        json.dumps({"name": name, "path": str(folder)}, ensure_ascii=False)
        if {",", "="} & set(str(folder))
        else f"{name}={folder}"
        for name, folder in folders.items()
    ]
    words = ["vllm", "serve", base, "--enable-lora", "--max-lora-rank", str(limit), "--lora-modules", *said]
    return " ".join(map(shlex.quote, words))


def safe_names(ids: Sequence[str], most: int = 12) -> list[str]:
    """A name of each module for folders and requests: the beginning of its id, `-stepN` for a snapshot; all different.

    >>> safe_names(["ab" * 32, "cd" * 32 + "@100"], 4)
    ['abab', 'cdcd-step100']
    """
    parts = [one.partition("@") for one in ids]
    wholes = sorted({whole for whole, _, _ in parts})
    while len({whole[:most] for whole in wholes}) < len(wholes):
        most += 1
    return [whole[:most] + (f"-step{step}" if at else "") for whole, at, step in parts]
