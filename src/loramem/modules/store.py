"""The store: finished things in folders named by the hash of what made them.

A store is a folder, or a URL that many machines share (`modules.mirror`): then its folder is a cache of this machine, what is
finished is sent to the URL, and what another machine finished is fetched when it is asked for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from loramem.core.errors import Corrupt, InputError, UnknownName, nearest
from loramem.core.files import (
    TEMPORARY,
    clear_temporary,
    new_folder,
    read_jsonl,
    read_marker,
    read_text,
    write_json,
    write_jsonl,
    write_text,
)
from loramem.core.identity import file_digest
from loramem.core.places import is_url, local_root, store_place
from loramem.modules import peft_format
from loramem.modules.mirror import Mirror
from loramem.modules.spec import LoraSpec

MODULE_MARKER = "recipe.json"
READING_MARKER = "reading.json"
ROUTING = "routing.txt"
PREDICTIONS = "predictions.jsonl"
MARKERS = {"modules": MODULE_MARKER, "readings": READING_MARKER, "supervision": "examples.jsonl"}
"""What makes a folder of each kind complete."""
RECORDS = ("ledger.json", "training.jsonl", peft_format.CONFIG)
"""Files of a module besides its marker that say what it is and took: no weights."""
FETCHED_AT_ONCE = 16
FULL_ID = 64
MEND = "run `loramem doctor --repair`, which sets it aside, then the command again"
"""What to do about damage."""


def default_store() -> Path:
    """The folder of `$LORAMEM_STORE`, else ~/.cache/loramem."""
    return local_root(store_place())


def contents(folder: Path) -> dict[str, dict]:
    """Size in bytes and sha256 of every file below a folder, by its path in it: what a marker keeps so that later damage shows."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        for path in files
    }


def read_own(path: Path, key: str) -> dict:
    """A marker of this store. Raises `Corrupt`, and says what to do, where it does not parse or lacks its `key`."""
    try:
        body = read_marker(path)
    except Corrupt as error:
        raise Corrupt(f"{error}; {MEND}") from None
    if not isinstance(body, dict) or not isinstance(body.get(key), dict):
        raise Corrupt(f"{path}: holds no {key}; {MEND}")
    return body


def weight_bytes(record: Path) -> int:
    """Bytes of a module's weights on disk, by its record (`Store.module_record`), which need not hold them."""
    files = read_marker(record / MODULE_MARKER).get("files")  # modules of older versions list none
    return files[peft_format.WEIGHTS]["bytes"] if files else (record / peft_format.WEIGHTS).stat().st_size


@dataclass(frozen=True)
class StoredModule:
    """A finished module: its id, its recipe, and where it lies (`fetch` brings it there first, where it is not yet)."""

    id: str
    recipe: dict
    place: Path
    fetch: Callable[[], object] | None = field(default=None, compare=False, repr=False)

    @property
    def folder(self) -> Path:
        """Its files, on this machine."""
        if self.fetch is not None:
            self.fetch()
        return self.place

    @property
    def home(self) -> Path:
        """The folder of the whole module; a snapshot lies below it."""
        folder = self.folder
        return folder.parents[1] if "@" in self.id else folder

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
            raise Corrupt(f"module {self.id[:12]}: {error}; {MEND}") from None


