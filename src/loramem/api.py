"""The Python API: a small, documented set of functions that the command line and the studies stand on."""

from __future__ import annotations

from pathlib import Path

from loramem.base import load_base
from loramem.core.errors import LoramemError
from loramem.modules.recipe import ModuleConfig, module_hash, trained_recipe
from loramem.modules.store import Store, StoredModule
from loramem.sources.catalogue import load_source
from loramem.studies.run import run_study
from loramem.studies.spec import load as load_study
from loramem.synthesis import synthesize
from loramem.synthesis.supervision import load as load_supervision
from loramem.training import Trained, TrainJob, bucket_length, train_pack

__all__ = ["Store", "load_base", "load_source", "load_study", "run_study", "synthesize", "train_one"]


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
    recipe = trained_recipe(loaded, learnt.hash, config, steps=steps, length=length, seed=seed)
    identity = module_hash(recipe)
    if kept.has_module(identity):
        return kept.module(identity)
    errors: list[Exception] = []

    def finish(done: Trained) -> None:
        ledger = {
            "tokens": done.tokens,
            "supervised_tokens": done.supervised_tokens,
            "seconds": done.seconds,
            "truncated_tokens": done.truncated_tokens,
        }
        kept.put_module(
            identity,
            recipe,
            config.spec,
            done.tensors,
            model=loaded.model,
            base_name=loaded.name,
            log=done.log,
            ledger=ledger,
            extra={"final_loss": done.final_loss},
        )

    job = TrainJob(identity, config.spec, config.objective, config.optimizer, steps, seed, examples, length)
    train_pack(loaded, [job], on_finish=finish, on_fail=lambda key, error: errors.append(error))
    if errors:
        raise errors[0] if isinstance(errors[0], LoramemError) else LoramemError(str(errors[0]))
    return kept.module(identity)
