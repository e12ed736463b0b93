"""The Python API: a small, documented set of functions that the command line and the studies stand on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loramem.answering.asking import Answered
from loramem.answering.asking import ask as ask_modules
from loramem.answering.asking_checks import check_documents, check_questions, choose_modules
from loramem.answering.asking_settings import Asking
from loramem.answering.readings import STEMS
from loramem.base import load_base
from loramem.base.model import Base
from loramem.base.prompts import Encoded
from loramem.core.errors import InputError, LoramemError, nearest
from loramem.core.files import read_json, read_text
from loramem.modules.importing import read_adapter
from loramem.modules.merged import Merging, Parent, merge_many, merged_recipe, weights_for
from loramem.modules.peft_format import CONFIG, adapter_config
from loramem.modules.recipe import ModuleConfig, module_hash, trained_recipe
from loramem.modules.store import Store, StoredModule
from loramem.modules.transfer import Exported
from loramem.modules.transfer import export as export_modules
from loramem.report.html import render
from loramem.report.tables import write_tables
from loramem.sources.catalogue import load_source
from loramem.sources.folder import FolderConfig
from loramem.sources.folder import build as read_documents
from loramem.studies.executors import Executor
from loramem.studies.progress import Progress
from loramem.studies.run import Bases, execute
from loramem.studies.run_folder import RunResult
from loramem.studies.spec import Study
from loramem.studies.spec import load as load_study
from loramem.studies.work import save_trained
from loramem.synthesis import Example, Supervision, synthesize
from loramem.synthesis.contexts import teacher_forms
from loramem.synthesis.supervision import load as load_supervision
from loramem.training import Teacher, TrainJob, bucket_length, train_modules
from loramem.training.packing import DEFAULT_ROWS

__all__ = [
    "Answered",
    "Asking",
    "Store",
    "ask",
    "export",
    "import_module",
    "load_base",
    "load_source",
    "load_study",
    "merge",
    "run_study",
    "synthesize",
    "train_modules_of",
    "train_one",
]

_SPENT = ("tokens", "supervised_tokens", "seconds", "truncated_tokens", "teacher_tokens")
"""What training costs: nothing, for a module that was merged or imported."""


def run_study(
    study: Study,
    base: Base | Executor | Bases,
    store: Store,
    out: Path,
    *,
    command: str = "",
    rows: int = DEFAULT_ROWS,
    progress: Progress | None = None,
) -> RunResult:
    """Run a study and write its report: what `loramem study run` does.

    Args:
        base: The base, or who works on it (`studies.executors`); for a study of several bases, what finds either by name.
        rows: Rows of a training step, over all modules of a pack, where this process does the work.

    Raises:
        InputError: `out` cannot be written, or a source cannot be built at its size.
    """

    def report(result: RunResult) -> None:
        write_tables(result.summary, out / "tables")
        render(result.info, result.summary, out)

    return execute(study, base, store, out, command=command, rows=rows, progress=progress, finish=report)


def train_one(supervision: Path, config: ModuleConfig, **options: Any) -> StoredModule:
    """Train one module on a file of supervision, or find it in the store. Options and errors are those of `train_modules_of`."""
    return next(iter(train_modules_of(supervision, config, **options).values()))


def train_modules_of(
    supervision: Path,
    config: ModuleConfig,
    *,
    each: str = "file",
    base: str = "embedded",
    store: Path | str | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
) -> dict[str, StoredModule]:
    """Train modules on a file of supervision, side by side, or find them in the store.

    Args:
        each: One module for the whole file, for each of its documents, or for each record (a chunk, where supervision was
            made chunk by chunk).

    Returns:
        Modules by document or record; of the whole file under its name.

    Raises:
        InputError: bad file, base or config.
        LoramemError: training failed (a loss was not finite); modules that finished are kept.
    """
    groups = grouped(load_supervision(supervision), each, supervision.name)
    kept = Store(store)
    loaded = load_base(base, device=device, dtype=dtype, offline=offline)
    planned = {name: _planned(learnt, config, loaded, seed) for name, learnt in groups.items()}
    jobs = {job.key: (job, recipe) for job, recipe in planned.values()}
    missing = {key: jobs[key] for key in kept.lacking("modules", jobs)}
    texts = {planned[name][0].key: learnt.text for name, learnt in groups.items()}
    errors: list[Exception] = []
    if missing:
        train_modules(
            loaded,
            [job for job, _ in missing.values()],
            on_finish=lambda done: save_trained(
                kept,
                done,
                missing[done.key][1],
                config.spec,
                adapter_config(config.spec, model=loaded.model, base_name=loaded.name),
                text=texts[done.key],
            ),
            on_fail=lambda key, error: errors.append(error),
            find=lambda other: kept.module(other).load(),
            teacher=Teacher(loaded, kept.teacher_cache),
        )
    if errors:
        raise errors[0] if isinstance(errors[0], LoramemError) else LoramemError(str(errors[0]))
    return {name: kept.module(job.key) for name, (job, _) in planned.items()}


def merge(
    modules: Sequence[str], merging: Merging | None = None, *, store: Path | str | None = None
) -> StoredModule:
    """Merge modules of a store into one, which is kept in it too, or find it there. No base is needed.

    Args:
        modules: Ids or unique prefixes (`ID@STEP` is a snapshot), best first where weights are numbers.
        merging: Rule and settings; by default TIES on the updates.

    Raises:
        UnknownName: no such module.
        InputError: no modules, modules of different bases, weights that only a router can give, or what `merge_many` refuses.
    """
    merging = merging or Merging()
    if merging.weights == "confidence":
        raise InputError(
            "weights confidence: a router gives them to the modules of a question; here give equal or numbers"
        )
    kept = Store(store)
    parents = [kept.module(name) for name in modules]
    weights = weights_for(merging, [1.0] * len(parents))
    bases = sorted({str(one.recipe.get("base", "")) for one in parents})
    if len(bases) > 1 or not bases[0]:
        named = ", ".join(
            f"{one.id[:12]} on {str(one.recipe.get('base', ''))[:8] or '(unknown)'}" for one in parents
        )
        raise InputError(f"only modules of one known base are merged; given {named}")
    weighted = [Parent(one.id, weight) for one, weight in zip(parents, weights, strict=True)]
    recipe = merged_recipe(weighted, merging, base=bases[0])
    if not kept.has_module(identity := module_hash(recipe)):
        folders = {one.id: one for one in parents}
        [made] = merge_many([weighted], merging, lambda name: folders[name].load(), base=bases[0])
        # it is on the layers of its parents: their description of them is its own
        own = {
            "r": made.spec.rank,
            "lora_alpha": made.spec.rank,
            "lora_dropout": 0.0,
            "use_rslora": False,
            "use_dora": False,
        }
        config = read_json(folders[recipe["parents"][0]["module"]].folder / CONFIG) | own
        kept.put_module(
            made.id, made.recipe, made.spec, made.tensors, config=config, log=[], ledger=dict.fromkeys(_SPENT, 0),
            extra={"rank": made.spec.rank, "measures": made.measures},
        )  # fmt: skip
    return kept.module(identity)


def export(
    modules: Sequence[str],
    to: Path,
    *,
    reader: str = "peft",
    max_lora_rank: int | None = None,
    base_name: str | None = None,
    store: Path | str | None = None,
) -> Exported:
    """Write modules of a store as adapter folders that PEFT loads or vLLM serves. Options and errors are those of `modules.transfer.export`.

    Args:
        modules: Ids or unique prefixes; `ID@STEP` is a snapshot.

    Raises:
        UnknownName: no such module.
    """
    kept = Store(store)
    return export_modules(
        [kept.module(name) for name in modules], to, reader=reader, max_lora_rank=max_lora_rank, base_name=base_name
    )  # fmt: skip


def import_module(
    folder: Path,
    *,
    base: str = "embedded",
    store: Path | str | None = None,
    text: Path | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
) -> StoredModule:
    """Keep an adapter folder of any program as a module of a store, or find it there: the same content is the same module.

    Args:
        folder: adapter_config.json and adapter_model.safetensors, as PEFT writes them.
        text: A file with what it learnt, by which routers find it; without it only readings that need no text use the module.

    Raises:
        InputError: what `modules.importing.read_adapter` refuses; an empty text, or another one than the store has.
    """
    learnt = "" if text is None else read_text(text)
    if text is not None and not learnt.strip():
        raise InputError(f"{text} is empty")
    kept = Store(store)
    loaded = load_base(base, device=device, dtype=dtype, offline=offline)
    found = read_adapter(Path(folder), loaded)
    if not kept.has_module(found.id):
        kept.put_module(
            found.id, found.recipe, found.spec, found.tensors, config=found.config, log=[], ledger=dict.fromkeys(_SPENT, 0),
            extra={"notes": list(found.notes)}, text=learnt,
        )  # fmt: skip
    module = kept.module(found.id)
    if learnt and module.text != learnt:
        raise InputError(
            f"module {module.id[:12]} is in {kept.place} with {'another' if module.text else 'no'} text; to import it with this one, first: loramem modules delete {module.id[:12]}"
        )
    return module


def ask(
    questions: Sequence[str],
    modules: Sequence[str] = (),
    asking: Asking | None = None,
    *,
    documents: Path | str | None = None,
    base: str = "embedded",
    store: Path | str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
) -> list[Answered]:
    """Ask modules of a store in people's own words: what `loramem ask` does. All questions are answered together; nothing is written.

    Args:
        modules: Ids, unique prefixes, `ID@STEP`, or `all`; none for readings of the base alone.
        asking: Reading, router, merge rule, retrieval; by default `module` for one module, `routed` for several.
        documents: A folder or a file that `+icl` and `+rag` read; None: what the modules learnt.

    Raises:
        InputError: an empty or too long question, a module that is unknown, damaged or of another base, a setting that does not fit.
    """
    began = time.perf_counter()
    check_questions(questions)
    chosen = choose_modules(Store(store, look=True), modules)
    settled = (asking or Asking()).settled(len(chosen))
    check_documents(STEMS.get(str(settled.reading)), given=documents is not None)
    loaded = load_base(base, device=device, dtype=dtype, offline=offline)
    read = None
    if documents is not None:
        [source] = read_documents(FolderConfig(path=str(documents)), loaded.prompts.count)
        read = source.documents
    return ask_modules(
        loaded, questions, chosen, settled, documents=read, read_from=None if read is None else str(documents),
        loading=time.perf_counter() - began,
    )  # fmt: skip


def grouped(learnt: Supervision, each: str, name: str) -> dict[str, Supervision]:
    """Supervision in groups, in the order of its examples.

    >>> from loramem.synthesis import Example
    >>> two = Supervision("file", (Example("text", "", "x", "a", "a"), Example("text", "", "y", "b", "b")))
    >>> list(grouped(two, "document", "f.jsonl")), list(grouped(two, "file", "f.jsonl"))
    (['a', 'b'], ['f.jsonl'])
    """
    if each not in ("file", "document", "record"):
        raise InputError(f"each {each!r}; {nearest(each, ('file', 'document', 'record'))}")
    groups: dict[str, list[Example]] = {}
    for example in learnt.examples:
        groups.setdefault(name if each == "file" else getattr(example, each), []).append(example)
    return {key: Supervision(learnt.recipe, tuple(found)) for key, found in groups.items()}


def _planned(learnt: Supervision, config: ModuleConfig, base: Base, seed: int) -> tuple[TrainJob, dict]:
    """The job that trains a module on some supervision, and its recipe."""
    examples = learnt.encode(base.prompts)
    length = bucket_length(examples, base.context_length)
    steps = config.budget.steps_for(len(examples), config.optimizer.batch)
    teacher: tuple[Encoded, ...] = ()
    if config.objective.name == "dcd":
        forms = teacher_forms(learnt, (), base.prompts, context_tokens=config.objective.context_tokens)
        teacher = forms.examples
    recipe = trained_recipe(base, learnt.hash, config, steps=steps, length=length, seed=seed, teacher=teacher)
    job = TrainJob(
        module_hash(recipe), config.spec, config.objective, config.optimizer, steps, seed, examples, length, config.budget, teacher,
        config.distractors,
    )  # fmt: skip
    return job, recipe
