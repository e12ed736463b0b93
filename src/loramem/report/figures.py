"""Figures that answer the study's question: accuracy by load, by rank, as a heat map; controls; training.

Readable in print: a colour-blind palette, a marker of its own per rank, direct axis labels with units,
bands and bars that are 95 % intervals. A cell without a result is drawn as a hole, never left out.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from loramem.core.files import new_file, write_text
from loramem.core.shown import plain
from loramem.report.axes import interval_bar, load_axis, log_scale, percent_axis, percent_ticks, rank_axis

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h", "<", ">")
STYLES = {
    "closed": ("0.35", ":"), "wrong-module": ("0.35", "--"), "icl": ("0.1", "-."), "rag-bm25": ("0.1", (0, (6, 2))),
}  # fmt: skip
NAMES = {
    "closed": "base alone", "wrong-module": "wrong module", "random-module": "random module", "icl": "in context (ICL)",
    "module": "module", "rag": "RAG", "gold-passage": "gold passage in context", "gold-summary": "gold summary in context",
}  # fmt: skip
TITLES = {
    "exact_match": "exact match", "efficacy": "efficacy", "paraphrase": "paraphrase", "neighbourhood": "neighbourhood",
    "edit_score": "edit score", "generation_match": "generation match", "token_f1": "token F1", "negation": "negation",
    "bits_stored": "bits stored", "answer_nll": "loss on the answer", "tokens_above_half": "answer tokens with p > 0.5",
    "efficacy_magnitude": "efficacy magnitude", "fluency": "fluency", "consistency": "consistency",
    "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L", "bleu": "BLEU", "judge": "judge, points of 10",
    "route_at_1": "right module chosen", "route_at_3": "right module among the first three", "route_mrr": "mean reciprocal rank of the right module",
    "no_route": "no module found to fit", "none_auroc": "AUROC, own questions or strangers'", "own_kept": "own questions kept",
    "strangers_refused": "strangers refused", "kl_to_base": "KL to the base on unrelated text", "common_accuracy": "common facts still answered",
    "accuracy": "accuracy", "accuracy_hard": "accuracy, hard questions", "accuracy_parsed": "accuracy of the letter said",
    "accuracy_parsed_hard": "accuracy of the letter said, hard questions", "parsed": "replies that name one option",
}  # fmt: skip
matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "loramem",
        "text.parse_math": False,  # names come from data: a dollar is a dollar (and powers of ten are plain numbers)
        "font.family": "DejaVu Sans",
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)


CONTEXTS = {
    "icl": "ICL",
    "rag": "RAG",
    "gold-passage": "gold passage",
    "gold-summary": "gold summary",
}
SWITCHED = {"on-answer": "on for the answer only", "on-after-prefix": "on after the context"}


def reading_key(row) -> str:
    """A reading with what tells two of its kind apart: `module`, `rag-bm25`, `merged/embedding/top3/cat`, `module+rag/minilm`.

    Args:
        row: A cell; columns that it lacks are taken as empty.
    """
    reading = str(row["reading"])
    if reading == "rag":
        return f"rag-{row['retriever']}"
    stem, plus, context = reading.partition("+")
    parts = [reading]
    if stem in ("routed", "merged"):
        parts.append(str(_filled(row, "router")))
    if stem == "merged":
        share = _filled(row, "adaptive")
        parts += [f"top{int(row['top_k'])}" + (f"-p{share:g}" if share else ""), str(row["merge"])]
    if _filled(row, "module_on") not in (None, "all"):
        parts.append(f"on-{row['module_on']}")
    if plus and context == "rag" and _filled(row, "retriever") is not None:
        parts.append(str(row["retriever"]))
    return "/".join(parts)


def _filled(row, name: str):
    """A column of a cell; None where it has none."""
    value = row.get(name)
    return None if value is None or pd.isna(value) else value


def reading_name(key: str) -> str:
    """A reading for people, from its key.

    >>> reading_name("rag-bm25"), reading_name("icl")
    ('RAG (bm25)', 'in context (ICL)')
    >>> reading_name("routed/embedding-summary"), reading_name("merged/embedding/top3/ties-delta")
    ('routed (embedding-summary)', 'merged (embedding, top 3, ties-delta)')
    >>> reading_name("module+rag/minilm"), reading_name("module+icl/on-answer")
    ('module + RAG (minilm)', 'module + ICL, on for the answer only')
    """
    if key.startswith("rag-"):
        return f"{NAMES['rag']} ({key.removeprefix('rag-')})"
    reading, *how = key.split("/")
    stem, plus, context = reading.partition("+")
    switched = [SWITCHED.get(part, part) for part in how if part.startswith("on-")]
    how = [
        re.sub(r"^top(\d+)(?:-p(.+))?$", lambda m: f"up to {m[1]} by {m[2]}" if m[2] else f"top {m[1]}", part)
        for part in how if not part.startswith("on-")
    ]  # fmt: skip
    chosen = {"routed": 1, "merged": 3}.get(stem, 0)
    name = NAMES.get(stem, stem) + (f" ({', '.join(how[:chosen])})" if how[:chosen] else "")
    if plus:
        name += f" + {CONTEXTS.get(context, context)}" + (f" ({how[chosen]})" if how[chosen:] else "")
    return ", ".join([name, *switched])


def palette(ranks: list[int]) -> dict[int, tuple]:
    """One colour per rank, the same in every figure, dark for high ranks."""
    return dict(zip(ranks, sns.color_palette("viridis_r", len(ranks) + 1)[1:], strict=True))


def _ranks(cells: pd.DataFrame) -> list[int]:
    return sorted(int(rank) for rank in cells["rank"].dropna().unique())


def _curve(axis, part: pd.DataFrame, x: str, **style) -> None:
    part = part.sort_values(x)
    known = part[part["mean"].notna()]
    axis.plot(known[x], known["mean"], **style)
    if len(known) > 1:
        axis.fill_between(
            known[x], known["ci_low"], known["ci_high"], color=style.get("color"), alpha=0.15, linewidth=0
        )
    else:
        axis.vlines(known[x], known["ci_low"], known["ci_high"], color=style.get("color"))
    for hole in part[part["mean"].isna()][x]:
        axis.plot([hole], [0], marker="x", color="crimson", markersize=9, clip_on=False)


def by_load(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Score against the amount of knowledge: a line per rank, the readings without a module beside them."""
    part = cells[(cells["source"] == source) & (cells["metric"] == metric)]
    part = part[part["probe"] == probe] if probe else part
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    colours = palette(_ranks(part))
    for number, (rank, colour) in enumerate(colours.items()):
        mine = part[(part["reading"] == "module") & (part["rank"] == rank)]
        _curve(
            axis,
            mine,
            "size_tokens",
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            label=f"module, rank {rank}",
            linewidth=1.8,
        )
    keys = part.apply(reading_key, axis=1) if len(part) else part["reading"]
    for reading, (grey, style) in STYLES.items():
        other = part[keys == reading]
        if len(other):
            mean = other.groupby("size_tokens", as_index=False).agg(
                mean=("mean", "mean"), ci_low=("ci_low", "min"), ci_high=("ci_high", "max")
            )
            label = reading_name(reading) + (
                ", mean over ranks" if reading == "wrong-module" and len(colours) > 1 else ""
            )
            _curve(axis, mean, "size_tokens", color=grey, linestyle=style, label=label, linewidth=1.3)
    percent_axis(axis)
    load_axis(axis, sorted(int(size) for size in part["size_tokens"].dropna().unique()))
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(
        f"{source}: {TITLES.get(metric, metric)}"
        + (f", {probe} wording" if probe in ("trained", "heldout") else ""),
        fontsize=10,
        loc="left",
    )
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=3
    )
    return figure


