"""Multiple choice by what a model says: options shown under letters, and a strict reader of its reply.

The published code takes the first A to D of any word, so that "The answer is B" and "Answer: D" are both A (of "answer"). Here
a reply has a letter only where it is given as an answer and no other letter is: else it is unparsed, which scores 0 and is
counted (metric `parsed`). Log-likelihoods of options (metric `accuracy`) need no reply and no reader.

A reply gives a letter where it begins with one that is set off ("B", "(B)", "B. red", "**B**", "B is correct") or where one
follows the word answer, option, choice or letter ("Answer: B", "The answer is B", "option B"). Such a letter must end there:
an end, a mark, or "because" follows, so that "The answer is A man" gives none. Small letters count in brackets, or as the whole
reply. Refused besides: two different letters, whether an option or not; words of denial before the letter ("It is not option B");
a question ("B?").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase

from loramem.core.errors import InputError

MOST_OPTIONS = len(ascii_uppercase)

_END = r"""(?=\s*$|\s*[.,;:!)\]\n"]|\s+[-–—]\s|\s+(?:because|since|based\s+on|as\s+it|as\s+the)\b)(?!\s*[.]\w|\s*\?)"""
"""What must follow a letter that is the answer, unless it stands in brackets."""
_RIGHT = r"(?=\s+(?:is|would\s+be|seems)\s+(?:the\s+|my\s+)?(?:correct|right|best|answer|true)\b)"
_MARKED = r"[(\[]\s*(?P<marked>[A-Za-z])\s*[)\]](?!\s*\?)"
_PLAIN = r"(?P<plain>[A-Z])(?![\w'’&/+*-])"
_GIVEN = rf"(?:{_MARKED}|{_PLAIN}(?:{_END}|{_RIGHT}))"
_FIRST = re.compile(rf"\A{_GIVEN}")
_CUED = re.compile(
    r"\b(?:answer|option|choice|letter)\b"
    r"(?:\s+(?:is|would\s+be|should\s+be|must\s+be))?\s*[:=]?\s*(?:(?:is\s+)?(?:the\s+)?(?:option|choice|letter)\s+)?[\"']?"
    rf"{_GIVEN}",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"\A[(\[]?\s*([a-z])\s*[)\]]?[.:]?\Z")
_DENIAL = re.compile(
    r"\b(?:not|never|neither|nor|cannot|wrong|incorrect|false|except|unlike|without)\b|n['’]t\b",
    re.IGNORECASE,
)
_STANDALONE = re.compile(r"(?<![\w'’&/+*-])([A-Z])(?![\w'’&/+*-])")
_BRACKETED = re.compile(r"[(\[]\s*([A-Za-z])\s*[)\]]")
_WORD_AFTER = re.compile(r"[^\S\n]+(?!(?:is|was|and|or|because|since|nor|but|too)\b)[^\W\d_]", re.IGNORECASE)


def letters_prompt(question: str, options: Sequence[str]) -> str:
    """A question with its options under letters, and the request to give one letter.

    Raises:
        InputError: fewer than two options, or more than there are letters.

    >>> print(letters_prompt("What colour is it?", ["red", "blue"]))
    What colour is it?
    A. red
    B. blue
    Reply with the letter of the right option and nothing else.
    """
    _check(len(options))
    shown = (
        f"{letter}. {' '.join(option.split())}"
        for letter, option in zip(ascii_uppercase, options, strict=False)
    )
    return "\n".join([question, *shown, "Reply with the letter of the right option and nothing else."])


def parse_letter(text: str, count: int, options: Sequence[str] = ()) -> int | None:
    """Index of the option that a reply gives by its letter; None where it gives none, or not clearly one.

    Args:
        text: What the model said.
        count: How many options there were.
        options: Their texts, where known. A reply that is a letter and the text of that same option (or its beginning: replies
            are cut) gives it, whatever letters stand in that text: "B. Vitamin C".

    Raises:
        InputError: `count` is below 2 or above 26, or is not the number of `options`.

    >>> parse_letter("The answer is B", 4), parse_letter("Answer: D", 4), parse_letter("A man did it.", 4)
    (1, 3, None)
    """
    _check(count)
    if options and len(options) != count:
        raise InputError(f"{len(options)} options, but count is {count}")
    plain = _plain(text)
    if found := _WHOLE.match(plain):
        return _index(found[1], count)
    first = _FIRST.match(plain)
    if first and options and _repeats(plain[first.end() :], options, _index(_letter(first), count)):
        return _index(_letter(first), count)
    cued = [match for match in _CUED.finditer(plain) if _is_letter(match)]
    given = [match for match in (first, *cued) if match]
    if not given or any(_DENIAL.search(plain, 0, match.start()) for match in given):
        return None
    letters = {_letter(match) for match in given} | _others(plain, count)
    return _index(letters.pop(), count) if len(letters) == 1 else None


def _check(count: int) -> None:
    if not 2 <= count <= MOST_OPTIONS:
        raise InputError(f"{count} options: allowed are 2 to {MOST_OPTIONS}, one letter each")


def _plain(text: str) -> str:
    """A reply without emphasis, quotes around it and odd forms of letters; lines stay apart."""
    text = unicodedata.normalize("NFKC", text).strip()
    text = re.sub(r"\*+|_{2,}|`+", "", text)
    return text.strip().strip("\"'“”‘’").strip()


def _letter(match: re.Match[str]) -> str:
    return (match["marked"] or match["plain"]).upper()


def _is_letter(match: re.Match[str]) -> bool:
    """Cues are read in either case; their letter, unless in brackets, is a capital: "the answer is a" may go on."""
    return bool(match["marked"]) or match["plain"].isupper()


def _index(letter: str, count: int) -> int | None:
    place = ord(letter.upper()) - ord("A")
    return place if place < count else None


def _repeats(rest: str, options: Sequence[str], index: int | None) -> bool:
    """Whether what follows a letter is the text of its option, or the beginning of it, and nothing else."""
    if index is None:
        return False
    said, meant = (" ".join(re.findall(r"\w+", part.casefold())) for part in (rest, options[index]))
    return bool(said) and meant.startswith(said)


def _others(plain: str, count: int) -> set[str]:
    """Letters of options that stand by themselves anywhere: capitals, and any in brackets. The article "A" and the pronoun "I",
    which a word follows, are none."""
    found = {letter.upper() for letter in _BRACKETED.findall(plain)}
    for match in _STANDALONE.finditer(plain):
        if match[1] in "AI" and _WORD_AFTER.match(plain, match.end()):
            continue
        found.add(match[1])
    return {letter for letter in found if _index(letter, count) is not None}