class Store:
    """Modules and readings, content-addressed; safe for several processes at once.

    Args:
        place: Its folder, or its URL (s3://bucket/prefix, gs://..., whatever fsspec knows); by default `$LORAMEM_STORE`, else
            ~/.cache/loramem.
        look: Only look at what is there: nothing is made, cleared, checked or sent.

    Attributes:
        place: As it was given: what opens the same store on another machine.
        root: The folder of this machine.

    Raises:
        InputError: the folder cannot be made or written, or the URL cannot be used (`Mirror.check`).
        RunFailed: what an earlier command could not send cannot be sent now either.
    """

    def __init__(self, place: Path | str | None = None, *, look: bool = False):
        self.place = str(place) if place else store_place()
        self.root = local_root(self.place)
        self.mirror = Mirror(self.place, self.root, MARKERS) if is_url(self.place) else None
        if look:
            return
        try:
            for name in ("modules", "readings"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"store {self.root}: {error.strerror}") from None
        except ValueError as error:  # a NUL in the path
            raise InputError(f"store {str(self.root)!r}: {error}") from None
        if not os.access(self.root, os.W_OK):
            raise InputError(f"store {self.root} cannot be written")
        clear_temporary(self.root)
        if self.mirror is not None:
            self.mirror.check()
            self.mirror.push_owed()

    @property
    def completions(self) -> Path:
        """Where answers of models that write or judge are kept (`synthesis.completing`)."""
        return self.root / "cache" / "completions"

    @property
    def teacher_cache(self) -> Path:
        """Where teachers keep their states (`training.teacher`); may be deleted at any time."""
        return self.root / "cache" / "teacher"

    # -- here and there --------------------------------------------------------------------------
    def has(self, kind: str, identity: str) -> bool:
        """Whether something is finished, here or at the URL. Of many things ask `lacking`: it asks the URL once."""
        return self._here(kind, identity) or (self.mirror is not None and self.mirror.has(kind, identity))

    def lacking(self, kind: str, identities: Iterable[str]) -> list[str]:
        """Those that are finished neither here nor at the URL, in order; the URL is listed once, as it is now."""
        missing = [one for one in identities if not self._here(kind, one)]
        there = self.mirror.ids(kind) if missing and self.mirror is not None else frozenset()
        return [one for one in missing if one not in there]

    def fetch(self, kind: str, identities: Iterable[str]) -> None:
        """Bring many things here, several at once, before they are asked for one by one. Of modules only their records."""
        if self.mirror is None:
            return
        bring = self.module_record if kind == "modules" else self.reading_folder
        missing = {one for one in identities if not self._here(kind, one)}
        there = self.mirror.ids(kind) if missing else frozenset()

        def one(identity: str) -> None:
            with suppress(Corrupt):  # told when it is asked for
                bring(identity)

        with ThreadPoolExecutor(FETCHED_AT_ONCE) as pool:
            list(pool.map(one, there.intersection(missing)))

    def _here(self, kind: str, identity: str) -> bool:
        return (self.root / kind / identity / MARKERS[kind]).exists()

    def _fetched(self, kind: str, identity: str) -> Path:
        """The folder of something, fetched if it is at the URL only."""
        folder = self.root / kind / identity
        if self.mirror is not None and not self._here(kind, identity):
            self.mirror.pull(kind, identity, folder)
        return folder

    @contextmanager
    def _new(self, kind: str, identity: str, body: Mapping[str, Any]) -> Iterator[Path]:
        """Fill a new folder, whose marker holds `body` and what lies beside it, and send it to the URL."""
        if self.mirror is not None:
            self.mirror.owe(kind, identity)
        with new_folder(
            self.root / kind / identity,
            marker=MARKERS[kind],
            marker_value=lambda: {**body, "files": contents(folder)},
        ) as folder:
            yield folder
        if self.mirror is not None:
            self.mirror.push(kind, identity)

    # -- modules ---------------------------------------------------------------------------------
    def module_folder(self, identity: str) -> Path:
        """Where the files of a module lie; fetched, if it is at the URL only."""
        return self._fetched("modules", identity)

    def module_record(self, identity: str) -> Path:
        """A folder with the marker and the `RECORDS` of a module; its weights are not fetched for it."""
        folder = self.root / "records" / identity
        if self.mirror is None or self._here("modules", identity):
            return self.module_folder(identity)
        if not (folder / MODULE_MARKER).exists():
            self.mirror.pull("modules", identity, folder, only=RECORDS)
        return folder

    def has_module(self, identity: str) -> bool:
        return self.has("modules", identity)

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
        with self._new("modules", identity, body) as folder:
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
        if self.mirror is not None and not self._here("modules", full):
            raise UnknownName(f"module {full[:12]} was deleted from {self.place} meanwhile")
        marker = read_own(folder / MODULE_MARKER, "recipe")
        if not at:
            return StoredModule(full, marker["recipe"], folder)
        snapshot = folder / "snapshots" / step
        if (
            not step.isdecimal() or len(step) > 18 or not snapshot.is_dir()
        ):  # a longer name no folder can have
            names = (path.name for path in (folder / "snapshots").glob("*"))
            kept = sorted((name for name in names if name.isdecimal()), key=int)
            raise UnknownName(f"module {full[:12]} has no snapshot {step!r}; {nearest(step, kept)}")
        return StoredModule(f"{full}@{step}", marker["recipe"], snapshot)

    def modules(self) -> list[StoredModule]:
        """Every finished module. Of those that are at the URL only, the recipes are fetched; the rest when it is asked for."""
        here = set(self._known("modules"))
        found = [self.module(name) for name in here]
        if self.mirror is not None:
            far = self.mirror.bodies("modules", self.mirror.ids("modules") - here)
            for one, body in far.items():
                bring = partial(self.module_folder, one)
                found.append(StoredModule(one, body["recipe"], self.root / "modules" / one, bring))
        return sorted(found, key=lambda module: module.id)

    def delete_module(self, identity: str) -> str:
        """Remove a module for good; returns its full id. The marker goes first, so no reader sees a part.

        Where the module's folder is a link, the link is removed: what lies outside of the store is not the store's to delete.

        Raises:
            UnknownName: no such module, or a snapshot, which goes with its module only.
        """
        if "@" in identity:
            raise UnknownName(f"no module {identity!r}: a snapshot goes with its module; give the id alone")
        full = self.find("modules", identity)
        if self.mirror is not None:
            self.mirror.delete("modules", full)
            shutil.rmtree(self.root / "records" / full, ignore_errors=True)
        folder = self.root / "modules" / full
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            (folder / MODULE_MARKER).unlink()
            shutil.rmtree(folder)
        return full

    # -- readings --------------------------------------------------------------------------------
    def reading_folder(self, identity: str) -> Path:
        """Where the files of a reading lie; fetched, if it is at the URL only."""
        return self._fetched("readings", identity)

    def has_reading(self, identity: str) -> bool:
        return self.has("readings", identity)

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
        with self._new("readings", identity, body) as folder:
            write_jsonl(folder / PREDICTIONS, predictions)
            if merges:
                write_jsonl(folder / "merges.jsonl", merges)

    def predictions(self, identity: str) -> list[dict]:
        """The prediction rows of a finished reading. Raises `Corrupt` where they cannot be read."""
        try:
            return read_jsonl(self.reading_folder(identity) / PREDICTIONS)
        except InputError as error:
            raise Corrupt(f"reading {identity[:12]}: {error}; {MEND}") from None

    def training_log(self, identity: str) -> list[dict]:
        """Loss, rate and norm by step of a finished module. Raises `Corrupt` where they cannot be read."""
        try:
            return read_jsonl(self.module_record(identity) / "training.jsonl")
        except InputError as error:
            raise Corrupt(f"module {identity[:12]}: {error}; {MEND}") from None

    # -- supervision -----------------------------------------------------------------------------
    def put_supervision(self, identity: str, examples: Iterable[dict]) -> None:
        """Keep the examples that modules learnt, under their hash, so that they can be looked up; what is there stays."""
        path = self.root / "supervision" / identity / MARKERS["supervision"]
        if not path.exists():
            write_jsonl(path, examples)
        if self.mirror is not None and not self.mirror.has("supervision", identity):
            self.mirror.push("supervision", identity)

    # -- names -----------------------------------------------------------------------------------
    def ids(self, kind: str) -> list[str]:
        """Ids of all that is finished, here or at the URL."""
        there = self.mirror.ids(kind) if self.mirror is not None else frozenset()
        return sorted(there.union(self._known(kind)))

    def _known(self, kind: str) -> list[str]:
        """Ids of what is complete here. A folder still in the making may hold its marker already, under its temporary name."""
        folders = (path.parent for path in (self.root / kind).glob(f"*/{MARKERS[kind]}"))
        return [folder.name for folder in folders if not folder.name.startswith(TEMPORARY)]

    def find(self, kind: str, prefix: str) -> str:
        """The full id of a unique prefix. Raises `UnknownName` when none or several match."""
        if len(prefix) == FULL_ID and prefix.isalnum() and self.has(kind, prefix):
            return prefix  # without a listing
        known = self.ids(kind)
        matches = [name for name in known if prefix and name.startswith(prefix)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UnknownName(
                f"{kind[:-1]} {prefix!r} is not unique: {', '.join(name[:16] for name in matches[:5])}"
            )
        raise UnknownName(
            f"no {kind[:-1]} {prefix!r} in {self.place}; {nearest(prefix, [name[:12] for name in known][:20])}"
        )
