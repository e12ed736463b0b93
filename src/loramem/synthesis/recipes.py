"""Recipes of supervision: `raw`, `qa:40`, `summary:8`, ... and sums of them such as `raw+qa:40+summary:8`.

The formats are those of the paper's section 4 (original, QA, summary, rewrite, paraphrase, key facts, relations,
relational QA, implications; arXiv 2603.01097), and the scheme it uses for long documents (`iterative`: questions, then
rounds for what no question covers). A number is per unit: per document, or per chunk where each chunk has a module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from loramem.core.errors import Faults, nearest
from loramem.core.registry import Registry
from loramem.core.shown import quoted

Form = Literal["chat", "text"]
MOST = 100_000


@dataclass(frozen=True)
class RecipeKind:
    """One format of supervision.

    Attributes:
        form: Whether its examples are questions with answers or text.
        counted: Whether a number of examples is given with it.
        written: Whether a generator writes it; otherwise it is the source's own.
        summary: One line for people.
        instruction: What a model that writes is told to make, with `{n}` for the number of items.
    """

    name: str
    form: Form
    counted: bool
    written: bool
    summary: str
    instruction: str = ""


RECIPES: Registry[RecipeKind] = Registry("supervision recipe")
SINGLE_FACTS = (
    "Write {n} questions with short answers. Each question asks for one fact that the text states. Together they should cover "
    "the whole text, beginning, middle and end."
)
for _kind in (
    RecipeKind("raw", "text", False, False, "the document's own words"),
    RecipeKind("published", "chat", False, False, "the question-answer pairs that were published with the source"),
    RecipeKind(
        "qa", "chat", True, True, "questions on single facts, with short answers",
        SINGLE_FACTS,
    ),
    RecipeKind(
        "relational-qa", "chat", True, True, "questions that join two facts, with answers",
        "Write {n} questions with short answers. Each question can be answered only by putting together two statements of "
        "the text that stand in different sentences.",
    ),
    RecipeKind(
        "summary", "text", True, True, "summaries",
        "Write {n} different summaries of the text. Each keeps the names, numbers and dates that matter and is at most a "
        "third as long as the text.",
    ),
    RecipeKind(
        "rewrite", "text", True, True, "the whole text in other words",
        "Rewrite the whole text {n} times, each time in other words and another order of sentences. Leave no fact out and "
        "add none.",
    ),
    RecipeKind(
        "paraphrase", "text", True, True, "single sentences in other words",
        "Choose {n} sentences of the text and say each in other words, so that it can be understood without the rest of "
        "the text.",
    ),
    RecipeKind(
        "facts", "text", True, True, "single facts, plainly",
        "List {n} facts of the text, each as one plain sentence that names everything it speaks of in full.",
    ),
    RecipeKind(
        "relations", "text", True, True, "statements that relate two facts",
        "Write {n} sentences, each of which relates two facts of the text that stand in different sentences.",
    ),
    RecipeKind(
        "implications", "text", True, True, "what follows from the text",
        "Write {n} sentences that follow from the text with certainty but are not stated in it.",
    ),
    RecipeKind(
        "iterative", "chat", True, True, "questions on single facts, then two rounds for facts that none covers",
        SINGLE_FACTS,
    ),
):  # fmt: skip
    RECIPES.add(_kind.name, _kind)


@dataclass(frozen=True)
class Portion:
    """One summand of a recipe; `n` items per unit where the kind counts."""

    kind: RecipeKind
    n: int = 0

    @property
    def label(self) -> str:
        return f"{self.kind.name}:{self.n}" if self.kind.counted else self.kind.name


def parse_recipe(text: str) -> tuple[Portion, ...]:
    """The summands of a recipe.

    >>> [portion.label for portion in parse_recipe("raw + qa:40+summary:8")]
    ['raw', 'qa:40', 'summary:8']

    Raises:
        Faults: every summand that is wrong: unknown, without its number or with one too many, named twice.
    """
    faults: list[str] = []
    found: dict[str, Portion] = {}
    parts = str(text).split("+")
    if len(parts) > len(RECIPES.names()):
        raise Faults(
            f"recipe {quoted(text)}: {len(parts):,} parts, and only {len(RECIPES.names())} that can be named once each"
        )
    for part in parts:
        name, colon, number = (piece.strip() for piece in part.partition(":"))
        name = name.lower()
        if name not in RECIPES:
            faults.append(
                f"recipe {quoted(text)}: unknown part {quoted(name)}; {nearest(name, RECIPES.names())}"
            )
            continue
        kind = RECIPES.get(name)
        n = int(number) if re.fullmatch(r"[0-9]{1,6}", number) else 0
        if kind.counted and not 1 <= n <= MOST:
            faults.append(f"recipe {quoted(text)}: give {name} a number from 1 to {MOST:,}, e.g. {name}:10")
        elif not kind.counted and colon:
            faults.append(f"recipe {quoted(text)}: {name} takes no number")
        elif name in found:
            faults.append(f"recipe {quoted(text)}: {name} is named twice; give one number")
        else:
            found[name] = Portion(kind, n)
    if faults:
        raise Faults(list(dict.fromkeys(faults)))
    return tuple(found.values())


def canonical(text: str) -> str:
    """A recipe in its one spelling.

    >>> canonical(" QA:40 + raw")
    'qa:40+raw'
    """
    return "+".join(portion.label for portion in parse_recipe(text))


def needs_writer(text: str) -> bool:
    """Whether some part of a recipe is written by a generator."""
    return any(portion.kind.written for portion in parse_recipe(text))
