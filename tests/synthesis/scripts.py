"""What tests of writing share: documents of numbered facts, and a completer that answers as a test says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from loramem.sources.types import Document, Record
from loramem.synthesis.completing import Answer, Ask, Failure, OnReply, Reply

Item = tuple[str, str]
Say = Callable[[Ask, int], "Sequence[Item] | Reply"]


def document(id: str, *texts: str, title: str = "") -> Document:
    """A document of paragraphs."""
    return Document(id, tuple(Record(f"{id}:{number}", text) for number, text in enumerate(texts)), title)


def facts(name: str, count: int) -> Document:
    """A document of so many facts, ten a paragraph: lamp I of NAME hangs in hall H."""
    lines = [f"Lamp {name}-{i} hangs in hall {hall(i)}." for i in range(count)]
    return document(name, *(" ".join(lines[at : at + 10]) for at in range(0, count, 10)))


def hall(number: int) -> int:
    return 1000 + 7 * number


def pair(name: str, number: int) -> Item:
    """A question on a fact of such a document, with its answer."""
    return f"Where does lamp {name}-{number} hang?", f"In hall {hall(number)}."


def lamps(prompt: str) -> list[Item]:
    """What a good writer writes about such a document: of every fact that is not written yet, in order."""
    text, _, rest = prompt.partition("</text>")
    known = {(name, int(number)) for name, number in re.findall(r"lamp (\S+?)-(\d+) hang", rest)}
    told = [(name, int(number)) for name, number in re.findall(r"Lamp (\S+?)-(\d+) hangs", text)]
    return [pair(name, number) for name, number in told if (name, number) not in known]


def wanted(ask: Ask) -> int:
    """How many items a prompt asks for."""
    assert ask.schema is not None
    return ask.schema["properties"]["items"]["maxItems"]


def told(prompt: str) -> int:
    """How many items the words of a prompt ask for: an endpoint is sent a schema without limits."""
    found = re.search(r"(?:Write|Choose|List|most|text) (\d+) ", prompt.rpartition("</text>")[2])
    assert found, prompt
    return int(found[1])


def as_value(items: Sequence[Item]) -> dict:
    """The JSON of an answer with these items; those without a question are texts."""
    return {"items": [{"question": q, "answer": a} if q else {"text": a} for q, a in items]}


def answer(items: Sequence[Item], cost: float | None = None) -> Answer:
    """An answer of ten tokens an item and half a second."""
    value = as_value(items)
    return Answer(json.dumps(value), value, 100, 10 * len(items), 0.5, cost)


def good(ask: Ask, number: int) -> list[Item]:
    """As many items as a prompt asks for, of facts that are not written yet."""
    return lamps(ask.user)[: wanted(ask)]


class Scribe:
    """A completer: `say(ask, number)` gives the items, or the whole reply, to the number-th prompt.

    Attributes:
        asked: All prompts.
        batches: How many were asked at once.
    """

    def __init__(self, say: Say = good, name: str = "scribe", cost: float | None = None):
        self.say, self.name, self.cost = say, name, cost
        self.asked: list[Ask] = []
        self.batches: list[int] = []

    def identity(self) -> dict:
        return {"model": self.name}

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        self.batches.append(len(asks))
        replies: list[Reply] = []
        for index, ask in enumerate(asks):
            said = self.say(ask, len(self.asked))
            self.asked.append(ask)
            replies.append(said if isinstance(said, Answer | Failure) else answer(said, self.cost))
            if on_reply:
                on_reply(index, replies[-1])
        return replies

    @property
    def prompts(self) -> list[str]:
        return [ask.user for ask in self.asked]
