"""Reading published files: CSV with a `text` column, JSON lists; every malformed row is named by its line."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

from loramem.core.errors import Faults, InputError
from loramem.core.files import read_json, read_text
from loramem.core.shown import blank

SHOWN = 20
csv.field_size_limit(2**24)


def raise_faults(faults: list[str]) -> None:
    """Raise `Faults` with the first 20 and a count of the rest; nothing if there are none."""
    if faults:
        raise Faults(
            faults[:SHOWN] + ([f"... and {len(faults) - SHOWN} more faults"] if len(faults) > SHOWN else [])
        )


def read_column(path: Path, column: str = "text") -> list[tuple[int, str]]:
    """(line number, text) of every row of a CSV column.

    Raises:
        InputError: missing or empty file, missing column, NUL bytes, broken quoting, empty cell (by line).
    """
    text = read_text(path)
    if "\0" in text:
        raise InputError(
            f"{path}:{text[: text.index(chr(0))].count(chr(10)) + 1}: holds a NUL byte; not a CSV text file"
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, str]] = []
    faults: list[str] = []
    try:
        header = next(reader, None)
        if not header or not any(header):
            raise InputError(f"{path}: empty file; expected a CSV with a {column!r} column")
        if column not in header:
            raise InputError(
                f"{path}:1: no {column!r} column; it has {', '.join(repr(name[:40]) for name in header[:8])}"
            )
        if header.count(column) > 1:
            raise InputError(f"{path}:1: the column {column!r} stands twice")
        index = header.index(column)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                faults.append(f"{path}:{reader.line_num}: {len(row)} fields, expected {len(header)}")
            elif blank(row[index]):
                faults.append(f"{path}:{reader.line_num}: empty {column!r}")
            else:
                rows.append((reader.line_num, row[index].strip()))
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not CSV ({error})") from None
    raise_faults(faults)
    if not rows:
        raise InputError(f"{path}: no rows below the header")
    return rows


def read_list(path: Path) -> list[Any]:
    """A JSON file that holds a non-empty list."""
    value = read_json(path)
    if not isinstance(value, list) or not value:
        raise InputError(f"{path}: expected a non-empty JSON list, found {type(value).__name__}")
    return value


def slice_files(folder: Path, pattern: str) -> dict[int, Path]:
    """Files such as phonebook_qa_8K.csv by size in tokens (8000); `pattern` has `{K}`."""
    regex = re.compile(re.escape(pattern).replace(r"\{K\}", r"(\d+)"))
    found = {}
    for path in sorted(folder.iterdir()):
        match = regex.fullmatch(path.name)
        if match:
            found[1000 * int(match.group(1))] = path
    return dict(sorted(found.items()))


def choose_slices(folder: Path, pattern: str, sizes: tuple[int, ...]) -> dict[int, Path]:
    """The published slice file of each size. Raises `Faults` for sizes that were not published."""
    files = slice_files(folder, pattern)
    missing = [size for size in sizes if size not in files]
    if missing:
        raise Faults(
            [
                f"{folder}: no published slice of {size} tokens; allowed: {', '.join(map(str, files)) or '(none found)'}"
                for size in missing
            ]
        )
    return {size: files[size] for size in sorted(set(sizes))}
