"""Scores of a generated answer against a gold answer, and the words of a text, by which texts are compared."""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_ASCII_WORD = re.compile("[a-z0-9]+")
_NO_SPACES = re.compile(
    "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Kana and Han characters: their texts have no spaces, so each character is a word."""
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Variation selectors: they choose a glyph, and are no part of a word."""


def exact_match_digits(prediction: str, gold: str) -> float:
    """1.0 if the digits of the prediction are exactly the digits of the gold answer, else 0.0.

    Separators do not count; a digit too many or too few does, so a prediction with two numbers is wrong.

    >>> exact_match_digits("(603) 556-7631", "603-556-7631"), exact_match_digits("603-556-76312", "603-556-7631")
    (1.0, 0.0)
    """
    digits = re.sub(r"\D", "", prediction)
    return float(bool(digits) and digits == re.sub(r"\D", "", gold))


def normalise(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (SQuAD's rule, Rajpurkar et al. 2016).

    >>> normalise("The  Plum-Soup!")
    'plumsoup'
    """
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(_ARTICLES.sub(" ", plain).split())


def exact_match(prediction: str, gold: str) -> float:
    """1.0 if both are equal after `normalise`; an empty prediction never matches.

    >>> exact_match("Violin.", "the violin"), exact_match("", "the")
    (1.0, 0.0)
    """
    return float(bool(prediction.strip()) and normalise(prediction) == normalise(gold))


def token_f1(prediction: str, gold: str) -> float:
    """Harmonic mean of precision and recall over normalised tokens; 0.0 if either has none.

    >>> token_f1("smoked trout pie", "trout pie")
    0.8
    """
    given, wanted = normalise(prediction).split(), normalise(gold).split()
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


class _Parting(dict[int, str]):
    """What a character is among words: itself, a word of its own, or a gap. Found out once for each."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        kept = character if unicodedata.category(character)[0] in "LMN" else " "
        self[code] = f" {character} " if _NO_SPACES.match(character) else kept
        return self[code]


_PARTING = _Parting()


def words(text: str) -> list[str]:
    """The words of a text in a form that hides case, punctuation, white space and Unicode's several spellings.

    Compatibility forms (ligatures, full-width letters) are the plain ones, case is folded, characters that cannot be seen
    (soft hyphens, joiners) are dropped, and whatever is no letter, mark or digit parts words; so `C++` and `C` are the same
    word, and `-5` and `5`. Every Han or kana character is a word; Thai and other scripts without spaces stay unparted.

    >>> words("Zoë’s  PLUM-soup, 603-556;"), words("東京 ﬁn")
    (['zoë', 's', 'plum', 'soup', '603', '556'], ['東', '京', 'fin'])
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    text = _folded(text).translate(_PARTING)
    return [word for word in text.split() if any(map(str.isalnum, word))]


def same(text: str) -> str:
    """A string that two texts share if, and only if, they have the same `words`; of a text without any, what else is in it.

    >>> same("Who is  Zoë?") == same("who is ZOË"), same("?!") == same("🙂"), same(" ")
    (True, False, '')
    """
    return " ".join(words(text)) or " ".join(_folded(text).split())


def visible(text: str) -> str:
    """A text without what cannot be seen: soft hyphens, joiners, marks of direction, variation selectors."""
    if text.isascii():
        return text
    return _SELECTORS.sub("", "".join(c for c in text if c.isascii() or unicodedata.category(c) != "Cf"))


def _folded(text: str) -> str:
    """Compatibility caseless form (Unicode, definition D146), composed."""
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFD", visible(text)).casefold()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
