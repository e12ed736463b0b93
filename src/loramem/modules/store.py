"""The store: finished things in folders named by the hash of what made them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from loramem.core.errors import Corrupt, InputError, UnknownName, nearest
from loramem.core.files import (
    clear_temporary,
    new_folder,
    read_marker,
    read_text,
    write_json,
    write_jsonl,
    write_text,
)
from loramem.modules import peft_format
from loramem.modules.spec import LoraSpec

MODULE_MARKER = "recipe.json"
READING_MARKER = "reading.json"
ROUTING = "routing.txt"


def default_store() -> Path:
    """`$LORAMEM_STORE`, else ~/.cache/loramem."""
    return Path(os.environ.get("LORAMEM_STORE") or Path.home() / ".cache" / "loramem")


@dataclass(frozen=True)
class StoredModule:
    """A finished module: its id, its recipe, and where it lies."""

    id: str
    recipe: dict
    folder: Path

    @property
    def home(self) -> Path:
        """The folder of the whole module; a snapshot lies below it."""
        return self.folder.parents[1] if "@" in self.id else self.folder

    @property
    def text(self) -> str:
        """The text it learnt; empty where that was not kept (modules of older versions, merged ones)."""
        path = self.home / ROUTING
        return read_text(path) if path.exists() else ""

    def load(self) -> tuple[LoraSpec, dict[str, Tensor]]:
        """Spec and tensors. Raises `Corrupt` when the files do not hold what the recipe says."""
        try:
            return peft_format.load(self.folder)
        except InputError as error:
            raise Corrupt(f"module {self.id[:12]}: {error}; delete it and train it again") from None


class Store:
    """Modules and readings, content-addressed; safe for several processes at once.

    Args:
        root: Its folder; by default `default_store()`.
        look: Only look at what is there: nothing is made, cleared or checked.

    Raises:
        InputError: the folder cannot be made or written.
    """

    def __init__(self, root: Path | str | None = None, *, look: bool = False):
        self.root = Path(root).expanduser() if root else default_store()
        if look:
            return
        try:
            for name in ("modules", "readings"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"store {self.root}: {error.strerror}") from None
        if not os.access(self.root, os.W_OK):
            raise InputError(f"store {self.root} cannot be written")
        clear_temporary(self.root)

    @property
    def completions(self) -> Path:
        """Where answers of models that write or judge are kept (`synthesis.completing`)."""
        return self.root / "cache" / "completions"

    @property
    def teacher_cache(self) -> Path:
        """Where teachers keep their states (`training.teacher`); may be deleted at any time."""
        return self.root / "cache" / "teacher"

    # -- modules ---------------------------------------------------------------------------------
    def module_folder(self, identity: str) -> Path:
        return self.root / "modules" / identity

    def has_module(self, identity: str) -> bool:
        return (self.module_folder(identity) / MODULE_MARKER).exists()

    def put_module(
        self,
        identity: str,
        recipe: dict,
        spec: LoraSpec,
        tensors: dict[str, Tensor],
        *,
        config: Mapping[str, Any],
        log: Sequence[dict],
        ledger: dict,
        extra: dict | None = None,
        snapshots: Mapping[int, dict[str, Tensor]] | None = None,
        text: str = "",
    ) -> None:
        """Save a finished module and its snapshots; `recipe.json` is written last, its presence means complete.

        Args:
            config: `peft_format.adapter_config` of the spec on its base.
            text: What it learnt, by which routers find it; kept in routing.txt.
        """
        body = {"id": identity, "recipe": recipe, **(extra or {})}
        with new_folder(
            self.module_folder(identity), marker=MODULE_MARKER, marker_value=lambda: body
        ) as folder:
            peft_format.write(folder, spec, tensors, config)
            write_jsonl(folder / "training.jsonl", log)
            write_json(folder / "ledger.json", ledger)
            if text:
                write_text(folder / ROUTING, text)
            for step, weights in (snapshots or {}).items():
                own = folder / "snapshots" / str(step)
                own.mkdir(parents=True)
                peft_format.write(own, spec, weights, config)

    def module(self, identity: str) -> StoredModule:
        """A finished module by id or unique prefix; `ID@STEP` is its snapshot at that step.

        Raises:
            UnknownName: no such module, or no such snapshot of it.
        """
        prefix, at, step = identity.partition("@")
        full = self.find("modules", prefix)
        folder = self.module_folder(full)
        marker = read_marker(folder / MODULE_MARKER)
        if not at:
            return StoredModule(full, marker["recipe"], folder)
        snapshot = folder / "snapshots" / step
        if not step.isdigit() or not snapshot.is_dir():
            kept = sorted((path.name for path in (folder / "snapshots").glob("*")), key=int)
            raise UnknownName(f"module {full[:12]} has no snapshot {step!r}; {nearest(step, kept)}")
        return StoredModule(f"{full}@{step}", marker["recipe"], snapshot)

    def modules(self) -> list[StoredModule]:
        folders = sorted((self.root / "modules").iterdir())
        return [self.module(folder.name) for folder in folders if (folder / MODULE_MARKER).exists()]

    def delete_module(self, identity: str) -> str:
        """Remove a module for good; returns its full id. The marker goes first, so no reader sees a part."""
        full = self.find("modules", identity)
        folder = self.module_folder(full)
        (folder / MODULE_MARKER).unlink()
        shutil.rmtree(folder)
        return full

    # -- readings --------------------------------------------------------------------------------
    def reading_folder(self, identity: str) -> Path:
        return self.root / "readings" / identity

    def has_reading(self, identity: str) -> bool:
        return (self.reading_folder(identity) / READING_MARKER).exists()

    def put_reading(
        self,
        identity: str,
        reading: dict,
        predictions: Sequence[dict],
        ledger: dict,
        *,
        merges: Sequence[dict] = (),
    ) -> None:
        """Save finished predictions; they never change once written.

        Args:
            merges: Recipe and measures of every module that was merged for them; kept in merges.jsonl.
        """
        body = {"id": identity, "reading": reading, "ledger": ledger}
        with new_folder(
            self.reading_folder(identity), marker=READING_MARKER, marker_value=lambda: body
        ) as folder:
            write_jsonl(folder / "predictions.jsonl", predictions)
            if merges:
                write_jsonl(folder / "merges.jsonl", merges)

    # -- names -----------------------------------------------------------------------------------
    def find(self, kind: str, prefix: str) -> str:
        """The full id of a unique prefix. Raises `UnknownName` when none or several match."""
        marker = MODULE_MARKER if kind == "modules" else READING_MARKER
        known = [folder.name for folder in (self.root / kind).iterdir() if (folder / marker).exists()]
        matches = [name for name in known if prefix and name.startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UnknownName(
                f"{kind[:-1]} {prefix!r} is not unique: {', '.join(name[:16] for name in matches[:5])}"
            )
        raise UnknownName(
            f"no {kind[:-1]} {prefix!r} in {self.root}; {nearest(prefix, [name[:12] for name in known][:20])}"
        )
