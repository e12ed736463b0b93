"""Supervision: the training examples made from documents, with where each one came from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from loramem.base.prompts import Encoded, PromptBuilder
from loramem.core.errors import Faults, InputError, nearest
from loramem.core.files import json_lines, write_jsonl
from loramem.core.identity import digest
from loramem.core.shown import blank, quoted


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        form: `chat` (prompt in the user turn, answer in the assistant turn), `cloze` (plain prompt, target)
            or `text` (prompt empty, answer the text).
        prompt, answer: What is asked and what is learnt.
        document: Id of the document it was made from.
        record: Id of the record or unit (`synthesis.units`) it was made from.
        span: Characters of the document's text it was made from; None where that is not known.
        recipe: The part of the recipe it belongs to, e.g. `qa`.
        generator: Who wrote it; `source` where it is the document's own words.
        prompt_hash: Hash of the generator's prompt; empty where there was none.
        tokens_spent: Generator tokens it cost.
        context: What a teacher reads before the question, where that is not the document it was made from; no part of
            what is learnt.
    """

    form: Literal["chat", "cloze", "text"]
    prompt: str
    answer: str
    document: str
    record: str
    generator: str = "source"
    prompt_hash: str = ""
    tokens_spent: int = 0
    context: str = ""
    span: tuple[int, int] | None = None
    recipe: str = "raw"


@dataclass
class Made:
    """What one part of a recipe made of one unit, and what that cost.

    Attributes:
        unit, document, recipe: Where and what.
        asked: Items asked for; 0 where the recipe does not count (`raw`, `published`).
        written: Examples kept.
        duplicates, ungrounded: Items left out: written before, or not borne out by the text.
        failures: Calls that gave nothing, by kind (`synthesis.completing.Failure`).
        reason: What the last of them said.
        facts, covered: Facts of the unit and those some example is about; None where facts are not known.
        values, wrong: Values stated and how many of them are not what the document says; None where not known.
        calls, prompt_tokens, new_tokens, seconds, cost: Spent on it, cached answers included; cost None without prices.
        cut_tokens: Tokens of the text that did not fit the context of a base that reads it.
        cached: Calls answered from the cache: nothing was spent on them this time.
    """

    unit: str
    document: str
    recipe: str
    asked: int = 0
    written: int = 0
    duplicates: int = 0
    ungrounded: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    reason: str = ""
    facts: int | None = None
    covered: int | None = None
    values: int | None = None
    wrong: int | None = None
    calls: int = 0
    cached: int = 0
    cut_tokens: int = 0
    prompt_tokens: int = 0
    new_tokens: int = 0
    seconds: float = 0.0
    cost: float | None = None

    @property
    def shortfall(self) -> int:
        return max(0, self.asked - self.written)

    @property
    def why(self) -> str:
        """What stood in the way of more, for people.

        >>> Made("a", "a", "qa", failures={"cut": 2}, reason="longer than 16 tokens", ungrounded=1).why
        '2 calls failed (cut: longer than 16 tokens), 1 not borne out by the text'
        """
        failed = sum(self.failures.values())
        parts = [f"{failed} calls failed ({', '.join(self.failures)}: {self.reason})"] if failed else []
        parts += [f"{self.ungrounded} not borne out by the text"] if self.ungrounded else []
        parts += [f"{self.duplicates} repeated or asked as probes"] if self.duplicates else []
        return ", ".join(parts) or "nothing to write about"


@dataclass(frozen=True)
class Supervision:
    """Examples in a fixed order, the recipe that made them, and the account of the making."""

    recipe: str
    examples: tuple[Example, ...]
    made: tuple[Made, ...] = ()

    @property
    def hash(self) -> str:
        """Content identity: what is learnt, not what it was called or cost."""
        return digest([[e.form, e.prompt, e.answer] for e in self.examples])

    @property
    def text(self) -> str:
        """Everything that is learnt, a line for each example: what a module may be found by where its documents are not known."""
        return "\n".join(" ".join(part for part in (one.prompt, one.answer) if part) for one in self.examples)

    def of(self, units: Collection[str]) -> Supervision:
        """What was made of some units (`Made.unit`): examples stand in the order of `made`."""
        assert sum(one.written for one in self.made) == len(self.examples), "the account does not match"
        kept: list[Example] = []
        start = 0
        for one in self.made:
            if one.unit in units:
                kept += self.examples[start : start + one.written]
            start += one.written
        return Supervision(self.recipe, tuple(kept), tuple(one for one in self.made if one.unit in units))

    def encode(self, prompts: PromptBuilder) -> tuple[Encoded, ...]:
        """Token ids of every example, through the one prompt and label builder."""
        return tuple(encode(example, prompts) for example in self.examples)


