"""Modules out of the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from loramem.core.errors import InputError
from loramem.modules.peft_format import CONFIG, WEIGHTS
from loramem.modules.store import MODULE_MARKER, StoredModule


def export(module: StoredModule, to: Path) -> Path:
    """Copy a module's adapter files and recipe into a new folder. Raises `InputError` if `to` is not empty."""
    module.load()  # a damaged module is found here, not by whoever loads the copy
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} exists and is not an empty folder")
    to.mkdir(parents=True, exist_ok=True)
    for path in (module.folder / CONFIG, module.folder / WEIGHTS, module.home / MODULE_MARKER):
        shutil.copyfile(path, to / path.name)
    return to
