"""What q12, q13, q14 and the ablation say of made-up summaries: never more than the paired intervals, nothing of what is missing."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from loramem.studies.ablation.analysis import analyse as ablation
from loramem.studies.ablation.analysis import variants
from loramem.studies.q12.analysis import TABLE as CLOSED_TABLE
from loramem.studies.q12.analysis import analyse as q12
from loramem.studies.q13.analysis import analyse as q13
from loramem.studies.q14.analysis import analyse as q14
from loramem.studies.ways import beside_paper, leading, places, sources_of, way
from readings_madeup import ABLATION, cell, chronicles, compared, level, summary

WORDS = {"more": (0.05, 0.15), "less": (-0.15, -0.05), "no clear difference": (-0.05, 0.05)}


def between(a: dict, b: dict, word: str) -> dict:
    low, high = WORDS[word]
    return compared(a, b, (low + high) / 2, low, high)


# -- naming and choosing -------------------------------------------------------------------------------
def test_the_score_that_answers_is_the_published_one_and_held_out_where_that_was_asked():
    found = summary([
        cell("closed", source="narrativeqa", metric="exact_match"), cell("closed", source="narrativeqa", metric="rouge_l"),
        cell("closed", source="quality", metric="accuracy", probe="trained"), cell("closed", source="stories", metric="accuracy_hard"),
        cell("closed", source="papers", metric="exact_match", probe="trained"), cell("closed", source="papers", metric="exact_match"),
    ])  # fmt: skip
    assert leading(found, "narrativeqa") == ("rouge_l", "heldout")
    assert leading(found, "quality") == ("accuracy", "trained")
    assert leading(found, "papers") == ("exact_match", "heldout")
    assert leading(found, "stories") is None and leading(summary([]), "stories") is None
    assert [at.source for at in places(found)] == ["narrativeqa", "quality", "papers"]


def test_the_source_on_which_settings_are_chosen_is_not_reported_on():
    assert sources_of(summary([cell("closed", source="sweep"), cell("closed")])) == ["chronicles"]


def test_fewer_modules_than_were_wanted_are_named_as_such():
    merged = {
        "reading": "merged",
        "partition": "chunk",
        "router": "bm25",
        "merge": "cat",
        "top_k": 3,
        "module_on": "all",
    }
    assert way({**merged, "pool_size": 3}) == "3 chunks merged (cat, bm25)"
    assert way({**merged, "pool_size": 2}) == "up to 3 chunks merged (cat, bm25)"
    assert (
        way({**merged, "pool_size": 9, "adaptive": 0.8})
        == "up to 3 chunks merged (cat, 0.8 of the confidence, bm25)"
    )


# -- q12 ---------------------------------------------------------------------------------------------
def long_documents(**words: str) -> dict:
    own = chronicles()
    tests = [between(own[a], own[b], word) for (a, b), word in (
        (("routed", "single"), words.get("gap", "less")), (("right", "single"), words.get("cut", "more")),
        (("right", "routed"), words.get("routing", "more")), (("routed", "routed_documents"), words.get("alike", "no clear difference")),
    )]  # fmt: skip
    return summary(own.values(), tests)


@pytest.mark.parametrize("word", WORDS)
def test_q12_first_sentence_is_many_against_one_and_as_strong_as_the_interval(word):
    first = q12(long_documents(gap=word)).answer[0]
    assert first.startswith(
        "chronicles, exact match: the router's chunk (embedding) 30.0 % [20.0, 40.0] against one module a document"
    )
    assert f": {word} (" in first and not any(f": {other} (" in first for other in set(WORDS) - {word})


def test_q12_says_which_part_is_routing_and_which_is_cutting():
    said = " ".join(q12(long_documents(cut="no clear difference", routing="more")).answer)
    assert (
        "of cutting the document: the right chunk's module 50.0 % [40.0, 60.0] against one module a document 50.0 % [40.0, 60.0]: no clear"
        in said
    )
    assert (
        "of routing: the right chunk's module 50.0 % [40.0, 60.0] against the router's chunk (embedding) 30.0 % [20.0, 40.0]: more"
        in said
    )
    assert "its first choice holds the answer for 40.0 % [30.0, 50.0] of the questions" in said
    assert (
        "the router's chunk (embedding) 30.0 % [20.0, 40.0] against the router's document (embedding)" in said
    )


def test_q12_pairs_that_were_not_tested_and_cells_without_a_result_give_no_sentence():
    own = chronicles()
    assert q12(summary(own.values())).answer == ()
    tests = [between(own["routed"], own["single"], "less")]
    assert len(q12(summary(own.values(), tests)).answer) == 1
    own["single"] = {**own["single"], "mean": None, "ci_low": None, "ci_high": None}
    assert q12(summary(own.values(), tests)).answer == ()
    assert q12(summary([])).answer == ()


def leveled(**gaps: tuple[float, float]) -> dict:
    """Levels at which one module and the router's chunk have these scores, each give or take 5 points."""
    own = chronicles()
    found = summary(own.values())
    for name, (one, many) in gaps.items():
        found["levels"] += [
            level(own["single"], name.replace("_", "-"), one),
            level(own["routed"], name.replace("_", "-"), many),
        ]
    return found


