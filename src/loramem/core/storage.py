"""Errors that mean the storage itself is gone: full, closed or broken. Whatever is written next fails as well.

A run ends at the first of them (`fatal`): a thousand modules would fail one after another for one reason.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from pathlib import Path

from safetensors import SafetensorError

from loramem.core.errors import LoramemError, RunFailed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
BROKEN = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO)


class StorageFailed(RunFailed):
    """Nothing can be kept any more; what was finished before is."""


def storage_errno(error: BaseException) -> int | None:
    """The system's number of an error that means the storage is gone; None for any other error.

    >>> storage_errno(OSError(errno.ENOSPC, "x")) == errno.ENOSPC, storage_errno(OSError(errno.ENOENT, "x"))
    (True, None)
    """
    number = None
    if isinstance(error, OSError) and not isinstance(error, LoramemError):
        number = error.errno
    elif isinstance(error, SafetensorError):  # it tells the number in its words only
        found = re.search(r"\(os error (\d+)\)", str(error))
        number = int(found[1]) if found else None
    return number if number in (*FULL, *CLOSED, *BROKEN) else None


def fatal(error: BaseException, where: Path | None = None) -> StorageFailed | None:
    """The error to end a run with, or None where only one thing failed.

    Args:
        where: What was being written, where the error does not name it.
    """
    if isinstance(error, StorageFailed):
        return error
    number = storage_errno(error)
    if number is None:
        return None
    named = getattr(error, "filename", None)
    path = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else where
    return StorageFailed(f"{_told(number, path)}; what was finished is kept. {_advice(number)}")


def _told(number: int, path: Path | None) -> str:
    what = f": {path}" if path is not None else ""
    match number:
        case errno.ENOSPC:
            return f"the disk is full{what}{_free(path)}"
        case errno.EDQUOT:
            return f"the disk quota is used up{what}"
        case errno.EFBIG:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
            limit = "" if most == resource.RLIM_INFINITY else f" (the limit is {size(most)}, `ulimit -f`)"
            return f"no file may grow so large here{what}{limit}"
        case errno.EROFS:
            return f"the file system is read-only{what}{_free(path)}"
        case errno.EACCES | errno.EPERM:
            return f"no permission{what}"
        case _:
            return f"the storage fails ({os.strerror(number)}){what}"


def _advice(number: int) -> str:
    first = {FULL: "Make room", CLOSED: "Make it writable", BROKEN: "Mend it"}
    verb = next(words for numbers, words in first.items() if number in numbers)
    return f"{verb}, or choose another place (--store, --out), and give the same command again"


def _free(path: Path | None) -> str:
    """` (3.0 MB of 2.0 GB free)` of the disk that holds a path, as far as it can be asked."""
    if path is None:
        return ""
    try:
        there = next(one for one in (path, *path.absolute().parents) if one.exists())
        space, table = shutil.disk_usage(there), os.statvfs(there)
    except (OSError, StopIteration):
        return ""
    if table.f_files and not table.f_favail and space.free:
        return f" (it can hold no more files; {size(space.free)} of {size(space.total)} free)"
    return f" ({size(space.free)} of {size(space.total)} free)"


def size(count: float) -> str:
    """Bytes for people.

    >>> size(512), size(65536), size(3.2e12)
    ('512 B', '65.5 KB', '3.2 TB')
    """
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
