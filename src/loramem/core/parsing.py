"""Text from people to values: JSON and YAML read strictly, within bounds, with the place of what is wrong.

Both refuse what readers take in silence and what breaks only where the value is used: a key that stands twice, NaN, half of a
surrogate pair, numbers of thousands of digits. YAML is held to plain values besides: no tags, no dates, and no anchors that
blow a file of a kilobyte up to gigabytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from loramem.core.errors import InputError

OTHER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""How files in other encodings begin."""
YAML_BYTES = 1_000_000
"""Settings longer than this are none; the reader of YAML takes seconds for a megabyte."""
YAML_NODES = 100_000
"""Values of a file, with every anchor written out."""
YAML_DEPTH = 50
DIGITS = 1000
"""Of a whole number, at most."""
HALF = "holds half a character (a lone surrogate, \\ud800 to \\udfff)"
Place = Callable[[int | None], str]
"""Names a line of what is read; None: all of it."""


def decoded(data: bytes, path: Path) -> str:
    """UTF-8 text, with or without a byte order mark, its lines ended by `\\n`.

    Raises:
        InputError: another encoding, named where its mark says which.
    """
    for mark, name in OTHER_MARKS.items():
        if data.startswith(mark):
            raise InputError(f"{path}: not UTF-8 but {name} text; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def whole(text: str) -> bool:
    """Whether a text can be written: it holds no half of a surrogate pair.

    >>> whole("\\U0001f642"), whole("\\ud83d")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# -- JSON ------------------------------------------------------------------------------------------------------
def json_value(text: str, where: object, line: int | None = None) -> Any:
    """The value of a JSON text.

    Args:
        where: The file, for messages.
        line: The line of the file that `text` is; None: it is all of the file.

    Raises:
        InputError: no JSON, a key twice in one object, NaN or an infinity, a number too long, half a character; the line is named.
    """
    place = f"{where}:{line}" if line else str(where)
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}:{line or error.lineno}: not JSON ({error.msg}, column {error.colno})"
        ) from None
    except RecursionError:
        raise InputError(f"{place}: JSON nested too deeply") from None
    except _Refused as error:
        raise InputError(f"{place}: {error}") from None
    except ValueError:  # of the standard library: it reads no whole number of more than 4,300 digits
        raise InputError(f"{place}: a number of thousands of digits") from None
    if _ESCAPED_HALF.search(text) and not _writable(value):
        raise InputError(f"{place}: {HALF}")
    return value


class _Refused(ValueError):
    """Well-formed, but not to be taken."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for number, name in enumerate(names) if name in names[:number])
        raise _Refused(f"the key {twice[:80]!r} stands twice in one object")
    return found


def _constant(name: str) -> None:
    raise _Refused(f"{name} is no JSON value; write null, or a number")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def _writable(value: Any) -> bool:
    try:
        return whole(json.dumps(value, ensure_ascii=False))
    except RecursionError:  # read at the very limit of nesting
        return False


# -- YAML ------------------------------------------------------------------------------------------------------
def yaml_value(text: str, place: Place) -> Any:
    """The value of a YAML text: mappings, lists, texts, numbers, booleans and null.

    A date is a text here. An anchor may be used again, as long as all that is written out stays within bounds.

    Raises:
        InputError: no YAML, more than one document, a key that stands twice or is a list, a tag, an anchor that holds itself,
            too many or too deeply nested values, a number too long, half a character; the line is named.
    """
    if len(text) > YAML_BYTES:
        size = len(text.encode("utf-8", "surrogatepass"))
        raise InputError(f"{place(None)}: {size:,} bytes; settings have at most {YAML_BYTES:,}")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _measured(node, place, {}, ())
        return loader.construct_document(node)
    except InputError:
        raise
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(
            f"{place(line)}: not YAML (the character {chr(error.character)!r} is not allowed)"
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        why = error.problem or error.context or "damaged"
        raise InputError(f"{place(mark.line + 1 if mark else None)}: not YAML ({why})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{place(None)}: not YAML ({str(error).splitlines()[0]})") from None
    except RecursionError:
        raise InputError(f"{place(None)}: YAML nested too deeply") from None
    except (ValueError, OverflowError):  # an escape such as \\UFFFFFFFF, which is no character
        escaped = loader.line + 1 if loader is not None else None
        raise InputError(f"{place(escaped)}: not YAML (an escape that names no character)") from None


class _Loader(yaml.SafeLoader):
    """The safe loader without dates."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_PLAIN = frozenset(
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map")
)
_MERGE = "tag:yaml.org,2002:merge"


def _measured(node: yaml.Node, place: Place, known: dict[int, int], above: tuple[int, ...]) -> int:
    """Values of a node, its anchors written out. Raises `InputError` for what is no plain setting, or too much of it."""
    line = node.start_mark.line + 1
    if id(node) in above:
        raise InputError(f"{place(line)}: an anchor that holds itself")
    if len(above) > YAML_DEPTH:
        raise InputError(f"{place(line)}: YAML nested too deeply (more than {YAML_DEPTH} levels)")
    if id(node) in known:
        return known[id(node)]
    if node.tag not in _PLAIN:
        raise InputError(
            f"{place(line)}: not YAML of plain values (the tag {node.tag.removeprefix('tag:yaml.org,2002:')!r})"
        )
    count = 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node, place(line))
    elif isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            count += _measured(inner, place, known, (*above, id(node)))
    elif isinstance(node, yaml.MappingNode):
        seen: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            at = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise InputError(f"{place(at)}: a key that is a list or a mapping; keys are words")
            if key.tag != _MERGE:
                _measured(key, place, known, (*above, id(node)))
                if (key.tag, key.value) in seen:
                    first = seen[key.tag, key.value]
                    raise InputError(
                        f"{place(at)}: the key {key.value[:80]!r} stands twice (first in line {first})"
                    )
                seen[key.tag, key.value] = at
            count += 1 + _measured(value, place, known, (*above, id(node)))
    if count > YAML_NODES:
        raise InputError(f"{place(line)}: more than {YAML_NODES:,} values, its anchors written out")
    known[id(node)] = count
    return count


def _check_scalar(node: yaml.ScalarNode, place: str) -> None:
    text = node.value
    if node.tag.endswith(":int") and len(text) > DIGITS:
        raise InputError(f"{place}: a number of {len(text):,} digits")
    if not whole(text):
        raise InputError(f"{place}: {HALF}")
