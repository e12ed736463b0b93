"""Where a store is: a folder, or a URL whose copies on this machine lie in a cache folder of its own."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from loramem.core.errors import InputError
from loramem.core.identity import digest
from loramem.core.paths import user_path
from loramem.core.secrets import masked

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/:]")  # two letters at least: `C:/` is a folder


def is_url(place: str) -> bool:
    """Whether a store's place is a URL and no folder.

    >>> is_url("s3://bucket/prefix"), is_url("runs/store"), is_url("C:/store")
    (True, False, False)
    """
    return bool(_SCHEME.match(place))


def store_place() -> str:
    """Where the store is unless something else is said: `$LORAMEM_STORE`, else ~/.cache/loramem."""
    return os.environ.get("LORAMEM_STORE") or str(_own_folder())


def local_root(place: str) -> Path:
    """The folder of this machine in which a store's files lie.

    Of a URL that is `stores/<hash of the URL>` below `$LORAMEM_CACHE` or ~/.cache/loramem.

    Raises:
        InputError: a URL that cannot be a store's (`checked_url`).
    """
    if not is_url(place):
        return user_path(place, "store")
    cache = Path(os.environ.get("LORAMEM_CACHE") or _own_folder()).expanduser()
    return cache / "stores" / digest(checked_url(place))[:16]


def checked_url(url: str) -> str:
    """The URL of a store, without a slash at its end.

    A URL is shown, logged and kept with a run, so it holds nothing that gives access: keys come from the environment, or
    from the configuration of the service's own library.

    >>> checked_url("s3://bucket/prefix/")
    's3://bucket/prefix'

    Raises:
        InputError: it holds a user, a password or a query, or a part that is no plain path.
    """
    scheme = url.partition(":")[0].lower()
    plain = f"a plain URL is needed, e.g. {scheme}://bucket/prefix"
    if "://" not in url or not url.isprintable():
        raise InputError(f"store {masked(url)!r} is neither a folder nor a URL; {plain}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"store {masked(url)!r}: {error}; {plain}") from None
    # abfs://CONTAINER@ACCOUNT.dfs... names no user; elsewhere what stands before @ may be a key, so nothing of it is shown
    azure = scheme in ("abfs", "abfss") and parts.netloc.count("@") == 1 and ":" not in parts.netloc
    if "@" in (parts.path + parts.query if azure else url):
        raise InputError(
            f"store {scheme}://...: no user and no password in the URL (nor any other @): keys are read from the environment "
            f"or from the configuration of the service's own library; {plain}"
        )
    if any(mark in url for mark in "?#*[") or "::" in url:
        raise InputError(f"store {re.split('[?#]', url)[0]}: without ? # * [ and ::, {plain}")
    if any(part in (".", "..") for part in parts.path.split("/")):
        raise InputError(f"store {url}: without . and .. in the path, {plain}")
    if not (parts.netloc + parts.path).strip("/"):
        raise InputError(f"store {url}: says no place; {plain}")
    return url.rstrip("/")


def _own_folder() -> Path:
    return Path.home() / ".cache" / "loramem"
