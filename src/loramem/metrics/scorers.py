"""The metrics a study can ask for: each scores one prediction of one probe, or says that it failed.

Scores lie beside predictions, so a new metric needs no new reading. A metric names the probes it applies
to; an item that could not be scored is None and is counted (n_failed), never turned into 0.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from loramem.core.registry import Registry
from loramem.metrics import edits, text
from loramem.sources.types import Probe

_PHONE = re.compile(r"\d{3}-\d{3}-\d{4}")


@dataclass(frozen=True)
class Metric:
    """A score of one item in [0, 1].

    Attributes:
        name: As in study files and results.
        kind: Probe kind it applies to.
        phrasings: Probe phrasings it applies to.
        score: (probe, prediction row) -> value, or None for a failed item.
        summary: One line for people.
        derived_from: For a metric of means (no items of its own), the metrics it is made of.
    """

    name: str
    kind: str
    phrasings: tuple[str, ...]
    score: Callable[[Probe, dict], float | None]
    summary: str
    derived_from: tuple[str, ...] = ()

    def applies(self, probe: Probe) -> bool:
        return probe.kind == self.kind and probe.phrasing in self.phrasings and not self.derived_from


def _exact_match(probe: Probe, row: dict) -> float:
    scores = []
    for gold in probe.answers:
        match = text.exact_match_digits if _PHONE.fullmatch(gold) else text.exact_match
        scores.append(match(row["prediction"], gold))
    return max(scores)


def _token_f1(probe: Probe, row: dict) -> float:
    return max(text.token_f1(row["prediction"], gold) for gold in probe.answers)


def _wins(probe: Probe, row: dict) -> float:
    """1 if the target that should win is likelier by mean log-likelihood, one half at a tie."""
    nats = [total / count for total, count in zip(row["sum_nats"], row["tokens"], strict=True)]
    return edits.prefers(nats[probe.gold], nats[1 - probe.gold])


def _generation_match(probe: Probe, row: dict) -> float:
    return float(row["greedy"][0])


def _derived(probe: Probe, row: dict) -> None:
    raise AssertionError("a derived metric has no items")


METRICS: Registry[Metric] = Registry("metric")
for _metric in (
    Metric(
        "exact_match",
        "generate",
        ("trained", "heldout"),
        _exact_match,
        "the answer is the gold answer (digits of a phone number)",
    ),
    Metric("token_f1", "generate", ("trained", "heldout"), _token_f1, "token overlap with the gold answer"),
    Metric("efficacy", "compare", ("trained",), _wins, "the new target is likelier than the true one"),
    Metric("paraphrase", "compare", ("paraphrase",), _wins, "the same, in other words"),
    Metric(
        "neighbourhood",
        "compare",
        ("neighbour",),
        _wins,
        "the true target stays likelier for unedited neighbours",
    ),
    Metric(
        "generation_match", "compare", ("trained",), _generation_match, "greedy decoding gives the new target"
    ),
    Metric(
        "edit_score",
        "compare",
        (),
        _derived,
        "harmonic mean of the three",
        ("efficacy", "paraphrase", "neighbourhood"),
    ),
):
    METRICS.add(_metric.name, _metric)


def score(metric: Metric, probe: Probe, row: dict) -> float | None:
    """The score of one prediction; None where the prediction itself failed."""
    return None if row.get("failure") else metric.score(probe, row)
