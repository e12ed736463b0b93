"""Scores of a generated answer against a gold answer."""

from __future__ import annotations

import re
import string
from collections import Counter

_ARTICLES = re.compile(r"\b(a|an|the)\b")


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
