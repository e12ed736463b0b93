"""A study that chooses among modules: every routed or merged answer is what the chosen weights give alone."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from loramem.answering.ask import NOT_IN_MEMORY, answer, with_adapter
from loramem.answering.contexts import alone, in_own_document
from loramem.core.errors import InputError
from loramem.core.files import read_jsonl
from loramem.modules.merged import Parent, merge_many, weights_for
from loramem.modules.store import Store
from loramem.studies import learning
from loramem.studies.learning import gold_of, parts_of
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from tinystudy import study

POOL = {
    "study": "pool",
    "sources": {"papers": {"name": "almanac-papers", "documents": 3, "questions": 2, "seed": 10}},
    "supervision": {"recipe": "qa:5"},
    "partition": ["document", "corpus"],
    "modules__spec": {"rank": 2, "targets": "attention"},
    "modules__budget": {"exposures": 4},
    "modules__optimizer": {"lr": 0.05, "batch": 2},
    "seeds": 2,
    "harm": {"passages": 3, "facts": 2},
    "strangers": {"questions": 6, "dev_tokens": 300},
    "readings": [
        "closed", "module", "module+icl", "random-module",
        {"reading": "routed", "router": ["oracle", "random", "bm25"]},
        {"reading": "routed", "router": "bm25", "none_below": 1e9, "abstain": True},
        {"reading": "merged", "router": "oracle", "top_k": [1, 2], "rule": "linear-delta"},
        {"reading": "merged", "router": "random", "top_k": 5, "rule": "cat"},
        {"reading": "routed+icl", "router": "oracle"},
        {"reading": "module", "module_on": "answer"},
    ],
    "metrics": [
        "exact_match", "token_f1", "answer_nll", "route_at_1", "route_at_3", "route_mrr", "no_route", "none_auroc", "own_kept",
        "strangers_refused", "kl_to_base", "common_accuracy",
    ],
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def no_embedder():
    def missing():
        raise InputError("no embedder")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "Embedder", missing)
        yield


@pytest.fixture(scope="module")
def ran(bases, tmp_path_factory):
    folder, made, base = tmp_path_factory.mktemp("pool"), study(**POOL), bases["llama"]
    store = Store(folder / "store")
    result = execute(made, base, store, folder / "run", progress=Progress(live=False))
    rows = pd.read_parquet(folder / "run" / "results.parquet")
    return SimpleNamespace(
        study=made,
        base=base,
        plan=make_plan(made, base),
        store=store,
        out=folder / "run",
        result=result,
        rows=rows,
    )


def cell(ran, ending: str, seed: int | None = 0, how: str = "document"):
    (found,) = [
        c for c in ran.plan.cells if c.slug.endswith(ending) and c.seed == seed and c.partition == how
    ]
    return found


def said(ran, found) -> dict[str, dict]:
    return {
        row["probe"]: row
        for task in found.tasks
        for row in read_jsonl(ran.store.reading_folder(task.identity(ran.base)) / "predictions.jsonl")
    }


def load(ran):
    return lambda keys: [ran.store.module(str(key)).load() for key in keys]


def told(row: dict) -> tuple:
    return row.get("prediction"), row.get("truncated"), row["kind"]


def test_nothing_fails_and_one_module_is_no_pool(ran):
    assert ran.result.failures == []
    pooled = [c for c in ran.plan.cells if c.tasks and c.tasks[0].pool]
    assert {c.partition for c in pooled} == {"document"} and {c.seed for c in pooled} == {0, 1}
    assert {len(c.tasks[0].pool.candidates) for c in pooled} == {3}


def test_the_oracle_answers_with_each_documents_own_module(ran):
    own, oracle = (said(ran, cell(ran, name)) for name in ("-r2-module", "-routed-oracle"))
    asked = [p.id for p in cell(ran, "-routed-oracle").source.probes if p.phrasing in ("trained", "heldout")]
    assert asked and all(told(own[name]) == told(oracle[name]) for name in asked)
    assert all(oracle[name]["gold_rank"] == 1 for name in asked)


def test_a_misrouted_question_gets_what_the_chosen_module_says(ran):
    found = cell(ran, "-routed-random")
    rows, probes = said(ran, found), {p.id: p for p in found.source.probes if p.kind == "generate"}
    assert len({rows[name]["route"][0] for name in probes}) == 3, "a random router uses all of the pool"
    for name, probe in probes.items():
        (alone_,) = answer(ran.base, with_adapter(alone([probe]), rows[name]["route"][0]), load(ran), rows=1)
        assert alone_["prediction"] == rows[name]["prediction"]


def test_merged_answers_are_those_of_the_merge_built_alone(ran):
    found = cell(ran, "-merged-random-top5-cat")
    rows, merging = said(ran, found), found.tasks[0].merging
    probes = {p.id: p for p in found.source.probes if p.kind == "generate"}
    for name, probe in list(probes.items())[:4]:
        weights = weights_for(merging, rows[name]["shares"])
        parents = tuple(Parent(*pair) for pair in zip(rows[name]["route"], weights, strict=True))
        assert len(parents) == 3, "a smaller pool is used whole"
        (made,) = merge_many(
            [parents], merging, lambda one: ran.store.module(one).load(), base=ran.base.fingerprint
        )
        (solo,) = answer(
            ran.base,
            with_adapter(alone([probe]), "it"),
            lambda keys, made=made: [(made.spec, made.tensors)],
            rows=1,
        )
        assert solo["prediction"] == rows[name]["prediction"]


def test_merging_one_module_is_that_module(ran):
    one, own = (said(ran, cell(ran, name)) for name in ("-merged-oracle-top1-linear-delta", "-r2-module"))
    asked = [name for name, row in own.items() if row["kind"] == "generate" and not name.startswith(("unrelated", "stranger"))]  # fmt: skip
    assert asked and all(told(one[name]) == told(own[name]) for name in asked)
    two = said(ran, cell(ran, "-merged-oracle-top2-linear-delta"))
    assert any(told(two[name]) != told(own[name]) for name in asked), "two modules are not one"


def test_a_context_beside_a_pool_is_the_questions_own_document(ran):
    found = cell(ran, "-routed+icl-oracle")
    rows, own = said(ran, found), said(ran, cell(ran, "-module+icl"))
    assert set(rows) == set(own) and all(told(rows[name]) == told(own[name]) for name in rows)
    assert not any(name.startswith(("unrelated", "stranger")) for name in rows)
    probe = next(p for p in found.source.probes if p.id in rows)
    (placed,) = in_own_document(ran.base, [probe], found.source.documents)
    (document,) = [d for d in found.source.documents if d.id == probe.document]
    assert ran.base.prompts.decode(list(placed.context)).count(document.text[:40]) == 1


def test_nothing_fits_and_nothing_is_said(ran):
    rows = said(ran, cell(ran, "-none1e+09-abstain"))
    asked = [row for row in rows.values() if row["kind"] == "generate"]
    assert asked and all(row["prediction"] == NOT_IN_MEMORY and row["route"] == [] and row["abstained"] for row in asked)  # fmt: skip
    own = ran.rows[ran.rows["cell"].str.endswith("-none1e+09-abstain") & (ran.rows["metric"] == "no_route")]
    assert (own["value"] == 1).all() and set(own["probe"]) == {"trained", "heldout", "stranger"}


def test_routes_are_scored_by_themselves(ran):
    own = ran.rows[ran.rows["cell"].str.endswith("-routed-bm25") & (ran.rows["seed"] == 0)]
    values = {(row["metric"], row["probe"]): row["value"] for _, row in own.iterrows()}
    rows = said(ran, cell(ran, "-routed-bm25"))
    held = [p.id for p in cell(ran, "-routed-bm25").source.probes if p.phrasing == "heldout"]
    assert values["route_at_1", "heldout"] == sum(rows[n]["gold_rank"] == 1 for n in held) / len(held)
    assert values["route_mrr", "heldout"] == pytest.approx(
        sum(1 / rows[n]["gold_rank"] for n in held) / len(held)
    )
    strangers = [rows[p.id]["confidence"] for p in cell(ran, "-routed-bm25").source.probes if p.phrasing == "stranger"]  # fmt: skip
    wins = [(rows[n]["confidence"] > s) + 0.5 * (rows[n]["confidence"] == s) for n in held for s in strangers]
    assert values["none_auroc", "heldout"] == pytest.approx(sum(wins) / len(wins))
    assert {"own_kept", "strangers_refused"} <= {metric for metric, _ in values}
    assert set(own["router"]) == {"bm25"} and set(own["pool_size"]) == {3} and own["merge"].isna().all()


def test_strangers_and_unrelated_things_are_asked_of_every_module_but_never_of_a_context(ran):
    closed = said(ran, cell(ran, "papers-closed", None, None))
    assert sum(name.startswith("stranger:") for name in closed) == 6
    passages = [row for row in closed.values() if row["kind"] == "passage"]
    assert len(passages) == 3 and all(row["kl_nats"] == 0 for row in passages), "the base is itself"
    module = said(ran, cell(ran, "-r2-module"))
    assert all(row["kl_nats"] > 0 for row in module.values() if row["kind"] == "passage")
    harm = ran.rows[ran.rows["metric"].isin(["kl_to_base", "common_accuracy"])]
    assert set(harm["probe"]) == {"unrelated"}


def test_every_merge_is_in_the_results(ran):
    merges = pd.read_parquet(ran.out / "merges.parquet")
    summary = json.loads((ran.out / "summary.json").read_text())["merges"]
    assert set(merges["cell"]) == {row["cell"] for row in summary} == {
        c.slug for c in ran.plan.cells if c.tasks and c.tasks[0].merging
    }  # fmt: skip
    assert merges.select_dtypes("number").notna().all().all()
    top1 = merges[merges["cell"].str.contains("top1")]
    assert (top1["parents"] == 1).all() and len(top1) == 3 * 2, "three modules, two seeds"


def test_a_module_may_be_on_only_while_it_answers(ran):
    whole, late = said(ran, cell(ran, "-r2-module")), said(ran, cell(ran, "-module-on-answer"))
    trained = [n for n, row in whole.items() if row.get("gold_nats")]
    assert trained and not any("gold_nats" in row for row in late.values())
    own = ran.rows[ran.rows["cell"].str.endswith("-module-on-answer")]
    assert set(own["module_on"]) == {"answer"} and "answer_nll" not in set(own["metric"])


def test_a_second_run_makes_nothing_again(ran):
    again = execute(ran.study, ran.base, ran.store, ran.out, progress=Progress(live=False))
    assert again.info["reused"] == {"modules": 8, "readings": again.info["plan"]["readings"]}


def test_every_comparison_is_of_readings_that_differ_in_what_it_says(ran):
    tests = ran.result.summary["comparisons"]["tests"]
    pairs = {(t["cell"].partition("r2-")[2] or t["cell"], t["against"].partition("r2-")[2] or t["against"]) for t in tests}  # fmt: skip
    assert ("routed-bm25", "module") in pairs and ("routed+icl-oracle", "module+icl") in pairs
    assert ("merged-oracle-top2-linear-delta", "routed-oracle") in pairs
    assert ("module+icl", "module") in pairs
    assert not any("random-module" in a for a, _ in pairs)
    assert all(t["p_holm"] >= t["p"] for t in tests)


def test_gold_is_the_part_with_the_record_or_every_part_of_its_document(bases):
    plan = make_plan(study(**{**POOL, "seeds": 1}), bases["llama"])
    (source,) = plan.sources["papers"]
    parts = [own for _, own in parts_of(source, "chunk", "60", bases["llama"])]
    gold = gold_of(source, parts)
    for probe in source.probes:
        if probe.phrasing in ("unrelated", "stranger"):
            assert probe.id not in gold
            continue
        right = gold[probe.id]
        assert right and all(any(d.id == probe.document for d in parts[n].documents) for n in right)
        holds = [n for n, part in enumerate(parts) if any(r.id == probe.case for r in part.records)]
        assert right == frozenset(holds or [n for n, p in enumerate(parts) if any(d.id == probe.document for d in p.documents)])  # fmt: skip