def test_q12_compares_gaps_by_level_only_as_far_as_their_intervals_reach():
    (said,) = q12(
        leveled(
            single_hop=(0.5, 0.4),
            two_hop_across=(0.8, 0.3),
            two_hop_within=(0.3, 0.4),
            three_hop_across=(0.5, 0.45),
        )
    ).answer
    assert "larger at 1 of 3 levels that join facts, clearly smaller at 1, open at 1." in said
    assert "two-hop-across 80 % against 30 % (+50.0 points [" in said and "little room" not in said
    assert q12(leveled(two_hop_across=(0.8, 0.3))).answer == (), "nothing to compare with"


def test_q12_says_where_a_gap_has_no_room():
    (said,) = q12(leveled(single_hop=(0.9, 0.4), three_hop_across=(0.05, 0.02))).answer
    assert said.endswith("Where both stay under 20 % there is little room for a gap: three-hop-across.")


def test_q12_names_the_hard_subset_and_counts_replies_that_name_no_option():
    base = {"source": "stories", "metric": "accuracy"}
    cells = [cell("closed", **base), cell("module", partition="document", **base)]
    more = [
        {**one, "metric": name, "mean": mean, "ci_low": 0.0, "ci_high": 0.2, "n": 48, "facts": 24}
        for one in cells
        for name, mean in (("accuracy_hard", 0.1), ("parsed", 0.0))
    ]
    hard, parsed = q12(summary(cells + more)).answer
    assert (
        hard
        == "stories, the 24 hard questions alone (chance 25 %): base alone 10.0 % [0.0, 20.0]; one module a document 10.0 % [0.0, 20.0]."
    )
    assert "none of 96 replies names one option" in parsed
    more[-1] = {**more[-1], "mean": 0.5}
    assert "one module a document names one in 50.0 %" in q12(summary(cells + more)).answer[1]


def test_lines_of_the_paper_stand_beside_the_twins_by_the_papers_score():
    cells = [cell("module", partition="document", metric=name) for name in ("exact_match", "rouge_l")]
    found = beside_paper(summary([*cells, cell("closed", source="stories", metric="accuracy")]), CLOSED_TABLE)
    assert [(row.label.partition(" (")[0], row.published, row.ours) for row in found] == [
        ("NarrativeQA, ROUGE-L: single", "23.81 | 27.05 | 24.78 | 25.78", "chronicles 30.0 % [20.0, 40.0]"),
        ("QuALITY, accuracy: base", "25.75 | 32.01 | 26.42 | 26.06", "stories 30.0 % [20.0, 40.0]"),
    ]
    assert q12(summary(cells)).beside == found[:1] and q13(summary(cells)).beside == ()


# -- q13 ---------------------------------------------------------------------------------------------
def beside(text: str, module: str) -> dict:
    own = chronicles()
    together = cell("module+icl", partition="document")
    context = cell("icl", partition="document")
    return summary(
        [*own.values(), together, context],
        [between(together, context, text), between(together, own["single"], module)],
    )


