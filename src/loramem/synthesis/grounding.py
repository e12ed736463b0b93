"""Grounding: is what a generated example says found in its document?

A check of words, with no model. It finds the values, names and numbers that a generator made up, and what it cannot see is:

- relations: an answer whose words all stand in the text is grounded, though the text says them of something else, or says
  the opposite; nor is the question itself checked;
- other words for the same thing ("French" for "France", "7" for a count nobody states, "May 1" for "05-01") look made up;
  numbers up to twelve in English words are known;
- names are known by their capitals: in scripts without them only numbers and the share of words are left, in German every
  noun is a name. The first word of a sentence is taken for a name only if another capitalised word follows it, or a capital
  stands inside it. Stop words are English.

`yes` and `no` cannot be judged by words at all: such answers are `unknown` and counted apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from loramem.metrics.text import visible, words

Verdict = Literal["grounded", "ungrounded", "unknown"]
# fmt: off
STOP_WORDS = frozenset(words(
    "a about above according across after again against all along also although am among an and another any are around as ask at be because been before behind being below besides between beyond both but by "
    "can could despite did do does doing down during each either else every except few for from further had has have having he hence her here hers herself him himself his how however i if in indeed instead into is it its itself "
    "just later like many may me meanwhile might more moreover most much must my myself near neither nor not now of off on once one only or other our ours out over own per perhaps please quite rather s same several shall she should since so some still such "
    "t than that the their theirs them themselves then there therefore these they this those though through throughout thus to today together too toward towards under unless unlike until up upon us very via was we were what when whenever where whereas whether which while who whom whose why will with within without would yet you your yours"
))
# fmt: on
VERDICTS = frozenset(("yes", "no", "true", "false"))
"""Words that judge a question and say nothing themselves."""
_IN_WORDS = {
    str(value): word
    for value, word in enumerate(words("zero one two three four five six seven eight nine ten eleven twelve"))
}
_IN_DIGITS = {word: value for value, word in _IN_WORDS.items()}
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_THOUSANDS = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_LETTERS = r"(?:[^\W_]|[\u0300-\u036f])+"
_TOKEN = re.compile(rf"[^\W_]{_LETTERS}(?:['’]{_LETTERS})?|[^\W_]")
_ENDS_SENTENCE = re.compile(r"(?:^|[!?:;\n•]|[^\W_]{3}[.…]|[\])\"'”’»][.…])[\"'“”‘’«»()\[\]\s*•-]*$")


@dataclass(frozen=True)
class Grounding:
    """What of an answer the text bears out.

    Attributes:
        verbatim: The answer's words stand in the text, in a row.
        support: Share of the answer's content words, names and numbers that the text has; 0 where there are none.
        missing: Its numbers and names that the text does not have.
    """

    verdict: Verdict
    verbatim: bool
    support: float
    missing: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing speaks against it."""
        return self.verdict != "ungrounded"


def grounded(question: str, answer: str, text: str, *, least: float = 0.5) -> Grounding:
    """Whether a text bears out an answer: it has all numbers and names of it, and `least` of its content.

    Names that the question has need not stand in the text; numbers must.

    >>> grounded("Where did Ada live?", "She lived in Rellin.", "Ada Lorn moved to Rellin in 1923.").verdict
    'grounded'
    >>> grounded("When did Ada move?", "In 1932.", "Ada Lorn moved to Rellin in 1923.").missing
    ('1932',)
    """
    held = _read(text)
    said = words(answer)
    verbatim = bool(said) and f" {' '.join(said)} " in held.joined
    content = {
        word for word in said if word not in STOP_WORDS and word not in VERDICTS and not _is_number(word)
    }
    numbers = list(dict.fromkeys(_numbers(answer)))
    if not content and not numbers:
        return Grounding("unknown", verbatim, 0.0)
    found = sum(held.has(word) for word in content) + sum(held.has_number(number) for number in numbers)
    support = found / (len(content) + len(numbers))
    asked = set(words(question))
    missing = [number for number in numbers if not held.has_number(number)]
    missing += [name for name in names(answer) if name not in asked and not held.has(name)]
    verdict: Verdict = "ungrounded" if missing or support < least else "grounded"
    return Grounding(verdict, verbatim, support, tuple(missing))


def names(text: str) -> list[str]:
    """The capitalised words of a text in folded form, each once; those at the beginning of a sentence only if they look
    like names there too.

    >>> names("Former mayor Ada Lorn's NASA. Both met Bela. Cid Orr left.")
    ['ada', 'lorn', 'nasa', 'bela', 'cid', 'orr']
    """
    text = unicodedata.normalize("NFKC", visible(text))
    tokens = list(_TOKEN.finditer(text))
    found: dict[str, None] = {}
    for place, token in enumerate(tokens):
        word = token[0]
        if not any(map(str.isupper, word)):
            continue
        inner = any(map(str.isupper, word[1:])) and len(word) > 1
        if not inner and _ENDS_SENTENCE.search(text[max(0, token.start() - 20) : token.start()]):
            after = tokens[place + 1] if place + 1 < len(tokens) else None
            between = text[token.end() : after.start()] if after else "."
            if not after or not after[0][0].isupper() or between.strip() not in ("", ",", "-", "&"):
                continue
        for part in words(word):
            if len(part) > 1 and part not in STOP_WORDS and part not in VERDICTS and not _is_number(part):
                found[part] = None
    return list(found)


@dataclass(frozen=True)
class _Held:
    """A text, ready to be asked what it has: words in a row and each, numbers in a row and each."""

    joined: str
    words: frozenset[str]
    row: str
    numbers: frozenset[str]

    def has(self, word: str) -> bool:
        """The word, its singular or plural, or the digits of a small number."""
        forms = (word, f"{word}s", word.removesuffix("s"))
        return any(form in self.words for form in forms) or _IN_DIGITS.get(word) in self.numbers

    def has_number(self, number: str) -> bool:
        """The number, its parts one after the other (a telephone number), or a small one in words."""
        if number in self.numbers or _IN_WORDS.get(number) in self.words:
            return True
        parts = number.split()
        return len(parts) > 1 and self.numbers.issuperset(parts) and f" {number} " in self.row


@lru_cache(maxsize=16)
def _read(text: str) -> _Held:
    """Kept for the latest texts: many examples in a row are of one document."""
    own, numbers = words(text), list(_numbers(text))
    row = " ".join(numbers)
    return _Held(f" {' '.join(own)} ", frozenset(own), f" {row} ", frozenset([*numbers, *row.split()]))


def _numbers(text: str) -> Iterator[str]:
    """The numbers of a text as digits: without thousands separators, the parts of one with others inside parted by spaces.

    >>> list(_numbers("1,250 of 603-556-7631, 3.5 in 1990"))
    ['1250', '603 556 7631', '3.5', '1990']
    """
    text = unicodedata.normalize("NFKC", visible(text))
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    for match in _NUMBER.finditer(text):
        parts = re.split("[:/-]", match[0])
        plain = [
            part.replace(",", "") if _THOUSANDS.fullmatch(part) else part.replace(",", " ") for part in parts
        ]
        yield " ".join(plain)


def _is_number(word: str) -> bool:
    """Whether a word is a number or begins with one (`1990s`)."""
    return word[0].isdigit()
