"""Files behind a URL, through fsspec: whole or not at all, tried again where the network failed, told without secrets."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import get_filesystem_class, known_implementations

from loramem.core.errors import InputError, RunFailed, nearest
from loramem.core.files import new_file
from loramem.core.places import checked_url
from loramem.core.secrets import masked
from loramem.core.storage import FULL, storage_errno

WAITS_SECONDS: tuple[float, ...] = (0.5, 2.0, 8.0, 30.0)
"""Waits of what has work to lose, where a try failed in a way that may pass."""
EXTRAS = {"s3": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""Protocols whose package comes with an extra of loramem."""
FINAL = (PermissionError, NotImplementedError, ImportError)
FINAL_NAMES = ("Credential", "Authenti", "Authoriz")
"""Errors, and words in the names of the services' own, after which trying again does not help."""
Result = TypeVar("Result")


class Remote:
    """Files below a URL, by their path in it (`modules/ab12/recipe.json`).

    Nothing is connected before it must be. All methods raise `RunFailed`, which says what was tried, where the place cannot
    be reached or used, and `InputError` where its protocol is unknown or lacks its package.

    Attributes:
        waits: Seconds before the second, third ... try.
    """

    def __init__(self, url: str):
        self.url, self.waits = checked_url(url), WAITS_SECONDS

    @cached_property
    def fs(self) -> AbstractFileSystem:
        return _filesystem(self.url)

    @cached_property
    def root(self) -> str:
        """The place as its filesystem calls it."""
        return str(self.fs._strip_protocol(self.url)).rstrip("/")

    @property
    def folder(self) -> Path | None:
        """The folder that a file:// URL means."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def names(self, below: str) -> list[str]:
        """Every file below a path, as it is now. Most services take one request per 1,000 files."""

        def listing() -> list[str]:
            self.fs.invalidate_cache()
            return list(self.fs.find(self._at(below)))

        return [path.removeprefix(f"{self.root}/") for path in self._try(f"listing {below}", listing) or ()]

    def exists(self, name: str) -> bool:
        return bool(self._try(f"asking for {name}", lambda: self.fs.exists(self._at(name))))

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        return self._try(f"reading {name}", lambda: self.fs.cat_file(self._at(name)))

    def read_all(self, names: Collection[str]) -> dict[str, bytes]:
        """The contents of many files, side by side where the protocol can; those that are not there are left out."""
        places = {self._at(name): name for name in names}

        def reading() -> dict[str, bytes]:
            found = self.fs.cat(list(places), on_error="return")
            for value in found.values():
                if isinstance(value, Exception) and not isinstance(value, FileNotFoundError):
                    raise value
            return {places[place]: value for place, value in found.items() if isinstance(value, bytes)}

        return (self._try(f"reading {len(places)} files", reading) or {}) if places else {}

    def put(self, files: Mapping[str, Path]) -> None:
        """Send files, side by side where the protocol can. Each appears whole; one that was there is replaced."""

        def sending() -> bool:
            if self.folder is None:
                self.fs.put([str(path) for path in files.values()], [self._at(name) for name in files])
                return True
            for name, path in files.items():  # fsspec copies in place: a reader could see a part
                with new_file(self.folder / name) as temporary:
                    shutil.copyfile(path, temporary)
            return True

        if not self._try(f"sending {_said(files)}", sending):
            raise RunFailed(f"store {self.url}: sending {_said(files)} failed: there is no such place")

    def get(self, files: Mapping[str, Path]) -> bool:
        """Fetch files to new places, side by side where the protocol can. False where one of them is not there."""

        def fetching() -> bool:
            for path in files.values():
                path.parent.mkdir(parents=True, exist_ok=True)
            self.fs.get([self._at(name) for name in files], [str(path) for path in files.values()])
            return True

        return bool(self._try(f"fetching {_said(files)}", fetching))

    def remove(self, name: str, *, tree: bool = False) -> None:
        """Remove a file, or all that lies below a path; nothing happens where there is nothing."""

        def removing() -> None:
            self.fs.invalidate_cache()  # by a listing from before, newer files would be left
            if tree:
                self.fs.rm(self._at(name), recursive=True)
            else:
                self.fs.rm_file(self._at(name))

        self._try(f"deleting {name}", removing)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _try(self, doing: str, call: Callable[[], Result]) -> Result | None:
        """What `call` gives; None where what it wants is not there."""
        tried, error = 0, Exception()
        for wait in (0.0, *self.waits):
            time.sleep(wait)
            tried += 1
            try:
                return call()
            except FileNotFoundError:
                return None
            except Exception as failed:  # every service has kinds of its own
                if storage_errno(failed) in FULL:  # a disk of this machine
                    raise
                error = failed
                if isinstance(failed, FINAL) or any(word in type(failed).__name__ for word in FINAL_NAMES):
                    break
        times = "" if tried == 1 else f" {tried} times"
        raise RunFailed(f"store {self.url}: {doing} failed{times} ({told(error)})") from None


def told(error: BaseException) -> str:
    """An error of a service in one line, without secrets."""
    lines = str(error).strip().splitlines()
    return masked(f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__)


def _said(files: Collection[str]) -> str:
    first = next(iter(files))
    return first if len(files) == 1 else f"{len(files)} files, e.g. {first}"


def _filesystem(url: str) -> AbstractFileSystem:
    """What speaks the URL's protocol. Raises `InputError` where nothing does, or its package or settings are missing."""
    protocol = url.partition("://")[0].lower()
    try:
        get_filesystem_class(protocol)
    except ValueError:
        guess = nearest(protocol, known_implementations).rpartition(".")[2]
        known = "s3, gs, az, file and others of fsspec"
        raise InputError(f"store {url}: no protocol {protocol!r}; {known}.{guess}") from None
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        need = f"pip install 'loramem[{extra}]'" if extra else str(error)
        raise InputError(f"store {url}: {protocol} needs a package that is not installed: {need}") from None
    try:
        return url_to_fs(url)[0]
    except Exception as error:  # e.g. a host that cannot be reached, a setting that is missing
        raise InputError(f"store {url}: cannot be opened ({told(error)})") from None