@pytest.mark.parametrize(
    ("text", "module", "counts"),
    [
        ("more", "more", (1, 0, 0)), ("more", "no clear difference", (0, 0, 1)), ("more", "less", (0, 1, 0)),
        ("no clear difference", "no clear difference", (0, 0, 1)), ("less", "more", (0, 1, 0)),
    ],
)  # fmt: skip
def test_q13_beats_each_alone_only_where_both_intervals_say_so(text, module, counts):
    first, *rest = q13(beside(text, module)).answer
    better, worse, open_ = counts
    assert first.startswith(
        f"chronicles, exact match: of 1 ways to put modules beside a context, {better} clearly beat"
    )
    assert f"; {worse} {'is' if worse == 1 else 'are'} clearly worse than one of the two" in first
    assert f"; {open_} are not told apart from the better one." in first
    assert f"against the document in the context alone 30.0 % [20.0, 40.0]: {text} (" in rest[0]
    assert f"against one module a document alone 50.0 % [40.0, 60.0]: {module} (" in rest[1]


def test_q13_counts_nothing_that_was_not_held_against_both():
    found = beside("more", "more")
    found["comparisons"]["tests"].pop()
    assert not any("ways to put" in said for said in q13(found).answer)
    assert sum("alone 30.0" in said for said in q13(found).answer) == 1


def test_q13_reads_a_module_that_is_on_after_the_context_apart():
    found = beside("more", "more")
    late = cell("module+icl", partition="document", module_on="after-prefix")
    always = next(one for one in found["cells"] if one["reading"] == "module+icl")
    found["cells"].append(late)
    found["comparisons"]["tests"].append(between(late, always, "less"))
    said = [one for one in q13(found).answer if "on after the context" in one]
    assert (
        len(said) == 1
        and "beside the document in the context: one module a document, on after the context" in said[0]
    )
    assert ": less (" in said[0] and q13(found).answer[0].startswith("chronicles, exact match: of 1 ways")


def test_q13_names_contexts_that_were_cut_and_upper_bounds():
    found = beside("more", "more")
    found["cells"].append(cell("gold-passage", retriever="gold"))
    name, joined = (
        next(one["cell"] for one in found["cells"] if one["reading"] == reading)
        for reading in ("icl", "module+icl")
    )
    cut = {"tokens": 77, "probes_cut": 9, "probes": 60, "hits": None}
    found["contexts"] = [
        {"cell": name, **cut},
        {"cell": joined, **cut},
        {"cell": "elsewhere", **cut},
        {"cell": name, **cut, "probes_cut": 0},
    ]
    said, bounds = q13(found).answer[1], q13(found).answer[-1]
    assert (
        "reads: nothing 30.0 % [20.0, 40.0]; the document in the context 30.0 %" in bounds
        and "the gold passage 30.0 %" in bounds
    )
    text = f"chronicles: contexts that did not fit were cut: {name} for 9 of 60 questions, by up to 77 tokens"
    assert said == f"{text}, and in 1 readings of modules beside it."
    del found["contexts"][1]
    assert q13(found).answer[1] == f"{text}."


# -- q14 ---------------------------------------------------------------------------------------------
def test_q14_counts_merges_by_what_their_intervals_allow():
    own = chronicles()
    merged = [
        cell("merged", partition="chunk", router="embedding", merge=rule, top_k=3)
        for rule in ("cat", "linear-delta", "ties-delta")
    ]
    tests = [between(one, own["routed"], word) for one, word in zip(merged, WORDS, strict=True)]
    own.pop("merged")
    answer = q14(summary([*own.values(), *merged], tests)).answer
    assert (
        "of 3 ways to merge several chunks' modules, 1 give clearly more than the router's one chunk alone, 1 clearly less; 1 are not told apart"
        in answer[0]
    )
    assert [said.split(": ")[2].split(" (")[0] for said in answer[1:]] == list(WORDS)
    assert q14(summary([*own.values(), *merged])).answer == ()


def test_q14_names_the_best_of_the_sweep_and_what_it_is_worth():
    cells = [
        cell("merged", source="sweep", partition="chunk", router="embedding", merge="cat", top_k=3, lr=lr, mean=mean)
        for lr, mean in ((0.001, 0.2), (0.005, 0.6), (0.01, 0.55))
    ]  # fmt: skip
    (said,) = q14(summary(cells)).answer
    assert (
        "the best of 3 pairs of training and reading is exposures=20, rate 0.005, alpha 8, read as 3 chunks merged (cat, embedding): 60.0 % [50.0, 70.0]"
        in said
    )
    assert "the intervals of 1 others reach into its own" in said and "its mean is too high" in said
    oracle = cell("module", source="sweep", partition="chunk", mean=0.99)
    assert q14(summary([*cells, oracle])).answer == (said,), "an oracle is nobody's choice"
    assert q14(summary(cells[:1])).answer == ()


