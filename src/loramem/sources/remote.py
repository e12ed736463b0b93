"""Published files: where they lie (a path, a URL with its checksum, a hub id) and the rows they hold.

A download is asked for by giving its URL, is verified by sha256 before anything sees it, and is kept under
`$LORAMEM_STORE/downloads`: the second time no network is needed. Rows come with the place they stand at (`FILE:LINE`),
so that every reader can name all that is wrong with a file at once.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

from pydantic import Field, StringConstraints

from loramem.core.config import Config
from loramem.core.errors import Faults, InputError, nearest
from loramem.core.files import new_file, read_text
from loramem.core.parsing import json_value
from loramem.core.paths import user_path
from loramem.core.places import local_root, store_place
from loramem.core.secrets import masked
from loramem.core.shown import blank
from loramem.sources.types import Document, Probe, Source

Row = tuple[str, dict]
"""(place, columns)."""
SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".tsv")
PLACES = ("path", "sha256", "hub", "revision", "stories", "background", "probes")
"""Settings that say where something lies, not what it is: no part of a source's identity."""
_TIMEOUT_SECONDS = 60
_LONGEST_NAME = 80
"""Characters of a downloaded file's name that are kept, its suffix among them; its folder is named by its checksum."""


class PublishedConfig(Config):
    """What every reader of published documents takes."""

    path: str | None = None
    """A file, a folder, or a URL (then with `sha256`)."""
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{64}$")] | None = None
    """Checksum of the file behind the URL."""
    hub: str | None = None
    """A dataset id of the Hugging Face hub, in place of `path`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    documents: Annotated[int, Field(gt=0)] | None = None
    """How many documents, in the file's order; None: all."""
    ids: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Ids of the documents to take; None: all."""


# -- places ----------------------------------------------------------------------------------------------------
def is_url(path: str) -> bool:
    return "://" in path


def offline() -> bool:
    """Whether the network is forbidden (`--offline` sets the hub's own variable)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def downloads() -> Path:
    """Folder `downloads` of the store (`$LORAMEM_STORE`, else ~/.cache/loramem; of a URL its cache): beside the modules."""
    return local_root(store_place()) / "downloads"


def download(url: str, sha256: str | None, *, to: Path | None = None) -> Path:
    """The file behind `url`, from the cache if it was fetched before.

    Raises:
        InputError: no checksum or another one, no http(s), offline and not cached, or the server's failure.
    """
    if sha256 is None:
        raise InputError(
            f"path {url!r} is a URL: sha256: HEX is needed beside it (sha256sum FILE prints it); a changed file would "
            "otherwise change results unseen"
        )
    wanted = sha256.lower()
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InputError(f"path {masked(url)!r}: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise InputError(f"path {url!r}: {nearest(parts.scheme, ['http', 'https'])}")
    if (
        "@" in parts.netloc
    ):  # the standard library takes it for a part of the host, and names it in its errors
        raise InputError(
            f"path {masked(url)!r}: no user and no password in a URL; fetch the file yourself and give its path"
        )
    name = re.sub(r"[^\w.-]", "_", Path(unquote(parts.path)).name).lstrip(".")[-_LONGEST_NAME:] or "file"
    target = (to or downloads()) / wanted / name
    if target.exists():  # it was renamed to here after its checksum had been verified
        return target
    if offline():
        raise InputError(f"path {url!r}: not downloaded yet, and offline; fetch it once with the network on")
    try:
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as answer,
            new_file(target) as temporary,
            open(temporary, "wb") as file,
        ):
            found = hashlib.sha256()
            while block := answer.read(2**20):
                found.update(block)
                file.write(block)
            file.flush()
            if found.hexdigest() != wanted:
                raise InputError(
                    f"path {url!r}: sha256 is {found.hexdigest()}, expected {wanted}; not the file that was meant"
                )
    except (OSError, HTTPException, ValueError) as error:  # URLError and HTTPError are OSErrors
        if isinstance(error, InputError):
            raise
        raise InputError(f"path {url!r}: cannot be downloaded ({error})") from None
    return target


def from_hub(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """A local copy of a hub dataset's files that match `patterns`; no code of the dataset is ever run."""
    from huggingface_hub import snapshot_download  # imported here: only a hub id needs it
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                name,
                repo_type="dataset",
                revision=revision,
                allow_patterns=list(patterns),
                local_files_only=offline(),
            )
        )
    except HFValidationError:
        raise InputError(f"hub {name!r}: not a hub id; it looks like OWNER/NAME") from None
    except (OSError, ValueError) as error:  # not found, gated, unreachable, or not in the cache
        reason = (
            "offline, and not in the hub's cache"
            if offline()
            else (str(error).strip() or "failed").splitlines()[0]
        )
        raise InputError(f"hub {name!r}: {reason}; download it once, or give path: FILE_OR_FOLDER") from None


