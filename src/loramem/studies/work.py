"""The work itself, on one resident base beside one store: train modules, answer readings, keep each the moment it is done.

It knows neither studies nor machines. Whoever asks for it (`studies.execute`, through an executor) is told what happens by
small events that can be pickled: so the same two functions serve this process and a worker on another machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loramem.answering.readings import Done, ReadingTask, read
from loramem.base.model import Base
from loramem.core.background import Background
from loramem.core.errors import LoramemError
from loramem.core.shown import told
from loramem.core.storage import fatal
from loramem.modules.peft_format import adapter_config
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.studies.cells import ModulePlan
from loramem.training import Teacher, Trained, TrainJob, train_modules


@dataclass(frozen=True)
class Advanced:
    """So many rows or probes and tokens more."""

    amount: int
    tokens: int


@dataclass(frozen=True)
class Finished:
    """A module or a reading is in the store.

    Attributes:
        key: Its id.
        costs: What it took (tokens, seconds, ...).
        facts: What a log of the run should say of it.
        early_rows: Rows that were planned and turned out not to be needed.
    """

    key: str
    costs: Mapping[str, float]
    facts: Mapping[str, Any]
    early_rows: int = 0


@dataclass(frozen=True)
class Failed:
    """A module or a reading could not be made; the others go on."""

    key: str
    error: str


@dataclass(frozen=True)
class Said:
    """What a user should know."""

    text: str


Event = Advanced | Finished | Failed | Said
Tell = Callable[[Event], None]


def explain(error: BaseException) -> str:
    """One line for a results table: the message of an error of ours, else kind and message."""
    text = told(error).strip().splitlines()
    first = text[0] if text else "no message"
    return first if isinstance(error, LoramemError) else f"{type(error).__name__}: {first}"


def stop_if_fatal(error: BaseException) -> None:
    """Raise where the storage itself is gone: whatever came next would fail in the same way."""
    ended = fatal(error)
    if ended is not None:
        raise ended from error


def train_here(modules: Sequence[ModulePlan], base: Base, store: Store, tell: Tell, *, rows: int) -> None:
    """Train modules side by side; each is saved, beside the training, the moment it is done.

    Args:
        rows: Rows of a step, over all modules.

    Raises:
        RunFailed: the store cannot be written any more.
    """
    planned = {module.id: module for module in modules}

    def fail(key: str, error: BaseException) -> None:
        stop_if_fatal(error)
        tell(Failed(key, explain(error)))

    with Background() as saver:

        def finish(done: Trained) -> None:
            module = planned[done.key]
            spec = module.config.spec
            # described here: the saver's thread must not walk a model whose layers come and go
            config = adapter_config(spec, model=base.model, base_name=base.name)

            def saved(error: BaseException | None) -> None:
                if error is not None:
                    fail(done.key, error)
                    return
                costs = {
                    "tokens": done.tokens,
                    "teacher_tokens": done.teacher_tokens,
                    "seconds": done.seconds,
                }
                facts = {"steps": done.steps, "ended": done.ended, "loss": done.final_loss}
                early = (module.job.steps - done.steps) * module.job.optimizer.batch
                tell(Finished(done.key, costs, facts, early))

            saver.run(lambda: save_planned(store, done, module, config), saved)

        def step(rows_done: int, tokens: int) -> None:
            tell(Advanced(rows_done, tokens))
            saver.collect()

        train_modules(
            base, [module.job for module in modules], on_finish=finish, on_fail=fail, on_step=step, rows=rows,
            on_note=lambda text: tell(Said(text)), find=lambda identity: store.module(identity).load(),
            teacher=Teacher(base, store.teacher_cache),
        )  # fmt: skip


def in_order(jobs: Sequence[TrainJob]) -> list[list[TrainJob]]:
    """Jobs in rounds: those that train beside modules of other jobs come after these."""
    keys = {job.key for job in jobs}
    rounds: tuple[list[TrainJob], list[TrainJob]] = ([], [])
    for job in jobs:
        company = () if job.distractors is None else job.distractors.modules
        rounds[bool(keys.intersection(company))].append(job)
    return [jobs for jobs in rounds if jobs]


def save_planned(store: Store, done: Trained, module: ModulePlan, config: Mapping[str, Any]) -> None:
    """Keep a module of a plan, with what it was made of."""
    extra = {
        "parameters": module.parameters,
        "supervision": module.learnt.spent(),
        "source": {
            "name": module.source.name,
            "size_tokens": module.source.size_tokens,
            "facts": len(module.source.records),
        },
    }
    save_trained(store, done, module.recipe, module.config.spec, config, extra=extra, text=module.source.text)


def save_trained(
    store: Store,
    done: Trained,
    recipe: dict,
    spec: LoraSpec,
    config: Mapping[str, Any],
    *,
    extra: dict | None = None,
    text: str = "",
) -> None:
    """Keep a trained module: weights, log, costs, how its training ended, and the text it learnt."""
    ledger = {
        "tokens": done.tokens,
        "supervised_tokens": done.supervised_tokens,
        "seconds": done.seconds,
        "truncated_tokens": done.truncated_tokens,
        "teacher_tokens": done.teacher_tokens,
    }
    facts = {"final_loss": done.final_loss, "steps_taken": done.steps, "ended": done.ended, **(extra or {})}
    store.put_module(
        done.key, recipe, spec, done.tensors, config=config, log=done.log, ledger=ledger,
        extra=facts, snapshots=done.snapshots, text=text,
    )  # fmt: skip


def read_here(tasks: Mapping[str, ReadingTask], base: Base, store: Store, tell: Tell, *, rows: int) -> None:
    """Answer readings; each is saved the moment it is complete.

    Args:
        tasks: By the id of the reading.
        rows: Questions that are answered at once.

    Raises:
        RunFailed: the store cannot be written any more.
    """
    keys = list(tasks)
    last = time.perf_counter()

    def done(index: int, made: Done) -> None:
        nonlocal last
        now = time.perf_counter()
        key, costs = keys[index], made.costs
        seconds, last = now - last, now
        try:
            store.put_reading(
                key, tasks[key].describe(base), made.predictions, {**costs, "seconds_since_previous": seconds},
                merges=made.merges,
            )  # fmt: skip
        except Exception as error:
            fail(index, error)
            return
        tell(Advanced(len(made.predictions), costs["prompt_tokens"] + costs["new_tokens"]))
        tell(Finished(key, costs, {"stem": tasks[key].stem, "seconds": seconds}))

    def fail(index: int, error: Exception) -> None:
        stop_if_fatal(error)
        tell(Failed(keys[index], explain(error)))

    read(base, list(tasks.values()), store, rows=rows, on_done=done, on_fail=fail)
