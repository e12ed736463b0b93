"""Invented names, built from syllables, so that a world's people and places are in nobody's training data."""

from __future__ import annotations

import random

_ONSETS = [
    "b",
    "br",
    "c",
    "ch",
    "d",
    "dr",
    "f",
    "fl",
    "g",
    "gr",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "m",
    "n",
    "p",
    "pr",
    "qu",
    "r",
    "s",
    "sh",
    "sk",
    "st",
    "t",
    "th",
    "tr",
    "v",
    "w",
    "y",
    "z",
]
_VOWELS = ["a", "e", "i", "o", "u", "ai", "ea", "ia", "io", "oa"]
_CODAS = ["n", "l", "r", "s", "t", "m", "th", "nd", "rk", "sh", "ck", "ld", "x"] + [""] * 6
_TOWN_ENDS = ["wick", "mouth", "ford", "ham", "bury", "stead", "haven", "gate", "holm", "cliff"]
_FIRM_ENDS = ["& Sons", "Works", "Trading", "Brothers", "Company", "Mills", "Holdings", "Guild"]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def syllable(rng: random.Random) -> str:
    return rng.choice(_ONSETS) + rng.choice(_VOWELS)


def word(rng: random.Random, syllables: int) -> str:
    """A pronounceable capitalised word."""
    return ("".join(syllable(rng) for _ in range(syllables)) + rng.choice(_CODAS)).capitalize()


def noise_word(rng: random.Random) -> str:
    """A capitalised run of 3 to 7 letters with hardly any pattern: teaches that a name may be anything."""
    return "".join(
        rng.choice(_LETTERS if i % 2 else "aeiouy" + _LETTERS) for i in range(rng.randint(3, 7))
    ).capitalize()


def person(rng: random.Random) -> str:
    return f"{word(rng, rng.randint(1, 2))} {word(rng, 2)}"


def town(rng: random.Random) -> str:
    return word(rng, rng.randint(1, 2)) + rng.choice(_TOWN_ENDS)


def river(rng: random.Random) -> str:
    return f"River {word(rng, 2)}"


def firm(rng: random.Random) -> str:
    return f"{word(rng, 2)} {rng.choice(_FIRM_ENDS)}"


def book(rng: random.Random) -> str:
    return f"The {rng.choice(('Last', 'Silent', 'Broken', 'Hidden', 'Golden', 'Second', 'Lost', 'Iron'))} {word(rng, 2)}"


def expedition(rng: random.Random) -> str:
    return f"{word(rng, 2)} Expedition"


MAKERS = {
    "person": person,
    "town": town,
    "river": river,
    "firm": firm,
    "book": book,
    "expedition": expedition,
}


def distinct(kind: str, count: int, rng: random.Random, taken: set[str]) -> tuple[str, ...]:
    """`count` names of `kind` that are not in `taken` (which grows by them)."""
    names: list[str] = []
    while len(names) < count:
        name = MAKERS[kind](rng)
        if name not in taken:
            taken.add(name)
            names.append(name)
    return tuple(names)
