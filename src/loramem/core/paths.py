"""Paths that users name: `~` written out, and refused in one line where nothing can lie there or be written there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from loramem.core.errors import InputError
from loramem.core.shown import quoted


def user_path(given: str | Path, what: str = "path") -> Path:
    """The path that somebody named, `~` written out; it need not exist.

    Args:
        what: What it is the path of, for messages.

    >>> user_path("docs/a.md")
    PosixPath('docs/a.md')

    Raises:
        InputError: nobody is called so (`~name`), a name that no file can have (too long, with a NUL), a link in a circle, a
            folder on the way that may not be looked into.
    """
    text = os.fspath(given)
    named = f"{what} {quoted(text)}"
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return path
    except RuntimeError:
        raise InputError(f"{named}: nobody of that name has a home folder here") from None
    except ValueError:
        raise InputError(
            f"{named} is no name that a file can have (a NUL character, or half of one)"
        ) from None
    except OSError as error:
        raise InputError(f"{named}: {error.strerror}") from None
    return path


def make_folder(path: Path, what: str) -> Path:
    """The folder, made if it must be. Raises `InputError`, which names `what`, where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise InputError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from None
    return path


def check_file(path: Path, what: str) -> None:
    """Refuse a file that could not be written, before anything is spent on what it would hold."""
    if path.is_dir():
        raise InputError(f"{what} {path}: is a folder; name a file in it")
    check_folder(path.parent, what, path)


def check_new_folder(path: Path, what: str) -> None:
    """Refuse a folder that holds something or could not be made, before anything is spent on it."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists and is not an empty folder")
    check_folder(path, what, path)


def check_folder(folder: Path, what: str, named: Path) -> None:
    """Raises `InputError` where nothing can be written into a folder, or into what it would be made in."""
    here = folder.absolute()
    while not here.exists():
        here = here.parent
    try:
        tempfile.TemporaryFile(dir=here).close()  # permission bits are not all that decides
    except OSError as error:
        raise InputError(
            f"{what} {named}: {here} is no folder that can be written to ({error.strerror})"
        ) from None
