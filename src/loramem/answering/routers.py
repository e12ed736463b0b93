"""Routers: which modules of a pool should answer a question?

A router gives every module a score; `route` turns scores into a ranking, shares of confidence, and the modules that are used. All of the
pool is ranked (PITFALLS 31: never the gold document's own chunks alone), a router is told the question's words and no more (19), and
the right answer is handed to the oracle alone.

Shares are a softmax of scores that are standardised over the pool (mean 0, deviation 1 for each question). The scores of routers are
cosines, word weights, nats and norms: no temperature fits them all, and a constant for each would have to be tuned on
somebody's data. Standardised, a share says how far a module stands out from the others of its pool; a pool of two has no others, so
there it only says which is better. Whether *any* module fits cannot be seen in a comparison within a pool: that is
`confidence`, an absolute number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from loramem.answering.likelihood_routers import Load, Question
from loramem.answering.router_kinds import ROUTERS, Ask, Candidate, Router
from loramem.answering.text_routers import Scores
from loramem.base.model import Base
from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.retrieval.embed import OFFLINE, load_embedder
from loramem.sources.types import Probe

__all__ = ["ROUTERS", "Candidate", "Route", "Router", "Routing", "choose", "route", "shares_of"]

ROUTING_VERSION = 1


class Routing(Config):
    """How modules are chosen."""

    router: str = "embedding"
    """Name in `ROUTERS`."""
    key: Literal["document", "introduction", "summary"] = "document"
    """What stands for a module in routers that read text: all of its text (in pieces that keep the embedder's window; the
    best piece counts), the first piece alone (what the published code embeds), or its summary."""
    top_k: Annotated[int, Field(ge=1)] = 1
    """Modules used, at most; a smaller pool is used whole."""
    adaptive: Annotated[float, Field(gt=0, le=1)] | None = None
    """The fewest modules whose shares add up to this, at most `top_k`; None: `top_k`."""
    none_below: float | None = None
    """Confidence below which no module is used, in the router's own unit; None: always `top_k`."""
    temperature: Annotated[float, Field(gt=0)] = 0.5
    """Of the softmax over standardised scores. At 0.5 one module of fifteen that alone stands out has 99 % of the shares, the best of
    fifteen scores drawn at random about 30 %."""
    shortlist: Annotated[int, Field(ge=1)] = 5
    """Modules that Arrow leaves to SpectR in `lag`."""
    embedder: str = OFFLINE
    """`minilm` (offline), a folder, or a hub id. Every router that reads text keeps its window."""
    seed: int = 0
    """Of `random`, and of the oracle's order after the right modules."""

    @field_validator("router")
    @classmethod
    def _known(cls, value: str) -> str:
        ROUTERS.get(value)
        return value

    @model_validator(mode="after")
    def _of_use(self) -> Routing:
        router = ROUTERS.get(self.router)
        if self.key != "document" and not router.text:
            raise ValueError(f"key {self.key}: router {self.router} reads no text of a module")
        if self.shortlist != type(self).model_fields["shortlist"].default and self.router != "lag":
            raise ValueError(f"shortlist: only router lag has one, not {self.router}")
        return self

    @property
    def label(self) -> str:
        """What ranks the modules, in a word; how many of them are used is not in it.

        >>> Routing().label, Routing(router="hybrid", key="summary").label, Routing(embedder="BAAI/bge-small-en-v1.5").label
        ('embedding', 'hybrid-summary', 'embedding-bge-small-en-v1.5')
        """
        parts = [self.router]
        if ROUTERS.get(self.router).text and self.embedder != OFFLINE:
            parts.append(Path(self.embedder).name.lower())
        if self.key != "document":
            parts.append(self.key)
        if self.shortlist != type(self).model_fields["shortlist"].default:
            parts.append(str(self.shortlist))
        return "-".join(parts)

    def describe(self) -> dict:
        """What decides the routes, for a hash; the embedder by its weights, and nothing that the router does not use."""
        router = ROUTERS.get(self.router)
        used = {"router", "top_k", "adaptive", "none_below", "temperature"}
        used |= {"key"} if router.text else set()
        used |= {"seed"} if router.drawn else set()
        used |= {"shortlist"} if self.router == "lag" else set()
        found = {"routing_version": ROUTING_VERSION, **self.model_dump(mode="json", include=used)}
        if router.text:
            found["embedder"] = load_embedder(self.embedder).fingerprint
        return found


@dataclass(frozen=True)
class Route:
    """Where a question goes.

    Attributes:
        modules: Ids of the modules used, best first; empty: none.
        shares: Share of confidence of each of them, of the softmax over the whole pool (they need not add up to 1).
        confidence: How well any module fits; comparable over questions of one router.
        ranking: All of the pool, best first, as positions in it; equal scores in the order of the pool.
        scores: Of each position of the pool.
    """

    modules: tuple[str, ...]
    shares: tuple[float, ...]
    confidence: float
    ranking: tuple[int, ...]
    scores: tuple[float, ...]


