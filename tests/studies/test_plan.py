"""Plans: what a study trains and reads, each once; contrasts, skips, controls, snapshots and passages in their places."""

from __future__ import annotations

import pandas as pd
import pytest

from loramem.answering.readings import ReadingTask
from loramem.core.errors import Faults, InputError
from loramem.core.files import read_marker
from loramem.modules.store import MODULE_MARKER, Store
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import load_source
from loramem.studies.execute import Outcome, make_controls, train_missing
from loramem.studies.executors import Local
from loramem.studies.plan import Plan, id_of, make_plan
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from tinystudy import PHONES, study

CONTROLS = ["closed", "module", "wrong-module", "random-module"]


@pytest.fixture
def llama(bases):
    return bases["llama"]


def where(plan: Plan) -> list[tuple]:
    return sorted(
        (m.source_key, m.source.size_tokens, m.config.spec.rank, m.config.budget.label, m.seed)
        for m in plan.modules.values()
    )


def one(tasks: tuple[ReadingTask, ...]) -> ReadingTask:
    (task,) = tasks
    return task


def slugs(plan: Plan, stem: str) -> list[str]:
    return [cell.slug for cell in plan.cells if cell.stem == stem]


def test_every_point_size_and_seed_is_one_module(llama):
    plan = make_plan(study(), llama)
    assert where(plan) == sorted(
        [("phonebook", size, rank, "steps=3", seed) for size in (60, 300) for rank in (1, 3) for seed in (0, 1)]
        + [("counterfact", 60, rank, "steps=3", seed) for rank in (1, 3) for seed in (0, 1)]
    )  # fmt: skip
    assert plan.counts()["modules"] == 12 and plan.counts()["modules_skipped"] == 0
    assert plan.counts()["readings"] == 12 + 3, (
        "every module once, and the base alone for each source and size"
    )


def test_a_contrast_is_confined_to_its_sources_and_sizes(llama):
    contrast = {
        "sources": ["phonebook"],
        "sizes": [300],
        "modules.spec.rank": [3],
        "modules.budget": {"steps": 5},
    }
    plan, main = make_plan(study(contrasts=[contrast], seeds=1), llama), make_plan(study(seeds=1), llama)
    assert sorted(set(where(plan)) - set(where(main))) == [("phonebook", 300, 3, "steps=5", 0)]
    assert set(where(main)) < set(where(plan)) and set(main.modules) < set(plan.modules)
    assert slugs(plan, "module")[0] == "phonebook-60-r1-steps=3-module", "what varies is named"
    assert slugs(main, "module")[0] == "phonebook-60-r1-module"
    assert "counterfact-60-r1-module" in slugs(plan, "module"), "at the other source nothing else varies"


def test_what_is_skipped_is_counted_and_not_read(llama):
    skip = [
        {"source": "phonebook", "rank": [1], "size_tokens": [300]},
        {"source": "counterfact", "rank": [3]},
    ]
    plan = make_plan(study(skip=skip, readings=CONTROLS), llama)
    gone = [one for one in where(make_plan(study(), llama)) if one not in where(plan)]
    assert {one[:3] for one in gone} == {("phonebook", 300, 1), ("counterfact", 60, 3)} and len(gone) == 4
    assert plan.counts()["modules_skipped"] == 4 and plan.counts()["modules"] == 8
    assert not [cell for cell in plan.cells if "phonebook-300-r1" in cell.slug]
    assert "phonebook-300-closed" in slugs(plan, "closed"), "the base alone is read all the same"


def test_controls_are_read_for_one_seed(llama):
    plan = make_plan(study(readings=CONTROLS), llama)
    seeds = {stem: {cell.seed for cell in plan.cells if cell.stem == stem} for stem in CONTROLS}
    assert seeds == {"closed": {None}, "module": {0, 1}, "wrong-module": {0}, "random-module": {0}}
    assert len(plan.controls) == len(plan.modules) / 2


def test_a_wrong_module_learnt_another_source_at_the_same_spec(llama):
    plan = make_plan(study(readings=CONTROLS), llama)
    for cell in plan.cells:
        if cell.stem == "wrong-module":
            (own,), task = cell.modules, one(cell.tasks)
            partner = plan.modules[task.module]
            assert partner.source_key != cell.source_key and own is cell.module
            assert (partner.config.spec, partner.seed) == (cell.module.config.spec, 0)
    alone = make_plan(study(**PHONES, readings=["wrong-module"]), llama)
    assert {task.module for cell in alone.cells for task in cell.tasks} == {None}, (
        "nested slices hold the answers: no partner"
    )


