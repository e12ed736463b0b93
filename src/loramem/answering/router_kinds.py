"""The routers: each a name and a function that scores every module of a pool on every question.

A router is given what it says it reads. Ids of probes go to those that draw by them, the right modules to the oracle alone, so
that no other can look at them (PITFALLS 19).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loramem.answering.likelihood_routers import Load, Question, gains
from loramem.answering.text_routers import Scores, bm25_scores, embedding_scores, fuse, pieces_of
from loramem.answering.weight_routers import shortlist, spectral_scores
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.core.registry import Registry

if TYPE_CHECKING:
    from loramem.answering.routers import Routing


@dataclass(frozen=True)
class Candidate:
    """One module of the pool.

    Attributes:
        module: Its id in the store.
        part: A readable name of what it learnt, e.g. a document's id.
        text: The text it learnt.
        summary: Its summary, where there is one.
    """

    module: str
    part: str
    text: str
    summary: str = ""


@dataclass(frozen=True)
class Ask:
    """What a router may read.

    Attributes:
        questions: Distinct, unless the router draws by probe; without id and gold unless it says that it reads them.
        load: Spec and tensors of a module by its id, where there are any.
    """

    base: Base
    routing: Routing
    pool: Sequence[Candidate]
    questions: Sequence[Question]
    load: Load | None
    rows: int

    @property
    def texts(self) -> list[tuple[str, ...]]:
        """The pieces that stand for each module. Raises `InputError` where there is no text, naming the part."""
        key, found = self.routing.key, []
        for one in self.pool:
            text = one.summary if key == "summary" else one.text
            if not text.strip():
                missing = "summary" if key == "summary" else "text"
                raise InputError(
                    f"module of {one.part!r} has no {missing} to be routed by (router {self.routing.router}, key {key})"
                )
            pieces = pieces_of(text, self.routing.embedder)
            found.append(pieces[:1] if key == "introduction" else pieces)
        return found

    @property
    def prompts(self) -> list[str]:
        return [question.prompt for question in self.questions]

    def by_module(self, score: Callable[[list[str], Load], Scores]) -> Scores:
        """Scores of the pool's modules, each computed once however often it stands in the pool: equal modules tie."""
        assert self.load is not None, "checked by route"
        ids = list(dict.fromkeys(one.module for one in self.pool))
        return score(ids, self.load)[..., [ids.index(one.module) for one in self.pool]]


def _best(ask: Ask, scores_QM: Scores) -> Scores:
    return scores_QM.max(1)


@dataclass(frozen=True)
class Router:
    """A way to score modules.

    Attributes:
        score: Higher is better, `[questions, modules]`.
        confidence: `[questions]`, from the scores; by default the best one.
        text, weights, likelihood: It reads the modules' texts; their weights (with the base's hidden states); the base's
            answers with each of them on.
        drawn, gold: It is told the probe's id (to draw by); the right modules.
    """

    name: str
    summary: str
    score: Callable[[Ask], Scores]
    confidence: Callable[[Ask, Scores], Scores] = _best
    text: bool = False
    weights: bool = False
    likelihood: bool = False
    drawn: bool = False
    gold: bool = False


# -- the routers -----------------------------------------------------------------------------------------------
def _drawn(ask: Ask) -> Scores:
    """A number in [0, 1) for each module by (seed, probe), whatever the order of the pool: the last one is for no module."""
    order = sorted(range(len(ask.pool)), key=lambda i: (ask.pool[i].module, ask.pool[i].part))
    drawn_QM = np.empty((len(ask.questions), len(ask.pool) + 1))
    for row, question in enumerate(ask.questions):
        rng = np.random.default_rng(seed_from("route", ask.routing.seed, question.id))
        drawn_QM[row, [*order, -1]] = rng.random(len(order) + 1)
    return drawn_QM


def _oracle(ask: Ask) -> Scores:
    """1 for right modules, below 0.001 for the others; its confidence is 1 or 0. Raises `InputError` where a question has none, unless it may go to none."""
    scores_QM = _drawn(ask)[:, :-1] * 1e-3
    for row, question in enumerate(ask.questions):
        if not question.gold and ask.routing.none_below is None:
            raise InputError(
                f"router oracle: no module of the pool is right for probe {question.id!r}; with none_below (say 0.5) such a question goes to no module"
            )
        scores_QM[row, sorted(question.gold or ())] = 1.0
    return scores_QM


def _told(_: Ask, scores_QM: Scores) -> Scores:
    """1 where some module is right, else 0."""
    return (scores_QM.max(1) == 1).astype(float)


def _embedding(ask: Ask) -> Scores:
    return embedding_scores(ask.texts, ask.prompts, ask.routing.embedder)


def _bm25(ask: Ask) -> Scores:
    return bm25_scores(ask.texts, ask.prompts)


def _fused_confidence(ask: Ask, scores_QM: Scores) -> Scores:
    """Cosine of the module that came first: ranks alone never say that nothing fits."""
    first_Q1 = np.argmax(scores_QM, axis=1)[:, None]
    return np.take_along_axis(_embedding(ask), first_Q1, axis=1)[:, 0]


def _perplexity(ask: Ask) -> Scores:
    return ask.by_module(lambda ids, load: gains(ask.base, ask.questions, ids, load, rows=ask.rows))


def _spectral(ask: Ask) -> Scores:
    """Arrow's and SpectR's scores, `[2, Q, M]`."""
    return ask.by_module(
        lambda ids, load: np.stack(spectral_scores(ask.base, ask.questions, ids, load, rows=ask.rows))
    )


def _lag(ask: Ask) -> Scores:
    arrow_QM, spectr_QM = _spectral(ask)
    return shortlist(arrow_QM, spectr_QM, ask.routing.shortlist)


ROUTERS: Registry[Router] = Registry("router")
for _router in (
    Router("oracle", "the right module: what routing costs is measured against it", _oracle, _told, drawn=True, gold=True),
    Router(
        "random", "any module: the control", lambda ask: _drawn(ask)[:, :-1], lambda ask, _: _drawn(ask)[:, -1], drawn=True
    ),
    Router("embedding", "cosine of question and text", _embedding, text=True),
    Router("bm25", "words that question and text share", _bm25, text=True),
    Router(
        "hybrid", "reciprocal rank fusion of both", lambda ask: fuse(_embedding(ask), _bm25(ask)), _fused_confidence, text=True
    ),
    Router("perplexity", "likelihood of the question under the module, less the base's", _perplexity, likelihood=True),
    Router("arrow", "question along the update's largest direction", lambda ask: _spectral(ask)[0], weights=True),
    Router("spectr", "size of the change the update makes", lambda ask: _spectral(ask)[1], weights=True),
    Router("lag", "Arrow's short list, ordered by SpectR", _lag, weights=True),
):  # fmt: skip
    ROUTERS.add(_router.name, _router)
