"""Files as the interface: whatever is read was written whole.

A file is written beside its place and renamed. A folder is filled in a temporary sibling, its marker
(`recipe.json`, `reading.json`) written last, and renamed; the loser of a race discards its copy. What
a killed process leaves is a folder named `.tmp-...`, which nothing reads and `clear_temporary` removes.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loramem.core.errors import Corrupt, InputError

TEMPORARY = ".tmp-"


def _umask() -> int:
    """The process's umask (which can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a file so that a reader sees the old one or the new one, never a part: yields a temporary sibling of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as file:
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp is private; a store may be shared
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path`, whole or not at all."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON value per line."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_text(path: Path) -> str:
    """The UTF-8 text of a file the user named.

    Raises:
        InputError: the file is missing, a folder, unreadable, or not UTF-8 (the byte offset is named).
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises `InputError` naming file and line."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON ({error.msg})") from None
    except RecursionError:
        raise InputError(f"{path}: JSON nested too deeply") from None


def read_jsonl(path: Path) -> list[Any]:
    """Parse a file of one JSON value per line; blank lines are skipped. Raises `InputError` naming the line."""
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"{path}:{number}: not JSON ({error})") from None
    return rows


@contextmanager
def new_folder(target: Path, *, marker: str, marker_value: Callable[[], Any]) -> Iterator[Path]:
    """Fill a folder that appears whole or not at all.

    Yields a temporary sibling of `target` to write into. On success `marker_value()` is written there as
    `marker`, last, and the folder is renamed to `target`. If another process finished the same folder
    first, this copy is discarded: equal identity means equal content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=target.parent))
    work.chmod(0o777 & ~_umask())
    try:
        yield work
        write_json(work / marker, marker_value())
        if (target / marker).exists():
            return
        if target.exists():  # a folder without its marker: left by an old crash, never read
            shutil.rmtree(target, ignore_errors=True)
        try:
            os.rename(work, target)
        except OSError:
            if not (target / marker).exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def clear_temporary(root: Path, *, older_than_seconds: float = 3600.0) -> int:
    """Remove temporary files and folders below `root` that no living process can still be writing."""
    count = 0
    limit = time.time() - older_than_seconds
    for path in root.glob(f"**/{TEMPORARY}*"):
        try:
            if path.stat().st_mtime < limit:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                count += 1
        except FileNotFoundError:  # its owner finished meanwhile
            continue
    return count


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused where it would leave `root` (names may come from data)."""
    path = (root / name).resolve()
    if root.resolve() not in path.parents:
        raise InputError(f"the name {name!r} leaves its folder")
    return path


def read_marker(path: Path) -> Any:
    """A JSON file that this program wrote. Raises `Corrupt`, not `InputError`, when it does not parse."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Corrupt(f"{path}: {error}") from None
