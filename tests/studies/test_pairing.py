"""Paired differences: against a bootstrap and a permutation test written another way, over facts and over documents."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest

from loramem.metrics.paired import FLIPS, paired_difference
from loramem.studies.expectations import judge
from loramem.studies.pairing import difference_of, drawn, scores_by_fact
from loramem.studies.results import ITEM_COLUMNS
from madeup import expectation

DOCUMENTS = 9


def scores(seed: int, *, facts: int = 90, effect: float = 0.15, within: float = 0.35):
    """(a, b, document of each fact): facts of one document go up and down together, and documents differ in size."""
    rng = random.Random(seed)
    shift = [rng.uniform(-within, within) + effect for _ in range(DOCUMENTS)]
    where = [min(int(rng.expovariate(0.3)), DOCUMENTS - 1) for _ in range(facts)]
    b = [rng.random() for _ in range(facts)]
    a = [score + shift[place] + rng.uniform(-0.1, 0.1) for score, place in zip(b, where, strict=True)]
    return np.array(a), np.array(b), [f"d{place}" for place in where]


def bootstrap(a, b, clusters, *, draws: int = 6000, seed: int = 1) -> tuple[float, float]:
    """Percentile interval of the mean difference: whole clusters with replacement, one draw at a time."""
    rng = random.Random(seed)
    groups = defaultdict(list)
    for one, two, cluster in zip(a, b, clusters, strict=True):
        groups[cluster].append(one - two)
    pool = list(groups.values())
    means = []
    for _ in range(draws):
        chosen = [value for group in rng.choices(pool, k=len(pool)) for value in group]
        means.append(sum(chosen) / len(chosen))
    return tuple(np.quantile(means, [0.025, 0.975]))


def permuted(a, b, clusters) -> float:
    """Two-sided p over every way to flip the signs of whole clusters."""
    groups = defaultdict(float)
    for one, two, cluster in zip(a, b, clusters, strict=True):
        groups[cluster] += one - two
    sums = list(groups.values())
    seen = abs(sum(sums))
    flips = itertools.product((-1, 1), repeat=len(sums))
    extreme = [abs(sum(s * v for s, v in zip(signs, sums, strict=True))) >= seen - 1e-9 for signs in flips]
    return sum(extreme) / len(extreme)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_difference_over_documents_is_a_bootstrap_and_a_flip_of_whole_documents(seed):
    a, b, clusters = scores(seed)
    mean, low, high, p = paired_difference(a, b, clusters)
    assert mean == pytest.approx((a - b).mean())
    wanted = bootstrap(a, b, clusters)
    assert (low, high) == pytest.approx(wanted, abs=0.05 * (wanted[1] - wanted[0]))
    exact = permuted(a, b, clusters)
    assert p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / FLIPS) ** 0.5 + 2 / FLIPS)
    _, inner, outer, _ = paired_difference(a, b)
    assert outer - inner < 0.8 * (high - low), "over facts as if they were independent it would be too narrow"


def test_documents_weigh_by_their_facts():
    """One large and many small: the mean is that of facts, however documents are drawn."""
    a = np.array([1.0] * 30 + [0.0] * 6)
    b, clusters = np.zeros(36), ["large"] * 30 + [f"small{n}" for n in range(6)]
    mean, low, high, _ = paired_difference(a, b, clusters)
    assert mean == pytest.approx(30 / 36) and low == 0.0 and high > 0.9
    assert (low, high) == pytest.approx(bootstrap(a, b, clusters), abs=0.05)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_document_per_fact_is_the_same_as_none(seed):
    a, b, _ = scores(seed)
    plain = paired_difference(a, b)
    assert paired_difference(a, b, list(range(len(a)))) == plain
    assert paired_difference(a, b, [f"fact {n}" for n in range(len(a))]) == plain
    assert paired_difference(a, b, ["one"] * len(a))[1:3] == pytest.approx([plain[0]] * 2), (
        "nothing to draw from"
    )


def test_the_order_of_facts_does_not_matter():
    a, b, clusters = scores(5)
    order = np.random.default_rng(0).permutation(len(a))
    one = paired_difference(a, b, clusters)
    other = paired_difference(a[order], b[order], [clusters[n] for n in order])
    assert other[0] == pytest.approx(one[0]) and other[1:3] == pytest.approx(one[1:3], abs=0.06)


# -- from scored items ---------------------------------------------------------------------------------
def items_of(cell: str, values, documents, *, seeds: int = 1, metric: str = "exact_match") -> pd.DataFrame:
    """A row per fact and seed; a value of None is a failure."""
    rows = [
        (cell, seed, metric, "trained", f"fact {n}", document, "", value)
        for seed in range(seeds)
        for n, (value, document) in enumerate(zip(values, documents, strict=True))
    ]
    return pd.DataFrame(rows, columns=list(ITEM_COLUMNS)).astype({"value": float})


def series(cell: str, values, documents, **more) -> pd.DataFrame:
    return scores_by_fact(items_of(cell, values, documents, **more))[cell, "exact_match", "trained"]


def test_means_are_those_of_facts_over_seeds_and_wordings():
    items = pd.concat([items_of("c", [1, 0, 1], "xxy"), items_of("c", [0, 0, 1], "xxy").assign(seed=1)])
    found = scores_by_fact(items)["c", "exact_match", "trained"]
    assert found.mean().to_dict() == {("x", "fact 0"): 0.5, ("x", "fact 1"): 0.0, ("y", "fact 2"): 1.0}
    failed = scores_by_fact(items_of("c", [1, None, 0], "xxy"))["c", "exact_match", "trained"]
    assert failed.mean().to_dict() == {("x", "fact 0"): 1.0, ("y", "fact 2"): 0.0}, "what failed is no score"


def test_the_wider_interval_of_facts_and_documents_is_told():
    a, b, documents = scores(6)
    one, two = series("a", a, documents), series("b", b, documents)
    mean, low, high, p = difference_of(one, two)
    # `scores_by_fact` sorts by document and fact
    order = [int(case.split()[1]) for _, case in one.columns]
    flat = paired_difference(a[order], b[order])
    whole = paired_difference(a[order], b[order], [documents[n] for n in order])
    assert mean == pytest.approx((a - b).mean())
    assert (low, high) == (min(flat[1], whole[1]), max(flat[2], whole[2])) and p == max(flat[3], whole[3])
    assert (low, high) == (whole[1], whole[2]), "here documents are what varies"
    # of documents whose facts spread as far as everything does, facts are the wider draw
    alike = ["d0", "d1"] * 45
    values = np.array([0.0, 0.0, 1.0, 1.0] * 22 + [0.0, 1.0])
    one, two = series("a", values, alike), series("b", np.zeros(90), alike)
    _, low, high, p = difference_of(one, two)
    narrow = paired_difference(one.to_numpy(), two.to_numpy(), list(one.columns.get_level_values("document")))
    assert low < narrow[1] and high > narrow[2] and p == narrow[3] == pytest.approx(0.5, abs=0.03)


def test_one_document_is_no_cluster():
    a, b, _ = scores(7)
    one, two = (series(name, values, ["d"] * len(a)) for name, values in (("a", a), ("b", b)))
    order = [int(case.split()[1]) for _, case in one.columns]
    assert difference_of(one, two) == paired_difference(a[order], b[order])
    assert drawn(items_of("a", a, ["d"] * len(a))) == ("case",)
    assert drawn(items_of("a", [1, 0], "xy")) == ("case", "document")


def test_only_facts_that_both_were_asked_are_compared():
    one = series("a", [1, 1, 1, 0], "xxyy")
    two = series("b", [0, 0, 1], "xxy")
    assert difference_of(one, two)[0] == pytest.approx(2 / 3)
    other = two.rename(columns={"y": "z"}, level="document")
    assert difference_of(one, other)[0] == pytest.approx(1.0), "a fact of another document is another fact"


def test_seeds_are_drawn_too():
    """Two seeds that say the opposite: sure over facts, and not sure at all."""
    sure = pd.concat([items_of("a", [1] * 40, "d" * 40), items_of("a", [1] * 40, "d" * 40).assign(seed=1)])
    torn = pd.concat([items_of("a", [1] * 40, "d" * 40), items_of("a", [0] * 40, "d" * 40).assign(seed=1)])
    base = items_of("b", [0.5] * 40, "d" * 40).assign(seed=-1)
    both = pd.concat(
        [items_of("b", [0.5] * 40, "d" * 40), items_of("b", [0.5] * 40, "d" * 40).assign(seed=1)]
    )
    key = ("exact_match", "trained")
    for other in (base, both):  # one row is held against each seed, as the same row under each is
        b = scores_by_fact(other)["b", *key]
        assert difference_of(scores_by_fact(sure)["a", *key], b)[:3] == (0.5, 0.5, 0.5)
        mean, low, high, _ = difference_of(scores_by_fact(torn)["a", *key], b)
        assert (mean, low, high) == (0.0, -0.5, 0.5)


def test_seeds_are_paired_where_both_have_them():
    """A seed that is better under both supervisions says nothing of their difference."""
    a = pd.concat([items_of("a", [1] * 40, "d" * 40), items_of("a", [0.5] * 40, "d" * 40).assign(seed=1)])
    b = pd.concat([items_of("b", [0.6] * 40, "d" * 40), items_of("b", [0.1] * 40, "d" * 40).assign(seed=1)])
    found = [scores_by_fact(one)[name, "exact_match", "trained"] for name, one in (("a", a), ("b", b))]
    assert difference_of(*found)[:3] == pytest.approx((0.4, 0.4, 0.4))


# -- verdicts ------------------------------------------------------------------------------------------
def cell_row(cell: str, values, interval: tuple[float, float], **more) -> dict:
    known = [value for value in values if value is not None]
    return {
        "cell": cell, "metric": "exact_match", "probe": "trained", "reading": "module", "supervision": cell,
        "mean": float(np.mean(known)), "ci_low": interval[0], "ci_high": interval[1], "n": len(known), "seeds": 1, **more,
    }  # fmt: skip


def verdict(a, b, *, documents=None, margin: float = 0.0, other=None, metric: str = "exact_match") -> dict:
    """The verdict on b - a with wide intervals of their own; `other`: documents of b where they are not those of a."""
    documents = documents or ["d"] * len(a)
    cells = pd.DataFrame([cell_row("a", a, (0.0, 1.0)), cell_row("b", b, (0.0, 1.0))])
    items = pd.concat([items_of("a", a, documents), items_of("b", b, other or documents[: len(b)])])
    claim = expectation(compare=[{"supervision": "a"}, {"supervision": "b"}], margin=margin, metric=metric)
    return judge(claim, cells, items)


def test_a_verdict_is_paired_where_the_facts_are_the_same():
    a = [0.0] * 30 + [1.0] * 10
    b = [1.0] * 20 + [0.0] * 10 + [1.0] * 10
    found = verdict(a, b)
    assert found["verdict"] == "agrees" and "difference +0.500" in found["reason"]
    assert "paired over 40 facts" in found["reason"]
    mean, low, high, _ = difference_of(series("b", b, ["d"] * 40), series("a", a, ["d"] * 40))
    assert f"[{low:+.3f}, {high:+.3f}]" in found["reason"] and mean == 0.5
    assert verdict(b, a)["verdict"] == "disagrees"
    assert verdict(a, b, margin=0.4)["verdict"] == "undecided", "as sure as its interval, not as its mean"


def test_a_verdict_is_not_paired_where_the_facts_differ():
    """From two wide intervals nothing follows, however clear the facts that both have are."""
    a, b = [0.0] * 40, [1.0] * 40
    assert "paired" in verdict(a, b)["reason"]
    for other in (
        verdict(a, b[:39]),  # one fact less
        verdict(a, [*b[:39], None]),  # one of them failed
        verdict(a, b, documents=["d"] * 40, other=["e"] * 40),  # of other documents
    ):
        assert other["verdict"] == "undecided" and "paired" not in other["reason"], other
    cells = pd.DataFrame([cell_row("a", a, (0.0, 0.1)), cell_row("b", b, (0.9, 1.0))])
    claim = expectation(compare=[{"supervision": "a"}, {"supervision": "b"}], margin=0.5)
    unpaired = judge(claim, cells)
    # Newcombe: sqrt(0.1^2 + 0.1^2) on the lower side, nothing on the upper one
    assert unpaired["verdict"] == "agrees" and "[+0.859, +1.000]" in unpaired["reason"]


def test_a_verdict_over_documents_is_no_surer_than_they_are():
    """All of the gain is one document's: over forty facts it would be certain."""
    documents = [f"d{n // 10}" for n in range(40)]
    a, b = [0.0] * 40, [1.0] * 10 + [0.0] * 30
    assert verdict(a, b, margin=0.1)["verdict"] == "agrees"
    found = verdict(a, b, documents=documents, margin=0.1)
    assert found["verdict"] == "undecided" and "paired over 40 facts" in found["reason"]


def test_other_metrics_and_wordings_do_not_enter_a_verdict():
    a, b = [0.0] * 40, [1.0] * 40
    noise = [items_of(name, values, ["d"] * 40, metric="token_f1") for name, values in (("a", b), ("b", a))]
    held = [
        items_of(name, values, ["d"] * 40).assign(probe="heldout") for name, values in (("a", b), ("b", a))
    ]
    items = pd.concat([items_of("a", a, ["d"] * 40), items_of("b", b, ["d"] * 40), *noise, *held])
    cells = pd.DataFrame([cell_row("a", a, (0.0, 1.0)), cell_row("b", b, (0.0, 1.0))])
    claim = expectation(compare=[{"supervision": "a"}, {"supervision": "b"}], margin=0.9)
    assert judge(claim, cells, items)["verdict"] == "agrees"
