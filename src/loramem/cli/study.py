"""The commands of `loramem study`: list, show, run, report, compare, plan-capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loramem.cli.running import closing, study_run
from loramem.cli.terminal import cell, console, say, show_json
from loramem.core.errors import InputError, nearest
from loramem.core.files import damage_in
from loramem.core.paths import check_file

study_app = typer.Typer(no_args_is_help=True, help="Studies: run them, look at their reports, compare them.")
study_app.command("run")(study_run)


@study_app.command("list")
def study_list() -> None:
    """The studies that come with loramem."""
    from loramem.studies import spec

    for name in spec.shipped():
        say(f"{name:10} {spec.load(name).file.question}")


@study_app.command("show")
def study_show(name: str) -> None:
    """The file of a study."""
    from loramem.core.shown import plain
    from loramem.studies import spec

    print(plain(spec.find(name)), end="")


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
        with damage_in(run / STATUS):
            say(f"report: {overview(run)[0].resolve()}")
        return
    summary = _summary(run)
    with damage_in(run / "summary.json"):
        if to is not None:
            say(f"{len(export(run, summary, to))} files in {to}")
            return
        closing(summary)
    say(f"report: {(run / 'report.html').resolve()}")


def _summary(run: Path) -> dict:
    """A run's summary.json. Raises `InputError` where the folder holds none of this version."""
    from loramem.core.files import read_json

    summary = read_json(run / "summary.json") if run.is_dir() else None
    if not isinstance(summary, dict) or not {"cells", "capacity", "sweeps", "run"} <= set(summary):
        raise InputError(f"{run}: no summary.json of a run there; give the folder that `study run` wrote")
    return summary


@study_app.command("log")
def study_log(
    run: Annotated[Path, typer.Argument(help="a run folder, one of a series, or a log.jsonl")],
    json_: Annotated[bool, typer.Option("--json", help="one JSON object per log in place of lines")] = False,
) -> None:
    """How a run ended, or how far it is: its state, last progress, memory, counts and failures."""
    from loramem.studies.run_log import show

    for path, found, lines in show(run):
        if json_:
            show_json({"log": str(path), **found}, indent=None)
        else:
            say("\n  ".join([f"{path}:", *lines]))


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
    from rich.table import Table

    from loramem.core.files import write_text
    from loramem.metrics.scorers import METRICS
    from loramem.report.tables import csv_text
    from loramem.studies.compare import compare_runs

    if out is not None:
        check_file(out, "--out")
    found = compare_runs(a, b, metrics=tuple(METRICS.get(name).name for name in metric or ()))
    say(f"{b} - {a}: {found['made']} paired tests, p adjusted (Holm)")
    table = Table()
    for name in ("cell", "metric", "probe", "facts", "a", "b", "difference [95 %]", "p adjusted"):
        table.add_column(name, justify="left" if name in ("cell", "metric", "probe") else "right")
    for row in found["tests"]:
        table.add_row(
            cell(row["cell"]), cell(row["metric"]), cell(row["probe"]), str(row["facts"]), f"{row['mean_a']:.3f}", f"{row['mean_b']:.3f}",
            f"{row['difference']:+.3f} [{row['ci_low']:+.3f}, {row['ci_high']:+.3f}]", f"{row['p_holm']:.3g}",
        )  # fmt: skip
    console().print(table)
    for side, cells in (("a", found["only_a"]), ("b", found["only_b"])):
        if cells:
            say(f"only in {side}: {len(cells)} cells, e.g. {cells[0]}")
    if out is not None:
        write_text(out, csv_text(pd.DataFrame(found["tests"])))
        say(f"all tests in {out}")


@study_app.command("plan-capacity")
def study_plan_capacity(
    run: Annotated[Path, typer.Argument(help="a finished run of a capacity study, e.g. q02's")],
    facts: Annotated[int, typer.Option(help="facts to be held")],
    threshold: Annotated[float, typer.Option(help="share of facts given back")] = 0.95,
    source: Annotated[str, typer.Option(help="source of the run whose limits are used")] = "phonebook",
) -> None:
    """How many modules of which rank hold so many facts, from the limits that a run measured."""
    from rich.table import Table

    from loramem.metrics.capacity import plan_holding
    from loramem.studies.capacity import measured
    from loramem.studies.findings import main_budget

    if facts < 1:
        raise InputError(f"--facts {facts}: give at least 1")
    summary = _summary(run)
    with damage_in(run / "summary.json"):
        known = summary["capacity"]["limits"]
        _choose("--source", source, {row["source"] for row in known}, run)
        thresholds = {f"{row['threshold']:g}" for row in known if row["source"] == source}
        _choose("--threshold", f"{threshold:g}", thresholds, run)
        budget, base = main_budget(summary, source), summary["run"]["base"]
        ways = plan_holding(facts, measured(summary, source, threshold, budget))
    if not ways:
        raise InputError(f"{run}: no rank holds even the smallest load of {source} at {100 * threshold:g} %")
    say(
        f"{facts:,} {source} facts at {100 * threshold:g} % on base {base}, modules trained for {budget}, as measured in {run}:"
    )
    table = Table()
    for name in ("modules", "rank", "facts each", "most one holds", "parameters"):
        table.add_column(name, justify="right")
    for way in ways:
        most = f"{'>= ' if way.below_limit else ''}{way.facts_at_most:,}"
        table.add_row(f"{way.modules:,}", str(way.rank), f"{way.facts_each:,}", most, f"{way.parameters:,}")
    console().print(table)
    print("several modules need a router: their facts are only found if the right module is asked")


def _choose(option: str, given: str, allowed: set[str], run: Path) -> None:
    if not allowed:
        raise InputError(f"{run}: that study measured no limits; use a study with `capacity`, e.g. q02")
    if given not in allowed:
        raise InputError(f"{option} {given}: not measured in {run}; {nearest(given, allowed)}")
