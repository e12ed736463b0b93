"""What `timed_ways` measures with: a clock for parts of a call, and a retriever that keeps its index."""

from __future__ import annotations

import copy
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from loramem.retrieval import Retrieval
from loramem.retrieval.chunks import chunk_records
from loramem.retrieval.embed import Embedder, load_embedder
from loramem.retrieval.search import Found, nearest_by_cosine
from loramem.sources.types import Document, Probe


class Clock:
    """Seconds by part. A part within another counts for itself alone, and an accelerator is waited for at every edge."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.tokens = 0
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def _lap(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


class Finder:
    """Passages out of an index that is made once; finds what `retrieval.search` finds."""

    def __init__(
        self, retrieval: Retrieval, documents: Sequence[Document], count_tokens: Callable[[str], int]
    ):
        self.retrieval = retrieval
        # a copy that remembers its texts only: no question is known before it is asked
        self.embedder = fresh(load_embedder(retrieval.embedder))
        limits = [(count_tokens, retrieval.chunk_tokens), (self.embedder.count, self.embedder.window)]
        self.chunks = chunk_records(documents, limits)
        self.home = {case: number for number, chunk in enumerate(self.chunks) for case in chunk.cases}
        self.k = min(retrieval.passages_k, len(self.chunks))
        texts = [chunk.text for chunk in self.chunks]
        if retrieval.method == "embedding":
            self.texts_CD = self.embedder.embed(texts)
        elif retrieval.method == "bm25":
            import bm25s
            import Stemmer

            self.options = {
                "stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False
            }  # fmt: skip
            self.index = bm25s.BM25()
            self.index.index(bm25s.tokenize(texts, **self.options), show_progress=False)

    def find(self, probes: Sequence[Probe]) -> list[Found]:
        """The passages of every probe, in order."""
        best_QK = self._best([probe.prompt for probe in probes], probes)
        return [
            Found(tuple(self.chunks[i] for i in best), self.home[probe.case] in best)
            for probe, best in zip(probes, best_QK, strict=True)
        ]

    def _best(self, queries: list[str], probes: Sequence[Probe]) -> list[list[int]]:
        if self.retrieval.method == "gold":
            return [[self.home[probe.case]] for probe in probes]
        if self.retrieval.method == "embedding":
            asked_QD = fresh(self.embedder).embed(queries, queries=True)
            return nearest_by_cosine(self.texts_CD, asked_QD, self.k).tolist()
        import bm25s

        found = []
        for words in bm25s.tokenize(queries, return_ids=False, **self.options):
            known = [word for word in words if word in self.index.vocab_dict]
            scores_C = self.index.get_scores(known) if known else np.zeros(len(self.chunks), np.float32)
            found.append(np.argsort(-scores_C, kind="stable")[: self.k].tolist())
        return found


def fresh(embedder: Embedder) -> Embedder:
    """The same embedder with nothing remembered."""
    found = copy.copy(embedder)
    found._known = {}
    return found
