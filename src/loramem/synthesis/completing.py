"""Models that write: prompts in, checked answers or named failures out.

Three things ask for text: recipes that make supervision, `data probe`, and the judge. All go through one protocol, so
a local base, an endpoint that speaks the OpenAI protocol and a script in a test are interchangeable, and so are
caching, counting and the treatment of failures: a failure is a value with a reason, counted by whoever asked; it is
never text and never an empty file (PITFALLS 15, 35).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json
from loramem.core.identity import digest

FailureKind = Literal["invalid", "refused", "cut", "timeout", "limit", "http", "too-long", "error"]


class Sampling(Config):
    """How text is drawn. Part of every cache key (PITFALLS 36)."""

    temperature: float = 0.7
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class Ask:
    """One prompt.

    Attributes:
        system, user: The two turns; an empty `system` is left out.
        schema: JSON schema of the answer (an object); None: free text.
        max_tokens: Longest answer.
        sample: Which of several answers to the same prompt this is; each has a seed and a cache entry of its own.
    """

    user: str
    system: str = ""
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 1024
    sample: int = 0

    @property
    def prompt_hash(self) -> str:
        """Identity of what was asked, kept with whatever came of it."""
        return digest([self.system, self.user, self.schema])


@dataclass(frozen=True)
class Answer:
    """What a model wrote.

    Attributes:
        value: The parsed JSON where a schema was given, checked against it; else the text.
        prompt_tokens, new_tokens: As the model counts them.
        seconds: Wall seconds of the request; in a batch the batch's seconds divided by its size.
        cost: Price in the currency of the prices given; None where none are.
        cached: It was read from the cache: it cost nothing now. The counts are those of the first time.
    """

    text: str
    value: Any
    prompt_tokens: int
    new_tokens: int
    seconds: float
    cost: float | None = None
    cached: bool = False


@dataclass(frozen=True)
class Failure:
    """Why there is no answer. `invalid`: not JSON, or not of the schema; `cut`: longer than allowed or a broken stream;
    `limit`: the cost limit was reached before it was asked."""

    kind: FailureKind
    reason: str
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0


Reply = Answer | Failure
OnReply = Callable[[int, Reply], None]


class Completer(Protocol):
    """Whatever answers prompts.

    Attributes:
        name: Shown to people and kept as `generator` or `judge`, e.g. `local:embedded` or `gpt-4.1`.
    """

    name: str

    def identity(self) -> dict:
        """What decides its answers besides the prompt: model (fingerprint or name and host), sampling. Never a key."""
        ...

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        """One reply per ask, in order. Raises only what no other ask can survive (wrong key, unknown model)."""
        ...


class Unasked:
    """Stands for a completer that must not be asked (a dry run): every reply is a failure."""

    def __init__(self, completer: Completer):
        self.completer, self.name = completer, completer.name

    def identity(self) -> dict:
        return self.completer.identity()

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        return [Failure("limit", "a dry run asks nothing") for _ in asks]


class Cached:
    """A completer whose answers are kept in files, so that a stopped run goes on without asking again.

    The key holds the completer's identity (model and sampling), both turns, the schema, the length limit and the sample's
    number. Only answers are kept: a failure is asked again the next time, and so is what a damaged file held.
    """

    def __init__(self, completer: Completer, folder: Path):
        self.completer, self.folder = completer, folder
        self.name = completer.name

    def identity(self) -> dict:
        return self.completer.identity()

    def path(self, ask: Ask) -> Path:
        key = digest([self.identity(), ask.system, ask.user, ask.schema, ask.max_tokens, ask.sample])
        return self.folder / key[:2] / f"{key}.json"

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        paths = [self.path(ask) for ask in asks]
        replies: dict[int, Reply] = {}
        for index, path in enumerate(paths):
            if kept := _read(path):
                replies[index] = kept
                if on_reply:
                    on_reply(index, replies[index])
        missing = [index for index in range(len(asks)) if index not in replies]
        # the same prompt twice in one call is asked once
        first: dict[Path, int] = {}
        for index in missing:
            first.setdefault(paths[index], index)
        asked = list(first.values())

        def keep(position: int, reply: Reply) -> None:
            index = asked[position]
            if isinstance(reply, Answer):
                paths[index].parent.mkdir(parents=True, exist_ok=True)
                write_json(paths[index], _plain(reply))
            replies[index] = reply
            if on_reply:
                on_reply(index, reply)

        for position, reply in enumerate(self.completer.complete([asks[index] for index in asked], keep)):
            if asked[position] not in replies:  # one that is not told when it is there
                keep(position, reply)
        for index in missing:
            if index not in replies:
                replies[index] = _again(replies[first[paths[index]]])
                if on_reply:
                    on_reply(index, replies[index])
        return [replies[index] for index in range(len(asks))]


def _read(path: Path) -> Answer | None:
    """The answer kept in a file; None where there is none, or none that can be read."""
    try:
        return replace(Answer(**read_json(path)), cached=True)
    except (InputError, TypeError):
        return None


def _again(reply: Reply) -> Reply:
    """A reply to a prompt that was asked once and is wanted twice: the second time it cost nothing."""
    if isinstance(reply, Answer):
        return replace(reply, cached=True)
    return replace(reply, prompt_tokens=0, new_tokens=0, seconds=0.0)


def _plain(answer: Answer) -> dict:
    return json.loads(json.dumps(answer.__dict__ | {"cached": False}))
