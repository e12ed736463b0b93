"""What the base knew before: classes of facts from its answers, and gains on the facts it did not know."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from loramem.studies.knowledge import CLASSES, classes, gains, knowledge
from loramem.studies.results import ITEM_COLUMNS

ASKED = ["exact_match", "efficacy", "paraphrase", "token_f1"]


def items_of(cell: str, *rows: tuple[str, str, str, float], seed: int = 0) -> pd.DataFrame:
    """Items of (metric, probe, fact, value)."""
    found = [(cell, seed, metric, probe, case, "d", "", value) for metric, probe, case, value in rows]
    return pd.DataFrame(found, columns=list(ITEM_COLUMNS))


def cell_row(cell: str, reading: str, metric: str = "exact_match", probe: str = "trained", **more) -> dict:
    row = {"cell": cell, "reading": reading, "metric": metric, "probe": probe}
    return {**row, "source": "book", "size_tokens": 100, **more}


def test_a_fact_is_classed_by_the_wordings_it_is_answered_in():
    said = {"all": (1, 1), "trained": (1, 0), "heldout": (0, 1), "none": (0, 0)}
    rows = [
        ("exact_match", probe, case, float(value))
        for case, values in said.items()
        for probe, value in zip(("trained", "heldout"), values, strict=True)
    ]
    assert classes(items_of("c", *rows)).to_dict() == {
        "all": "HighlyKnown", "trained": "MaybeKnown", "heldout": "MaybeKnown", "none": "Unknown",
    }  # fmt: skip


def test_other_questions_and_overlap_show_nothing():
    """Reverse and negated questions, and token overlap beside exact match, do not make a fact known."""
    rows = [
        ("exact_match", "trained", "a", 0.0),
        ("exact_match", "reverse", "a", 1.0),
        ("negation", "negated", "a", 1.0),
        ("token_f1", "trained", "a", 1.0),
        ("bits_stored", "trained", "a", 1.0),
    ]
    assert classes(items_of("c", *rows)).to_dict() == {"a": "Unknown"}
    overlap = [("token_f1", "trained", "a", 1.0), ("token_f1", "trained", "b", 0.9)]
    assert classes(items_of("c", *overlap)).to_dict() == {"a": "HighlyKnown", "b": "Unknown"}


def test_an_edit_is_known_where_the_new_target_is_preferred_and_a_tie_is_no_preference():
    rows = [
        ("efficacy", "trained", "a", 1.0),
        ("paraphrase", "paraphrase", "a", 1.0),
        ("paraphrase", "paraphrase", "a", 0.0),
        ("efficacy", "trained", "b", 0.5),
        ("efficacy", "trained", "c", 1.0),
        ("neighbourhood", "neighbour", "c", 0.0),
    ]
    assert classes(items_of("c", *rows)).to_dict() == {"a": "MaybeKnown", "b": "Unknown", "c": "HighlyKnown"}


def test_failed_items_do_not_count_as_wrong():
    rows = [("exact_match", "trained", "a", 1.0), ("exact_match", "heldout", "a", math.nan)]
    assert classes(items_of("c", *rows)).to_dict() == {"a": "HighlyKnown"}


def test_facts_are_counted_by_class_for_every_closed_cell():
    shown = [("exact_match", "trained", str(n), float(n < 3)) for n in range(10)]
    shown += [("exact_match", "heldout", str(n), float(n < 1)) for n in range(10)]
    items = pd.concat([items_of("base", *shown), items_of("m", *shown)])
    cells = pd.DataFrame([cell_row("base", "closed"), cell_row("m", "module")])
    (row,) = knowledge(cells, items)
    assert row == {
        "cell": "base", "source": "book", "size_tokens": 100, "Unknown": 7, "MaybeKnown": 2, "HighlyKnown": 1,
    }  # fmt: skip
    assert sum(row[name] for name in CLASSES) == 10
    assert knowledge(cells[cells["reading"] == "module"], items) == []


def test_gains_are_over_the_base_on_the_same_facts_and_on_the_unknown_ones():
    """The base knows 4 of 10 facts, the module 8, one of which it had known and lost: seeds are averaged first."""
    base = [("exact_match", "trained", str(n), float(n < 4)) for n in range(10)]
    first = [("exact_match", "trained", str(n), float(1 <= n < 9)) for n in range(10)]
    second = [("exact_match", "trained", str(n), float(1 <= n < 7)) for n in range(12)]
    items = pd.concat([items_of("base", *base), items_of("m", *first), items_of("m", *second, seed=1)])
    cells = pd.DataFrame([cell_row("base", "closed"), cell_row("m", "module")])
    found = {row["class"]: row for row in gains(cells, items, ASKED)}
    assert set(found) == {"all", "Unknown"}
    assert found["all"]["facts"] == 10, "facts that only the module was asked are left out"
    assert found["all"]["gain"] == pytest.approx((8 + 6) / 20 - 0.4)
    assert found["Unknown"]["facts"] == 6 and found["Unknown"]["gain"] == pytest.approx((5 + 3) / 12)
    for row in found.values():
        assert row["ci_low"] <= row["gain"] <= row["ci_high"] and row["cell"] == "m"


def test_each_base_has_gains_over_itself_alone():
    """Two bases on the same facts: what one knew before says nothing about the other."""
    knew = {"a": 3, "b": 9}
    rows = {name: [("exact_match", "trained", str(n), float(n < held)) for n in range(12)] for name, held in knew.items()}  # fmt: skip
    learnt = [("exact_match", "trained", str(n), float(n < 10)) for n in range(12)]
    cells, items = [], []
    for name in knew:
        cells += [cell_row(f"{name}-closed", "closed", base_name=name), cell_row(f"{name}-module", "module", base_name=name)]  # fmt: skip
        items += [items_of(f"{name}-closed", *rows[name]), items_of(f"{name}-module", *learnt)]
    found = {(row["cell"], row["class"]): row for row in gains(pd.DataFrame(cells), pd.concat(items), ASKED)}
    assert found["a-module", "all"]["gain"] == pytest.approx(7 / 12)
    assert found["b-module", "all"]["gain"] == pytest.approx(1 / 12)
    assert {key: row["facts"] for key, row in found.items() if key[1] == "Unknown"} == {
        ("a-module", "Unknown"): 9, ("b-module", "Unknown"): 3,
    }  # fmt: skip


def test_documents_without_a_size_have_gains_beside_sources_with_one():
    rows = [("exact_match", "trained", "1", 1.0)]
    cells = [cell_row("c", "closed", size_tokens=None), cell_row("m", "module", size_tokens=None), cell_row("o", "closed", source="x")]  # fmt: skip
    items = pd.concat([items_of(name, *rows) for name in ("c", "m", "o")])
    table = pd.DataFrame(cells)
    assert table["size_tokens"].isna().any() and table["size_tokens"].dtype == float
    assert [row["cell"] for row in gains(table, items, ASKED)] == ["m"]


def test_gains_on_several_documents_are_drawn_by_document_as_well():
    """All that was gained, was gained on one of six documents: over documents that says little."""
    base, mine = [], []
    for document in range(6):
        own = [("exact_match", "trained", f"{document}-{n}", 0.0) for n in range(10)]
        base.append(items_of("base", *own).assign(document=str(document)))
        mine.append(items_of("m", *[(*row[:3], float(document == 0)) for row in own]).assign(document=str(document)))  # fmt: skip
    cells = pd.DataFrame([cell_row("base", "closed"), cell_row("m", "module")])
    (row,) = [r for r in gains(cells, pd.concat([*base, *mine]), ASKED) if r["class"] == "all"]
    assert row["gain"] == pytest.approx(1 / 6) and row["ci_low"] == 0.0 and row["ci_high"] > 0.3


def test_no_unknown_fact_no_gain_on_unknown_facts():
    known = [("exact_match", "trained", str(n), 1.0) for n in range(5)]
    items = pd.concat([items_of("base", *known), items_of("m", *known)])
    cells = pd.DataFrame([cell_row("base", "closed"), cell_row("m", "module")])
    assert [row["class"] for row in gains(cells, items, ASKED)] == ["all"]


def test_a_reading_of_another_size_or_without_a_base_has_no_gain():
    rows = [("exact_match", "trained", "1", 1.0)]
    items = pd.concat([items_of(name, *rows) for name in ("base", "m", "o")])
    cells = [
        cell_row("base", "closed"),
        cell_row("m", "module", size_tokens=200),
        cell_row("o", "icl", source="x"),
    ]
    assert gains(pd.DataFrame(cells), items, ASKED) == []
    near = [cell_row("base", "closed"), cell_row("m", "icl"), cell_row("m", "icl", "fluency", "generation")]
    assert {row["metric"] for row in gains(pd.DataFrame(near), items, [*ASKED, "fluency"])} == {"exact_match"}
