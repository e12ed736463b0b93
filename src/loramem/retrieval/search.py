"""Search: the best chunks for every query, by BM25, by embedding, or by knowing the answer (`gold`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from loramem.core.config import Config
from loramem.retrieval.chunks import Chunk, Limit, chunk_records
from loramem.retrieval.embed import OFFLINE, load_embedder
from loramem.sources.types import OUTSIDE, Document, Probe

METHODS = ("bm25", "embedding")


class Retrieval(Config):
    """How passages are cut and found."""

    method: Literal["bm25", "embedding", "gold"] = "bm25"
    """`gold`: the chunk that holds the record asked about; the upper bound of every retriever."""
    passages_k: Annotated[int, Field(ge=1)] = 3
    """Chunks put into the context (`gold`: one)."""
    chunk_tokens: Annotated[int, Field(ge=1)] = 512
    """Most tokens of a chunk, in tokens of the base; the embedder's window is kept as well."""
    embedder: str = OFFLINE
    """`minilm` (offline), a folder, or a hub id."""

    @property
    def label(self) -> str:
        """How passages are found, in a word.

        >>> Retrieval(method="bm25").label, Retrieval(method="embedding").label
        ('bm25', 'minilm')
        """
        return Path(self.embedder).name.lower() if self.method == "embedding" else self.method

    def describe(self) -> dict:
        """What decides the passages; the embedder by its weights, since every method keeps its window."""
        return {**self.model_dump(mode="json"), "embedder": load_embedder(self.embedder).fingerprint}


@dataclass(frozen=True)
class Found:
    """What a query found.

    Attributes:
        chunks: Best first; joined in this order in the context.
        hit: The chunk of the record asked about is among them.
    """

    chunks: tuple[Chunk, ...]
    hit: bool

    @property
    def text(self) -> str:
        return "\n".join(chunk.text for chunk in self.chunks)


def search(
    retrieval: Retrieval,
    documents: Sequence[Document],
    probes: Sequence[Probe],
    count_tokens: Callable[[str], int],
) -> list[Found]:
    """The passages of every probe, in order; the query is the probe's prompt. A probe about nothing the source holds
    (`OUTSIDE`) hits nothing, and to `gold` there is no passage for it."""
    limits: list[Limit] = [(count_tokens, retrieval.chunk_tokens)]
    embedder = load_embedder(retrieval.embedder)
    limits.append(
        (embedder.count, embedder.window)
    )  # the same chunks for every method, so they can be compared
    chunks = chunk_records(documents, limits)
    home = {case: number for number, chunk in enumerate(chunks) for case in chunk.cases}
    if retrieval.method == "gold":
        return [
            Found((), False) if probe.phrasing in OUTSIDE else Found((chunks[home[probe.case]],), True)
            for probe in probes
        ]
    queries = [probe.prompt for probe in probes]
    distinct = list(dict.fromkeys(queries))
    k = min(retrieval.passages_k, len(chunks))
    texts = [chunk.text for chunk in chunks]
    if retrieval.method == "bm25":
        best_QK = bm25(texts, distinct, k)
    else:
        best_QK = nearest_by_cosine(embedder.embed(texts), embedder.embed(distinct, queries=True), k)
    row_of = {query: row for row, query in enumerate(distinct)}
    found = []
    for probe in probes:
        best = [int(i) for i in best_QK[row_of[probe.prompt]]]
        hit = probe.phrasing not in OUTSIDE and home[probe.case] in best
        found.append(Found(tuple(chunks[i] for i in best), hit))
    return found


def bm25(texts: Sequence[str], queries: Sequence[str], k: int) -> NDArray[np.int64]:
    """Indices of the k best texts per query, `[queries, k]` (Lucene's BM25, English stems; ties by position)."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")
    options = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts), **options), show_progress=False)
    scores_QC = np.stack(
        [
            _scores(index, words, len(texts))
            for words in bm25s.tokenize(list(queries), return_ids=False, **options)
        ]
    )
    return np.argsort(-scores_QC, axis=1, kind="stable")[:, :k]


def _scores(index, words: list[str], count: int) -> NDArray[np.float32]:
    known = [word for word in words if word in index.vocab_dict]
    return index.get_scores(known) if known else np.zeros(count, np.float32)


def nearest_by_cosine(
    texts_CD: NDArray[np.float32], queries_QD: NDArray[np.float32], k: int
) -> NDArray[np.int64]:
    """Indices of the k nearest rows per query, `[queries, k]`; exact, unit vectors, ties by position."""
    return np.argsort(-(queries_QD @ texts_CD.T), axis=1, kind="stable")[:, :k]
