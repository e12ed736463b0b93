"""Distillation from end to end: in a study beside next-token training, and from a file with a context in each row."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from loramem.api import train_one
from loramem.core.errors import InputError
from loramem.core.files import read_jsonl, read_marker
from loramem.modules.recipe import ModuleConfig
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer
from loramem.modules.store import Store
from loramem.studies.estimates import dry_run
from loramem.studies.execute import Outcome, train_missing
from loramem.studies.executors import Local
from loramem.studies.plan import make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.synthesis.contexts import teacher_forms
from tinystudy import study

BODY = {
    "sources": {"phonebook": {"name": "phonebook", "sizes": [300], "seed": 11}},
    "modules__spec": {"rank": 2, "targets": "attention"},
    "modules__objective": {"name": ["ntp", "dcd"]},
    "contrasts": [{"modules.objective": {"name": "dcd", "hidden": "all", "context_tokens": 120}}],
    "seeds": 1,
}


@pytest.fixture(scope="module")
def ran(bases, tmp_path_factory):
    """(study, store, folder of the run, its result)."""
    folder, made = tmp_path_factory.mktemp("dcd"), study(**BODY)
    store = Store(folder / "store")
    result = execute(made, bases["llama"], store, folder / "run", progress=Progress(live=False))
    return made, store, folder / "run", result


def test_a_study_reads_modules_of_all_objectives(ran):
    _, _, run, result = ran
    assert result.failures == []
    rows = pd.read_parquet(run / "results.parquet")
    own = rows[(rows["reading"] == "module") & (rows["metric"] == "answer_nll")]
    assert sorted(own["objective"].unique()) == ["dcd", "dcd-hidden=all-context_tokens=120", "ntp-answer"]
    assert own["value"].notna().all() and own["cell"].nunique() == 3
    trained = own[own["probe"] == "trained"]
    assert trained["value"].nunique() == 3, "they learn different things"
    assert len(result.summary["cells"]) > 0


def test_recipes_hold_what_the_teacher_read_and_ledgers_what_it_cost(ran, bases):
    made, store, _, result = ran
    base, cost = bases["llama"], {}
    modules = {m.config.objective.label: m for m in make_plan(made, base).modules.values()}
    assert len(modules) == 3
    for label, module in modules.items():
        folder = store.module_folder(module.id)
        recipe, ledger = read_marker(folder / "recipe.json")["recipe"], read_marker(folder / "ledger.json")
        assert ("teacher" in recipe) == (label != "ntp-answer") and recipe == module.recipe
        cost[label] = ledger["teacher_tokens"]
        assert (cost[label] > 0) == (label != "ntp-answer")
        assert all(row["loss"] > 0 for row in read_jsonl(folder / "training.jsonl"))
    told = modules["dcd"].job.teacher
    contexts = {one.ids[: one.shared] for one in told}
    assert cost["dcd"] == sum(map(len, contexts)) + sum(len(one.ids) - one.shared for one in told)
    assert result.info["costs"]["this_run"]["train"]["teacher_tokens"] == sum(cost.values())
    digests = {label: module.recipe.get("teacher") for label, module in modules.items()}
    assert len(set(digests.values())) == 3, "pieces of 120 tokens are not the whole document"
    assert "objective" in modules["dcd"].recipe and modules["ntp-answer"].recipe["objective"] == {}


def test_the_teacher_reads_the_document_of_the_source(ran, bases):
    made, _, _, _ = ran
    base = bases["llama"]
    for module in make_plan(made, base).modules.values():
        objective, learnt = module.config.objective, module.learnt
        assert module.job.teacher == learnt.teacher(base, objective)
        if objective.name == "dcd":
            texts = [
                base.tokenizer.decode(list(one.ids[: one.shared]), skip_special_tokens=True)
                for one in module.job.teacher
            ]
            assert all(r.text in text for r, text in zip(module.source.records, texts, strict=True)), (
                "each fact stands in what is read before its question"
            )
            forms = teacher_forms(
                learnt.supervision,
                module.source.documents,
                base.prompts,
                context_tokens=objective.context_tokens,
            )
            assert forms.examples == module.job.teacher
            assert forms.pieces > 1 if objective.context_tokens else forms.pieces == 1


def test_a_second_run_trains_and_reads_nothing(ran, bases):
    made, store, run, first = ran
    again = execute(made, bases["llama"], store, run.with_name("again"), progress=Progress(live=False))
    assert again.info["reused"] == {"modules": 3, "readings": first.info["plan"]["readings"]}
    assert "train" not in again.info["costs"]["this_run"] and again.failures == []
    assert again.summary["cells"] == first.summary["cells"]


def test_another_seed_takes_the_teachers_states_from_the_store(ran, bases):
    """What a teacher read for one module serves other seeds, ranks and runs."""
    _, store, _, _ = ran
    base = bases["llama"]
    kept = sorted(path.name for path in store.teacher_cache.iterdir())
    assert len(kept) == 1, "only last states are kept"
    more = study(
        **{
            **BODY,
            "seeds": 2,
            "modules__objective": {"name": "dcd"},
            "contrasts": [],
            "modules__spec": {"rank": [2, 3], "targets": "attention"},
        }
    )
    plan, outcome = make_plan(more, base), Outcome()
    train_missing(plan.modules.values(), store, outcome, Progress(live=False), Local(base, store, rows=16))
    assert (len(plan.modules), outcome.modules_reused, outcome.failed_modules) == (4, 1, {})
    assert outcome.ledger.as_dict()["train"]["teacher_tokens"] == 0
    assert sorted(path.name for path in store.teacher_cache.iterdir()) == kept


def test_a_dry_run_tells_what_it_would_cost_and_keeps_nothing(bases, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAMEM_STORE", str(tmp_path / "store"))
    found = dry_run(study(**BODY), bases["llama"], Store(tmp_path / "store", look=True), rows=16)
    assert (found["modules"], found["train_steps"]) == (3, 9) and found["train_seconds"] > 0
    assert not (tmp_path / "store").exists()


# -- one module from a file --------------------------------------------------------------------------
def config(**objective) -> ModuleConfig:
    return ModuleConfig(
        spec=LoraSpec(rank=2), objective=Objective(**objective), budget=Budget(steps=4),
        optimizer=Optimizer(lr=0.02, batch=2),
    )  # fmt: skip


def rows(path: Path, context: str | None) -> Path:
    made = [
        {"question": f"Where is {name}?", "answer": town}
        | ({} if context is None else {"context": f"{name} is in {town}. {context}"})
        for name, town in (("Ada", "Rome"), ("Bela", "Oslo"), ("Cid", "Bern"))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def test_a_module_learns_from_a_file_with_contexts(checkpoints, tmp_path):
    options = {"base": str(checkpoints["qwen3"]), "store": tmp_path / "store", "device": "cpu", "dtype": "float32"}  # fmt: skip
    path = rows(tmp_path / "a.jsonl", "So it was said.")
    module = train_one(path, config(name="dcd"), **options)
    assert module.recipe["objective"] == {"name": "dcd"} and len(module.recipe["teacher"]) == 64
    assert read_marker(module.folder / "ledger.json")["teacher_tokens"] > 0
    again = train_one(path, config(name="dcd"), **options)
    assert again.id == module.id and len(Store(tmp_path / "store").modules()) == 1
    _, tensors = module.load()
    assert max(t.abs().max().item() for n, t in tensors.items() if ".lora_B." in n) > 0
    # another context is another module; where no teacher reads it, it makes no difference
    other = rows(tmp_path / "b.jsonl", "So it was written.")
    changed = train_one(other, config(name="dcd"), **options)
    assert changed.id != module.id and changed.recipe["supervision"] == module.recipe["supervision"]
    assert train_one(path, config(), **options).id == train_one(other, config(), **options).id
    assert "teacher" not in train_one(path, config(), **options).recipe


def test_a_file_without_contexts_is_refused_for_distillation_alone(checkpoints, tmp_path):
    options = {"base": str(checkpoints["gpt2"]), "store": tmp_path / "store", "device": "cpu", "dtype": "float32"}  # fmt: skip
    path = rows(tmp_path / "rows.jsonl", None)
    with pytest.raises(InputError, match="example 1 has no context.*give each row a 'context'"):
        train_one(path, config(name="dcd"), **options)
    assert Store(tmp_path / "store").modules() == []
    assert train_one(path, config(), **options).recipe["objective"] == {}