def encode(example: Example, prompts: PromptBuilder, context: str | None = None) -> Encoded:
    """Token ids of an example, after `context` if one is given."""
    if example.form == "chat":
        return prompts.chat_example(example.prompt, example.answer, context)
    if example.form == "cloze":
        return prompts.cloze_example(example.prompt, example.answer, context)
    return prompts.text_example(example.answer, context)


def save(supervision: Supervision, path: Path) -> None:
    """One example per line of JSON."""
    write_jsonl(path, (asdict(example) for example in supervision.examples))


FORMS = ("chat", "cloze", "text")
_PROVENANCE = ("document", "record", "generator", "prompt_hash", "recipe")
SHOWN = 20
"""Malformed lines that are told."""


def load(path: Path) -> Supervision:
    """Read supervision from JSONL: each line needs `form`, `prompt`, `answer` (or `text`, or `question` and `answer`).

    Raises:
        InputError: no file of JSON lines, or one without any.
        Faults: every malformed line, by number.
    """
    examples: list[Example] = []
    faults: list[str] = []
    for number, (line, row) in enumerate(json_lines(path), start=1):
        wrong, example = _example(row, document=str(path.name), record=str(number))
        if wrong or example is None:
            faults.append(f"{path}:{line}: {wrong}")
        else:
            examples.append(example)
    if faults:
        more = [f"... and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
        raise Faults(faults[:SHOWN] + more)
    if not examples:
        raise InputError(f"{path}: holds no examples")
    return Supervision("file", tuple(examples))


def _example(row: Any, *, document: str, record: str) -> tuple[str, Example | None]:
    """(what is wrong with a row, "" if nothing is; the example that it is)."""
    if not isinstance(row, dict):
        return f"expected an object, found {type(row).__name__}", None
    row = {"document": document, "record": record, "generator": "file", "context": "", "span": None, **row}
    if "question" in row:
        row = {**row, "form": row.get("form", "chat"), "prompt": row.pop("question")}
    if "text" in row:
        row = {**row, "form": "text", "prompt": "", "answer": row.pop("text")}
    form, span = row.get("form"), row["span"]
    wrong = []
    if form not in FORMS:
        wrong.append(f"form {quoted(form)}; {nearest(str(form), FORMS)}")
    elif not isinstance(row.get("prompt"), str) or (form != "text" and blank(row["prompt"])):
        wrong.append("needs a prompt (or question) that says something")
    if not isinstance(row.get("answer"), str) or blank(row["answer"]):
        wrong.append("needs an answer (or text) that says something")
    if not isinstance(row["context"], str):
        wrong.append("context: expected text")
    if odd := [key for key in _PROVENANCE if not isinstance(row.get(key, ""), str)]:
        wrong.append(f"{', '.join(odd)}: expected text")
    if type(row.get("tokens_spent", 0)) is not int:
        wrong.append("tokens_spent: expected a whole number")
    if span is not None and not _is_span(span):
        wrong.append("span: expected [start, end], characters of the document")
    if wrong:
        return "; ".join(wrong), None
    known = {key: row[key] for key in _FIELDS if key in row}
    return "", Example(**{**known, "span": None if span is None else (span[0], span[1])})


_FIELDS = tuple(field.name for field in fields(Example))


def _is_span(value: Any) -> bool:
    whole = isinstance(value, list) and len(value) == 2 and all(type(place) is int for place in value)
    return whole and 0 <= value[0] <= value[1]