def by_rank(
    cells: pd.DataFrame,
    source: str,
    metric: str,
    probe: str | None,
    published: tuple[float, float] | None = None,
) -> Figure:
    """Score against rank: a line per size, and the range that the paper reports where it is given."""
    part = cells[(cells["source"] == source) & (cells["metric"] == metric) & (cells["reading"] == "module")]
    part = part[part["probe"] == probe] if probe else part
    figure, axis = plt.subplots(figsize=(5.4, 3.6), layout="constrained")
    sizes = sorted(int(size) for size in part["size_tokens"].dropna().unique())
    for number, (size, colour) in enumerate(
        zip(sizes, sns.color_palette("rocket_r", len(sizes) + 1)[1:], strict=True)
    ):
        _curve(
            axis,
            part[part["size_tokens"] == size],
            "rank",
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            label=f"{size:,} tokens",
            linewidth=1.8,
        )
    if published is not None:
        axis.axhspan(*published, color="0.85", linewidth=0, label="range in the paper (8B base)")
    rank_axis(axis, _ranks(part))
    percent_axis(axis)
    axis.set_ylabel(f"{TITLES.get(metric, metric)} (%)")
    axis.set_title(f"{source}: {TITLES.get(metric, metric)} by rank", fontsize=10, loc="left")
    figure.legend(
        *axis.get_legend_handles_labels(), fontsize=7.5, frameon=False, loc="outside lower center", ncols=4
    )
    return figure