def test_random_modules_have_their_parents_norms_and_readings_of_their_own(llama, tmp_path):
    plan = make_plan(study(**PHONES, readings=CONTROLS, seeds=1), llama)
    store, outcome = Store(tmp_path), Outcome()
    train_missing(plan.modules.values(), store, outcome, Progress(live=False), Local(llama, store, rows=16))
    make_controls(plan, llama, store, outcome, Progress(live=False))
    assert not outcome.failed_modules
    for control in plan.controls.values():
        spec, drawn = store.module(control.id).load()
        parent_spec, learnt = store.module(control.parent.id).load()
        assert spec == parent_spec and drawn.keys() == learnt.keys()
        for name in (name for name in drawn if "lora_A" in name):
            other = name.replace("lora_A", "lora_B")
            mine, theirs = (t[other].double() @ t[name].double() for t in (drawn, learnt))
            assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=1e-3) and theirs.norm() > 0
            cosine = (mine * theirs).sum() / mine.norm() / theirs.norm()
            assert abs(cosine) < 0.5, name
    tasks = [task for cell in plan.cells for task in cell.tasks]
    assert len(tasks) == len(plan.cells), "one module, one task"
    ids = [task.identity(llama) for task in tasks if task.module is not None]
    assert len(set(ids)) == len(ids) == 8 and not set(plan.controls) & set(plan.modules)
    assert len({id_of(task) for task in tasks}) == len({task.identity(llama) for task in tasks})


def test_snapshots_are_cells_with_their_step(llama, tmp_path):
    made = study(**PHONES, modules__budget={"steps": 4, "snapshots": [0, 3]}, seeds=1, readings=CONTROLS[:2])
    plan = make_plan(made, llama)
    assert len(plan.modules) == 4 and slugs(plan, "module")[:3] == [
        "phonebook-60-r1-at-step-0-module", "phonebook-60-r1-at-step-3-module", "phonebook-60-r1-module",
    ]  # fmt: skip
    tasks = {
        cell.snapshot: task.module
        for cell in plan.cells
        if cell.slug.startswith("phonebook-60-r1")
        for task in cell.tasks
    }
    module = tasks[None]
    assert tasks == {0: f"{module}@0", 3: f"{module}@3", None: module}
    result = execute(made, llama, Store(tmp_path / "store"), tmp_path / "run", progress=Progress(live=False))
    rows = pd.read_parquet(tmp_path / "run" / "results.parquet")
    own = rows[(rows["reading"] == "module") & (rows["metric"] == "answer_nll") & (rows["rank"] == 3)]
    own = own[own["size_tokens"] == 300].set_index("cell")
    assert own["steps"].to_dict() == {
        "phonebook-300-r3-at-step-0-module": 0, "phonebook-300-r3-at-step-3-module": 3, "phonebook-300-r3-module": 4,
    }  # fmt: skip
    assert own["snapshot"].dropna().tolist() == [0, 3] and own["exposures"].tolist() == [
        0,
        3 * 2 / 5,
        4 * 2 / 5,
    ]
    closed = rows[
        (rows["reading"] == "closed") & (rows["metric"] == "answer_nll") & (rows["size_tokens"] == 300)
    ]
    untrained = own.loc["phonebook-300-r3-at-step-0-module", "value"]
    assert untrained == pytest.approx(closed["value"].item(), abs=1e-4), "step 0 is the base"
    assert abs(own["value"].iloc[2] - untrained) > 1e-3 and not result.failures


def test_passages_are_a_grid_of_readings(llama):
    retrieval = {"method": ["bm25", "embedding", "gold"], "passages_k": 2, "chunk_tokens": 80}
    plan = make_plan(study(**PHONES, readings=["rag", "gold-passage", "icl"], retrieval=retrieval), llama)
    assert slugs(plan, "rag") == [
        f"phonebook-{size}-rag-{how}" for size in (60, 300) for how in ("bm25", "minilm")
    ]
    assert slugs(plan, "gold-passage") == ["phonebook-60-gold-passage", "phonebook-300-gold-passage"]
    for cell in plan.cells:
        how = one(cell.tasks).retrieval
        wanted = {"rag": ("bm25", "embedding"), "gold-passage": ("gold",), "icl": (None,)}[cell.stem]
        assert (how and how.method) in wanted and cell.module is None is cell.seed
        assert how is None or (how.chunk_tokens, how.passages_k) == (
            80,
            1 if cell.stem == "gold-passage" else 2,
        )


def test_a_reading_depends_on_its_context_only_where_it_reads_it(llama):
    """The same questions after more documents: another reading in context, the same one closed book."""
    options = {"name": "phonebook", "seed": 11, "beyond": 0}
    small, large = load_source({**options, "sizes": [60, 300]}, llama.prompts.count)
    swapped = type(small)(small.name, large.documents, small.probes, small.settings, small.size_tokens)
    how = Retrieval(method="bm25", chunk_tokens=50)

    def identity(stem: str, source, **more) -> str:
        return ReadingTask(stem, source, **more).identity(llama)

    for stem, more in (("closed", {}), ("module", {"module": "a" * 64})):
        assert (
            identity(stem, small, **more) == identity(stem, swapped, **more) != identity(stem, large, **more)
        )
    for stem, more in (("icl", {}), ("rag", {"retrieval": how}), ("gold-passage", {"retrieval": how})):
        assert identity(stem, small, **more) != identity(stem, swapped, **more)
    assert identity("rag", small, retrieval=how) != identity(
        "rag", small, retrieval=Retrieval(chunk_tokens=51)
    )
    assert identity("module", small, module="a" * 64) != identity("module", small, module=f"{'a' * 64}@3")


