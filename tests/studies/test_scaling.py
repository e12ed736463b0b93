"""docs/scaling.md says what the kept bench says, and the bench's arithmetic and queue agree."""

from __future__ import annotations

import json
from collections import defaultdict

import paper_grid
import pytest
import schedule
import shapes
import torch
from bitsandbytes.nn import Linear4bit
from paper_grid import Work
from schedule_tables import number, rendered, tables
from transformers import LlamaConfig

from loramem.base import load_base
from loramem.modules.bucket import padded_rank
from loramem.studies import spec
from loramem.studies.grid import resolve
from loramem.studies.workload import training_items

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


@pytest.fixture(scope="module")
def card() -> dict:
    return json.loads(schedule.KEPT.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def works(card) -> list[Work]:
    return [Work.of(line) for line in card["plan"]]


def test_the_document_holds_the_tables_of_the_kept_result(card):
    text = schedule.DOCS.read_text(encoding="utf-8")
    assert rendered(text, tables(card)) == text
    assert card["assumed"] == schedule.ASSUMED and card["lengths"] == paper_grid.LENGTHS


def test_a_document_without_a_place_is_refused_and_one_with_it_keeps_the_rest():
    text = "before\n<!-- one -->\nold\n<!-- /one -->\nafter"
    assert rendered(text, {"one": "new"}) == "before\n<!-- one -->\nnew\n<!-- /one -->\nafter"
    with pytest.raises(SystemExit, match="two"):
        rendered(text, {"two": "new"})


def test_numbers_are_short():
    assert [number(x) for x in (0, 3, 0.0123, 9.99, 51.26, 1234.5, 3.4e6, 57.5e9)] == [
        "0", "3", "0.012", "10", "51.3", "1,234", "3.4 M", "57.5 G",
    ]  # fmt: skip


# -- arithmetic and queue --------------------------------------------------------------------------------------
def test_gpu_hours_are_tokens_times_flop_over_rates(card, works):
    """The training of every study on Llama-3.1-8B, from numbers written out here."""
    weights, per_rank, share = 7_504_658_432, 2_621_440, 0.35
    seconds: dict[str, float] = defaultdict(float)
    for work in works:
        if work.stage.endswith("train") and work.base == LLAMA:
            rank, length, batch, steps, _ = work.shape
            tokens = work.count * length * batch * steps
            again = (work.study, length, batch) in {("q04", 1472, 8), ("q05", 1472, 8), ("q12", 256, 32), ("q14", 256, 32)}  # fmt: skip
            seconds[work.study] += tokens * (6 if again else 4) * weights / (share * 989e12)
            seconds[work.study] += (
                tokens * (8 if again else 6) * per_rank * padded_rank(rank) / (share * 67e12)
            )
    assert set(seconds) == {"q01", "q02", "q04", "q05", "q07", "q08", "q09", "q12", "q14"}
    for study, found in seconds.items():
        spent = card["studies"][study]["gpu_hours"]
        training = spent["base"] + spent["modules"] + spent["recomputed"]
        assert training == pytest.approx(found / 3600, rel=1e-9), study


def test_the_queue_ends_as_arithmetic_says(card):
    """Within 2 % of an even share on 1 and 8 GPUs, 8 % on 64, and within the bounds of list scheduling."""
    for percent, played in card["played"].items():
        hours = card["closed_form"][percent]["all"]
        for gpus, margin in (("1", 0.02), ("8", 0.02), ("64", 0.08)):
            assert 1 <= played[gpus] / (hours / int(gpus)) <= 1 + margin, (percent, gpus)
    for run in (*card["runs"].values(), *card["pooled"].values()):
        assert run["at_least"] - 1e-6 <= run["hours"] <= run["at_most"] + 1e-6
        assert run["deaths"] == run["lost_hours"] == 0
    assert card["runs"]["64"]["hours"] >= card["pooled"]["64"]["hours"]
    assert card["runs"]["64"]["busy_share"] > 0.9
    assert card["deaths"]["24"]["lost_hours"] > 0


def test_a_replay_gives_the_kept_hours(card, works):
    """A study played again, from its plan to its hours."""
    own = [work for work in works if work.study == "q09"]
    for gpus in (1, 8, 64):
        kept = card["runs"][str(gpus)]["studies"]["q09"]
        assert schedule.play(own, gpus)["studies"] == {"q09": pytest.approx(kept)}
    found, kept = schedule.account(own), card["studies"]["q09"]
    assert found.pop("gpu_hours") == pytest.approx(kept["gpu_hours"])
    assert found == {key: value for key, value in kept.items() if key != "gpu_hours"}


def test_items_without_recomputation_are_those_of_the_executor():
    work = Work("q09", LLAMA, "train", "r=16", (16, 96, 8, 1000, 0), 1)
    (item,) = schedule.items_of([work], 0.35)
    (own,) = training_items([schedule.job_of(work, "float32")], schedule.machine(LLAMA, 0.35))
    assert (
        item.seconds == pytest.approx(own.seconds)
        and not schedule.side_by_side(LLAMA, work.shape, "float32")[1]
    )


# -- the plan --------------------------------------------------------------------------------------------------
def test_the_grid_of_question_2_is_all_there(works):
    """20 sizes, 10 ranks, 3 seeds, 2 sources, 2 budgets; and 3 rates for each rank and source."""
    count = {
        stage: sum(w.count for w in works if w.study == "q02" and w.stage == stage)
        for stage in paper_grid.STAGES
    }
    assert count["train"] == 20 * 10 * 3 * 2 * 2 and count["sweep-train"] == count["sweep-read"] == 60
    fixed = sum(w.count for w in works if w.study == "q02" and w.stage == "train" and w.shape[3] == 1500)
    assert fixed >= 1200  # the paper's steps; a few of constant exposures may come to as many


def test_what_studies_share_is_counted_once(works):
    for study in ("q03", "q10", "q11", "q13"):  # they read what others train
        assert not [w for w in works if w.study == study and w.stage.endswith("train")]
        assert [w for w in works if w.study == study and w.stage == "read"]
    assert {w.study for w in works} == set(paper_grid.QUESTIONS) - {"q15"}  # which asks what q12 and q13 ask


@pytest.mark.parametrize("name", paper_grid.QUESTIONS)
def test_every_study_can_be_planned_without_a_download(name):
    body = paper_grid.twin(resolve(spec.read_document(name), "paper", ()))
    study = spec.validate(body, "paper")
    assert not [key for key, one in body["sources"].items() if "path" in one]
    assert {choice.generator for choice in study.supervisions} == {"exact"}
    assert all(name in shapes.SHAPES for name in study.bases)


@pytest.mark.slow
def test_a_study_is_expanded_by_the_planner():
    works = paper_grid.expand(["q09", "q10"], say=lambda text: None)
    trained = [work for work in works if work.stage == "train"]
    assert [(w.study, w.what, w.shape, w.count) for w in trained] == [
        ("q09", "r=16", (16, 96, 8, 1000, 0), 3 * (15 + 1))
    ]
    assert {work.study for work in works if work.stage == "read"} == {"q09", "q10"}
    assert Work.of(trained[0].line()) == trained[0]


# -- shapes ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (LLAMA, 8_030_261_248), ("meta-llama/Llama-3.1-70B-Instruct", 70_553_706_496), ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-14B", 14_768_307_200),
    ],
)  # fmt: skip
def test_shapes_have_the_published_numbers_of_parameters(name, parameters):
    assert shapes.planned(name).parameters == parameters
    assert not shapes.planned(name).computes


