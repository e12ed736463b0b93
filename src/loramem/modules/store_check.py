"""Whether a store is sound, and its repair.

What is damaged is moved to STORE/quarantine/DATE, never deleted, so that the next run makes it again; what dead processes
left half-written is removed. What a living process works on has a temporary name, which no check reads and no repair touches
(`core.files.clear_temporary` decides who is dead).
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from loramem.core.errors import InputError
from loramem.core.files import TEMPORARY, clear_temporary
from loramem.modules import folder_checks
from loramem.modules.store import MODULE_MARKER, READING_MARKER

QUARANTINE = "quarantine"
PARTS = ("modules", "readings", "supervision", "cache", "downloads", QUARANTINE)
"""Folders of a store."""
BESIDE = ("unsent", "records", "store.json", "stores")
"""What a store that is kept elsewhere as well has on this machine: no part of what is checked."""
MOVES = "moved.jsonl"
IDENTITY = re.compile("[0-9a-f]{64}")
LAST_WRITTEN = (MODULE_MARKER, READING_MARKER, folder_checks.EXAMPLES)
FRESH_SECONDS = 60.0
"""A folder that lacks what is written last, and changed so lately, may be one that somebody is at."""
Tell = Callable[[str, int, int], None]
"""Told the part, and how many things of it are checked, of how many."""


@dataclass
class Count:
    """How many things, and the bytes of their files."""

    things: int = 0
    bytes: int = 0

    def add(self, path: Path) -> None:
        self.things += 1
        self.bytes += size_of(path)


@dataclass(frozen=True)
class Fault:
    """Something damaged.

    Attributes:
        path: What has to go so that it is made again: a module's or reading's folder, or a file that stands alone.
        check: Finds the reasons again.
    """

    path: Path
    reasons: tuple[str, ...]
    check: folder_checks.Check

    @property
    def text(self) -> str:
        return "; ".join(self.reasons)


@dataclass
class StoreCheck:
    """What a store holds.

    Attributes:
        counts: By part: `modules`, `readings`, `supervision`, `cache/NAME`, `downloads`, `quarantine`.
        temporary: What is being written, or was when its process died.
        without_sums: Modules and readings of older versions, whose content cannot be compared with what was put.
        unknown: Files and folders that no part of this program writes there; they are left alone.
    """

    root: Path
    counts: dict[str, Count] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    temporary: Count = field(default_factory=Count)
    without_sums: int = 0
    unknown: list[Path] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(count.bytes for count in self.counts.values()) + self.temporary.bytes


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; links count as themselves, what vanishes meanwhile as nothing."""
    try:
        if not path.is_dir() or path.is_symlink():
            return path.lstat().st_size
        return sum(size_of(Path(entry)) for entry in os.scandir(path))
    except OSError:
        return 0


def check_store(root: Path, *, deep: bool = False, tell: Tell = lambda part, done, total: None) -> StoreCheck:
    """Look at everything in a store; nothing is changed.

    Args:
        deep: Read every byte, too: checksums, tensors, rows.

    Raises:
        InputError: no such folder, or one that cannot be listed.
    """
    found = StoreCheck(root)
    try:
        entries = sorted(root.iterdir())
    except OSError as error:
        raise InputError(f"store {root}: {error.strerror}") from None
    for path in entries:
        if path.name.startswith(TEMPORARY):
            found.temporary.add(path)
        elif path.name not in BESIDE and (path.name not in PARTS or not path.is_dir()):
            found.unknown.append(path)
    for part, (marker, check, known) in {
        "modules": (MODULE_MARKER, folder_checks.module, folder_checks.MODULE_FILES),
        "readings": (READING_MARKER, folder_checks.reading, folder_checks.READING_FILES),
    }.items():
        for folder in _each(found, part, _folders(found, root / part), tell):
            _judge(found, folder, check, deep)
            _look_inside(found, folder, known)
            found.without_sums += _lacks_sums(folder / marker)
            for path in _files(found, folder / folder_checks.SCORES) if part == "readings" else ():
                _judge(found, path, folder_checks.scores, deep)
    for folder in _each(found, "supervision", _folders(found, root / "supervision"), tell):
        _judge(found, folder, folder_checks.supervision, deep)
    for cache in _folders(found, root / "cache"):
        check = folder_checks.teacher if cache.name == "teacher" else folder_checks.cached
        for path in _each(found, f"cache/{cache.name}", list(_files(found, cache)), tell):
            _judge(found, path, check, deep)
    for path in _each(found, "downloads", list(_files(found, root / "downloads")), tell):
        _judge(found, path, folder_checks.downloaded, deep)
    if (root / QUARANTINE).is_dir():
        aside = found.counts.setdefault(QUARANTINE, Count())
        for path in (root / QUARANTINE).glob("*/*/*"):
            aside.add(path)
    return found


