"""Timing on a tiny study: what is timed is what is scored, parts add up, nothing is remembered of a question, nothing is kept."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from loramem.answering.contexts import in_passages
from loramem.core.errors import InputError
from loramem.core.files import read_json
from loramem.metrics.breakeven import questions_to_pay
from loramem.modules.store import Store
from loramem.retrieval import Retrieval, search
from loramem.retrieval.embed import load_embedder
from loramem.sources.catalogue import load_source
from loramem.studies import latency, learning, timed_ways
from loramem.studies.expectations import Expectation
from loramem.studies.paying import break_even, making
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.studies.timed_parts import Clock, Finder
from loramem.studies.timed_ways import PARTS
from tinystudy import study

TIMED = {
    "study": "timed",
    "sources": {"papers": {"name": "almanac-papers", "documents": 2, "questions": 2, "seed": 10}},
    "supervision": {"recipe": "raw"},
    "partition": ["document"],
    "modules__spec": {"rank": 2, "targets": "attention"},
    "modules__budget": {"exposures": 1},
    "seeds": 2,
    "readings": [
        "closed", "icl", "rag", "module", "random-module", {"reading": "routed", "router": "embedding"},
        {"reading": "merged", "router": "bm25", "top_k": 2, "rule": "cat"},
    ],
    "retrieval": {"method": ["bm25"], "passages_k": 1, "chunk_tokens": 64},
    "latency": {"questions": 2, "repeats": 2, "warmup": 1},
    "metrics": ["exact_match"],
    "expect": [
        {"claim": "slow", "metric": "tokens_per_question", "probe": "heldout",
         "compare": [{"reading": "module", "asked": "one"}, {"reading": "icl", "asked": "one"}], "margin": 1},
        {"claim": "scored", "metric": "exact_match", "probe": "heldout", "at": {"reading": "closed"}, "at_most": 1},
        {"claim": "never", "metric": "seconds_per_question", "probe": "heldout", "at": {"reading": "closed", "asked": "batch"},
         "at_least": 1000},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(bases, tmp_path_factory):
    def missing():
        raise InputError("no embedder")  # for overlaps alone: embedding questions takes longer than all else

    folder, made, base = tmp_path_factory.mktemp("timed"), study(**TIMED), bases["llama"]
    store = Store(folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "Embedder", missing)
        result = execute(made, base, store, folder / "run", progress=Progress(live=False))
    (timed,) = result.summary["latency"]
    return SimpleNamespace(
        study=made, plan=make_plan(made, base), store=store, out=folder / "run", result=result, timed=timed, base=base,
        rows={(row["reading"], row["asked"]): row for row in timed["rows"]},
    )  # fmt: skip


def test_every_reading_of_one_seed_is_timed_in_every_way(ran):
    assert ran.timed["left_out"] == [] and ran.result.summary["failures"] == []
    plain, moved = {"closed", "icl", "rag"}, {"module", "routed", "merged"}
    assert set(ran.rows) == {(reading, asked) for reading in plain | moved for asked in ("one", "batch")} | {
        (reading, "loaded") for reading in moved
    }, "controls are left out"
    assert len(ran.timed["rows"]) == len(ran.rows), "seed 0 alone"
    assert read_json(ran.out / "latency.json") == ran.result.summary["latency"]
    assert ran.timed["machine"]["threads"] == torch.get_num_threads()


def test_what_is_timed_is_what_is_scored(ran):
    assert {row["as_read"] for row in ran.timed["rows"] if row["cut_tokens"] == 0} == {1.0}
    cut = [row for row in ran.timed["rows"] if row["cut_tokens"]]
    assert {row["reading"] for row in cut} <= {"icl", "rag"}, "only a context can be too long"


def test_parts_are_where_they_belong_and_add_up(ran):
    for (reading, asked), row in ran.rows.items():
        parts = {name for name in PARTS if row["parts"][name]["high"] > 0}
        assert {"context", "prefill"} <= parts, (reading, asked)
        assert ("route" in parts) == (reading in ("routed", "merged"))
        assert ("merge" in parts) == (reading == "merged")
        assert ("load" in parts) == (asked == "loaded" or reading == "merged"), (reading, asked)
        assert row["seconds"]["low"] <= row["seconds"]["median"] <= row["seconds"]["high"]
        assert row["questions_per_second"] == pytest.approx(1 / row["seconds"]["median"])
        if asked != "batch":  # each question's own clock tells the same time
            means = [np.mean(own) for own in zip(*row["by_document"].values(), strict=True)]
            assert means == pytest.approx(row["seconds"]["repeats"]), "as many questions of each document"
        else:
            assert row["by_document"] == {}


def test_tokens_and_bytes_are_counted_not_guessed(ran):
    prompts = ran.base.prompts
    (source,) = load_source(TIMED["sources"]["papers"], prompts.count)
    asked = latency.questions_of(source, 2)
    assert {probe.document for probe in asked} == {one.id for one in source.documents}, (
        "spread over the source"
    )
    assert {probe.phrasing for probe in asked} == {"heldout"}
    closed = sum(len(prompts.chat(probe.prompt)) for probe in asked) / 2
    for reading in ("closed", "module", "routed", "merged"):
        assert ran.rows[reading, "one"]["prompt_tokens"] == closed, reading
    assert ran.rows["icl", "one"]["prompt_tokens"] > ran.rows["rag", "one"]["prompt_tokens"] > closed
    parameters = next(iter(ran.plan.modules.values())).parameters
    for asked_how in ("one", "loaded"):
        assert ran.rows["module", asked_how]["module_bytes"] == 4 * parameters
        assert ran.rows["merged", asked_how]["module_bytes"] == 2 * 4 * parameters, "both parents are read"
    assert (
        ran.rows["module", "one"]["held_bytes"] == 2 * 4 * parameters
        and not ran.rows["module", "loaded"]["held_bytes"]
    )
    config = ran.base.model.config
    each = (
        2
        * config.num_hidden_layers
        * config.num_key_value_heads
        * (config.hidden_size // config.num_attention_heads)
        * 4
    )
    assert latency.kv_bytes_per_token(ran.base) == each
    assert ran.rows["icl", "one"]["context_bytes"] > ran.rows["rag", "one"]["context_bytes"] > 0
    assert ran.rows["closed", "one"]["context_bytes"] == 0


def test_a_context_shared_by_questions_is_read_once_in_a_batch(ran, bases):
    cell = next(one for one in ran.plan.cells if one.stem == "icl")
    task = cell.tasks[0]
    probes = [probe for probe in task.probes if probe.phrasing == "heldout" and probe.kind == "generate"][:2]
    way = timed_ways.Way(ran.base, [timed_ways.Posed(probe, task) for probe in probes], ran.store, 64)
    way.prepare()
    alone, together = way.one_at_a_time(), way.together()
    assert len(set(map(tuple, [[together.contexts[0]], [together.contexts[1]]]))) == 1
    suffixes = sum(len(ran.base.prompts.suffix(probe.prompt)) for probe in probes)
    assert sum(clock.tokens for clock in alone.clocks) == sum(alone.contexts) + suffixes
    assert together.clocks[0].tokens == together.contexts[0] + suffixes


def test_a_question_is_embedded_anew_in_every_pass(ran, monkeypatch):
    cell = next(one for one in ran.plan.cells if one.stem == "routed" and one.seed == 0)
    probes = [probe for probe in cell.tasks[0].probes if probe.phrasing == "heldout"][:2]
    way = timed_ways.Way(
        ran.base, [timed_ways.Posed(probe, cell.tasks[0]) for probe in probes], ran.store, 64
    )
    way.prepare()
    way.one_at_a_time()
    embedder, seen = load_embedder(), []
    plain = type(embedder)._encode
    monkeypatch.setattr(
        type(embedder), "_encode", lambda self, texts: (seen.extend(texts), plain(self, texts))[1]
    )
    way.one_at_a_time()
    assert seen == [probe.prompt for probe in probes], "the questions, and none of the modules' texts"


def test_loaded_reads_disk_for_every_question_and_held_never(ran, monkeypatch):
    cell = next(one for one in ran.plan.cells if one.stem == "merged" and one.seed == 0)
    probes = [probe for probe in cell.tasks[0].probes if probe.phrasing == "heldout"][:2]
    way = timed_ways.Way(
        ran.base, [timed_ways.Posed(probe, cell.tasks[0]) for probe in probes], ran.store, 64
    )
    way.prepare()
    read, plain = [], timed_ways.peft_format.load
    monkeypatch.setattr(
        timed_ways.peft_format, "load", lambda folder: (read.append(folder), plain(folder))[1]
    )
    way.one_at_a_time()
    way.together()
    assert read == []
    way.one_at_a_time(loaded=True)
    assert len(read) == 2 * 2, "both parents for each of two questions"


@pytest.mark.parametrize("method", ["bm25", "embedding", "gold"])
def test_the_kept_index_finds_and_places_what_search_does(ran, method):
    cell = next(one for one in ran.plan.cells if one.stem == "rag")
    retrieval = Retrieval(method=method, passages_k=2, chunk_tokens=64)
    documents, count = cell.source.documents, ran.base.prompts.count
    probes = [probe for probe in cell.source.probes if probe.kind == "generate"]
    index = Finder(retrieval, documents, count)
    assert [index.find([probe])[0] for probe in probes] == search(retrieval, documents, probes, count)
    task = cell.tasks[0].__class__("rag", cell.source, retrieval=retrieval)
    way = timed_ways.Way(ran.base, [timed_ways.Posed(probe, task) for probe in probes], ran.store, 64)
    way.prepare()
    placed = way._contexts(task, list(probes))
    theirs = in_passages(ran.base, probes, documents, retrieval)
    assert [(one.context, one.cut) for one in placed] == [(one.context, one.cut) for one in theirs]


def test_a_part_within_a_part_counts_for_itself():
    clock = Clock(torch.device("cpu"))
    began = time.perf_counter()
    with clock.part("outer"):
        time.sleep(0.02)
        with clock.part("inner"):
            time.sleep(0.05)
        time.sleep(0.01)
    took = time.perf_counter() - began
    assert clock.seconds["inner"] >= 0.05 and clock.seconds["outer"] >= 0.03
    assert sum(clock.seconds.values()) <= took < sum(clock.seconds.values()) + 0.01


def test_verdicts_keep_their_order_and_those_on_time_need_a_clock(ran):
    assert [(one["claim"], one["verdict"]) for one in ran.result.summary["verdicts"]] == [
        ("slow", "agrees"), ("scored", "agrees"), ("never", "disagrees"),
    ]  # fmt: skip
    summary = {"cells": [], "verdicts": [{"claim": "scored"}]}
    found = latency.with_verdicts(summary, ran.study.file.expect)
    assert [one.get("reason") for one in found] == ["nothing was timed", None, "nothing was timed"]
    with pytest.raises(ValueError, match="belongs to seconds_per_question"):
        Expectation(claim="x", metric="exact_match", at={"asked": "one"}, at_least=0.5)


def test_what_modules_cost_is_that_of_their_ledgers(ran):
    cell = next(one for one in ran.plan.cells if one.stem == "module" and one.seed == 0)
    made = making(cell, ran.store, lambda jobs: 10.0)
    ledgers = [read_json(ran.store.module_folder(one.id) / "ledger.json") for one in cell.modules]
    assert made["train_tokens"] == sum(one["tokens"] for one in ledgers) > 0 and made["train_seconds"] == 10
    assert made["tokens"] == 3 * made["train_tokens"], "no model wrote the supervision"
    assert set(made["by_document"]) == {one.id for one in cell.source.documents}
    parts = made["by_document"].values()
    assert sum(one["seconds"] for one in parts) == pytest.approx(made["seconds"])
    assert sum(one["tokens"] for one in parts) == made["tokens"]
    rows = {
        (row["cell"], row["against"], row["of"], row["unit"]): row
        for row in break_even(
            list(ran.timed["rows"]), {cell.slug: made}, {name: 1 for name in made["by_document"]}
        )
        if row["asked"] == "one"
    }
    module, icl = ran.rows["module", "one"], ran.rows["icl", "one"]
    tokens = rows[cell.slug, icl["cell"], "source", "tokens"]
    each = module["prompt_tokens"] + module["new_tokens"]
    other = icl["prompt_tokens"] + icl["new_tokens"]
    assert tokens["questions"]["median"] == questions_to_pay(made["tokens"], each, 0, other)
    seconds = rows[cell.slug, icl["cell"], "source", "seconds"]
    pairs = list(zip(module["seconds"]["repeats"], icl["seconds"]["repeats"], strict=True))
    counts = [questions_to_pay(10.0, a, 0.0, b) for a, b in pairs]
    assert {seconds["questions"]["low"], seconds["questions"]["high"]} == set(counts)
    assert (cell.slug, icl["cell"], cell.source.documents[0].id, "seconds") in rows


def test_a_reading_without_a_result_is_named(ran, tmp_path):
    source = ran.plan.sources["papers"][0]
    found = latency.measure(
        "papers", source, ran.plan, ran.base, Store(tmp_path), latency.LatencyChoice(questions=1, repeats=1)
    )
    assert len(found) == len({row["cell"] for row in ran.timed["rows"]})
    assert all("has no result" in row["failure"] for row in found)


def test_questions_need_answers_in_words(bases):
    (source,) = load_source(
        {"name": "counterfact", "sizes": [60], "generations": 1}, bases["llama"].prompts.count
    )
    with pytest.raises(InputError, match="asks for no answer in words"):
        latency.questions_of(source, 3)


def test_each_round_begins_elsewhere_and_leaves_nothing_out():
    orders = [latency.rotated(7, repeat, 5) for repeat in range(5)]
    assert all(sorted(order) == list(range(7)) for order in orders)
    assert len({order[0] for order in orders}) == 5
