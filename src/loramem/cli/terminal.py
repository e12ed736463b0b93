"""What the commands print: data among it is text, whatever escape sequences or markup it holds (`core.shown`)."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.console import Console
from rich.text import Text

from loramem.core.shown import json_fit, plain


def say(*parts: object, error: bool = False) -> None:
    """Print a line, on standard error if it tells of one."""
    print(plain(" ".join(map(str, parts))), file=sys.stderr if error else sys.stdout, flush=True)


def show_json(value: Any, *, indent: int | None = 1) -> None:
    """Print a value as JSON; `indent` None: on one line."""
    print(json_fit(json.dumps(value, indent=indent, ensure_ascii=False)), flush=True)


def console(**options: Any) -> Console:
    """A console that takes no text for markup."""
    return Console(markup=False, highlight=False, emoji=False, **options)


def cell(text: object, style: str = "") -> Text:
    """A text of a table or a line that may come from data."""
    return Text(plain(str(text)), style=style)
