"""Modules out of the store, as folders that PEFT loads and vLLM serves."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loramem.base.model import SHIPPED, embedded_folder
from loramem.core.errors import Faults, InputError, nearest
from loramem.core.files import read_json, write_json
from loramem.modules import vllm
from loramem.modules.peft_format import CONFIG, WEIGHTS
from loramem.modules.store import MODULE_MARKER, StoredModule

READERS = ("peft", "vllm")
Reader = Literal["peft", "vllm"]


@dataclass(frozen=True)
class Exported:
    """Modules that were written.

    Attributes:
        folders: Their folders by name; the name is what vLLM serves a module under.
        serve: The line that serves them; empty unless they were written for vLLM.
        notes: What is worth knowing about that line.
    """

    folders: dict[str, Path]
    serve: str = ""
    notes: tuple[str, ...] = ()


def export(
    modules: Sequence[StoredModule],
    to: Path,
    *,
    reader: str = "peft",
    max_lora_rank: int | None = None,
    base_name: str | None = None,
) -> Exported:
    """Copy modules' adapter files and recipes: one into a new folder, several each into a folder of their own below it.

    Args:
        reader: `peft`, or `vllm`, for which every module is checked against what vLLM loads.
        max_lora_rank: The limit that vLLM is started with; None: the smallest that serves the set.
        base_name: What their configs call the base, in place of what it was called when they were made.

    Raises:
        InputError: no modules, a folder that is not empty, modules that the reader does not load (all of them are named, with the way
            out), or for vLLM modules of several bases. Nothing is written then.
        Corrupt: a module whose files are damaged: found here, not by whoever loads the copy.
    """
    if reader not in READERS:
        raise InputError(f"--for {reader!r}; {nearest(reader, READERS)}")
    if max_lora_rank is not None:
        if reader != "vllm":
            raise InputError("--max-lora-rank is vLLM's; give --for vllm with it")
        vllm.check_limit(max_lora_rank)
    if base_name is not None and (not base_name.strip() or not base_name.isprintable()):
        raise InputError(f"--base-name {base_name!r}: give a hub id or the path of a folder")
    chosen = list({one.id: one for one in modules}.values())
    if not chosen:
        raise InputError("no module was given")
    specs = [one.load()[0] for one in chosen]
    configs = [read_json(one.folder / CONFIG) | ({"base_model_name_or_path": base_name} if base_name else {}) for one in chosen]  # fmt: skip
    names = vllm.safe_names([one.id for one in chosen])
    limit = max_lora_rank or 0
    if reader == "vllm":
        bases = sorted({str(one.recipe.get("base", "")) for one in chosen})
        if len(bases) > 1:
            named = ", ".join(f"{name} on {str(one.recipe.get('base', ''))[:8] or '(unknown)'}" for name, one in zip(names, chosen, strict=True))  # fmt: skip
            raise InputError(f"one vLLM server has one base; given {named}")
        told = [_told(one.id) for one in chosen]
        faults = [vllm.refusal(*each, max_lora_rank) for each in zip(told, specs, configs, strict=True)]
        if any(faults):
            raise Faults([fault for fault in faults if fault])
        limit = limit or vllm.limit_for(max(spec.rank for spec in specs)) or vllm.RANKS[-1]
    _make_room(to)
    folders = {name: to.resolve() / (name if len(chosen) > 1 else "") for name in names}
    try:
        for one, config, folder in zip(chosen, configs, folders.values(), strict=True):
            folder.mkdir(exist_ok=True)
            shutil.copyfile(one.folder / WEIGHTS, folder / WEIGHTS)
            write_json(folder / CONFIG, config)
            shutil.copyfile(one.home / MODULE_MARKER, folder / MODULE_MARKER)
    except BaseException:  # half a set would be served as a whole one
        for path in to.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    if reader == "peft":
        return Exported(folders)
    base = _base_of(str(configs[0].get("base_model_name_or_path") or ""))
    return Exported(folders, vllm.serve_command(base, folders, limit), _notes([spec.rank for spec in specs], limit))  # fmt: skip


def _make_room(to: Path) -> None:
    """Make the folder. Raises `InputError` where it cannot be made or holds something."""
    if "\0" in str(to):
        raise InputError(f"--to {str(to)!r}: a path has no NUL in it")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty folder")
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{to}: {error.strerror}") from None


def _told(identity: str) -> str:
    """An id as commands take it, short."""
    whole, at, step = identity.partition("@")
    return whole[:12] + at + step


def _base_of(name: str) -> str:
    """What vLLM is given for a base: the folder of one that lies here, else the name (a hub id)."""
    if name in SHIPPED:
        return str(embedded_folder(name))
    folder = Path(name).expanduser()
    return str(folder.resolve()) if name and folder.is_dir() else name or "BASE"


def _notes(ranks: Sequence[int], limit: int) -> tuple[str, ...]:
    notes = []
    if max(ranks) > vllm.DEFAULT_RANK:
        notes.append(
            f"rank {max(ranks)} is above vLLM's default limit of {vllm.DEFAULT_RANK}: without --max-lora-rank {limit} it refuses the module"
        )
    if odd := sorted({rank for rank in ranks if rank not in vllm.RANKS}):
        served = ", ".join(f"rank {rank} by {vllm.limit_for(rank)}" for rank in odd)
        notes.append(f"vLLM's limits are {', '.join(map(str, vllm.RANKS))}: {served} and above")
    return tuple(notes)
