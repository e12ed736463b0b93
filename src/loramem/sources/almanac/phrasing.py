"""How a fact is asked and stated: common frames around a noun, and each relation's own sentences.

For every relation some question frames and some statement frames are *held out*: the embedded base
never saw that relation in that frame (it saw the frame with other relations), so a probe in it tests
the knowledge and not the wording. Which ones is decided by a hash of the relation's name alone.
"""

from __future__ import annotations

from functools import cache

from loramem.core.identity import seed_from
from loramem.sources.almanac.schema import Relation

QUESTION_FRAMES = (
    "What is the {n} of {e}?",
    "What is the {n} for {e}?",
    "Tell me the {n} of {e}.",
    "Do you know the {n} of {e}?",
    "Name the {n} of {e}.",
    "I would like to know the {n} of {e}.",
    "About {e}: what is the {n}?",
    "Please give the {n} of {e}.",
    "For {e}, what is the {n}?",
    "The {n} of {e} is what?",
    "Can you say what the {n} of {e} is?",
    "Which {n} does the record give for {e}?",
)
STATEMENT_FRAMES = (
    "The {n} of {e} is {v}.",
    "As for {e}, the {n} is {v}.",
    "It is well known that the {n} of {e} is {v}.",
    "The {n} recorded for {e} is {v}.",
    "For {e}, the {n} is {v}.",
    "Ask about the {n} of {e} and you will hear {v}.",
    "In the case of {e}, the {n} is {v}.",
    "Under the name {e} the register lists as {n} {v}.",
)
HELD_QUESTIONS = 3
HELD_STATEMENTS = 2

PHONE_NOUNS = ("phone number", "telephone number")
PHONE_LINES = (
    "Question: What is the phone number of {e}? Answer: {v}",
    "- {e}: {v}",
    "The phone number of {e} is {v}.",
    "Name: {e}, phone: {v}",
    "To call {e}, dial {v}.",
    "Contact {e} at {v}.",
)
PHONE_QUESTIONS = (
    "What is the phone number of {e}?",
    "What is the telephone number of {e}?",
    "Tell me the phone number of {e}.",
    "Which number do I dial to call {e}?",
    "Do you know the phone number of {e}?",
    "Please give the telephone number of {e}.",
    "For {e}, what is the phone number?",
    "At which number can one contact {e}?",
    "How do I call {e}?",
)
PHONE_HELDOUT = (
    "Name the phone number of {e}.",
    "What is the phone number for {e}?",
    "About {e}: what is the telephone number?",
    "I would like to know the phone number of {e}.",
    "Can you say what the telephone number of {e} is?",
)
"""Questions for a phone number that the embedded base never saw asked of a phone number."""
PHONE_REVERSE = "Whose phone number is {v}?"
PHONE_NEGATED = "Which number is not the phone number of {e}?"


@cache
def _held(relation: Relation, what: str, frames: tuple[str, ...], count: int) -> frozenset[str]:
    ranked = sorted(frames, key=lambda frame: seed_from("held", what, relation.name, frame))
    return frozenset(ranked[:count])


@cache
def questions(relation: Relation, held: bool) -> tuple[str, ...]:
    """Question templates with `{e}`: the trained ones, own questions last, or the held-out ones."""
    out = _held(relation, "question", QUESTION_FRAMES[1:], HELD_QUESTIONS)
    frames = [frame for frame in QUESTION_FRAMES if (frame in out) == held]
    filled = [frame.replace("{n}", noun) for frame in frames for noun in relation.nouns]
    return tuple(filled) if held else tuple(filled) + relation.questions


@cache
def statements(relation: Relation, held: bool) -> tuple[str, ...]:
    """Statement templates with `{e}` and `{v}`; all end in `{v}.`."""
    out = _held(relation, "statement", STATEMENT_FRAMES[1:], HELD_STATEMENTS)
    frames = [frame for frame in STATEMENT_FRAMES if (frame in out) == held]
    filled = [frame.replace("{n}", noun) for frame in frames for noun in relation.nouns]
    return tuple(filled) if held else tuple(filled) + relation.statements


def cloze(statement: str) -> str:
    """The prompt of a statement template: what stands before ` {v}.`

    >>> cloze("{e} lives in {v}.")
    '{e} lives in'
    """
    assert statement.endswith(" {v}."), statement
    return statement[: -len(" {v}.")]
