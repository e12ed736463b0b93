"""Supervision: the training examples made from documents, with where each one came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from loramem.base.prompts import Encoded, PromptBuilder
from loramem.core.errors import Faults, InputError
from loramem.core.files import read_jsonl, write_jsonl
from loramem.core.identity import digest
from loramem.core.registry import Registry
from loramem.sources.types import Document


@dataclass(frozen=True)
class Example:
    """One training example.

    Attributes:
        form: `chat` (prompt in the user turn, answer in the assistant turn), `cloze` (plain prompt, target)
            or `text` (prompt empty, answer the text).
        prompt, answer: What is asked and what is learnt.
        document: Id of the document it was made from.
        record: Id of the record (the span) it was made from.
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


@dataclass(frozen=True)
class Supervision:
    """Examples in a fixed order, and the recipe that made them."""

    recipe: str
    examples: tuple[Example, ...]

    @property
    def hash(self) -> str:
        """Content identity: what is learnt, not what it was called or cost."""
        return digest([[e.form, e.prompt, e.answer] for e in self.examples])

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


def raw(documents: Sequence[Document]) -> Iterable[Example]:
    """Recipe `raw`: the documents' own words. A question of a record stands in the user turn (PITFALLS 1)."""
    for document in documents:
        for record in document.records:
            if record.form == "text":
                yield Example("text", "", record.text, document.id, record.id)
            else:
                yield Example(record.form, record.prompt, record.answer, document.id, record.id)


RECIPES: Registry = Registry("supervision recipe")
RECIPES.add("raw", raw)


def synthesize(documents: Sequence[Document], recipe: str = "raw") -> Supervision:
    """Make supervision from documents. Raises `UnknownName` for a recipe that does not exist."""
    return Supervision(recipe, tuple(RECIPES.get(recipe)(documents)))


def save(supervision: Supervision, path: Path) -> None:
    """One example per line of JSON."""
    write_jsonl(path, (asdict(example) for example in supervision.examples))


def load(path: Path) -> Supervision:
    """Read supervision from JSONL: each line needs `form`, `prompt`, `answer` (or `text`, or `question` and `answer`).

    Raises:
        Faults: every malformed line, by number.
    """
    known = {field.name for field in fields(Example)}
    examples, faults = [], []
    for number, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict):
            faults.append(f"{path}: row {number}: not an object")
            continue
        row = dict(row)
        if "question" in row:
            row = {**row, "form": row.get("form", "chat"), "prompt": row.pop("question")}
        if "text" in row:
            row = {**row, "form": "text", "prompt": "", "answer": row.pop("text")}
        row.setdefault("document", str(path.name))
        row.setdefault("record", str(number))
        row.setdefault("context", "")
        bad = [key for key in ("prompt", "answer", "context") if not isinstance(row.get(key), str)]
        if bad or row.get("form") not in ("chat", "cloze", "text") or not row["answer"].strip():
            faults.append(
                f"{path}: row {number}: needs form (chat, cloze, text), prompt and a non-empty answer as text (and context, if given)"
            )
            continue
        examples.append(Example(**{key: value for key, value in row.items() if key in known}))
    if faults:
        raise Faults(faults[:20] + ([f"... and {len(faults) - 20} more"] if len(faults) > 20 else []))
    if not examples:
        raise InputError(f"{path}: holds no examples")
    return Supervision("file", tuple(examples))
