"""The report: one HTML file with everything in it, and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from loramem.core.files import write_json, write_text
from loramem.core.shown import page_value, plain
from loramem.metrics.scorers import METRICS
from loramem.report.figures import TITLES, reading_key, reading_name
from loramem.report.gallery import draw
from loramem.studies.findings import Findings, analysis_of, main_budget, protocol_name
from loramem.studies.progress import clock


def percent(value: float | None) -> str:
    """A share as per cent, or a dash.

    >>> percent(0.256), percent(None)
    ('25.6', '–')
    """
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def interval(row: dict) -> str:
    """`mean [low, high]`, shares in per cent, everything else in its own unit.

    >>> interval({"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6})
    '50.0 [40.0, 60.0]'
    >>> interval({"metric": "answer_nll", "mean": 0.5, "ci_low": 0.4, "ci_high": 0.6})
    '0.500 [0.400, 0.600] nats'
    """
    name = str(row.get("metric"))
    unit = METRICS.get(name).unit if name in METRICS else "share"
    if unit == "share":
        return f"{percent(row['mean'])} [{percent(row['ci_low'])}, {percent(row['ci_high'])}]"
    if row["mean"] is None or pd.isna(row["mean"]):
        return "–"
    digits = "{:,.0f}" if abs(row["mean"]) >= 100 else "{:.3f}"
    mean, low, high = (digits.format(row[key]) for key in ("mean", "ci_low", "ci_high"))
    return f"{mean} [{low}, {high}]" + ("" if unit == "points" else f" {unit}")


def bounds(row: dict) -> str:
    """What the mean would be had all that failed been the worst, and had all been the best; empty where none failed.

    >>> bounds({"metric": "judge", "bound_low": 2.0, "bound_high": 9.5}), bounds({"bound_low": 0.2, "bound_high": 0.5}), bounds({})
    (' (bounds 2.00 to 9.50)', ' (bounds 20.0 to 50.0)', '')
    """
    if "bound_low" not in row:
        return ""
    name = str(row.get("metric"))
    share = name not in METRICS or METRICS.get(name).unit == "share"
    low, high = (percent(row[key]) if share else f"{row[key]:.2f}" for key in ("bound_low", "bound_high"))
    return f" (bounds {low} to {high})"


def number(value: float | None) -> str:
    """A count with thousands separators.

    >>> number(12345.0)
    '12,345'
    """
    return "–" if value is None or pd.isna(value) else f"{value:,.0f}"


def _ended(summary: dict, source: str) -> list[dict]:
    """Cells of a source as they ended: modules of the main grid, and readings without a module."""
    budget = main_budget(summary, source)
    return [
        cell for cell in summary["cells"]
        if cell["source"] == source and cell.get("snapshot") is None and (cell["rank"] is None or cell["budget"] == budget)
    ]  # fmt: skip


def _leading_metric(cells: list[dict]) -> str | None:
    return next(
        (m for m in ("exact_match", "efficacy", "token_f1") if any(c["metric"] == m for c in cells)), None
    )


def headline(summary: dict) -> list[str]:
    """What may be said first of any study: per source, smallest against largest load at the lowest and highest rank."""
    sentences = []
    for source in dict.fromkeys(cell["source"] for cell in summary["cells"]):
        cells = [cell for cell in _ended(summary, source) if cell["mean"] is not None]
        metric = _leading_metric(cells)
        own = [c for c in cells if c["metric"] == metric and c["probe"] == "trained"]
        modules = [c for c in own if c["reading"] == "module"]
        if not modules:
            continue
        if any(c["size_tokens"] is None for c in modules):
            best = max(modules, key=lambda c: c["mean"])
            sentences.append(
                f"{source}, {TITLES.get(str(metric), metric)}: the best module ({best['cell']}) gives {interval(best)} %."
            )
            continue
        low, high = min(c["rank"] for c in modules), max(c["rank"] for c in modules)
        small, large = min(c["size_tokens"] for c in modules), max(c["size_tokens"] for c in modules)
        parts = []
        for rank in dict.fromkeys((low, high)):
            found = {c["size_tokens"]: c for c in modules if c["rank"] == rank}
            shown = [
                f"{interval(found[size])} % at {size:,} tokens"
                for size in dict.fromkeys((small, large))
                if size in found
            ]
            parts.append(f"rank {rank} gives {' and '.join(shown)}")
        others = [c for c in own if c["reading"] in ("closed", "icl", "rag") and c["size_tokens"] == large]
        beside = "; ".join(f"{reading_name(reading_key(c))} {interval(c)} %" for c in others)
        sentences.append(
            f"{source}, {TITLES.get(str(metric), metric)}: "
            + ", ".join(parts)
            + (f". At {large:,} tokens: {beside}." if beside else ".")
        )
    return sentences


def findings_of(summary: dict) -> Findings:
    """The study's own answer, or what can be said of any study."""
    analyse = analysis_of(summary["run"].get("study", ""))
    found = analyse(summary) if analyse is not None and summary["cells"] else Findings(())
    return found if found.answer else replace(found, answer=tuple(headline(summary)))


def render(info: dict, summary: dict, out: Path) -> Path:
    """Write RUN/report.html and RUN/figures/. Everything that comes from data is escaped.

    Args:
        info: What the run was (see `studies.run`): question, environment, costs, examples, failures, training.
        summary: summary.json.
    """
    found = findings_of(summary)
    figures = draw(summary, info["training"], out / "figures", found) if summary["cells"] else []
    write_json(
        out / "figures" / "index.json", [{k: v for k, v in one.items() if k != "svg"} for one in figures]
    )
    for figure in figures:
        figure["svg"] = Markup(figure["svg"])  # drawn by matplotlib, which escapes its texts
    page = fill(
        "report.html.j2", info=info, summary=summary, figures=figures, findings=found, titles=TITLES,
        sources=list(dict.fromkeys(cell["source"] for cell in summary["cells"])),
        n_failed=sum(cell["n_failed"] for cell in summary["cells"]), missing=summary.get("missing", ()), judge=summary.get("judge"),
    )  # fmt: skip
    path = out / "report.html"
    write_text(path, page)
    return path


def fill(template: str, **values: Any) -> str:
    """A page of the report's templates; everything that comes from data is escaped, and shown without control characters.

    The page's Content-Security-Policy says the same once more to the browser: no scripts, nothing fetched.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loramem.report"),
        autoescape=True,
        finalize=page_value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent, interval=interval, bounds=bounds, number=number, clock=clock, reading=lambda cell: reading_name(reading_key(cell)),
        protocol=protocol_name,
    )  # fmt: skip
    return environment.get_template(template).render(**values)


def leading_probe(cells: Sequence[dict], metric: str) -> str | None:
    """The phrasing a table shows: trained wording where there is one, else the first there is."""
    found = [c["probe"] for c in cells if c["metric"] == metric]
    return "trained" if "trained" in found else next((probe for probe in found if probe), None)


def line_of(cell: dict) -> str:
    """A cell's line in a table over sizes: its name without source and size, the reading in words."""
    key, size = reading_key(cell), f"-{cell['size_tokens']}-" if cell["size_tokens"] else "-"
    head, found, tail = cell["cell"].rpartition(f"-{cell['reading']}")
    if not found:  # not a name that a study gave
        return reading_name(key)
    left = f"{found}{tail}".removeprefix(f"-{key.replace('/', '-')}")  # settings that the key does not hold
    rest = f"{head}-".replace(f"{cell['source']}{size}", "", 1).strip("-")
    return ", ".join(part for part in (reading_name(key), rest, left.strip("-")) if part)


def text_tables(summary: dict) -> Sequence[Table]:
    """One table per source for the end of a run: modules by size, the other readings below."""
    tables = []
    for source in dict.fromkeys(cell["source"] for cell in summary["cells"]):
        own = _ended(summary, source)
        metric = _leading_metric(own) or own[0]["metric"]
        probe = leading_probe(own, metric)
        own = [c for c in own if c["metric"] == metric and c["probe"] in (probe, None)]
        unit = ", %" if metric not in METRICS or METRICS.get(metric).unit == "share" else ""
        wording = "" if probe in ("trained", None) else f", {probe} wording"
        title = f"{source}: {TITLES.get(metric, metric)}{unit}{wording} [95 % interval]"
        table = Table(title=Text(plain(title), style="italic"), title_justify="left")  # names are no markup
        table.add_column("reading")
        sizes = sorted({c["size_tokens"] or 0 for c in own})
        for size in sizes:
            table.add_column(f"{size:,} tokens" if size else "score", justify="right")
        lines: dict[str, dict[int, dict]] = {}
        for cell in sorted(own, key=lambda c: c["reading"] != "module"):
            lines.setdefault(line_of(cell), {})[cell["size_tokens"] or 0] = cell
        for name, found in lines.items():
            table.add_row(
                Text(plain(name)),
                *(interval(found[size]) if size in found else "no result" for size in sizes),
            )
        tables.append(table)
    return tables
