"""`loramem study run`: one study or all of them, here or on workers elsewhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loramem.cli.options import DeviceOption, DtypeOption, OfflineOption, StoreOption
from loramem.cli.terminal import cell, console, say, show_json
from loramem.core.errors import InputError, nearest

if TYPE_CHECKING:
    from loramem.base.model import Base
    from loramem.modules.store import Store
    from loramem.studies.executors import Executor
    from loramem.studies.progress import Progress
    from loramem.studies.ray_worker import Fleet
    from loramem.studies.run_folder import RunResult
    from loramem.studies.spec import Study

EXECUTORS = ("local", "ray")


def study_run(
    name: Annotated[
        str,
        typer.Argument(
            help="a shipped study, a study file, or `all`: the fifteen questions and the ablations"
        ),
    ],
    scale: Annotated[str, typer.Option(help="quick, or a scale of the study")] = "quick",
    base: Annotated[str | None, typer.Option(help="embedded, a checkpoint folder, or a hub id")] = None,
    store: StoreOption = None,
    out: Annotated[Path | None, typer.Option(help="run folder [default: runs/STUDY-SCALE]")] = None,
    seeds: Annotated[int | None, typer.Option(help="training seeds 0..N-1")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE, e.g. modules.spec.rank=[2,8]; repeatable")
    ] = None,
    rows: Annotated[int, typer.Option(help="rows per training step, over all modules of a pack")] = 256,
    executor: Annotated[
        str, typer.Option(help="local: this process; ray: workers on one machine or many")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT of a Ray cluster, or auto [default: a Ray of its own]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="with ray: how many [default: what the cluster holds]")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(help="with ray: GPUs of a worker [default: 1 where there are any]")
    ] = None,
    cpus: Annotated[
        float | None, typer.Option(help="with ray: CPU cores, which are threads, of a worker [default: 1]")
    ] = None,
    memory: Annotated[float | None, typer.Option(help="with ray: GiB set aside for a worker")] = None,
    track: Annotated[
        str | None, typer.Option(help="charts of the run elsewhere, too: trackio or wandb")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be done and what it would cost")
    ] = False,
) -> None:
    """Train, read, score, report. What the store already holds is not done again."""
    if offline:  # before anything is imported that reads it: embedders may be hub ids too
        os.environ["HF_HUB_OFFLINE"] = "1"
    from loramem.api import run_study
    from loramem.base import load_base
    from loramem.base.model import check_base
    from loramem.modules.store import Store
    from loramem.studies import spec
    from loramem.studies.estimates import dry_run as dry_run_of
    from loramem.studies.progress import clock
    from loramem.studies.provenance import shown_command
    from loramem.studies.run_folder import default_out
    from loramem.studies.tracking import TRACKERS

    def load(name: str) -> Base:
        return load_base(name, device=device, dtype=dtype, offline=offline)

    if rows < 1:
        raise InputError(f"--rows {rows}: give at least 1")
    if track is not None:
        TRACKERS.get(track)
    fleet = _fleet(
        executor, address=address, workers=workers, gpus=gpus, cpus=cpus, memory=memory, device=device, dtype=dtype,
        offline=offline,
    )  # fmt: skip
    if name == "all":
        _run_all(
            scale,
            set_ or (),
            {"base": base, "seeds": seeds},
            Store(store, look=dry_run),
            out,
            rows,
            load,
            lambda name: check_base(name, device=device, dtype=dtype, offline=offline),
            fleet,
            track,
            offline,
            dry_run,
        )
        return
    study = spec.load(name, scale=scale, assignments=set_ or (), overrides={"base": base, "seeds": seeds})

    if dry_run:
        found = [
            {"base": name, **dry_run_of(study, load(name), Store(store, look=True), rows=rows)}
            for name in study.bases
        ]
        shown: dict = {"study": study.name, "scale": scale}
        shown |= found[0] if len(found) == 1 else {"bases": found}
        show_json(shown)
        seconds = sum(one["train_seconds"] for one in found)
        print(f"training would take at most about {clock(seconds)} here; nothing was done")
        return
    kept, command = Store(store), shown_command(sys.argv[1:])
    with _workers(fleet, load, kept, rows) as find:
        folder = out or default_out(study)
        result = run_study(
            study,
            find,
            kept,
            folder,
            command=command,
            rows=rows,
            progress=_charted(track, study, folder, offline),
        )
    closing(result.summary)
    say(f"report: {result.report.resolve()}")
    if result.failures:
        say(
            f"{len(result.failures)} cells have no result; the report lists them, e.g. {result.failures[0]['cell']}: {result.failures[0]['error']}",
            error=True,
        )
        raise typer.Exit(1)


def _charted(track: str | None, study: Study, out: Path, offline: bool) -> Progress | None:
    """Progress that is drawn elsewhere too; None: nobody asked for it."""
    if track is None:
        return None
    from loramem.studies.progress import Progress
    from loramem.studies.run_folder import prepare_out
    from loramem.studies.run_log import LOG
    from loramem.studies.tracking import tracker

    about: dict[str, str | int | float | bool | None] = {
        "study": study.name,
        "scale": study.scale,
        "base": ", ".join(study.bases),
        "seeds": study.file.seeds,
    }
    charts = tracker(
        track,
        "loramem",
        f"{study.name}-{study.scale}",
        config=about,
        offline=offline,
        folder=prepare_out(out),
    )
    return Progress(out / LOG, tracker=charts)


def _fleet(executor: str, **wanted: Any) -> Fleet | None:
    """What is asked of Ray; None: this process works. Raises `InputError` for options that do not go together."""
    if executor not in EXECUTORS:
        raise InputError(f"--executor {executor!r}: {nearest(executor, EXECUTORS)}")
    asked = {name: wanted[name] for name in ("address", "workers", "gpus", "cpus", "memory")}
    given = [f"--{name}" for name, value in asked.items() if value is not None]
    if executor == "local":
        if given:
            raise InputError(f"{', '.join(given)}: only with --executor ray")
        return None
    from loramem.studies.ray_worker import Fleet

    return Fleet(**{name: value for name, value in wanted.items() if value is not None})


@contextmanager
def _workers(
    fleet: Fleet | None, load: Callable[[str], Base], store: Store, rows: int
) -> Iterator[Callable[[str], Base | Executor]]:
    """What finds who works on a base, while the block lasts."""
    if fleet is None:
        yield load
        return
    from loramem.studies.on_ray import Cluster

    with Cluster(fleet) as cluster:
        yield lambda name: cluster.crew(name, store, rows=rows)


def _run_all(
    scale: str,
    assignments: Sequence[str],
    overrides: dict,
    store: Store,
    out: Path | None,
    rows: int,
    load: Callable[[str], Base],
    check: Callable[[str], None],
    fleet: Fleet | None,
    track: str | None,
    offline: bool,
    dry: bool,
) -> None:
    """The series of studies, each base loaded once, and the report over all of them."""
    from functools import cache

    from loramem.api import run_study
    from loramem.report.overview import overview
    from loramem.studies import series
    from loramem.studies.estimates import dry_run as dry_run_of
    from loramem.studies.estimates import foresee
    from loramem.studies.progress import clock
    from loramem.studies.provenance import shown_command

    studies, bases = series.load_all(scale=scale, assignments=assignments, overrides=overrides), cache(load)
    for name in dict.fromkeys(base for study in studies.values() for base in study.bases):
        check(name)  # one that cannot be had would fail every study in turn
    if dry:
        counted: set[str] = set()  # what studies share is trained once
        found = {
            name: [
                {"base": base, **dry_run_of(study, bases(base), store, rows=rows, counted=counted)}
                for base in study.bases
            ]
            for name, study in studies.items()
        }
        every = [one for own in found.values() for one in own]
        total = {key: sum(one[key] for one in every) for key in ("readings", "questions", "train_seconds")}
        shown = {"study": "all", "scale": scale, "studies": found, "sum": {"modules": len(counted), **total}}
        show_json(shown)
        print(
            f"{len(counted):,} modules, those of sweeps with them and what studies share counted once (readings in each); training would take at most about "
            f"{clock(total['train_seconds'])} here; nothing was done"
        )
        return
    folder = out or Path("runs") / f"all-{scale}"
    command = shown_command(sys.argv[1:])

    try:
        with _workers(fleet, bases, store, rows) as find:

            def one(study: Study, where: Path) -> RunResult:
                charted = _charted(track, study, where, offline)
                return run_study(study, find, store, where, command=command, rows=rows, progress=charted)

            def ahead() -> list[float | None]:
                first = next(iter(studies.values())).bases[0]  # loaded in any case
                return foresee(studies, bases(first), store, rows=rows)

            status = series.run_series(
                studies, one, folder, foresee=ahead if fleet is None else None, command=command, say=say
            )
    finally:  # also after Ctrl-C: what is finished is in the report
        if (folder / series.STATUS).exists():
            path, members = overview(folder)
    for member in members:
        words = ", ".join(f"{count} {word}" for word, count in member.counts)
        say(
            f"{member.name}: {member.error or (member.findings.answer or ('no cell has a result',))[0]} [{words}]"
        )
    say(f"report: {path.resolve()}")
    failed = [entry for entry in status.studies if entry["state"] == "failed"]
    holes = sum(entry.get("holes", 0) for entry in status.studies)
    if failed or holes:
        named = f", e.g. {failed[0]['study']}: {failed[0]['error']}" if failed else ""
        say(
            f"{len(failed)} studies failed, {holes} cells have no result; the report lists them{named}",
            error=True,
        )
        raise typer.Exit(1)


def closing(summary: dict) -> None:
    from loramem.report.html import findings_of, text_tables

    screen = console()
    for table in text_tables(summary):
        screen.print(table)
    for one in summary.get("missing", ()):
        screen.print(cell(f"metric {one['metric']} is missing: {one['reason']}"))
    for sentence in findings_of(summary).answer:
        screen.print(cell(f"- {sentence}"))
    for verdict in summary["verdicts"]:
        screen.print(cell(f"{verdict['verdict']}: {verdict['claim']} ({verdict['reason']})"))