def test_bytes_of_a_model_in_four_bits_are_those_of_a_quantised_one():
    quantised = load_base("embedded", device="cpu", dtype="nf4")
    found = 0
    packed = set()
    for layer in quantised.model.modules():
        if isinstance(layer, Linear4bit):
            state = layer.weight.quant_state
            packed.add(id(layer.weight))
            found += (
                layer.weight.numel()
                + state.absmax.numel() * state.absmax.element_size()
                + 4 * state.state2.absmax.numel()
            )
    found += sum(2 * one.numel() for one in quantised.model.parameters() if id(one) not in packed)
    assert shapes.nf4_bytes(load_base("embedded").model) == pytest.approx(found, rel=0.01)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
def test_what_a_small_model_keeps_tells_what_a_large_one_does(monkeypatch, compute):
    """A model of three layers measured itself, and foretold by one of a quarter of every width."""
    config = LlamaConfig(
        vocab_size=1024, hidden_size=1024, intermediate_size=3584, num_hidden_layers=3, num_attention_heads=8, num_key_value_heads=2,
        head_dim=128, max_position_embeddings=512,
    )  # fmt: skip
    monkeypatch.setitem(shapes.SHAPES, "test", config)
    monkeypatch.setattr(shapes, "SMALLER", 4)
    foretold = shapes.saved_bytes("test", 16, 16, 0.1, compute)
    assert foretold == pytest.approx(shapes._probe(config, 16, 16, 0.1, compute), rel=0.03)


def test_a_base_of_70b_fits_where_the_document_says(card):
    memory = card["memory"]
    assert memory["bytes"]["bfloat16"] == 2 * memory["parameters"] == 2 * 70_553_706_496
    assert 39e9 < memory["bytes"]["nf4"] < 40e9
    rows = {(one["rank"], one["length"]): one for one in memory["rows"]}
    assert rows[16, 96]["state"] == 16 * 16 * 12_943_360  # bytes a parameter, rank, parameters a rank
    assert rows[64, 256]["fits"]["nf4"][0] == "H100" and "H200" not in rows[4, 96]["fits"]["bfloat16"]
    assert all(one["row"] < one["recomputed"] < one["pass"] for one in memory["rows"])
    torch.testing.assert_close(memory["times"], 69_501_714_432 / 7_504_658_432)
