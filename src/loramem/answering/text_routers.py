"""Routing by text: which module's text is most like the question?

The text of a module is cut into pieces that keep the embedder's window, so that no word of it goes unread (PITFALLS 22, 46),
and its best piece counts. The pieces are the same for every router, so that they can be compared. The query is the
question's own words and nothing else (PITFALLS 19).

Embedding: cosine, as the paper routes (arXiv 2603.01097, appendix). BM25: Robertson and Zaragoza 2009, in Lucene's
form. Reciprocal rank fusion: Cormack, Clarke and Buettcher 2009, constant 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from loramem.retrieval.embed import Embedder, load_embedder
from loramem.sources.text import pack, pieces, strip

Scores = NDArray[np.float64]
PASSAGE_TOKENS = 512
"""Most tokens of a piece by the embedder's count, however long its window is: one passage of retrieval."""
FUSION = 60
"""Constant of reciprocal rank fusion."""
DIGITS = 9
"""Decimals of a cosine: a product of matrices rounds differently from column to column, and equal texts must tie."""


@lru_cache(maxsize=8192)
def pieces_of(text: str, embedder: str, *, query: bool = False) -> tuple[str, ...]:
    """`text` in pieces of whole sentences where possible, each within the embedder's window and `PASSAGE_TOKENS`.

    Nothing but white space is lost. A query is counted with the instruction that the embedder puts before it.
    """
    model = load_embedder(embedder)
    lead, most = model.instruction if query else "", min(model.window, PASSAGE_TOKENS)

    def count(part: str) -> int:
        return model.count(lead + part)

    found = pieces(text, strip(text, 0, len(text)), count, most, break_words=True)
    # the rest of one long sentence and the sentence after it may still fit together
    spans = pack(found, lambda start, end: count(text[start:end]) <= most)
    return tuple(text[start:end] for start, end in spans)


def best_of(scores_QC: Scores, owner_C: NDArray[np.int64], groups: int) -> Scores:
    """The best score within each group of columns, `[Q, groups]`; every group has a column.

    >>> best_of(np.array([[1.0, 5.0, 2.0]]), np.array([0, 0, 1]), 2).tolist()
    [[5.0, 2.0]]
    """
    best_QM = np.full((len(scores_QC), groups), -np.inf)
    for column, group in enumerate(owner_C):
        np.maximum(best_QM[:, group], scores_QC[:, column], out=best_QM[:, group])
    assert np.isfinite(best_QM).all(), "a module without a piece"
    return best_QM


def embedding_scores(texts_M: Sequence[Sequence[str]], queries: Sequence[str], embedder: str) -> Scores:
    """Cosine of each query to the best piece of each module, `[Q, M]`.

    A query beyond the window is cut as well: each of its pieces looks for its own best piece, and their mean counts.

    Args:
        texts_M: The pieces of each module.
    """
    model: Embedder = load_embedder(embedder)
    owner_C = np.repeat(np.arange(len(texts_M)), [len(own) for own in texts_M])
    texts_CD = model.embed([piece for own in texts_M for piece in own]).astype(np.float64)
    parts_Q = [pieces_of(query, embedder, query=True) for query in queries]
    asked_PD = model.embed([part for parts in parts_Q for part in parts], queries=True).astype(np.float64)
    best_PM = best_of(asked_PD @ texts_CD.T, owner_C, len(texts_M))
    starts_Q = np.cumsum([0, *(len(parts) for parts in parts_Q)])[:-1]
    counts_Q = np.array([[len(parts)] for parts in parts_Q])
    return np.round(np.add.reduceat(best_PM, starts_Q, axis=0) / counts_Q, DIGITS)


def bm25_scores(texts_M: Sequence[Sequence[str]], queries: Sequence[str]) -> Scores:
    """BM25 of each query against the best piece of each module, over the query's number of words, `[Q, M]`.

    English stems without stop words; a word that no piece has counts as a word with score 0. The division changes no
    order and makes short and long questions comparable, and one of foreign words low.
    """
    import bm25s
    import Stemmer

    options = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    texts_C = [piece for own in texts_M for piece in own]
    owner_C = np.repeat(np.arange(len(texts_M)), [len(own) for own in texts_M])
    words_Q = bm25s.tokenize(list(queries), return_ids=False, **options)
    scores_QC = np.zeros((len(queries), len(texts_C)))
    if any(bm25s.tokenize(texts_C, return_ids=False, **options)):  # stop words alone cannot be indexed
        index = bm25s.BM25()
        index.index(bm25s.tokenize(texts_C, **options), show_progress=False)
        for row, words in enumerate(words_Q):
            known = [word for word in words if word in index.vocab_dict]
            if known:
                scores_QC[row] = index.get_scores(known)
    lengths_Q1 = np.array([[max(1, len(words))] for words in words_Q])
    return np.round(best_of(scores_QC, owner_C, len(texts_M)) / lengths_Q1, DIGITS)


def fuse(*scores_QM: Scores) -> Scores:
    """Reciprocal rank fusion: sum over rankings of 1 / (60 + rank), `[Q, M]`.

    Modules with equal scores share the mean of the ranks they take up, so that a router that sees no difference (BM25
    without a common word) adds none and the order of the pool plays no part. The paper breaks no ties.

    >>> fuse(np.array([[3.0, 1.0]]), np.array([[0.0, 0.0]])).round(5).tolist()
    [[0.03265, 0.03239]]
    """
    return sum(
        (1 / (FUSION + rankdata(-scores, method="average", axis=1)) for scores in scores_QM),
        start=np.zeros(scores_QM[0].shape),
    )
