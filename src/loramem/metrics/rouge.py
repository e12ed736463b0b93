"""Overlap of a generated answer with its references: ROUGE and BLEU, computed by their usual packages.

All scores lie between 0 and 1; an empty prediction scores 0. Where they differ from published numbers:

- ROUGE (Lin 2004) by `rouge-score`: F1, Porter's stemmer on, as in the usual scripts for NarrativeQA. With several references
  the one that is matched best counts. `rougeL` takes a text as one sequence of words; `rougeLsum` (which summaries are
  scored with) cuts it at line breaks first and would differ only where an answer has several lines.
- The package's own tokenizer keeps a-z and 0-9 and drops every other letter: a Greek answer has no words and scores 0
  whatever it says. Ours keeps the letters, marks and digits of all scripts. On ASCII text both are the same (tested).
- BLEU (Papineni et al. 2002) by `sacrebleu`: of one sentence, effective order (an answer of two words is scored on one and
  two words), signature `case:mixed|eff:yes|tok:13a|smooth:exp`. References count together: an n-gram is right if any of
  them has it. Published NarrativeQA numbers are mostly BLEU-1 and BLEU-4 over lower-cased texts of a whole test set: these
  are not them. 13a parts words at spaces and ASCII marks only, so a Chinese sentence is one word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

Rouge = Literal["rouge1", "rouge2", "rougeL"]
_NO_SPACES = re.compile(
    "([\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])"
)
"""Kana and Han characters: their texts have no spaces, so each character is a word."""


class UnicodeWords:
    """Tokenizer for `rouge-score` that keeps the words of all scripts.

    As in the package: lower case, whatever is no letter or digit parts words, words of more than three characters are
    stemmed. Beyond it: letters, marks and digits of every script are kept, compatibility forms (ligatures, full-width
    letters) are the plain ones, every Han or kana character is a word of its own, and only ASCII words are stemmed, since
    the stemmer knows English only. Thai and other scripts without spaces stay unparted.

    >>> UnicodeWords().tokenize("Zoë's houses, Москва; 東京")
    ['zoë', 's', 'hous', 'москва', '東', '京']
    """

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self.stem = lru_cache(maxsize=1 << 16)(PorterStemmer().stem)

    def tokenize(self, text: str) -> list[str]:
        if not text.isascii():
            text = unicodedata.normalize("NFKC", text)
        kept = "".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.lower())
        if not kept.isascii():
            kept = _NO_SPACES.sub(r" \1 ", kept)
        words = (word for word in kept.split() if any(map(str.isalnum, word)))
        return [self.stem(word) if len(word) > 3 and word.isascii() else word for word in words]


@cache
def _scorer(kind: Rouge) -> RougeScorer:
    """Made once: the package takes seconds to load."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([kind], tokenizer=UnicodeWords())


@cache
def _bleu() -> BLEU:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True)


def rouge(prediction: str, references: Sequence[str], kind: Rouge) -> float:
    """F1 of the best matched reference: over words (`rouge1`), pairs of words (`rouge2`), or the longest common
    subsequence of words (`rougeL`). 0.0 where either side has no word, or for `rouge2` fewer than two.

    >>> rouge("a smoked trout pie", ["eel pie", "the trout pie"], "rougeL")
    0.5714285714285715
    """
    return float(_scorer(kind).score_multi(list(references), prediction)[kind].fmeasure)


def bleu(prediction: str, references: Sequence[str]) -> float:
    """Sentence BLEU with all references at once, divided by 100.

    >>> round(bleu("the cat sat", ["the cat sat down"]), 4)
    0.7165
    """
    return min(1.0, _bleu().sentence_score(prediction, list(references)).score / 100)
