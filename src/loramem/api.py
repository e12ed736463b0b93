"""The Python API: a small, documented set of functions that the command line and the studies stand on."""

from __future__ import annotations

from pathlib import Path

from loramem.base import load_base
from loramem.base.model import Base
from loramem.base.prompts import Encoded
from loramem.core.errors import LoramemError
from loramem.modules.peft_format import adapter_config
from loramem.modules.recipe import ModuleConfig, module_hash, trained_recipe
from loramem.modules.store import Store, StoredModule
from loramem.report.html import render
from loramem.report.tables import write_tables
from loramem.sources.catalogue import load_source
from loramem.studies.execute import save_trained
from loramem.studies.progress import Progress
from loramem.studies.run import Bases, RunResult, execute
from loramem.studies.spec import Study
from loramem.studies.spec import load as load_study
from loramem.synthesis import synthesize
from loramem.synthesis.contexts import teacher_forms
from loramem.synthesis.supervision import load as load_supervision
from loramem.training import Teacher, TrainJob, bucket_length, train_modules

__all__ = ["Store", "load_base", "load_source", "load_study", "run_study", "synthesize", "train_one"]


def run_study(
    study: Study,
    base: Base | Bases,
    store: Store,
    out: Path,
    *,
    command: str = "",
    rows: int = 256,
    progress: Progress | None = None,
) -> RunResult:
    """Run a study and write its report: what `loramem study run` does.

    Args:
        base: The base; for a study of several bases, what loads one by its name.
        rows: Rows of a training step, over all modules of a pack.

    Raises:
        InputError: `out` cannot be written, or a source cannot be built at its size.
    """
    result = execute(study, base, store, out, command=command, rows=rows, progress=progress)
    write_tables(result.summary, out / "tables")
    render(result.info, result.summary, out)
    return result


def train_one(
    supervision: Path,
    config: ModuleConfig,
    *,
    base: str = "embedded",
    store: Path | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | None = None,
    offline: bool = False,
) -> StoredModule:
    """Train one module on a file of supervision, or find it in the store.

    Raises:
        InputError: bad file, base or config.
        LoramemError: training failed (its loss was not finite).
    """
    learnt = load_supervision(supervision)
    kept = Store(store)
    loaded = load_base(base, device=device, dtype=dtype, offline=offline)
    examples = learnt.encode(loaded.prompts)
    length = bucket_length(examples, loaded.context_length)
    steps = config.budget.steps_for(len(examples), config.optimizer.batch)
    teacher: tuple[Encoded, ...] = ()
    if config.objective.name == "dcd":
        forms = teacher_forms(learnt, (), loaded.prompts, context_tokens=config.objective.context_tokens)
        teacher = forms.examples
    recipe = trained_recipe(
        loaded, learnt.hash, config, steps=steps, length=length, seed=seed, teacher=teacher
    )
    identity = module_hash(recipe)
    if kept.has_module(identity):
        return kept.module(identity)
    errors: list[Exception] = []
    job = TrainJob(
        identity, config.spec, config.objective, config.optimizer, steps, seed, examples, length, config.budget, teacher,
        config.distractors,
    )  # fmt: skip
    train_modules(
        loaded,
        [job],
        on_finish=lambda done: save_trained(
            kept,
            done,
            recipe,
            config.spec,
            adapter_config(config.spec, model=loaded.model, base_name=loaded.name),
        ),
        on_fail=lambda key, error: errors.append(error),
        find=lambda other: kept.module(other).load(),
        teacher=Teacher(loaded, kept.teacher_cache),
    )
    if errors:
        raise errors[0] if isinstance(errors[0], LoramemError) else LoramemError(str(errors[0]))
    return kept.module(identity)
