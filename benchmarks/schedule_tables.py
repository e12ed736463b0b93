"""The tables of docs/scaling.md, made of the kept result of `schedule.py`, so that the document cannot drift from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def tables(card: dict) -> dict[str, str]:
    """Every table, by the name of the place it stands in (`<!-- name -->`)."""
    return {
        "assumed": _assumed(card), "studies": _studies(card), "parts": _parts(card), "hours": _hours(card), "queue": _queue(card),
        "facts": _facts(card), "weights-70b": _weights(card["memory"]), "fits-70b": _fits(card["memory"]),
    }  # fmt: skip


def rendered(text: str, found: dict[str, str]) -> str:
    """A document whose marked places hold these tables."""
    for name, table in found.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if begin not in text or end not in text:
            raise SystemExit(f"the document has no place {begin.strip()} ... {end}")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}{table}\n{end}{rest.partition(end)[2]}"
    return text


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """Two or three digits that count, no more.

    >>> number(1234.5), number(51.23), number(0.0123), number(2.5e9), number(3)
    ('1,234', '51.2', '0.012', '2.5 G', '3')
    """
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:,.3g}{unit}"
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _assumed(card: dict) -> str:
    a, lengths = card["assumed"], card["lengths"]
    rows = [
        ("GPU", a["gpu"], ""),
        ("peak, dense bfloat16; float32", f"{a['peak_flops'] / 1e12:.0f}; {a['peak_float32'] / 1e12:.0f} TFLOP/s", "data sheet"),
        ("memory bandwidth", f"{a['peak_bandwidth'] / 1e12:.2f} TB/s", "data sheet"),
        ("share of both peaks, training and prefill", ", ".join(map(_percent, a["utilisation"])), "assumption"),
        ("share of the bandwidth, decoding", _percent(a["decode_utilisation"]), "assumption"),
        ("start of a worker with its base", f"{a['load_seconds']:.0f} s; {a['restart_seconds']:.0f} s from a death on", "assumption"),
        ("a step of a training loop", "3 ms a layer at least", "calculated for an eager model of 32 layers (97 ms)"),
        ("rows of a step", f"{card['rows']}, where memory holds them", "`--rows`, and the planner's formulas"),
        ("padded rows of phonebooks and edits", "as planned", "the embedded base's tokenizer, which makes 25 tokens of a line where Llama's makes 21"),
        ("padded rows of pairs; summaries; text", "; ".join(str(lengths[key]) for key in ("qa", "summary", "raw")) + " tokens",
         "published files, four characters a token; summaries: the paper's mean"),
    ]  # fmt: skip
    return _table(["assumed", "value", "from"], rows)


def _studies(card: dict) -> str:
    studies, runs = card["studies"], card["runs"]
    counts = ("modules", "padded_tokens", "readings", "read_tokens", "written_tokens")

    def row(name: str, one: dict, hours: Iterable[float]) -> list[str]:
        spent = one["gpu_hours"]
        training = spent["base"] + spent["modules"] + spent["recomputed"]
        return [
            name,
            *(number(one[key]) for key in counts),
            number(training),
            number(spent["all"] - training),
            *map(number, hours),
        ]

    rows = [
        row(name, one, (run["studies"].get(name, 0.0) for run in runs.values()))
        for name, one in studies.items()
    ]
    total = {key: sum(one[key] for one in studies.values()) for key in counts}
    rows.append(
        row(
            "**all**",
            {**total, "gpu_hours": card["closed_form"]["35"]},
            (run["hours"] for run in runs.values()),
        )
    )
    head = [
        "study",
        "modules",
        "padded tokens",
        "readings",
        "read tokens",
        "written tokens",
        "GPU h training",
        "GPU h reading",
    ]
    return _table([*head, *(f"h on {gpus}" for gpus in runs)], rows)


PARTS = {
    "base": "base, forward and back", "modules": "modules", "recomputed": "layers recomputed", "prefill": "prefill",
    "decoding": "decoding", "all": "all",
}  # fmt: skip


def _parts(card: dict) -> str:
    rows = [
        [f"`{name}`", *(number(found[part]) for part in PARTS)] for name, found in card["compute"].items()
    ]
    return _table(["GPU-hours with `optimizer.compute`", *PARTS.values()], rows)


def _hours(card: dict) -> str:
    rows = []
    for percent, found in card["closed_form"].items():
        played = card["played"][percent]
        each = [f"{number(found['all'] / int(gpus))} / {number(hours)}" for gpus, hours in played.items()]
        rows.append([f"{percent} %", number(found["all"]), *each])
    return _table(
        [
            "share of the peaks",
            "GPU-hours",
            *(f"hours on {gpus}: even share / played" for gpus in card["runs"]),
        ],
        rows,
    )


def _queue(card: dict) -> str:
    def row(name: str, run: dict) -> list[str]:
        bounds = f"{number(run['at_least'])} to {number(run['at_most'])}"
        return [
            name, number(run["hours"]), bounds, _percent(run["busy_share"]), number(run["longest_pack_hours"]), str(run["deaths"]),
            number(run["lost_hours"]),
        ]  # fmt: skip

    rows = [row(gpus, run) for gpus, run in card["runs"].items()]
    rows += [row(f"64, {n} death{'s' if n != '1' else ''} a day", run) for n, run in card["deaths"].items()]
    rows.append(row("64, speeds up to 10 % from the mean", card["spread"]))
    rows += [row(f"{gpus}, one queue for all studies", run) for gpus, run in card["pooled"].items()]
    return _table(["GPUs", "hours", "bounds", "busy", "longest pack, h", "deaths", "GPU h lost"], rows)


def _facts(card: dict) -> str:
    """What the tables say, in sentences."""
    studies, runs = card["studies"], card["runs"]
    hours, compute = card["closed_form"]["35"]["all"], card["compute"]["bfloat16"]["all"]
    above = ", ".join(f"{100 * (run['hours'] / (hours / int(gpus)) - 1):.1f} %" for gpus, run in runs.items())
    heat, grid, all_ = studies["q14"], studies["q02"], studies.values()
    others = sum(one["module_bytes"] for one in all_) - grid["module_bytes"]
    merges, dense = (sum(one[key] for one in all_) for key in ("merges_at_most", "dense_merges_at_most"))
    many = card["deaths"]["24"]
    return "\n".join(f"- {line}" for line in (
        f"Arithmetic and queue agree: played, the series takes {above} longer than an even share on 1, 8 and 64 GPUs (tested: within 2 %, 2 % and "
        "8 %). What is lost on 64 is lost at the ends of stages, where workers wait for the last pack: with one queue for all studies they would need "
        f"{number(card['pooled']['64']['hours'])} h.",
        f"{_percent(heat['gpu_hours']['all'] / hours)} of all GPU-hours are q14: {heat['modules']:,} modules, 26 further settings of every chunk's module at "
        f"three seeds. Without it {number(hours - heat['gpu_hours']['all'])} GPU-hours are left.",
        f"`--set modules.optimizer.compute=bfloat16` would take {number(compute)} GPU-hours in place of {number(hours)}: float32, the default, computes modules "
        "on no tensor core and keeps every matrix's input in float32, so that a batch of 32 rows of 256 tokens fits an 80 GB GPU with recomputed layers only. "
        "It is part of a module's recipe: other modules, slightly.",
        f"Deaths cost little, since a module is kept the moment it is done: {many['deaths']} deaths among 64 GPUs lose "
        f"{number(many['lost_hours'])} GPU-hours.",
        f"Disk: a module of rank r on all layers of the 8B base takes 10.5 MB x r in float32. q02 keeps {grid['module_bytes'] / 1e12:.1f} TB, and a third of that "
        f"again as random controls (one for each module of seed 0); all others {others / 1e12:.1f} TB. Fewer ranks, sizes or seeds keep less.",
        f"**Not in these hours: merging.** q10 to q14 merge up to {merges:,} times, once for each question that finds another set; {dense:,} of them by rules "
        "that build a layer's whole update. Each of these takes 224 eigendecompositions in double precision, 160 of them of matrices 4,096 wide: some "
        "10^14 FLOP at 9 n^3 each. Time one on your GPU before you start these studies.",
    ))  # fmt: skip


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.1f} GB"


def _weights(found: dict) -> str:
    rows = [
        [dtype, _gigabytes(held), *(_gigabytes(0.9 * (room - held)) if room > held else "no" for room in found["cards"].values())]
        for dtype, held in found["bytes"].items()
    ]  # fmt: skip
    table = _table(["70B in", "weights", *(f"room on {card}" for card in found["cards"])], rows)
    return f"{table}\n\nA token takes {found['times']:.1f} times the products that it takes on the 8B base."


def _fits(found: dict) -> str:
    rows = [
        [
            str(one["rank"]), f"{one['batch']} x {one['length']}", *(_gigabytes(one[key]) for key in ("state", "pass", "recomputed", "row")),
            *((one["fits"][dtype] or ["no"])[0] for dtype in ("nf4", "bfloat16")),
        ]
        for one in found["rows"]
    ]  # fmt: skip
    head = [
        "rank",
        "rows x tokens",
        "weights, gradients, moments",
        "kept by a pass",
        "layers recomputed",
        "one row, recomputed",
    ]
    return _table([*head, "smallest for nf4", "for bfloat16"], rows)
