"""How modules are asked (`asking`): the reading and its parts, what of them makes sense where nobody knows the answer, and when a
question counts as not in memory."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator, model_validator

from loramem.answering.readings import STEMS, context_name
from loramem.answering.routers import ROUTERS, Routing
from loramem.core.config import Config, parse
from loramem.core.errors import Faults, nearest
from loramem.modules.merged import Merging
from loramem.retrieval import Retrieval
from loramem.retrieval.embed import OFFLINE

READINGS = tuple(
    name
    for name in STEMS
    if not STEMS.get(name).control and context_name(name) not in ("gold-passage", "gold-summary")
)
"""What can be asked: neither controls nor what only a study knows."""
ANY = 1e-9
"""The smallest confidence above 0: scores of text are rounded to nine decimals."""
NONE_BELOW: dict[tuple[str, str], float] = {
    ("bm25", "document"): ANY,
    ("bm25", "introduction"): ANY,
    ("embedding", "document"): 0.32,
    ("embedding", "introduction"): 0.28,
    ("perplexity", "document"): ANY,
}
"""(router, key): confidence below which a question is not in memory. BM25: no word in common with any module. Embedding: keeps 95 %
of questions about what modules learnt (docs/routing.md); of the offline embedder only, for every embedder has cosines of its
own. Perplexity: no module expects the question more than the base does. Other routers have none."""
MERGED_TOP_K = 3
"""Modules that `merged` takes where no number is given (the paper's)."""


class Asking(Config):
    """How questions are asked."""

    reading: str | None = None
    """A name in `READINGS`; None: `module` for one module (without a router), `routed` for several."""
    routing: Routing | None = None
    """How modules are chosen, in `routed` and `merged`; without `none_below` the router's own threshold (`NONE_BELOW`) holds."""
    merging: Merging | None = None
    """How they become one, in `merged`."""
    retrieval: Retrieval | None = None
    """How passages are found, in readings with `+rag`."""
    always: bool = False
    """Every question is answered, however little any module fits."""

    @field_validator("reading")
    @classmethod
    def _askable(cls, value: str | None) -> str | None:
        if value is not None and value not in READINGS:
            what = "needs what only a study knows" if value in STEMS else "unknown reading"
            raise ValueError(f"{what}; {nearest(value, READINGS)}")
        return value

    @model_validator(mode="after")
    def _fitting(self) -> Asking:
        faults = []
        if self.routing is not None and self.routing.router == "oracle":
            routers = ", ".join(name for name in ROUTERS if name != "oracle")
            faults.append(
                f"router oracle: nobody knows the right module of a question that is asked; allowed: {routers}"
            )
        if self.routing is not None and self.routing.key == "summary":
            faults.append("key summary: modules keep no summary; allowed: document, introduction")
        if self.always and self.routing is not None and self.routing.none_below is not None:
            faults.append(
                f"always and none_below {self.routing.none_below:g} contradict each other; give one"
            )
        if self.retrieval is not None and self.retrieval.method == "gold":
            faults.append("retrieval gold: nobody knows the right passage; allowed: bm25, embedding")
        if self.reading is not None:
            stem = STEMS.get(self.reading)
            if stem.which != "pool" and (self.routing is not None or self.always):
                faults.append(f"reading {stem.name} chooses no module: a router and its threshold belong to routed and merged")  # fmt: skip
            if not stem.merges and self.merging is not None:
                faults.append(f"reading {stem.name} merges nothing: a merge rule belongs to merged")
            if not stem.merges and self.routing is not None and self.routing.top_k > 1:
                faults.append(f"reading {stem.name} uses one module: top_k {self.routing.top_k} belongs to merged")  # fmt: skip
            if stem.context != "passages" and self.retrieval is not None:
                faults.append(f"reading {stem.name} reads no passages: add +rag")
        if faults:
            raise Faults(faults)
        return self

    def settled(self, modules: int) -> Asking:
        """With everything filled in for so many modules.

        >>> Asking().settled(1).reading, Asking().settled(2).routing.none_below, Asking(always=True).settled(2).routing.none_below
        ('module', 0.32, None)
        """
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        name = self.reading
        if name is None:
            name = "routed" if modules > 1 or self.routing is not None or self.always else "module"
        asking = parse(Asking, given | {"reading": name})
        stem = STEMS.get(name)
        filled: dict[str, Any] = {}
        if stem.which == "pool":
            filled["routing"] = _settled(
                asking.routing or Routing(), merges=stem.merges, always=asking.always
            )
        if stem.merges:
            filled["merging"] = asking.merging or Merging()
        if stem.context == "passages":
            filled["retrieval"] = asking.retrieval or Retrieval()
        return asking.model_copy(update=filled)


def _settled(routing: Routing, *, merges: bool, always: bool) -> Routing:
    filled: dict[str, Any] = {}
    if merges and "top_k" not in routing.model_fields_set:
        filled["top_k"] = MERGED_TOP_K
    measured = routing.router != "embedding" or routing.embedder == OFFLINE
    if not always and routing.none_below is None and measured:
        filled["none_below"] = NONE_BELOW.get((routing.router, routing.key))
    return routing.model_copy(update=filled)
