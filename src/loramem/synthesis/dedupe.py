"""Repetitions: examples that say what another one says, and the search for near duplicates that `overlap` shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from loramem.metrics.text import same, words
from loramem.synthesis.supervision import Example

LONGEST = 2_000
"""Characters of the longest text that `near` compares; longer ones are near only if their words are equal."""
CELLS = 1 << 22
"""Most pairs compared at once: what bounds the memory."""


def repeated(examples: Sequence[Example]) -> set[int]:
    """Indices of the examples whose form, prompt and answer are those of one before.

    Texts are compared by their words (`metrics.text.same`), whatever document they belong to: a question that names its
    document is another one under another document. Another answer to the same question is no repetition: which of the two is
    right is not known here.
    """
    seen: set[tuple[str, str, str]] = set()
    found: set[int] = set()
    for index, example in enumerate(examples):
        mark = (example.form, same(example.prompt), same(example.answer))
        if mark in seen:
            found.add(index)
        seen.add(mark)
    return found


def particulars(question: str) -> frozenset[str]:
    """The words of a question that say what it is about: names (capitalised, not at its beginning) and numbers.

    >>> sorted(particulars("Who met Ada Lorn in 1923?"))
    ['1923', 'ada', 'lorn']
    """
    found: set[str] = set()
    for place, word in enumerate(question.split()):
        if any(map(str.isdigit, word)) or (place and any(map(str.isupper, word))):
            found.update(words(word))
    return frozenset(found)


def near(
    questions: Sequence[str], prompts: Sequence[str], ratio: float
) -> Iterator[tuple[int, list[tuple[float, int]]]]:
    """(question, [(score, prompt), ...]) by number, best first: near duplicates that name the same names and numbers.

    The score is the larger `rapidfuzz` ratio of both texts' words, as they stand and in alphabetical order. Names also
    find the candidates: only prompts that have a question's rarest name or number are compared with it. A question
    without any is compared with all of them.
    """
    from rapidfuzz import fuzz, process

    mine, theirs = [particulars(q) for q in questions], [particulars(p) for p in prompts]
    asked, known = [same(q) for q in questions], [same(p) for p in prompts]
    asked_words, known_words = [set(words(q)) for q in questions], [set(words(p)) for p in prompts]
    places: dict[str, list[int]] = {word: [] for own in mine for word in own}
    for column, inside in enumerate(known_words):
        for word in inside & places.keys():
            places[word].append(column)
    alike: dict[str, list[int]] = {}  # questions by their rarest name
    for row, own in enumerate(mine):
        alike.setdefault(min(own, key=lambda word: (len(places[word]), word), default=""), []).append(row)
    for name, rows in alike.items():
        columns = places[name] if name else list(range(len(prompts)))
        there = [known[c][:LONGEST] for c in columns]
        there_sorted = [_sorted(text) for text in there]
        for block in blocks(rows, len(columns)):
            here = [asked[r][:LONGEST] for r in block]
            here_sorted = [_sorted(text) for text in here]
            options: dict = {"scorer": fuzz.ratio, "score_cutoff": ratio, "dtype": np.float32}
            scores_QP = np.maximum(
                process.cdist(here, there, **options), process.cdist(here_sorted, there_sorted, **options)
            )
            for row, scores_P in zip(block, scores_QP, strict=True):
                found = [
                    (float(scores_P[place]), column)
                    for place in np.flatnonzero(scores_P)
                    if mine[row] <= known_words[column := columns[place]]
                    and theirs[column] <= asked_words[row]
                    and (max(len(asked[row]), len(known[column])) <= LONGEST or asked[row] == known[column])
                ]
                if found:
                    yield row, sorted(found, key=lambda pair: (-pair[0], pair[1]))


def blocks(rows: Sequence[int], width: int) -> Iterator[Sequence[int]]:
    """Rows in blocks of at most `CELLS` pairs with `width` others."""
    step = max(1, CELLS // max(1, width))
    return (rows[at : at + step] for at in range(0, len(rows), step))


def _sorted(text: str) -> str:
    return " ".join(sorted(text.split()))