def locate(config: PublishedConfig, patterns: Sequence[str] = ("*.parquet", "*.jsonl", "*.json")) -> Path:
    """The file or folder a config points at, downloaded if it must be.

    Raises:
        InputError: none or both of path and hub, a checksum without a URL, nothing there.
    """
    if (config.path is None) == (config.hub is None):
        raise InputError(
            f"source {config.name!r} needs path: FILE, FOLDER or URL, or hub: OWNER/NAME"  # type: ignore[attr-defined]
            + ("; both are given" if config.path else "")
        )
    if config.hub is not None:
        return from_hub(config.hub, config.revision, patterns)
    path = str(config.path)
    if is_url(path):
        return download(path, config.sha256)
    if config.sha256:
        raise InputError(f"sha256 goes with a URL; path {path!r} is a local one")
    where = user_path(path)
    if not where.exists():
        raise InputError(f"path {path!r}: no such file or folder")
    return where


# -- rows ------------------------------------------------------------------------------------------------------
def row_files(where: Path) -> list[Path]:
    """The file itself, or a folder's files of rows, sorted. Raises `InputError` where there are none."""
    if not where.is_dir():
        return [where]
    found = sorted(p for p in where.rglob("*") if p.suffix in SUFFIXES and p.is_file())
    if not found:
        raise InputError(f"{where}: no file of rows in this folder; allowed: {', '.join(SUFFIXES)}")
    return found


def rows(path: Path, faults: list[str]) -> Iterator[Row]:
    """The rows of a JSON list, JSON lines, parquet, CSV or TSV file; what cannot be read is added to `faults`.

    A file without a known suffix is read as what its first character says (QuALITY's official files have none).
    """
    if path.suffix == ".parquet":
        yield from _parquet(path, faults)
        return
    text = read_text(path)
    if not text.strip():
        faults.append(f"{path}: empty file")
    elif path.suffix in (".csv", ".tsv"):
        yield from _table(path, text, "\t" if path.suffix == ".tsv" else ",", faults)
    else:
        yield from _json(path, text, faults)


def _json(path: Path, text: str, faults: list[str]) -> Iterator[Row]:
    def lines() -> Iterator[tuple[str, Any]]:
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json_value(line, path, number)
                except InputError as error:
                    faults.append(str(error))

    found: Iterable[tuple[str, Any]]
    if path.suffix == ".jsonl":
        found = lines()
    else:
        try:
            value = json_value(text, path)
            listed = list(value.values()) if isinstance(value, dict) and _records(value) else value
            found = (
                [(f"{path}: item {n}", item) for n, item in enumerate(listed, start=1)]
                if isinstance(listed, list)
                else [(str(path), value)]
            )
        except InputError as error:
            if "(Extra data" not in str(error):
                faults.append(str(error))
                return
            found = lines()  # one value a line, whatever the file is called
    for where, item in found:
        if isinstance(item, dict):
            yield where, item
        else:
            faults.append(f"{where}: expected an object, found {type(item).__name__}")


def _records(value: dict) -> bool:
    """Whether a JSON object is a list of records by key."""
    return bool(value) and all(isinstance(item, dict) for item in value.values())


