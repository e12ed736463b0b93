"""A study whose sources are cut into modules: each part is asked with its own, and what fails is one part, not a cell."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from loramem.answering import contexts
from loramem.answering.ask import answer, with_adapter
from loramem.core.errors import InputError
from loramem.core.files import read_json, read_jsonl, read_marker
from loramem.metrics.scorers import METRICS, score
from loramem.modules.store import Store
from loramem.sources.catalogue import load_source
from loramem.studies import learning, work
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.synthesis.supervision import load as load_supervision
from tinystudy import body, study

PARTS = {
    "study": "parts",
    "sources": {
        "papers": {"name": "almanac-papers", "documents": 2, "questions": 2, "seed": 10},
        "others": {"name": "almanac-papers", "documents": 1, "questions": 1, "seed": 7},
    },
    "supervision": {"recipe": ["raw", "qa:5"]},
    "partition": ["corpus", "document"],
    "modules__spec": {"rank": 2, "targets": "attention"},
    "modules__budget": {"exposures": 2},
    "seeds": 1,
    "readings": ["closed", "module", "wrong-module", "random-module", "icl"],
    "metrics": ["exact_match", "token_f1", "answer_nll"],
}
"""The two papers have four records and three, so that a number of steps tells their modules apart."""
PAPERS = ("paper-10-0", "paper-10-1")
CELLS = [(how, recipe) for how in ("corpus", "document") for recipe in ("raw", "qa:5")]


@pytest.fixture(scope="module", autouse=True)
def no_embedder():
    """Embedding questions takes longer than all else here."""

    def missing():
        raise InputError("no embedder")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "Embedder", missing)
        yield


@pytest.fixture(scope="module")
def ran(bases, tmp_path_factory):
    """The study, its plan, its store, its folder, what it found and its rows."""
    folder, made = tmp_path_factory.mktemp("parts"), study(**PARTS)
    store = Store(folder / "store")
    result = execute(made, bases["llama"], store, folder / "run", progress=Progress(live=False))
    rows = pd.read_parquet(folder / "run" / "results.parquet")
    plan = make_plan(made, bases["llama"])
    return SimpleNamespace(study=made, plan=plan, store=store, out=folder / "run", result=result, rows=rows)


def from_store(ran):
    """Modules of the store by their ids."""
    return lambda keys: [ran.store.module(str(key)).load() for key in keys]


def cell(ran, slug: str):
    (found,) = [one for one in ran.plan.cells if one.slug == slug]
    return found


def values(rows: pd.DataFrame, slug: str, metric: str = "answer_nll") -> pd.Series:
    own = rows[(rows["cell"] == slug) & (rows["metric"] == metric)]
    assert len(own), slug
    return own.set_index("probe")["value"]


def test_everything_is_trained_and_read(ran):
    assert ran.result.failures == [] and ran.result.summary["failures"] == []
    slugs = {one.slug for one in ran.plan.cells}
    assert {f"papers-{how}-{recipe}-r2-module" for how, recipe in CELLS} <= slugs
    assert {"papers-closed", "papers-corpus-icl", "papers-document-icl"} <= slugs, "a base alone has no parts"
    assert set(ran.rows["cell"]) == slugs and (ran.rows["n_failed"] == 0).all() and ran.rows["value"].notna().all()  # fmt: skip
    assert len(ran.plan.modules) == 2 * (3 + 1), "one document alone is a corpus: the same modules"


@pytest.mark.parametrize(("how", "recipe"), CELLS)
def test_rows_say_how_a_module_came_to_be(ran, bases, how, recipe):
    base = bases["llama"]
    (source,) = load_source(PARTS["sources"]["papers"], base.prompts.count)
    slug = f"papers-{how}-{recipe}-r2-module"
    own = ran.rows[ran.rows["cell"] == slug]
    assert set(own["metric"]) == {"exact_match", "token_f1", "answer_nll"}
    parts = {"corpus": [[0, 1]], "document": [[0], [1]]}[how]
    (row,) = [
        dict(zip(table.columns, table.iloc[0], strict=True))
        for table in [own[["n_modules", "partition", "supervision", "generator", "examples", "supervision_tokens",
                           "steps", "exposures", "facts", "base_name"]].drop_duplicates()]
    ]  # fmt: skip
    assert (row["partition"], row["supervision"], row["n_modules"]) == (how, recipe, len(parts))
    assert row["generator"] == ("source" if recipe == "raw" else "exact")
    sizes = [len(document.records) if recipe == "raw" else 5 for document in source.documents]
    assert row["examples"] == sum(sizes) and row["facts"] == sum(len(d.records) for d in source.documents)
    steps = [-(-2 * sum(sizes[n] for n in part) // 2) for part in parts]
    assert row["steps"] == round(sum(steps) / len(steps))
    seen = [2 * taken / sum(sizes[n] for n in part) for taken, part in zip(steps, parts, strict=True)]
    assert row["exposures"] == pytest.approx(sum(seen) / len(seen)), (
        "each module's own steps over its own examples"
    )
    if recipe == "raw":
        learnt = [base.prompts.text_example(record.text) for record in source.records]
        assert row["supervision_tokens"] == sum(len(e.ids) - e.answer_start for e in learnt)
    modules = json.loads(own["module_ids"].iloc[0])
    assert modules == [module.id for module in cell(ran, slug).modules] and own["module_ids"].nunique() == 1
    assert len(set(modules)) == len(parts)
    taken = [read_marker(ran.store.module_folder(identity) / "recipe.json")["steps_taken"] for identity in modules]  # fmt: skip
    assert taken == steps
    readings = own["reading_id"].iloc[0]
    assert (json.loads(readings) if len(parts) > 1 else [readings]) == [
        task.identity(base) for task in cell(ran, slug).tasks
    ]


@pytest.mark.parametrize("recipe", ["raw", "qa:5"])
def test_each_part_is_answered_by_its_own_module(ran, bases, recipe):
    base, slug = bases["llama"], f"papers-document-{recipe}-r2-module"
    found = cell(ran, slug)
    (source,) = load_source(PARTS["sources"]["papers"], base.prompts.count)
    metric = METRICS.get("answer_nll")
    alone, crossed = [], []
    for name, module, task in zip(PAPERS, found.modules, found.tasks, strict=True):
        learnt = load_supervision(
            ran.store.root / "supervision" / module.learnt.supervision.hash / "examples.jsonl"
        )
        assert {example.document for example in learnt.examples} == {name}
        asked = [probe for probe in source.probes if probe.document == name]
        assert list(task.probes) == asked and asked
        told = answer(base, with_adapter(contexts.alone(asked), module.id), from_store(ran), rows=64)
        kept = read_jsonl(ran.store.reading_folder(task.identity(base)) / "predictions.jsonl")
        assert [(row["probe"], row["prediction"]) for row in kept] == [
            (row["probe"], row["prediction"]) for row in told
        ]
        trained = [(p, row) for p, row in zip(asked, told, strict=True) if metric.applies(p)]
        alone += [score(metric, probe, row) for probe, row in trained]
        (other,) = [one for one in found.modules if one.id != module.id]
        said = answer(
            base, with_adapter(contexts.alone([p for p, _ in trained]), other.id), from_store(ran), rows=64
        )
        crossed += [score(metric, p, row) for (p, _), row in zip(trained, said, strict=True)]
    assert values(ran.rows, slug)["trained"] == pytest.approx(sum(alone) / len(alone), rel=1e-4)
    assert abs(sum(alone) - sum(crossed)) > 1e-4, "another document's module says something else"
    wrong = values(ran.rows, f"papers-document-{recipe}-r2-wrong-module")["trained"]
    assert wrong == pytest.approx(sum(crossed) / len(crossed), rel=1e-4), "and that is the wrong module"


def test_a_wrong_module_is_another_part_made_in_the_same_way(ran):
    made = {m.id: (m.learnt.choice.recipe, one.partition, one.source_key) for one in ran.plan.cells for m in one.modules}  # fmt: skip
    for one in ran.plan.cells:
        if one.stem != "wrong-module":
            continue
        for module, task in zip(one.modules, one.tasks, strict=True):
            recipe = module.learnt.choice.recipe
            assert task.module != module.id and made[task.module][0] == recipe, one.slug
            if len(one.modules) > 1:
                assert task.module in {other.id for other in one.modules}
            else:
                assert made[task.module][2] != one.source_key
                ways = {
                    (cell.partition, cell.source_key)
                    for cell in ran.plan.cells
                    if task.module in {m.id for m in cell.modules}
                }
                # the two papers, cut, are not what one module for a corpus is compared with
                assert one.partition in {how for how, key in ways if key != one.source_key}


def test_random_modules_are_drawn_part_by_part(ran):
    one = cell(ran, "papers-document-raw-r2-random-module")
    parents = [ran.plan.controls[task.module].parent.id for task in one.tasks]
    assert parents == [module.id for module in one.modules] and len(set(parents)) == 2
    assert len({task.module for task in one.tasks} | set(parents)) == 4


def test_in_context_a_part_reads_its_own_documents_only(ran):
    parts, whole = cell(ran, "papers-document-icl"), cell(ran, "papers-corpus-icl")
    assert [[d.id for d in task.source.documents] for task in parts.tasks] == [[name] for name in PAPERS]
    assert [[d.id for d in task.source.documents] for task in whole.tasks] == [list(PAPERS)]
    rows = ran.rows[ran.rows["reading"] == "icl"].drop_duplicates(["cell"]).set_index("cell")
    assert (
        rows["partition"].to_dict()["papers-document-icl"] == "document" and rows["module_ids"].isna().all()
    )
    cost = {row["cell"]: row for row in ran.result.info["contexts"]}
    assert cost["papers-document-icl"]["probes"] == cost["papers-corpus-icl"]["probes"] == len(whole.source.probes)  # fmt: skip


def test_summaries_and_accounts_tell_the_parts(ran):
    told = {(row["source"], row["supervision"], row["partition"]): row for row in ran.result.summary["supervision"]}  # fmt: skip
    assert len(told) == 2 * 4 and told["papers", "qa:5", "document"]["parts"] == 2
    assert all("documents" not in row for row in told.values())
    kept = read_json(ran.out / "supervision.json")
    assert {name for row in kept if row["source"] == "papers" for name in row["documents"]} == set(PAPERS)
    cells = {(row["cell"], row["metric"], row["probe"]): row for row in ran.result.summary["cells"]}
    one = cells["papers-document-raw-r2-module", "answer_nll", "trained"]
    assert one["n"] == sum(p.phrasing == "trained" for p in cell(ran, "papers-closed").source.probes)
    assert (one["partition"], one["supervision"], one["examples"]) == ("document", "raw", 7)


def test_modules_that_differ_in_their_supervision_alone_are_compared(ran):
    """Within one way of cutting: what else differs would be compared as well."""
    tests = {(row["cell"], row["against"]) for row in ran.result.summary["pairs"]}
    assert tests == {
        (f"{key}-{how}-qa:5-r2-module", f"{key}-{how}-raw-r2-module")
        for key in ("papers", "others") for how in ("corpus", "document")
    }  # fmt: skip
    assert all(row["p_holm"] >= row["p"] for row in ran.result.summary["pairs"])


def test_a_second_run_trains_and_reads_nothing(ran, bases, tmp_path):
    again = execute(ran.study, bases["llama"], ran.store, tmp_path / "again", progress=Progress(live=False))
    plan = ran.result.info["plan"]
    assert again.info["reused"] == {"modules": plan["modules"], "readings": plan["readings"]}
    assert not {"train", "read"} & again.info["costs"]["this_run"].keys()
    assert again.summary == ran.result.summary


def test_a_part_that_fails_is_counted_in_its_cell(bases, tmp_path, monkeypatch):
    """One document's module cannot be saved: the other's answers stand, the missing ones are counted, and a run mends it."""
    made = study(**{**PARTS, "supervision": {"recipe": "raw"}, "partition": "document",
                    "readings": ["module", "random-module"], "sources": {"papers": PARTS["sources"]["papers"]}})  # fmt: skip
    base, store = bases["llama"], Store(tmp_path / "store")
    plan = make_plan(made, base)
    (one,) = [one for one in plan.cells if one.stem == "module"]
    bad, kept = one.modules[0].id, work.save_trained

    def save(store, done, *arguments, **options):
        if done.key == bad:
            raise OSError("no space left on device")
        kept(store, done, *arguments, **options)

    monkeypatch.setattr(work, "save_trained", save)
    result = execute(made, base, store, tmp_path / "run", progress=Progress(live=False))
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    own = rows[(rows["cell"] == one.slug) & (rows["metric"] == "exact_match")].set_index("probe")
    asked = defaultdict(int)
    for task in one.tasks:
        for probe in task.probes:
            asked[task.module == bad, probe.phrasing] += 1
    for phrasing in ("trained", "heldout"):
        scored, failed = own.loc[phrasing, "n_scored"], own.loc[phrasing, "n_failed"]
        assert (scored, failed) == (asked[False, phrasing], asked[True, phrasing]) and failed > 0
    assert set(own["n_modules"]) == {2} and own["value"].notna().all()
    (cells,) = [
        c for c in result.summary["cells"]
        if c["cell"] == one.slug and c["metric"] == "exact_match" and c["probe"] == "trained"
    ]  # fmt: skip
    assert cells["n_failed"] == asked[True, "trained"] and cells["bound_low"] < cells["bound_high"]
    errors = {row["cell"]: row["error"] for row in result.failures}
    assert errors.keys() == {"papers-r2-module", "papers-r2-random-module"}
    assert errors[one.slug] == "1 of 2 parts: its module failed: OSError: no space left on device"
    monkeypatch.undo()
    mended = execute(made, base, store, tmp_path / "run", progress=Progress(live=False))
    assert mended.failures == [] and mended.info["reused"]["modules"] == 1


def test_a_cell_without_any_part_has_no_result_and_says_why(bases, tmp_path):
    made = study(**{**PARTS, "modules__optimizer": {"lr": 1e30, "batch": 2, "clip": None}, "partition": "document",
                    "supervision": {"recipe": "qa:5"}, "readings": ["closed", "module"]})  # fmt: skip
    result = execute(made, bases["llama"], Store(tmp_path / "store"), tmp_path / "run", progress=Progress(live=False))  # fmt: skip
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    assert set(rows["reading"]) == {"closed"}
    errors = {row["cell"]: row["error"] for row in result.failures}
    assert errors.keys() == {"papers-r2-module", "others-r2-module"}
    assert errors["papers-r2-module"].startswith("2 of 2 parts: its module failed: loss is not finite")
    assert errors["others-r2-module"].startswith("its module failed: loss is not finite")


# -- on the command line -------------------------------------------------------------------------------
def write(folder: Path, **changes) -> Path:
    path = folder / "parts.yaml"
    path.write_text(yaml.safe_dump(body(**{**PARTS, **changes})))
    return path


def test_supervision_that_cannot_be_made_leaves_the_other_cells(loramem, checkpoints, tmp_path):
    """A short piece states no two facts to be joined: those cells are told, raw ones are there, exit code 1."""
    path = write(
        tmp_path, supervision={"recipe": ["raw", "relational-qa:5"]}, partition="chunk", chunking="structure:300",
        readings=["closed", "module"], modules__spec={"rank": [1, 2], "targets": "attention"}, metrics=["exact_match"],
    )  # fmt: skip
    base = checkpoints["llama"]
    code, said, error = loramem("study", "run", path, "--base", base, "--out", tmp_path / "run")
    assert code == 1 and "gave no examples for paper-" in error, error
    summary = read_json(tmp_path / "run" / "summary.json")
    assert {row["cell"] for row in summary["failures"]} == {
        f"{key}-relational-qa:5-r{rank}-module" for key in ("papers", "others") for rank in (1, 2)
    }
    cells = {row["cell"] for row in summary["cells"]}
    assert {"papers-raw-r1-module", "others-raw-r2-module", "papers-closed"} <= cells
    assert "gave no examples" in (tmp_path / "run" / "report.html").read_text()


def test_ranks_snapshots_and_budgets_of_documents_without_a_size_have_a_report(
    loramem, checkpoints, tmp_path
):
    """What is drawn over amounts written has no place for a number of documents, and says nothing."""
    path = write(
        tmp_path, supervision={"recipe": "raw"}, partition="document", readings=["module"], metrics=["exact_match"],
        modules__spec={"rank": [1, 2], "targets": "attention"}, modules__budget={"steps": 2, "snapshots": [1]},
        contrasts=[{"modules.budget": {"steps": 3}}], sources={"papers": PARTS["sources"]["papers"]},
    )  # fmt: skip
    code, said, error = loramem(
        "study", "run", path, "--base", checkpoints["llama"], "--out", tmp_path / "run"
    )
    assert code == 0, error
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    at = rows[rows["probe"] == "trained"].set_index("cell")[["steps", "snapshot"]]
    assert at.loc["papers-r1-steps=2-at-step-1-module"].tolist() == [1, 1]
    assert at.loc["papers-r1-steps=3-module", "steps"] == 3 and rows["size_tokens"].isna().all()
    assert (tmp_path / "run" / "report.html").exists()


def test_a_dry_run_of_a_study_that_writes_leaves_nothing(loramem, checkpoints, tmp_path):
    code, said, error = loramem("study", "run", write(tmp_path), "--base", checkpoints["llama"], "--dry-run")
    counts = json.loads(said[: said.rindex("}") + 1])
    assert code == 0, error
    assert (counts["modules"], counts["supervision_not_made"]) == (8, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"parts.yaml"}