def _each(found: StoreCheck, part: str, places: list[Path], tell: Tell) -> Iterator[Path]:
    count = found.counts.setdefault(part, Count()) if places else Count()
    for number, place in enumerate(places):
        tell(part, number, len(places))
        count.add(place)
        yield place


def _folders(found: StoreCheck, where: Path) -> list[Path]:
    """The finished folders of a part; what else lies there is counted as temporary or unknown."""
    folders = []
    for path in sorted(where.iterdir()) if where.is_dir() else ():
        if path.name.startswith(TEMPORARY):
            found.temporary.add(path)
        elif path.is_dir() and (where.name == "cache" or IDENTITY.fullmatch(path.name)):
            folders.append(path)
        else:
            found.unknown.append(path)
    return folders


def _files(found: StoreCheck, where: Path) -> Iterator[Path]:
    """Every file below a folder that is not temporary."""
    for path in sorted(where.iterdir()) if where.is_dir() else ():
        if path.name.startswith(TEMPORARY):
            found.temporary.add(path)
        elif path.is_dir() and not path.is_symlink():
            yield from _files(found, path)
        else:
            yield path


def _judge(found: StoreCheck, place: Path, check: folder_checks.Check, deep: bool) -> None:
    if reasons := check(place, deep):
        found.faults.append(Fault(place, tuple(reasons), check))


def _look_inside(found: StoreCheck, folder: Path, known: Iterable[str]) -> None:
    """Files in a finished folder that are none of its own."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.startswith(TEMPORARY):
            found.temporary.add(path)
        elif path.name not in known:
            found.unknown.append(path)


def _lacks_sums(marker: Path) -> bool:
    try:
        return "files" not in json.loads(marker.read_bytes())
    except (OSError, ValueError, TypeError):  # said by its check
        return False


# -- repair -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Repair:
    """What a repair did.

    Attributes:
        moved: (from, to, why) of everything that was set aside.
        left: (path, why) of what is damaged and was left where it is.
        cleared: Temporary files and folders of dead processes that were removed.
    """

    moved: tuple[tuple[Path, Path, str], ...]
    left: tuple[tuple[Path, str], ...]
    cleared: int


def repair(check: StoreCheck, *, deep: bool = False) -> Repair:
    """Set aside what a check found damaged, and remove what dead processes left.

    Each thing is checked once more before it is moved: another process may have removed it or made it again meanwhile.
    """
    cleared = clear_temporary(check.root)  # first: what is still there then is a living process's
    day = check.root / QUARANTINE / time.strftime("%Y-%m-%d", time.gmtime())
    moved: list[tuple[Path, Path, str]] = []
    left: list[tuple[Path, str]] = []
    for fault in check.faults:
        if not (reasons := fault.check(fault.path, deep)):
            continue
        why = "; ".join(reasons)
        try:
            if _in_hands(fault.path):
                left.append((fault.path, f"{why}; it was changed a moment ago, perhaps somebody is at it"))
                continue
            target = _free(day / fault.path.relative_to(check.root))
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(fault.path, target)
        except FileNotFoundError:  # removed by another process meanwhile
            continue
        except OSError as error:
            left.append((fault.path, f"{why}; it cannot be moved ({error.strerror})"))
            continue
        moved.append((fault.path, target, why))
    if moved:
        with open(day / MOVES, "a", encoding="utf-8") as file:
            for path, target, why in moved:
                where = {"path": str(path.relative_to(check.root)), "to": str(target.relative_to(day))}
                file.write(json.dumps({**where, "why": why}, ensure_ascii=False) + "\n")
    return Repair(tuple(moved), tuple(left), cleared)


def _in_hands(path: Path) -> bool:
    """Whether somebody may still be filling or deleting a folder: it lacks what is written last, and changed lately."""
    if not path.is_dir() or any((path / name).exists() for name in LAST_WRITTEN):
        return False
    fresh = time.time() - path.stat().st_mtime < FRESH_SECONDS
    return fresh or any(child.name.startswith(TEMPORARY) for child in path.iterdir())


def _free(target: Path) -> Path:
    """`target`, or with a number where that was set aside before."""
    number, found = 1, target
    while found.exists():
        number += 1
        found = target.with_name(f"{target.name}-{number}")
    return found
