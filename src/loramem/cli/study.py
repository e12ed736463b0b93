"""The commands of `loramem study`: list, show, run, report, compare, plan-capacity."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loramem.cli.options import DeviceOption, DtypeOption, OfflineOption, StoreOption
from loramem.core.errors import InputError, nearest

if TYPE_CHECKING:
    from loramem.base.model import Base
    from loramem.modules.store import Store
    from loramem.studies.run import RunResult
    from loramem.studies.spec import Study

study_app = typer.Typer(no_args_is_help=True, help="Studies: run them, look at their reports, compare them.")


@study_app.command("list")
def study_list() -> None:
    """The studies that come with loramem."""
    from loramem.studies import spec

    for name in spec.shipped():
        print(f"{name:10} {spec.load(name).file.question}")


@study_app.command("show")
def study_show(name: str) -> None:
    """The file of a study."""
    from loramem.studies import spec

    print(spec.find(name), end="")


@study_app.command("run")
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
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be done and what it would cost")
    ] = False,
) -> None:
    """Train, read, score, report. What the store already holds is not done again."""
    if offline:  # before anything is imported that reads it: embedders may be hub ids too
        os.environ["HF_HUB_OFFLINE"] = "1"
    from loramem.api import run_study
    from loramem.base import load_base
    from loramem.modules.store import Store
    from loramem.studies import run, spec
    from loramem.studies.progress import clock

    def load(name: str) -> Base:
        return load_base(name, device=device, dtype=dtype, offline=offline)

    if rows < 1:
        raise InputError(f"--rows {rows}: give at least 1")
    if name == "all":
        _run_all(
            scale,
            set_ or (),
            {"base": base, "seeds": seeds},
            Store(store, look=dry_run),
            out,
            rows,
            load,
            dry_run,
        )
        return
    study = spec.load(name, scale=scale, assignments=set_ or (), overrides={"base": base, "seeds": seeds})

    if dry_run:
        found = [
            {"base": name, **run.dry_run(study, load(name), Store(store, look=True), rows=rows)}
            for name in study.bases
        ]
        shown: dict = {"study": study.name, "scale": scale}
        shown |= found[0] if len(found) == 1 else {"bases": found}
        print(json.dumps(shown, indent=1, ensure_ascii=False))
        seconds = sum(one["train_seconds"] for one in found)
        print(f"training would take at most about {clock(seconds)} here; nothing was done")
        return
    result = run_study(
        study,
        load,
        Store(store),
        out or run.default_out(study),
        command=run.shown_command(sys.argv[1:]),
        rows=rows,
    )
    _closing(result.summary)
    print(f"report: {result.report.resolve()}")
    if result.failures:
        print(
            f"{len(result.failures)} cells have no result; the report lists them, e.g. {result.failures[0]['cell']}: {result.failures[0]['error']}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _run_all(
    scale: str,
    assignments: Sequence[str],
    overrides: dict,
    store: Store,
    out: Path | None,
    rows: int,
    load: Callable[[str], Base],
    dry: bool,
) -> None:
    """The series of studies, each base loaded once, and the report over all of them."""
    from functools import cache

    from loramem.api import run_study
    from loramem.report.overview import overview
    from loramem.studies import run, series
    from loramem.studies.progress import clock

    studies, bases = series.load_all(scale=scale, assignments=assignments, overrides=overrides), cache(load)
    if dry:
        counted: set[str] = set()  # what studies share is trained once
        found = {
            name: [
                {"base": base, **run.dry_run(study, bases(base), store, rows=rows, counted=counted)}
                for base in study.bases
            ]
            for name, study in studies.items()
        }
        every = [one for own in found.values() for one in own]
        total = {key: sum(one[key] for one in every) for key in ("readings", "questions", "train_seconds")}
        shown = {"study": "all", "scale": scale, "studies": found, "sum": {"modules": len(counted), **total}}
        print(json.dumps(shown, indent=1, ensure_ascii=False))
        print(
            f"{len(counted):,} modules, those of sweeps with them and what studies share counted once (readings in each); training would take at most about "
            f"{clock(total['train_seconds'])} here; nothing was done"
        )
        return
    folder = out or Path("runs") / f"all-{scale}"
    command = run.shown_command(sys.argv[1:])

    def one(study: Study, where: Path) -> RunResult:
        return run_study(study, bases, store, where, command=command, rows=rows)

    try:
        status = series.run_series(
            studies, one, folder, command=command, say=lambda text: print(text, flush=True)
        )
    finally:  # also after Ctrl-C: what is finished is in the report
        if (folder / series.STATUS).exists():
            path, members = overview(folder)
    for member in members:
        words = ", ".join(f"{count} {word}" for word, count in member.counts)
        print(
            f"{member.name}: {member.error or (member.findings.answer or ('no cell has a result',))[0]} [{words}]"
        )
    print(f"report: {path.resolve()}")
    failed = [entry for entry in status.studies if entry["state"] == "failed"]
    holes = sum(entry.get("holes", 0) for entry in status.studies)
    if failed or holes:
        named = f", e.g. {failed[0]['study']}: {failed[0]['error']}" if failed else ""
        print(
            f"{len(failed)} studies failed, {holes} cells have no result; the report lists them{named}",
            file=sys.stderr,
        )
        raise typer.Exit(1)


def _closing(summary: dict) -> None:
    from rich.console import Console

    from loramem.report.html import findings_of, text_tables

    console = Console()
    for table in text_tables(summary):
        console.print(table)
    for one in summary.get("missing", ()):
        console.print(f"metric {one['metric']} is missing: {one['reason']}", markup=False, highlight=False)
    for sentence in findings_of(summary).answer:
        console.print(f"- {sentence}", markup=False, highlight=False)
    for verdict in summary["verdicts"]:
        console.print(
            f"{verdict['verdict']}: {verdict['claim']} ({verdict['reason']})", markup=False, highlight=False
        )


@study_app.command("report")
def study_report(
    run: Path,
    to: Annotated[
        Path | None, typer.Option("--to", help="new folder for tables (CSV, LaTeX) and figures (SVG, PNG)")
    ] = None,
) -> None:
    """Where the report of a run lies, and its numbers as tables; with --to, export them."""
    from loramem.report.overview import overview
    from loramem.report.tables import export
    from loramem.studies.series import STATUS

    if (run / STATUS).exists():
        if to is not None:
            raise InputError(f"{run} is a series of studies; export one of them, e.g. {run / 'q02'}")
        print(f"report: {overview(run)[0].resolve()}")
        return
    summary = _summary(run)
    if to is not None:
        print(f"{len(export(run, summary, to))} files in {to}")
        return
    _closing(summary)
    print(f"report: {(run / 'report.html').resolve()}")


def _summary(run: Path) -> dict:
    """A run's summary.json. Raises `InputError` where the folder holds none of this version."""
    from loramem.core.files import read_json

    summary = read_json(run / "summary.json") if run.is_dir() else None
    if not isinstance(summary, dict) or not {"cells", "capacity", "sweeps", "run"} <= set(summary):
        raise InputError(f"{run}: no summary.json of a run there; give the folder that `study run` wrote")
    return summary