# -- ablation ----------------------------------------------------------------------------------------
def test_the_ablation_changes_one_thing_at_a_time():
    first, own = variants(pd.DataFrame(summary(ABLATION.values())["cells"]))
    assert first is not None and first["targets"] == "all-linear"
    assert [(v.aspect, v.name) for v in own] == [
        ("targets", "attention only"), ("targets", "q_proj only"), ("layers", "first half of the layers"), ("variant", "DoRA"),
        ("objective", "distillation, KL only"),
    ], "two changes at once, another partition and another protocol are left out"  # fmt: skip


def test_the_ablation_says_of_each_variant_what_its_interval_allows():
    first = ABLATION["first"]
    kinds = [
        (row.label.split(": ")[1], row.published, row.ours)
        for row in ablation(summary(ABLATION.values())).beside
    ]
    assert kinds == [
        ("LoRA (Llama-3.1-8B | Qwen3-8B)", "5.40 | 5.58", "papers, exact match 50.0 % [40.0, 60.0]"),
        ("DoRA (Llama-3.1-8B | Qwen3-8B)", "5.27 | 5.43", "papers, exact match 30.0 % [20.0, 40.0]"),
    ]
    words = {"attention": "less", "dora": "no clear difference", "kl": "more"}
    tests = [between(ABLATION[name], first, word) for name, word in words.items()]
    answer = ablation(summary(ABLATION.values(), tests)).answer
    assert (
        "1 of 3 variants give back clearly more (distillation, KL only), 1 clearly less (attention only); not told apart: DoRA."
        in answer[0]
    )
    assert "60,000 parameters" in answer[0] and answer[1].startswith(
        "matrices: attention only (20,000 parameters) 30.0 %"
    )
    assert len(answer) == 4 and not any("q_proj" in said for said in answer), (
        "what was not tested is not mentioned"
    )
    plain = [{key: value for key, value in one.items() if key != "parameters"} for one in ABLATION.values()]
    assert not any("parameters" in said for said in ablation(summary(plain, tests)).answer)


def test_the_ablation_holds_company_against_the_same_reading_alone():
    alone = cell("merged", source="papers", partition="document", router="oracle", merge="cat", top_k=3)
    beside_others = {**alone, "cell": "beside", "distractors": "others-p0.5"}
    found = summary([ABLATION["first"], alone, beside_others], [between(beside_others, alone, "more")])
    (said,) = ablation(found).answer
    assert (
        said.startswith("3 documents merged (cat, oracle): learnt beside others 30.0 %")
        and ": more (" in said
    )


def test_the_ablation_reports_harm_by_intervals_that_do_not_overlap():
    harm = [
        {
            **ABLATION[name],
            "metric": "kl_to_base",
            "probe": "unrelated",
            "mean": mean,
            "ci_low": mean - 0.1,
            "ci_high": mean + 0.1,
        }
        for name, mean in (("first", 1.0), ("dora", 2.0), ("attention", 1.05), ("kl", 0.5))
    ]
    (said,) = ablation(summary([*ABLATION.values(), *harm])).answer
    assert (
        "the first module 1.000 [0.900, 1.100]; clearly more: DoRA 2.000 [1.900, 2.100]; clearly less: distillation, KL only 0.500"
        in said
    )
    assert "1 variants are not told apart" in said


# -- all ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("analyse", [q12, q13, q14, ablation])
def test_an_analysis_stands_on_whatever_is_missing(analyse):
    """Every cell of a whole study may be gone, or without a result."""
    own = list(chronicles().values()) + [
        cell("module+icl", partition="document"),
        cell("icl", partition="document"),
    ]
    tests = [between(a, b, "more") for a in own for b in own if a is not b]
    whole = analyse(summary(own, tests))
    assert whole.published and (whole.answer or analyse is ablation)
    for gone in own:
        holes = [
            {**one, "mean": None, "ci_low": None, "ci_high": None} if one is gone else one for one in own
        ]
        for cells in (holes, [one for one in own if one is not gone]):
            for said in analyse(json.loads(json.dumps(summary(cells, tests)))).answer:
                assert "nan" not in said and said.endswith(".")
    assert analyse(summary([])).answer == ()