PAPERS = {
    "sources": {"papers": {"name": "almanac-papers", "documents": 2, "questions": 1}},
    "modules__spec": {"rank": 1, "targets": "attention"}, "seeds": 1, "readings": ["closed", "module"],
}  # fmt: skip


def test_choices_that_come_to_one_supervision_are_one_cell(llama):
    """Whether a text bears out what was written makes no difference to what is exact: its facts are not counted twice."""
    made = study(**PAPERS, supervision={"recipe": "qa:3", "check": [True, False]})
    assert len(made.supervisions) == 2
    plan = make_plan(made, llama)
    assert [cell.slug for cell in plan.cells] == ["papers-closed", "papers-r1-module"] and len(
        plan.modules
    ) == 1
    # where names tell them apart, each choice has its cell, and the module is trained once
    named = make_plan(study(**PAPERS, supervision={"recipe": "qa:3", "error_rate": [0, 1e-9]}), llama)
    cells = {cell.slug: cell for cell in named.cells if cell.stem == "module"}
    assert cells.keys() == {f"papers-exact{rate}-r1-module" for rate in ("", ":1e-09")}
    assert len(named.modules) == 1 == len({cell.module.id for cell in cells.values()})
    assert [cell.module.learnt.choice.who for cell in cells.values()] == ["exact", "exact:1e-09"]


def test_supervisions_that_no_name_tells_apart_are_refused(llama):
    with pytest.raises(
        InputError, match="two different modules or readings would both be called papers-r1-module"
    ):
        make_plan(study(**PAPERS, supervision={"recipe": "qa:3", "seed": [0, 1]}), llama)


def test_a_chunk_is_a_number_of_tokens_or_more_of_a_name(llama):
    parts = {
        chunking: len(make_plan(study(**PAPERS, partition="chunk", chunking=chunking), llama).modules)
        for chunking in (400, "400", "400/100", "structure:400", 5000)
    }
    assert parts[400] == parts["400"] < parts["400/100"] and parts[5000] == 2


def test_recipes_name_what_decides_the_weights(llama, tmp_path):
    """Snapshots and an early stop are part of a module; the study's name, readings and expectations are not."""
    plain = make_plan(study(**PHONES), llama)
    renamed = make_plan(study(**PHONES, study="other", readings=["module"], metrics=["answer_nll"]), llama)
    assert plain.modules.keys() == renamed.modules.keys()
    for changes in (
        {"modules__budget": {"steps": 3, "stop_when_memorised": True}},
        {"modules__optimizer__lr": 0.02},
    ):
        assert not plain.modules.keys() & make_plan(study(**PHONES, **changes), llama).modules.keys()
    module = next(iter(plain.modules.values()))
    store = Store(tmp_path)
    train_missing([module], store, Outcome(), Progress(live=False), Local(llama, store, rows=8))
    marker = read_marker(store.module_folder(module.id) / MODULE_MARKER)
    assert marker["recipe"] == module.recipe and (marker["ended"], marker["steps_taken"]) == ("steps", 3)
    assert marker["parameters"] == module.parameters


def test_sources_that_cannot_be_built_are_all_named(llama):
    sources = {key: {"name": "counterfact", "sizes": [10**8]} for key in ("a", "b")}
    with pytest.raises(Faults) as caught:
        make_plan(study(sources=sources, modules__spec__rank=[1]), llama)
    assert len(caught.value.faults) == 2


def test_two_modules_are_never_averaged_under_one_name(llama):
    """Budgets of one length that end differently have one label: the plan refuses them, before anything is trained."""
    contrast = {"modules.budget": {"steps": 3, "stop_when_memorised": True}, "sources": ["phonebook"]}
    with pytest.raises(InputError, match="would both be called phonebook-60-r"):
        make_plan(study(modules__budget={"steps": 3}, contrasts=[contrast]), llama)


def test_a_contrast_may_be_confined_to_partitions_and_supervisions(llama):
    papers = {"sources": {"papers": {"name": "almanac-papers", "documents": 2, "questions": 2, "seed": 10}}}
    made = study(
        **papers, supervision={"recipe": ["raw", "qa:5"]}, partition=["document", "corpus"], seeds=1, readings=["module"],
        modules__spec={"rank": 1, "targets": "attention"}, metrics=["exact_match"],
        contrasts=[{"supervisions": ["qa:5"], "partitions": ["corpus"], "modules.budget": {"steps": 7}}],
    )  # fmt: skip
    plan = make_plan(made, llama)
    longer = [m for m in plan.modules.values() if m.config.budget.steps == 7]
    assert [(m.learnt.choice.recipe, m.learnt.partition) for m in longer] == [("qa:5", "corpus")]
    assert len(plan.modules) == 2 * (2 + 1) + 1
    for confined, told in (({"supervisions": ["qa:6"]}, "no recipe of this study"), ({"partitions": ["chunk"]}, "no partition of this study")):  # fmt: skip
        with pytest.raises(Faults, match=told):
            study(**papers, supervision={"recipe": ["raw", "qa:5"]}, contrasts=[{**confined, "modules.budget": {"steps": 7}}])  # fmt: skip