@study_app.command("compare")
def study_compare(
    a: Annotated[Path, typer.Argument(help="a run folder")],
    b: Annotated[Path, typer.Argument(help="another run folder; differences are b - a")],
    metric: Annotated[
        list[str] | None, typer.Option(help="only this metric; repeatable [default: all]")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write all tests as CSV here")] = None,
) -> None:
    """Paired tests of two runs on the facts they share, cell by cell."""
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from loramem.core.files import write_text
    from loramem.metrics.scorers import METRICS
    from loramem.studies.compare import compare_runs

    found = compare_runs(a, b, metrics=tuple(METRICS.get(name).name for name in metric or ()))
    print(f"{b} - {a}: {found['made']} paired tests, p adjusted (Holm)")
    table = Table()
    for name in ("cell", "metric", "probe", "facts", "a", "b", "difference [95 %]", "p adjusted"):
        table.add_column(name, justify="left" if name in ("cell", "metric", "probe") else "right")
    for row in found["tests"]:
        table.add_row(
            row["cell"], row["metric"], str(row["probe"]), str(row["facts"]), f"{row['mean_a']:.3f}", f"{row['mean_b']:.3f}",
            f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]", f"{row['p_holm']:.3g}",
        )  # fmt: skip
    Console().print(table)
    for side, cells in (("a", found["only_a"]), ("b", found["only_b"])):
        if cells:
            print(f"only in {side}: {len(cells)} cells, e.g. {cells[0]}")
    if out is not None:
        write_text(out, pd.DataFrame(found["tests"]).to_csv(index=False, lineterminator="\n"))
        print(f"all tests in {out}")


@study_app.command("plan-capacity")
def study_plan_capacity(
    run: Annotated[Path, typer.Argument(help="a finished run of a capacity study, e.g. q02's")],
    facts: Annotated[int, typer.Option(help="facts to be held")],
    threshold: Annotated[float, typer.Option(help="share of facts given back")] = 0.95,
    source: Annotated[str, typer.Option(help="source of the run whose limits are used")] = "phonebook",
) -> None:
    """How many modules of which rank hold so many facts, from the limits that a run measured."""
    from rich.console import Console
    from rich.table import Table

    from loramem.metrics.capacity import plan_holding
    from loramem.studies.capacity import measured
    from loramem.studies.findings import main_budget

    if facts < 1:
        raise InputError(f"--facts {facts}: give at least 1")
    summary = _summary(run)
    known = summary["capacity"]["limits"]
    _choose("--source", source, {row["source"] for row in known}, run)
    _choose(
        "--threshold",
        f"{threshold:g}",
        {f"{row['threshold']:g}" for row in known if row["source"] == source},
        run,
    )
    ways = plan_holding(facts, measured(summary, source, threshold, main_budget(summary, source)))
    if not ways:
        raise InputError(f"{run}: no rank holds even the smallest load of {source} at {100 * threshold:g} %")
    print(
        f"{facts:,} {source} facts at {100 * threshold:g} % on base {summary['run']['base']}, modules trained for "
        f"{main_budget(summary, source)}, as measured in {run}:"
    )
    table = Table()
    for name in ("modules", "rank", "facts each", "most one holds", "parameters"):
        table.add_column(name, justify="right")
    for way in ways:
        most = f"{'>= ' if way.below_limit else ''}{way.facts_at_most:,}"
        table.add_row(f"{way.modules:,}", str(way.rank), f"{way.facts_each:,}", most, f"{way.parameters:,}")
    Console().print(table)
    print("several modules need a router: their facts are only found if the right module is asked")


def _choose(option: str, given: str, allowed: set[str], run: Path) -> None:
    if not allowed:
        raise InputError(f"{run}: that study measured no limits; use a study with `capacity`, e.g. q02")
    if given not in allowed:
        raise InputError(f"{option} {given}: not measured in {run}; {nearest(given, allowed)}")
