"""Free text after an edit: is it fluent, and does it resemble texts about what is now said to be true? (ROME, 3.4)"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence


def ngram_entropy(text: str, n: int) -> float:
    """Shannon entropy (bits) of the distribution of n-grams of words; 0 for a text that repeats one of them.

    >>> ngram_entropy("a b a b a b", 2) < ngram_entropy("a b c d e f", 2)
    True
    """
    words = text.split()
    counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
    total = sum(counts.values())
    return -sum(c / total * math.log2(c / total) for c in counts.values()) + 0.0 if total else 0.0


def fluency(text: str) -> float:
    """Weighted mean of bigram and trigram entropies, weights 2/3 and 4/3, halved (ROME's GE, Meng et al. 2022).

    >>> fluency("one two three four")
    1.1949875002403854
    """
    return (2 / 3 * ngram_entropy(text, 2) + 4 / 3 * ngram_entropy(text, 3)) / 2


def consistency(text: str, references: Sequence[str]) -> float:
    """Cosine of the TF-IDF vectors of a text and its joined references; 0.0 for an empty text (ROME's RS).

    The inverse document frequencies are those of the two texts; ROME fits them on Wikipedia, which is not at hand.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if not text.strip():
        return 0.0
    try:
        rows = TfidfVectorizer(token_pattern=r"(?u)\b\w+\b").fit_transform([text, " ".join(references)])
    except ValueError:  # no word in either
        return 0.0
    return float((rows[0] @ rows[1].T).toarray()[0, 0])
