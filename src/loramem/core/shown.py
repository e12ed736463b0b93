"""Text fit to be shown: on a terminal, in a log, on a page. What it says is kept; what it would do is not.

Data may hold escape sequences that move the cursor or rename the window, marks that reverse what is read, and characters
that no file of UTF-8 may hold. They are shown as Python would spell them, so that a reader sees that they are there.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from loramem.core.secrets import masked

_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls (C0, DEL, C1), but for tab and new line
    "\u2028\u2029"  # ends of line that most programs do not know
    "\u202a-\u202e\u2066-\u2069"  # marks that override the direction of what follows
    "\ud800-\udfff\ufffe\uffff]"  # half characters, and two that are none
)


def plain(text: str) -> str:
    """`text` without characters that act on who shows it; tabs and new lines stay.

    >>> plain("red \\x1b[31m, reversed \\u202e, half \\ud800")
    'red \\\\x1b[31m, reversed \\\\u202e, half \\\\ud800'
    """
    return _UNFIT.sub(_spelt, text)


def blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, control characters, joiners, marks of direction, variation selectors.

    >>> blank(" \\u200b\\ufe0f\\x07"), blank("\\u200da"), blank("")
    (True, False, True)
    """
    return all(
        one.isspace() or unicodedata.category(one) in ("Cc", "Cf") or "\ufe00" <= one <= "\ufe0f"
        for one in text
    )


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: of a longer one beginning and end.

    >>> shortened("a message that quotes far too much, and ends in advice", 40)
    'a message that quotes ... ends in advice'
    """
    if len(text) <= most:
        return text
    end = (most - 5) * 2 // 5
    return f"{text[: most - 5 - end]} ... {text[len(text) - end :]}"


def quoted(value: object, most: int = 200) -> str:
    """What was given, as Python spells it, cut: it may be of any length, and a number too long to be spelt.

    >>> quoted("four"), quoted(16**5000)
    ("'four'", 'a number of 20001 bits')
    """
    try:
        return shortened(repr(value[: 2 * most] if isinstance(value, str | bytes) else value), most)
    except ValueError:
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__


def _spelt(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def told(text: object) -> str:
    """A message as anybody may read it: `plain`, and without secrets (`core.secrets.masked`)."""
    return plain(masked(str(text)))


def json_fit(text: str) -> str:
    """JSON that is shown: the same value, with such characters of its texts written as escapes.

    >>> json_fit('{"a": "\\x9b31m"}')
    '{"a": "\\\\u009b31m"}'
    """
    return _UNFIT.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def page_value(value: Any) -> Any:
    """A value as a template prints it: texts `plain`, markup of ours as it is."""
    return plain(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