# -- from scores to routes -------------------------------------------------------------------------------------
def shares_of(scores_M: Scores, temperature: float) -> Scores:
    """Softmax of standardised scores, `[M]`; uniform where all scores are equal.

    >>> shares_of(np.array([2.0, 2.0]), 0.5).tolist(), shares_of(np.array([7.0]), 0.5).tolist()
    ([0.5, 0.5], [1.0])
    """
    spread = scores_M.std()
    if spread <= 1e-9 * np.abs(scores_M).max():  # what rounding leaves of equal scores
        return np.full(len(scores_M), 1 / len(scores_M))
    logits_M = (scores_M - scores_M.max()) / (spread * temperature)
    weights_M = np.exp(logits_M)
    return weights_M / weights_M.sum()


def choose(shares_K: Sequence[float], top_k: int, adaptive: float | None) -> int:
    """How many modules are used, given the shares of all, best first.

    >>> choose([0.6, 0.3, 0.1], 3, None), choose([0.6, 0.3, 0.1], 3, 0.7), choose([0.6, 0.3, 0.1], 1, 0.7)
    (3, 2, 1)
    """
    most = min(top_k, len(shares_K))
    if adaptive is None:
        return most
    reached = np.cumsum(shares_K) >= adaptive - 1e-12
    return min(most, int(np.argmax(reached)) + 1 if reached.any() else len(shares_K))


def route(
    base: Base,
    routing: Routing,
    pool: Sequence[Candidate],
    probes: Sequence[Probe],
    *,
    gold: Sequence[frozenset[int]] | None = None,
    load: Load | None = None,
    rows: int = 64,
) -> list[Route]:
    """The route of every probe, in order.

    Args:
        pool: All modules that may answer.
        gold: Positions of the right modules of each probe, for the oracle; no other router is told.
        load: Spec and tensors of a module by its id, for routers that read weights or likelihoods.
        rows: Rows that go through the base at once.

    Raises:
        InputError: an empty pool; a router without what it reads; a text router and a module without text or summary.
    """
    router = ROUTERS.get(routing.router)
    if not pool:
        raise InputError("routing needs a pool of at least one module; this one is empty")
    if router.gold and gold is None:
        raise InputError(f"router {router.name} must be told the right modules (gold) of every probe")
    if (router.weights or router.likelihood) and load is None:
        raise InputError(f"router {router.name} reads the modules' weights; say how to load them (load)")
    if gold is not None:
        _check_gold(gold, pool, probes)
    if not probes:
        return []
    told = [
        Question(
            probe.prompt,
            probe.kind in ("compare", "continue"),
            probe.id if router.drawn else "",
            gold[number] if router.gold and gold is not None else None,
        )
        for number, probe in enumerate(probes)
    ]
    distinct = list(dict.fromkeys(told))
    ask = Ask(base, routing, pool, distinct, load, rows)
    scores_QM = router.score(ask)
    confidence_Q = router.confidence(ask, scores_QM)
    assert scores_QM.shape == (len(distinct), len(pool)) and np.isfinite(scores_QM).all(), router.name
    routes = {
        question: _route(routing, pool, scores_M, float(confidence))
        for question, scores_M, confidence in zip(distinct, scores_QM, confidence_Q, strict=True)
    }
    return [routes[question] for question in told]


def _check_gold(gold: Sequence[frozenset[int]], pool: Sequence[Candidate], probes: Sequence[Probe]) -> None:
    if len(gold) != len(probes):
        raise InputError(f"gold is given for {len(gold)} of {len(probes)} probes")
    for probe, right in zip(probes, gold, strict=True):
        wrong = [position for position in right if not 0 <= position < len(pool)]
        if wrong:
            raise InputError(
                f"gold of probe {probe.id!r}: position {wrong[0]} lies outside the pool of {len(pool)} modules"
            )


def _route(routing: Routing, pool: Sequence[Candidate], scores_M: Scores, confidence: float) -> Route:
    ranking = [int(i) for i in np.argsort(-scores_M, kind="stable")]
    shares_M = shares_of(scores_M, routing.temperature)
    shares = [float(shares_M[i]) for i in ranking]
    none = routing.none_below is not None and confidence < routing.none_below
    count = 0 if none else choose(shares, routing.top_k, routing.adaptive)
    return Route(
        modules=tuple(pool[i].module for i in ranking[:count]),
        shares=tuple(shares[:count]),
        confidence=confidence,
        ranking=tuple(ranking),
        scores=tuple(map(float, scores_M)),
    )
