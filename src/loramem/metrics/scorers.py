"""The metrics a study can ask for: each scores one prediction of one probe, or says that it failed.

Scores lie beside predictions, so a new metric needs no new reading. A metric names the probes it applies
to; an item that could not be scored is None and is counted (n_failed), never turned into 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from loramem.core.registry import Registry
from loramem.metrics import choice, continuation, edits, rouge, stored, text
from loramem.sources.types import Probe

_PHONE = re.compile(r"\d{3}-\d{3}-\d{4}")
Unit = Literal["share", "bits", "nats", "points"]


@dataclass(frozen=True)
class Metric:
    """A score of one item.

    Attributes:
        name: As in study files and results.
        kinds: Probe kinds it applies to.
        phrasings: Probe phrasings it applies to.
        score: (probe, prediction row) -> value, or None for a failed item.
        summary: One line for people.
        derived_from: For a metric of means (no items of its own), the metrics it is made of.
        needs: A key the prediction row must have; readings that do not measure it have no such cell.
        unit: `share` (0 to 1, shown in per cent), `bits`, `nats`, or `points` (no unit).
        total: The value of a cell is the sum over facts, not their mean.
        lower_is_better: For the verdicts people read off a table.
        most: The highest score there can be, for `points` that have one.
    """

    name: str
    kinds: tuple[str, ...]
    phrasings: tuple[str, ...]
    score: Callable[[Probe, dict], float | None]
    summary: str
    derived_from: tuple[str, ...] = ()
    needs: str = ""
    unit: Unit = "share"
    total: bool = False
    lower_is_better: bool = False
    most: float | None = None

    @property
    def highest(self) -> float | None:
        """The highest score of one item; None where there is none. The lowest is then 0."""
        return 1.0 if self.unit == "share" else self.most

    def applies(self, probe: Probe) -> bool:
        if self.derived_from or probe.kind not in self.kinds or probe.phrasing not in self.phrasings:
            return False
        if self.name == "bits_stored":
            return probe.bits is not None
        if self.name in ("accuracy_hard", "accuracy_parsed_hard"):
            return probe.hard
        return bool(probe.answers) if self.name == "consistency" else True

    def measured(self, row: dict) -> bool:
        """Whether the reading measured what this metric needs; a failed row counts as measured, and as failed."""
        return not self.needs or bool(row.get("failure")) or row.get(self.needs) is not None


def _exact_match(probe: Probe, row: dict) -> float:
    scores = []
    for gold in probe.answers:
        match = text.exact_match_digits if _PHONE.fullmatch(gold) else text.exact_match
        scores.append(match(row["prediction"], gold))
    return max(scores)


def _token_f1(probe: Probe, row: dict) -> float:
    return max(text.token_f1(row["prediction"], gold) for gold in probe.answers)


def _rouge(kind: rouge.Rouge) -> Callable[[Probe, dict], float]:
    return lambda probe, row: rouge.rouge(row["prediction"], probe.answers, kind)


def _wins(probe: Probe, row: dict) -> float:
    """1 if the target that should win is likelier by mean log-likelihood, one half at a tie."""
    nats = [total / count for total, count in zip(row["sum_nats"], row["tokens"], strict=True)]
    return edits.prefers(nats[probe.gold], nats[1 - probe.gold])


def _magnitude(probe: Probe, row: dict) -> float:
    """Per-token probability of the target that should win less that of the other (geometric means over tokens)."""
    nats = [total / count for total, count in zip(row["sum_nats"], row["tokens"], strict=True)]
    return math.exp(nats[probe.gold]) - math.exp(nats[1 - probe.gold])


def _accuracy(probe: Probe, row: dict) -> float:
    """1 if the right option is likeliest by mean log-likelihood per token; shared with those it ties with."""
    nats = [total / count for total, count in zip(row["sum_nats"], row["tokens"], strict=True)]
    best = [index for index, value in enumerate(nats) if value == max(nats)]
    return (probe.gold in best) / len(best)


def _letter(probe: Probe, row: dict) -> int | None:
    return choice.parse_letter(row["letter_prediction"], len(probe.answers), probe.answers)


def _accuracy_parsed(probe: Probe, row: dict) -> float:
    """1 if the letter that was said is the right option's; a reply that gives no clear letter is wrong (`parsed` counts them)."""
    return float(_letter(probe, row) == probe.gold)


def _generation_match(probe: Probe, row: dict) -> float:
    return float(row["greedy"][0])


def _negation(probe: Probe, row: dict) -> float:
    """1 if the learnt answer is not given where the question asks for what is not so."""
    return 1.0 - _exact_match(probe, row) if probe.kind == "generate" else _wins(probe, row)


def _ranked(most: int) -> Callable[[Probe, dict], float]:
    """1 if a right module stands among the first `most` of the router's ranking."""
    return lambda probe, row: float(row["gold_rank"] <= most)


def _derived(probe: Probe, row: dict) -> None:
    raise AssertionError("a derived metric has no items")