def heat_map(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """Rank by size, each cell its mean and n; a hole is hatched."""
    part = cells[(cells["source"] == source) & (cells["metric"] == metric) & (cells["reading"] == "module")]
    part = part[part["probe"] == probe] if probe else part
    ranks, sizes = _ranks(part), sorted(int(size) for size in part["size_tokens"].dropna().unique())
    means = part.pivot_table(
        index="rank", columns="size_tokens", values="mean", aggfunc="mean", dropna=False
    ).reindex(index=ranks[::-1], columns=sizes)
    counts = part.pivot_table(
        index="rank", columns="size_tokens", values="n", aggfunc="sum", dropna=False
    ).reindex(index=ranks[::-1], columns=sizes)
    figure, axis = plt.subplots(figsize=(5.4, 0.9 + 0.55 * max(2, len(ranks))), layout="constrained")
    axis.set_facecolor("0.9")
    axis.patch.set(hatch="///", edgecolor="0.6")
    labels = np.array(
        [
            [
                ("" if pd.isna(mean) else f"{100 * mean:.0f} %\nn={count:.0f}")
                for mean, count in zip(*rows, strict=True)
            ]
            for rows in zip(means.to_numpy(float), counts.to_numpy(float), strict=True)
        ]
    )
    sns.heatmap(
        means.astype(float),
        annot=labels,
        fmt="",
        vmin=0,
        vmax=1,
        cmap="viridis",
        ax=axis,
        annot_kws={"fontsize": 7.5},
        cbar=False,
        mask=means.isna().to_numpy(),
    )
    axis.set_xlabel("knowledge written (tokens of the base)")
    axis.set_ylabel("rank")
    axis.set_title(
        f"{source}: {TITLES.get(metric, metric)} of the module (hatched: not run)", fontsize=10, loc="left"
    )
    return figure


def controls(cells: pd.DataFrame, source: str, metric: str, probe: str | None) -> Figure:
    """All readings at the largest size, modules at the highest rank that was read there, with intervals."""
    part = cells[(cells["source"] == source) & (cells["metric"] == metric)]
    part = part[part["probe"] == probe] if probe else part
    if part["size_tokens"].notna().any():
        part = part[part["size_tokens"] == part["size_tokens"].max()]
    top = part["rank"].max()
    part = part[(part["rank"] == top) | part["rank"].isna()].copy()
    best = part[(part["reading"] == "module") & part["mean"].notna()].sort_values("mean")
    if len(best):  # of several supervisions, partitions and bases the best module with its own controls
        for name in ("supervision", "generator", "partition", "base_name"):
            part = part[(part[name] == best.iloc[-1][name]) | part[name].isna()]
    part["key"] = part.apply(reading_key, axis=1)
    wanted = ["closed", "wrong-module", "random-module", "module", "icl"]
    wanted += sorted(key for key in part["key"].unique() if key.startswith("rag-")) + ["gold-passage"]
    order = [key for key in wanted if (part["key"] == key).any()]
    figure, axis = plt.subplots(figsize=(5.4, 0.7 + 0.42 * len(order)), layout="constrained")
    for place, reading in enumerate(order):
        row = part[part["key"] == reading].iloc[0]
        interval_bar(axis, place, row, "#3b6ea5" if reading == "module" else "0.7", height=0.6)
    axis.set_yticks(
        range(len(order)),
        [
            reading_name(reading) + (f", rank {int(top)}" if "module" in reading and not pd.isna(top) else "")
            for reading in order
        ],
    )
    axis.set_xlim(0, 1.35)
    percent_ticks(axis.xaxis)
    axis.set_title(
        f"{source}: {TITLES.get(metric, metric)} {_where(part)}",
        fontsize=10,
        loc="left",
    )
    return figure


def _where(part: pd.DataFrame) -> str:
    """Which cells are shown: the size, or the supervision where there is no size."""
    if part["size_tokens"].notna().any():
        return f"at {int(part['size_tokens'].max()):,} tokens"
    named = part.loc[part["reading"] == "module", "supervision"].dropna()
    return f"with {named.iloc[0]}" if len(named) else "of all readings"


def training(curves: list[dict], source: str) -> Figure:
    """Training loss of every module of a source: whether it still fell when its budget ended."""
    mine = [curve for curve in curves if curve["source"] == source and curve["log"]]
    figure, axis = plt.subplots(figsize=(5.4, 3.4), layout="constrained")
    ranks = sorted({curve["rank"] for curve in mine})
    sizes = sorted({curve["size_tokens"] or 0 for curve in mine})
    colours = palette(ranks)
    for curve in mine:
        steps = [row["step"] for row in curve["log"]]
        axis.plot(
            steps,
            [max(row["loss"], 1e-4) for row in curve["log"]],
            color=colours[curve["rank"]],
            linewidth=0.6 + 1.4 * (1 + sizes.index(curve["size_tokens"] or 0)) / len(sizes),
            alpha=0.75,
        )
    handles = [matplotlib.lines.Line2D([], [], color=colours[rank], label=f"rank {rank}") for rank in ranks]
    figure.legend(handles=handles, fontsize=7.5, frameon=False, loc="outside lower center", ncols=6)
    log_scale(axis)
    axis.set_xlabel("optimiser steps (log)")
    axis.set_ylabel("loss (nats per answer token, log)")
    axis.set_title(f"{source}: training loss; thicker lines hold more", fontsize=10, loc="left")
    axis.grid(alpha=0.25)
    return figure


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write SVG and PNG under `folder`, and return the SVG for the page (no XML header, ids made unique).

    Args:
        name: Name of both files, without suffix (`core.names.file_name`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    with new_file(folder / f"{name}.png") as temporary:
        figure.savefig(temporary, format="png", dpi=160)
    plt.close(figure)
    svg = plain(buffer.getvalue())  # XML holds no control characters, not even escaped
    write_text(folder / f"{name}.svg", svg)
    return inlined(svg, name)


def inlined(svg: str, name: str) -> str:
    """The text of an SVG file as a part of a page: no XML header, ids made unique by `name`, as wide as its column."""
    inline = svg[svg.index("<svg") :]
    prefix = re.sub(r"[^a-z0-9]", "-", name.lower())
    inline = re.sub(r'id="([^"]+)"', rf'id="{prefix}-\1"', inline)
    inline = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}-", inline)
    # the page has a dark form; figures keep their white ground, and scale with the column
    return re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%" role="img"', inline, count=1)
