"""Perfect supervision: what an ideal writer of training material would make of a document whose facts are known.

`render` writes N items of a recipe from facts alone, in trained wording only; each item says which facts it is
grounded in. An error rate replaces values by wrong ones of the same value set and marks the items, so that the
quality of a generator becomes a variable with known truth.

| recipe | form | an item is | how many there are |
|---|---|---|---|
| qa | chat | a question about one fact (every fact once, then again in other words); then relational-qa | wordings x facts |
| relational-qa | chat | a question relating two facts | wordings x relations |
| summary | text | the facts by entity, in few words; a declared share of them (`recipes.SHARES` in turn) | many |
| rewrite | text | every fact, in the document's order and other wording | many |
| paraphrase | text | one sentence in other wording | wordings x facts |
| facts | text | the proposition of one fact, plainly | nouns x facts |
| relations | text | a statement relating two facts | wordings x relations |
| implications | text | what follows: inverse, transitive, order of three years | a few per fact |

Wording that the document itself uses is left out of rewrites and paraphrases (`original`), and questions that
are asked as probes are left out where they are given (`exclude`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from loramem.core.errors import InputError, UnknownName, nearest
from loramem.core.identity import seed_from
from loramem.sources.almanac.recipes import CHATS, DRAWN, RECIPES, Draft, Matter
from loramem.sources.almanac.telling import fact_id
from loramem.sources.almanac.world import Fact

PATIENCE = 50
"""So many repetitions in a row end a recipe that draws its items at random."""


@dataclass(frozen=True)
class Item:
    """One training example.

    Attributes:
        form: `chat` (prompt asked, answer given) or `text` (prompt empty).
        facts: Ids (`fact_id`) of the facts it is grounded in.
        values: How many values it states.
        errors: How many of them are wrong.
    """

    prompt: str
    answer: str
    form: Literal["chat", "text"]
    facts: tuple[str, ...]
    values: int = 1
    errors: int = 0

    @property
    def wrong(self) -> bool:
        return self.errors > 0


@dataclass(frozen=True)
class Rendering:
    """Items in order, and how many were asked; there may be fewer."""

    items: tuple[Item, ...]
    asked: int

    @property
    def shortfall(self) -> int:
        return self.asked - len(self.items)

    @property
    def error_rate(self) -> float:
        """Share of the stated values that are wrong; nan without items."""
        values = sum(item.values for item in self.items)
        return sum(item.errors for item in self.items) / values if values else math.nan

    def coverage(self, facts: Sequence[Fact]) -> float:
        """Share of `facts` that some item is grounded in; nan without facts."""
        known = {fact_id(fact) for fact in facts}
        found = {fact for item in self.items for fact in item.facts}
        return len(known & found) / len(known) if known else math.nan


def render(
    facts: Sequence[Fact],
    recipe: str,
    n: int,
    *,
    seed: int,
    error_rate: float = 0.0,
    among: Sequence[Fact] = (),
    original: str = "",
    exclude: Collection[str] = (),
    prefix: str = "",
) -> Rendering:
    """At most `n` different items of `recipe` about a document (or chunk) that states `facts`.

    The same arguments give the same items; a larger `n` begins with the smaller one, and a larger error rate
    makes the same values wrong and more.

    Args:
        facts: In the document's order.
        error_rate: Chance that a value is replaced by another one of its set, each value by itself. A value
            that is alone in its set stays.
        among: Facts in which "the one whose ..." must single out one entity; give those of the whole source.
        original: Text of the document; its sentences are no paraphrase of themselves.
        exclude: Questions that must not be asked, e.g. those of the probes.
        prefix: What stands before every question (`introductions.with_id`), as in `exclude`.

    Raises:
        UnknownName: no such recipe.
        InputError: an error rate outside [0, 1], a negative `n`, or no facts.
    """
    if recipe not in RECIPES:
        raise UnknownName(f"recipe {recipe!r}: {nearest(recipe, RECIPES)}")
    if not 0 <= error_rate <= 1:
        raise InputError(f"error_rate {error_rate}: allowed are 0 to 1")
    if n < 0:
        raise InputError(f"{n} items of {recipe}: allowed are 0 and more")
    if not facts:
        raise InputError(f"recipe {recipe}: no facts to write about")
    matter = Matter(tuple(facts), tuple(among or facts), seed, original, prefix)
    form: Literal["chat", "text"] = "chat" if recipe in CHATS else "text"
    items: list[Item] = []
    seen = set(exclude)
    repeated = 0
    for draft in RECIPES[recipe](matter):
        if len(items) == n or repeated == PATIENCE:
            break
        values, errors = _settle(draft, seed, recipe, error_rate)
        right_prompt, right_answer = draft.write([slot.value for slot in draft.slots])
        mark = right_prompt or right_answer  # an item with an error is the same item
        prompt, answer = draft.write(values)
        if mark in seen or (prompt or answer) in seen:
            repeated += recipe in DRAWN
            continue
        repeated = 0
        seen.update((mark, prompt or answer))
        grounded = tuple(dict.fromkeys(map(fact_id, draft.facts)))
        items.append(Item(prompt, answer, form, grounded, len(draft.slots), errors))
    return Rendering(tuple(items), n)


def _settle(draft: Draft, seed: int, recipe: str, error_rate: float) -> tuple[list[str], int]:
    """The values a draft states, some wrong, and how many are."""
    rng = random.Random(seed_from("errors", seed, recipe, draft.key))
    values, errors = [], 0
    for slot in draft.slots:
        chance, others = rng.random(), [value for value in slot.options if value != slot.value]
        wrong = rng.choice(others) if others else slot.value
        use = chance < error_rate and bool(others)
        errors += use
        values.append(wrong if use else slot.value)
    return values, errors