_BOTH = ("generate", "compare")
_ROUTED = ("generate", "choice", "compare")
_OWN = ("trained", "heldout")
_WORDINGS = ("trained", "heldout", "reverse")
JUDGE = "judge"
"""The metric that a model gives (`metrics.judge`): a row holds its score once it was judged (`studies.judging`)."""
METRICS: Registry[Metric] = Registry("metric")
for _metric in (
    Metric("exact_match", ("generate",), ("trained", "heldout", "reverse"), _exact_match, "the answer is the gold answer (digits of a phone number)"),
    Metric("token_f1", ("generate",), ("trained", "heldout", "reverse"), _token_f1, "token overlap with the gold answer"),
    Metric("rouge_1", ("generate",), _WORDINGS, _rouge("rouge1"), "words shared with the best matched gold answer (F1, stemmed)"),
    Metric("rouge_2", ("generate",), _WORDINGS, _rouge("rouge2"), "pairs of words shared with it"),
    Metric("rouge_l", ("generate",), _WORDINGS, _rouge("rougeL"), "longest common subsequence of words with it"),
    Metric("bleu", ("generate",), _WORDINGS, lambda probe, row: rouge.bleu(row["prediction"], probe.answers), "sentence BLEU against all gold answers"),
    Metric(JUDGE, ("generate",), _WORDINGS, lambda probe, row: row.get(JUDGE), "points from 0 to 10 given by a model that sees the gold answers", unit="points", most=10.0),
    Metric("accuracy", ("choice",), ("trained", "heldout"), _accuracy, "the right option is the likeliest"),
    Metric("accuracy_hard", ("choice",), ("trained", "heldout"), _accuracy, "the same, over the hard questions only"),
    Metric("accuracy_parsed", ("choice",), ("trained", "heldout"), _accuracy_parsed, "the letter that is said is the right option's", needs="letter_prediction"),
    Metric("accuracy_parsed_hard", ("choice",), ("trained", "heldout"), _accuracy_parsed, "the same, over the hard questions only", needs="letter_prediction"),
    Metric("parsed", ("choice",), ("trained", "heldout"), lambda probe, row: float(_letter(probe, row) is not None), "what is said gives one letter, clearly", needs="letter_prediction"),
    Metric("efficacy", ("compare",), ("trained",), _wins, "the new target is likelier than the true one"),
    Metric("efficacy_magnitude", ("compare",), ("trained",), _magnitude, "by how much probability per token", unit="points"),
    Metric("paraphrase", ("compare",), ("paraphrase",), _wins, "the same, in other words"),
    Metric("neighbourhood", ("compare",), ("neighbour",), _wins, "the true target stays likelier for unedited neighbours"),
    Metric("generation_match", ("compare",), ("trained",), _generation_match, "greedy decoding gives the new target"),
    Metric("edit_score", ("compare",), (), _derived, "harmonic mean of the three", ("efficacy", "paraphrase", "neighbourhood")),
    Metric("negation", _BOTH, ("negated",), _negation, "what was learnt is not given where its negation is asked for"),
    Metric("fluency", ("continue",), ("generation",), lambda probe, row: continuation.fluency(row["prediction"]), "entropy of n-grams of free text (bits)", unit="bits"),
    Metric("consistency", ("continue",), ("generation",), lambda probe, row: continuation.consistency(row["prediction"], probe.answers), "likeness of free text to texts about the new target", unit="points"),
    Metric("bits_stored", _BOTH, ("trained",), lambda probe, row: stored.bits_stored(probe.bits or 0.0, row["gold_nats"]), "information held, sum of max(0, H - NLL)", needs="gold_nats", unit="bits", total=True),
    Metric("answer_nll", _BOTH, ("trained",), lambda probe, row: -sum(row["gold_nats"]) / len(row["gold_nats"]), "loss on the answer, per token", needs="gold_nats", unit="nats", lower_is_better=True),
    Metric("kl_to_base", ("passage",), ("unrelated",), lambda probe, row: row["kl_nats"], "how far predictions on unrelated text are from the base's, per token", needs="kl_nats", unit="nats", lower_is_better=True),
    Metric("common_accuracy", ("generate",), ("unrelated",), _exact_match, "facts that the base knew and nobody wrote are still answered"),
    Metric("route_at_1", _ROUTED, _OWN, _ranked(1), "the router's first module learnt the answer", needs="gold_rank"),
    Metric("route_at_3", _ROUTED, _OWN, _ranked(3), "one of its first three did", needs="gold_rank"),
    Metric("route_mrr", _ROUTED, _OWN, lambda probe, row: 1 / row["gold_rank"], "one over the place of the first module that did, mean", needs="gold_rank"),
    Metric("no_route", _ROUTED, (*_OWN, "stranger"), lambda probe, row: float(not row["route"]), "the router found that no module fits", needs="confidence"),
    Metric("none_auroc", _ROUTED, _OWN, lambda probe, row: row["above_strangers"], "chance that an answerable question has more confidence than one nobody learnt", needs="above_strangers"),
    Metric("own_kept", _ROUTED, _OWN, lambda probe, row: float(row["fits"]), "answerable questions above the threshold that strangers set", needs="fits"),
    Metric("strangers_refused", _ROUTED, ("stranger",), lambda probe, row: 1.0 - float(row["fits"]), "other strangers below it", needs="fits"),
    Metric("tokens_above_half", _BOTH, ("trained",), lambda probe, row: stored.share_above_half(row["gold_nats"]), "answer tokens with p > 0.5", needs="gold_nats"),
):  # fmt: skip
    METRICS.add(_metric.name, _metric)


def score(metric: Metric, probe: Probe, row: dict) -> float | None:
    """The score of one prediction; None where the prediction itself failed."""
    return None if row.get("failure") else metric.score(probe, row)
