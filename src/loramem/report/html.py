"""The report: one HTML file with everything in it, and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup
from rich.table import Table

from loramem.core.files import write_text
from loramem.report.figures import NAMES, TITLES, draw
from loramem.studies.progress import clock


def percent(value: float | None) -> str:
    """A share as per cent, or a dash.

    >>> percent(0.256), percent(None)
    ('25.6', '–')
    """
    return "–" if value is None or pd.isna(value) else f"{100 * value:.1f}"


def interval(row: dict) -> str:
    """`mean [low, high]` in per cent.

    >>> interval({"mean": 0.5, "ci_low": 0.4, "ci_high": 0.6})
    '50.0 [40.0, 60.0]'
    """
    return f"{percent(row['mean'])} [{percent(row['ci_low'])}, {percent(row['ci_high'])}]"


def number(value: float | None) -> str:
    """A count with thousands separators.

    >>> number(12345.0)
    '12,345'
    """
    return "–" if value is None or pd.isna(value) else f"{value:,.0f}"


def headline(summary: dict) -> list[str]:
    """What may be said first: per source, smallest against largest load at the lowest rank, with intervals."""
    cells = [cell for cell in summary["cells"] if cell["mean"] is not None]
    sentences = []
    for source in dict.fromkeys(cell["source"] for cell in cells):
        metric = next(
            (
                m
                for m in ("exact_match", "efficacy", "token_f1")
                if any(c["metric"] == m and c["source"] == source for c in cells)
            ),
            None,
        )
        own = [
            c for c in cells if c["source"] == source and c["metric"] == metric and c["probe"] == "trained"
        ]
        modules = [c for c in own if c["reading"] == "module"]
        if not modules:
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
        others = [c for c in own if c["reading"] in ("closed", "icl") and c["size_tokens"] == large]
        beside = "; ".join(f"{NAMES[c['reading']]} {interval(c)} %" for c in others)
        sentences.append(
            f"{source}, {TITLES.get(str(metric), metric)}: "
            + ", ".join(parts)
            + (f". At {large:,} tokens: {beside}." if beside else ".")
        )
    return sentences


def render(info: dict, rows: pd.DataFrame, summary: dict, out: Path) -> Path:
    """Write RUN/report.html and RUN/figures/. Everything that comes from data is escaped.

    Args:
        info: What the run was (see `studies.run`): question, environment, costs, examples, failures, training.
        rows: results.parquet.
        summary: summary.json.
    """
    cells = pd.DataFrame(summary["cells"])
    figures = draw(cells, info["training"], out / "figures") if len(cells) else []
    for figure in figures:
        figure["svg"] = Markup(figure["svg"])  # drawn by matplotlib, which escapes its texts
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("loramem.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, interval=interval, number=number, clock=clock)
    page = environment.get_template("report.html.j2").render(
        info=info, summary=summary, figures=figures, headline=headline(summary), titles=TITLES, names=NAMES,
        sources=list(dict.fromkeys(cell["source"] for cell in summary["cells"])),
        n_failed=sum(cell["n_failed"] for cell in summary["cells"]), rows=len(rows),
    )  # fmt: skip
    path = out / "report.html"
    write_text(path, page)
    return path


def text_tables(summary: dict) -> Sequence[Table]:
    """One table per source for the end of a run: modules by size, the other readings below."""
    tables = []
    for source in dict.fromkeys(cell["source"] for cell in summary["cells"]):
        own = [c for c in summary["cells"] if c["source"] == source]
        metric = next(
            (m for m in ("exact_match", "efficacy", "token_f1") if any(c["metric"] == m for c in own)),
            own[0]["metric"],
        )
        own = [c for c in own if c["metric"] == metric and c["probe"] in ("trained", None)]
        sizes = sorted({c["size_tokens"] for c in own})
        table = Table(
            title=f"{source}: {TITLES.get(metric, metric)}, % [95 % interval]", title_justify="left"
        )
        table.add_column("reading")
        for size in sizes:
            table.add_column(f"{size:,} tokens", justify="right")
        lines = sorted(
            {(c["reading"], c["rank"]) for c in own},
            key=lambda line: (line[0] != "module", line[0], line[1] or 0),
        )
        for reading, rank in lines:
            found = {c["size_tokens"]: c for c in own if (c["reading"], c["rank"]) == (reading, rank)}
            table.add_row(
                NAMES.get(reading, reading) + (f", rank {rank}" if rank else ""),
                *(interval(found[size]) if size in found else "no result" for size in sizes),
            )
        tables.append(table)
    return tables
