"""What a fuzz target is: bytes in; out may come a value or a `LoramemError`, nothing else, and soon."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from loramem.core.errors import LoramemError

FIXTURES = Path(__file__).parents[1] / "fixtures"
Run = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        run: Parses bytes; a folder of its own is there for files.
        given: Makes the seeds: input that is right, from which mutations start.
        form: What its input is: `json` and `jsonl` are also changed value by value.
    """

    run: Run
    given: Callable[[], tuple[bytes, ...]]
    form: str = "bytes"

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        return self.given()


TARGETS: dict[str, Target] = {}


def attempt(name: str, data: bytes, where: Path) -> None:
    """Run a target. Anything but a `LoramemError` is a finding."""
    try:
        TARGETS[name].run(data, where)
    except LoramemError as error:
        str(error).encode("utf-8", "backslashreplace")


Seeds = Iterable[bytes | str | object]


def target(name: str, seeds: Seeds | Callable[[], Seeds], form: str = "bytes") -> Callable[[Run], Run]:
    """Register a target. Seeds that take long to make are given as a function."""

    def plain(seed: object) -> bytes:
        if isinstance(seed, bytes):
            return seed
        return (seed if isinstance(seed, str) else json.dumps(seed)).encode()

    def add(run: Run) -> Run:
        known = TARGETS.get(name)  # pytest imports a file once more, under another name, to look for doctests
        assert known is None or written(known.run) == written(run), f"two targets are called {name}"
        TARGETS[name] = Target(run, lambda: tuple(map(plain, seeds() if callable(seeds) else seeds)), form)
        return run

    return add


def written(run: Any) -> tuple[str, int]:
    """Where a function is written."""
    return run.__code__.co_filename, run.__code__.co_firstlineno


def put(where: Path, name: str, data: bytes) -> Path:
    path = where / name
    path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """Any text, lone surrogates among it."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def value_of(data: bytes) -> Any:
    """Any JSON or YAML value; None where the bytes are none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def count(text: str) -> int:
    return len(text.split())


def fixture(*names: str) -> list[bytes]:
    return [(FIXTURES / name).read_bytes() for name in names]
