"""Looking for secrets in every byte of folders and texts, in every way they may be written.

The search is written without the code that hides them: encoded runs are decoded, and what comes out is searched.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pandas as pd

PART = 14
"""So many characters of a secret, from its beginning or up to its end, are already too many."""
_RUN = re.compile(rb"[A-Za-z0-9+/_=-]{16,}")
_HEX = re.compile(rb"[0-9a-fA-F]{28,}")


def found_in(secrets: Mapping[str, str], *places: Path | str) -> list[str]:
    """`PLACE: NAME` for each secret that a folder's files (or their names) or a text hold."""
    found = []
    for place, content in _contents(places):
        for name, secret in secrets.items():
            parts = secret[:PART].encode(), secret[-PART:].encode()
            if any(part in view for view in _views(content) for part in parts):
                found.append(f"{place}: {name}")
    return found


def _contents(places: tuple[Path | str, ...]) -> Iterator[tuple[str, bytes]]:
    for number, place in enumerate(places):
        if isinstance(place, str):
            yield f"text {number}", place.encode("utf-8", "surrogatepass")
            continue
        for path in sorted(place.rglob("*")):
            yield f"name of {path}", str(path).encode("utf-8", "surrogateescape")
            if path.is_file():
                yield str(path), path.read_bytes()
            if path.suffix == ".parquet":  # its pages are compressed
                yield str(path), pd.read_parquet(path).to_csv().encode("utf-8", "surrogatepass")


def _views(content: bytes) -> Iterator[bytes]:
    """Bytes as they are, percent-decoded, without JSON's escapes, and with whatever was in base64 or hexadecimal decoded."""
    yield content
    yield unquote_to_bytes(content)
    yield content.replace(b"\\", b"")
    decoded = []
    for run in _RUN.findall(content):
        plain = run.translate(bytes.maketrans(b"-_", b"+/")).replace(b"=", b"")
        for start in range(4):
            part = plain[start:]
            decoded.append(base64.b64decode(part[: len(part) // 4 * 4]))
    decoded += [bytes.fromhex(run[: len(run) // 2 * 2].decode()) for run in _HEX.findall(content)]
    yield b"\0".join(decoded)