def _table(path: Path, text: str, delimiter: str, faults: list[str]) -> Iterator[Row]:
    if "\0" in text:
        faults.append(f"{path}:{text[: text.index(chr(0))].count(chr(10)) + 1}: holds a NUL byte")
        return
    csv.field_size_limit(2**24)
    # a TSV has no quoting: a question that begins with a quotation mark is not an open field
    handle = io.StringIO(text, newline="")
    if delimiter == "\t":
        reader = csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(handle, strict=True)
    try:
        header = next(reader)
        if twice := twice_in(header):
            faults.append(f"{path}:1: the column {twice[:80]!r} stands twice")
            return
        for row in reader:
            if len(row) == len(header):
                yield f"{path}:{reader.line_num}", dict(zip(header, row, strict=True))
            elif row:
                faults.append(f"{path}:{reader.line_num}: {len(row)} fields, expected {len(header)}")
    except csv.Error as error:
        faults.append(f"{path}:{reader.line_num}: not CSV ({error})")


def _parquet(path: Path, faults: list[str]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):  # NarrativeQA repeats a whole book in every row
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        OverflowError,
    ) as error:  # text of other bytes, dates beyond any calendar
        reason = str(error).strip() or type(error).__name__
        faults.append(f"{path}: not parquet ({reason.splitlines()[0]})")


def twice_in(names: Sequence[str]) -> str:
    """The first name that stands twice; "" if none does. Blank ones do not count: nobody asks for them.

    >>> twice_in(["a", "b", "a"]), twice_in(["a", "", ""])
    ('a', '')
    """
    return next((name for number, name in enumerate(names) if name.strip() and name in names[:number]), "")


def lacking(row: dict, **kinds: type | tuple[type, ...]) -> str:
    """Which of the named columns a row lacks, has of another type, or has without anything to be seen; "" if none.

    >>> lacking({"a": 1, "b": " "}, a=int, b=str, c=str)
    'needs b (text), c (text)'
    """
    named = {str: "text", int: "number", list: "list", dict: "object"}
    wrong = []
    for key, kind in kinds.items():
        value = row.get(key)
        good = (
            isinstance(value, kind)
            and not isinstance(value, bool)
            and not (isinstance(value, str) and blank(value))
        )
        if not good:
            first = kind if isinstance(kind, type) else kind[0]
            wrong.append(f"{key} ({named.get(first, first.__name__)})")
    return f"needs {', '.join(wrong)}" if wrong else ""


# -- from rows to a source -------------------------------------------------------------------------------------
def choose(config: PublishedConfig, available: Sequence[str]) -> list[str]:
    """The document ids that a config's `ids` and `documents` take, in the file's order.

    Raises:
        Faults: every id that is not there, and a count that is more than there are.
    """
    known = set(available)
    faults = [
        f"ids: no document {id!r}; {_guess(id, available)}" for id in config.ids or () if id not in known
    ]
    chosen = [id for id in available if config.ids is None or id in config.ids]
    if not faults and config.documents is not None and config.documents > len(chosen):
        faults = [f"documents: {config.documents} asked for, {len(chosen)} there"]
    if faults:
        raise Faults(faults)
    return chosen[: config.documents]


def _guess(id: str, available: Sequence[str]) -> str:
    """The nearest of the ids; all of them only where they are few."""
    if len(available) <= 20:
        return nearest(id, available)
    _, found, guess = nearest(id, available).rpartition(" Did you mean")
    return f"{len(available)} documents are there, e.g. {available[0]!r}.{found}{guess if found else ''}"


def assemble(
    config: Config,
    documents: Sequence[Document],
    probes: Sequence[Probe],
    count_tokens: Callable[[str], int],
    notes: Iterable[str] = (),
) -> list[Source]:
    """The one source of a config, with a note of what it holds."""
    tokens = sum(count_tokens(record.text) for document in documents for record in document.records)
    settings = {key: value for key, value in config.identity().items() if key not in PLACES}
    counts = f"{len(documents)} documents, {tokens} tokens, {len(probes)} questions"
    name = config.name  # type: ignore[attr-defined]
    return [Source(name, tuple(documents), tuple(probes), settings, None, (counts, *(n for n in notes if n)))]
