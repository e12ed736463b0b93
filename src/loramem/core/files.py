"""Files as the interface: whatever is read was written whole.

A file is written beside its place and renamed. A folder is filled in a temporary sibling, its marker
(`recipe.json`, `reading.json`) written last, and renamed; the loser of a race discards its copy. What
a killed process leaves is named `.tmp-HOST-PID-...`, which nothing reads and `clear_temporary` removes.
What a name promises is on the disk before the name is: not even after a power cut does a marker stand without its data.
Only logs grow in place (`append_jsonl`): a line that a killed process left torn is skipped by `read_log`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from loramem.core.errors import Corrupt, InputError, LoramemError
from loramem.core.parsing import decoded, json_value
from loramem.core.shown import plain
from loramem.core.storage import storage_errno

TEMPORARY = ".tmp-"
FLUSHED_AT_ONCE = 8


def _umask() -> int:
    """The process's umask (which can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


UMASK = _umask()
"""Read once: while it is read, files of other threads would be open to all."""


@cache
def host() -> str:
    """Names the processes among which a process id means one: the computer since it was started, or a container on it."""
    marks = []
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        with suppress(OSError):
            marks.append(read())
    name = socket.gethostname()
    digest = hashlib.sha256("\n".join([name, *marks]).encode()).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9.]', '', name)[:20]}.{digest[:8]}"


def _prefix() -> str:
    return f"{TEMPORARY}{host()}-{os.getpid()}-"


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Within the block a failing storage is an `OSError` that names `path`, whichever library met it and however."""
    try:
        yield
    except Exception as error:
        number = storage_errno(error)
        named = getattr(error, "filename", None)
        if number is None or (named is not None and TEMPORARY not in os.fsdecode(named)):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Write a file so that a reader sees the old one or the new one, never a part: yields a temporary sibling of it."""
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_prefix(), dir=path.parent)
        os.close(handle)
        try:
            yield Path(name)
            with open(name, "rb+") as file:
                if not _in_the_making(path.parent):  # a folder flushes all of its files together
                    os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~UMASK)  # mkstemp is private; a store may be shared
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


def append_jsonl(path: Path, row: Any) -> None:
    """Add a line to a log, on a line of its own even where a killed process left half a line."""
    with _naming(path), open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            torn = file.read(1) != b"\n"
        else:
            torn = False
        line = json.dumps(row, ensure_ascii=False) + "\n"
        file.write(b"\n" * torn + line.encode("utf-8", "backslashreplace"))


def read_log(path: Path) -> list[Any]:
    """The lines of a log that are whole: what a killed process was about to say is not an error."""
    rows = []
    for line in path.read_bytes().split(b"\n"):
        with suppress(ValueError):
            rows.append(json.loads(line))
    return rows


def read_text(path: Path) -> str:
    """The UTF-8 text of a file the user named.

    Raises:
        InputError: the file is missing, a folder or a device, unreadable, or not UTF-8 (the byte offset is named).
    """
    try:
        kind = os.stat(path).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):  # a device may have no end
            what = "a folder" if stat.S_ISDIR(kind) else "a device or a socket, no file"
            raise InputError(f"{path}: cannot be read ({what})")
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return decoded(data, path)


def read_json(path: Path) -> Any:
    """Parse a JSON file. Raises `InputError` naming file and line."""
    return json_value(read_text(path), path)


def json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """(line number, value) of a file of one JSON value per line; blank lines are skipped. Raises `InputError` naming the line."""
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip():
            yield number, json_value(line, path, number)


def read_jsonl(path: Path) -> list[Any]:
    """The values of `json_lines`."""
    return [value for _, value in json_lines(path)]


@contextmanager
def new_folder(target: Path, *, marker: str, marker_value: Callable[[], Any]) -> Iterator[Path]:
    """Fill a folder that appears whole or not at all.

    Yields a temporary sibling of `target` to write into. On success `marker_value()` is written there as
    `marker`, last, and the folder is renamed to `target`. If another process finished the same folder
    first, this copy is discarded: equal identity means equal content.
    """
    with _naming(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=_prefix(), dir=target.parent))
        try:
            work.chmod(0o777 & ~UMASK)
            yield work
            value = marker_value()
            _flush([Path(where, name) for where, _, names in os.walk(work) for name in (*names, "")])
            write_json(work / marker, value)
            _flush([work / marker, work])
            _put(work, target, marker)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _in_the_making(folder: Path) -> bool:
    return any(name.startswith(TEMPORARY) for name in folder.parts)


def _flush(paths: Iterable[Path]) -> None:
    """Have files and folders on the disk before anything goes on.

    They are flushed side by side: a disk that is asked for many at once does them in about the time of one.
    """

    def flush(path: Path) -> None:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if not path.is_dir() or error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
                raise  # some network file systems flush files only
        finally:
            os.close(handle)

    with ThreadPoolExecutor(FLUSHED_AT_ONCE) as pool:
        list(pool.map(flush, paths))


def _put(work: Path, target: Path, marker: str) -> None:
    """Rename a filled folder to its place, unless a whole one is there; a torn one is moved out of the way first.

    A folder is never removed where it stands: another process may put a whole one there between a look and a removal.
    """
    while not (target / marker).exists():
        try:
            os.rename(work, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        with suppress(OSError):
            # a network file system may show one name as it was a minute ago; opening the folder shows what is there now
            if marker in os.listdir(target):
                return
        torn = Path(f"{work}.torn")
        with suppress(FileNotFoundError):  # another process was first to move it
            os.rename(target, torn)
        shutil.rmtree(torn, ignore_errors=True)


def clear_temporary(root: Path, *, older_than_seconds: float = 3600.0) -> int:
    """Remove the temporary files and folders below `root` that no living process can still be writing.

    What a process of this host left goes as soon as it is dead, and stays as long as it lives. What another host or an
    older version left goes by its age.

    Returns:
        How many were removed. What may not be removed (another user's) stays.
    """
    count = 0
    for folder, folders, files in os.walk(root):
        found = [name for name in (*folders, *files) if name.startswith(TEMPORARY)]
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY)]
        for path in (Path(folder, name) for name in found):
            if not _abandoned(path, older_than_seconds):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()
            count += not os.path.lexists(path)
    return count


def _abandoned(path: Path, older_than_seconds: float) -> bool:
    """Whether nobody can be writing a temporary file or folder any more."""
    own = re.match(rf"{re.escape(TEMPORARY + host())}-(\d+)-", path.name)
    if own:
        return not _alive(int(own[1]))
    try:
        return path.lstat().st_mtime < time.time() - older_than_seconds
    except OSError:  # its owner finished meanwhile
        return False


def _alive(pid: int) -> bool:
    with suppress(OSError):  # one that nobody has waited for is listed still
        if (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2][:1]
            in "ZX"
        ):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True


def inside(root: Path, name: str) -> Path:
    """`root / name`, refused where it would leave `root` (names may come from data)."""
    parts = re.split(r"[/\\]", name)
    if plain(name) != name or any(len(os.fsencode(part)) > 255 for part in parts):  # a NUL would end it
        raise InputError(f"{name!r} is no name of a file")
    path = (root / name).resolve()
    if root.resolve() not in path.parents:
        raise InputError(f"the name {name!r} leaves its folder")
    return path


@contextmanager
def damage_in(path: Path, kind: type[LoramemError] = InputError) -> Iterator[None]:
    """Within the block, whatever is missing or of another kind in something that this program wrote is an error that names it.

    For commands that look at it later: somebody may have changed it, or another version wrote it.
    """
    try:
        yield
    except (LoramemError, OSError, MemoryError):
        raise
    except Exception as error:
        raise kind(
            f"{path}: damaged, or written by another version ({type(error).__name__}: {error})"
        ) from error


def read_marker(path: Path) -> Any:
    """A JSON file that this program wrote. Raises `Corrupt`, not `InputError`, when it does not parse."""
    try:
        return read_json(path)
    except InputError as error:
        raise Corrupt(str(error)) from None
