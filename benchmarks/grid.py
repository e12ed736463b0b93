"""Bench `grid`: the quick study's grid, cut down, end to end: loramem against the published way and a warm process.

loramem: one `loramem study run quick` into an empty store. published: a fresh process for every module and every
closed reading; PEFT, a plain loop, one question at a time. warm: the same training cell after cell in one process,
reading in batches. Same base, examples, order, first weights, steps, schedule, clipping, AdamW, threads; every way
is timed as whole processes. loramem also answers what none of the metrics scores (negated questions, log-probabilities
of gold answers) and writes a report; the others are spared both. Exits 1 where mean scores differ by over 5 points.
Usage: python benchmarks/grid.py [--sizes 250,1000] [--ranks 1,16] [--seeds 2] [--exposures phonebook=40,counterfact=10]
[--published-cells N] [--out benchmarks/results/grid-cpu.json]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

SOURCES = ("phonebook", "counterfact")
METRICS = ("exact_match", "efficacy", "paraphrase", "neighbourhood", "generation_match")
HEADLINE = ("exact_match/trained", "efficacy/trained")
PARTS = ("start", "train", "read", "rest")
TOLERANCE = 0.05
THREADS = os.cpu_count() or 1
ENVIRONMENT = {
    **os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": str(THREADS), "MKL_NUM_THREADS": str(THREADS),
}  # fmt: skip


def process(arguments: list[str], folder: Path, *, log: Path | None = None) -> dict:
    """Run a Python process. Seconds, peak memory, and seconds until `log` says that training (or reading) begins."""
    with open(folder / "stdout.txt", "w+") as said, open(folder / "stderr.txt", "w+") as wrong:
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, *arguments], stdout=said, stderr=wrong, env=ENVIRONMENT)
        ready = None
        pid = 0
        try:
            while not pid:
                time.sleep(0.01)
                pid, status, usage = os.wait4(child.pid, os.WNOHANG)  # of this child alone, unlike getrusage
                if (
                    ready is None
                    and log is not None
                    and log.exists()
                    and '"event": "stage-start"' in log.read_text()
                ):
                    ready = time.monotonic() - began
        except BaseException:  # stopped by hand: the process must not go on alone
            child.kill()
            raise
        seconds = time.monotonic() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            wrong.seek(0)
            said.seek(0)
            text = (wrong.read().strip() or said.read().strip())[-3000:]
            if text.startswith("error:") and "\n" not in text:  # bad input, said in one line
                print(text, file=sys.stderr)
                sys.exit(2)
            sys.exit(f"{' '.join(arguments)} failed with exit code {child.returncode}:\n{text}")
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {"seconds": seconds, "ready": ready, "peak_mib": peak}


def cell_process(job: dict, folder: Path) -> tuple[dict, dict]:
    """(timing of the process, what it wrote) of grid_cell.py."""
    job = {**job, "out": str(folder / "out.json"), "threads": THREADS, "began": time.monotonic()}
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    timing = process([str(Path(__file__).with_name("grid_cell.py")), str(folder / "job.json")], folder)
    return timing, json.loads((folder / "out.json").read_text(encoding="utf-8"))


def split(total: float, parts: dict[str, float]) -> dict[str, float]:
    return {"seconds": total, **parts, "rest": total - sum(parts.values())}


# -- the three ways --------------------------------------------------------------------------------------
def loramem_way(options: argparse.Namespace, assignments: list[str], folder: Path) -> dict:
    out = folder / "run"
    words = [
        "-m",
        "loramem",
        "study",
        "run",
        "quick",
        "--seeds",
        str(options.seeds),
        "--base",
        options.base,
        "--offline",
    ]
    words += ["--device", options.device] if options.device else []
    for text in assignments:
        words += ["--set", text]
    words += ["--store", str(folder / "store"), "--out", str(out)]
    timing = process(words, folder, log=out / "log.jsonl")
    events = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    stage = {event["stage"]: event["seconds"] for event in events if event["event"] == "stage-end"}
    if timing["ready"] is None or set(stage) != {"train", "read"}:
        sys.exit(
            f"the run's log holds the stages {sorted(stage)}, not read and train: what is timed has changed"
        )
    environment = json.loads((out / "environment.json").read_text(encoding="utf-8"))
    if environment["threads"] != THREADS:
        sys.exit(
            f"loramem ran with {environment['threads']} threads, the others with {THREADS}: not comparable"
        )
    parts = {"start": timing["ready"], "train": stage["train"], "read": stage["read"]}
    return {**split(timing["seconds"], parts), "processes": 1, "peak_mib": timing["peak_mib"], "run": out,
            "environment": environment}  # fmt: skip


def published_way(job: dict, cells: list[dict], timed: list[dict], folder: Path) -> dict:
    """A process per cell; a cell that is not timed is taken to cost what the timed ones of its group cost."""
    costs: dict[str, list[dict]] = defaultdict(list)
    scores, peak = {}, 0.0
    for cell in timed:
        timing, found = cell_process({**job, "do": "published", "cells": [cell["path"]], "rows": 1}, folder)
        costs[cell["group"]].append(split(timing["seconds"], found["seconds"]))
        scores |= found["scores"]
        peak = max(peak, timing["peak_mib"])
    total: dict[str, float] = dict.fromkeys(("seconds", *PARTS), 0.0)
    for cell in cells:
        for key in total:
            total[key] += statistics.mean(cost[key] for cost in costs[cell["group"]])
    by_group = {
        group: {key: round(statistics.mean(cost[key] for cost in found), 3) for key in total}
        for group, found in costs.items()
    }
    return {**total, "processes": len(timed), "peak_mib": peak, "scores": scores, "mean_process": by_group}


def warm_way(job: dict, cells: list[dict], rows: int, folder: Path) -> dict:
    timing, found = cell_process(
        {**job, "do": "warm", "cells": [c["path"] for c in cells], "rows": rows}, folder
    )
    return {
        **split(timing["seconds"], found["seconds"]), "processes": 1, "peak_mib": timing["peak_mib"],
        "gpu_mib": found["gpu_mib"], "scores": found["scores"],
    }  # fmt: skip


# -- scores ----------------------------------------------------------------------------------------------
def study_scores(run: Path) -> dict[str, dict[str, float]]:
    """Cell name -> metric/phrasing -> value, from the results of loramem's run."""
    import pandas  # imported here, after all is timed: a child's peak memory starts from its parent's

    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in pandas.read_parquet(run / "results.parquet").to_dict("records"):
        name = row["cell"] if pandas.isna(row["seed"]) else f"{row['cell']}-s{row['seed']}"
        found[name][f"{row['metric']}/{row['probe']}"] = row["value"]
    return found


def compare(cells: list[dict], ours: dict, theirs: dict[str, dict]) -> tuple[list[dict], dict, list[str]]:
    """(scores side by side, largest difference, where the mean over cells differs by more than the tolerance)."""
    table, largest = [], {"difference": 0.0, "where": "none"}
    means: dict[tuple, list[float]] = defaultdict(list)
    for cell in cells:
        name = cell["name"]
        row = {"cell": name, "loramem": {}, **{way: {} for way in theirs}}
        for way, scores in theirs.items():
            for key, value in scores.get(name, {}).items():
                if key not in ours.get(name, {}):
                    sys.exit(
                        f"{name}: {way} has {key}, loramem has {', '.join(ours.get(name, {})) or 'no score'}"
                    )
                row["loramem"][key] = round(ours[name][key], 4)
                row[way][key] = round(value, 4)
                difference = value - ours[name][key]
                means[way, cell["source"], cell["reading"], key].append(difference)
                if abs(difference) > largest["difference"]:
                    largest = {"difference": round(abs(difference), 4), "where": f"{way} {name} {key}"}
        table.append(row)
    apart = [
        f"{way}: {source}, {reading}, {key}: mean over {len(found)} cells differs by "
        f"{100 * statistics.mean(found):+.1f} points"
        for (way, source, reading, key), found in means.items()
        if abs(statistics.mean(found)) > TOLERANCE + 1e-9
    ]
    return table, largest, apart


# -- arguments -------------------------------------------------------------------------------------------
def numbers(text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: give whole numbers from 1, separated by commas, e.g. 250,1000"
        )
    return found


def exposures(text: str) -> dict[str, float]:
    """`phonebook=40,counterfact=10`, or one number for both."""
    try:
        pairs = (
            dict(part.split("=") for part in text.split(",")) if "=" in text else dict.fromkeys(SOURCES, text)
        )
        found = {key: float(value) for key, value in pairs.items()}
    except ValueError:
        found = {}
    if set(found) != set(SOURCES) or min(found.values()) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0, or phonebook=40,counterfact=10")
    return found


def one_or_more(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1")
    return int(text)


def choose(cells: list[dict], count: int | None, parser: argparse.ArgumentParser) -> list[dict]:
    """The cells to be timed one process each: the first of every group, then the second of every group, and so on."""
    if count is None or count >= len(cells):
        return cells
    seen: dict[str, int] = defaultdict(int)
    ranked = []
    for cell in cells:
        ranked.append((seen[cell["group"]], len(ranked), cell))
        seen[cell["group"]] += 1
    if count < len(seen):
        parser.error(f"--published-cells {count}: at least {len(seen)}, one for each of {', '.join(seen)}")
    return [cell for _, _, cell in sorted(ranked, key=lambda item: item[:2])[:count]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=numbers, default=[250, 1000], help="tokens of each source [250,1000]")
    parser.add_argument("--ranks", type=numbers, default=[1, 16], help="[1,16]")
    parser.add_argument("--seeds", type=one_or_more, default=2, help="[2]")
    parser.add_argument(
        "--exposures", type=exposures, default={"phonebook": 40.0, "counterfact": 10.0}, help="[40, 10]"
    )
    parser.add_argument("--probes", choices=("scored", "trained"), default="scored",
                        help="what published and warm ask: all that is scored, or trained wording only")  # fmt: skip
    parser.add_argument(
        "--published-cells", type=one_or_more, default=None, help="time N processes only [all]"
    )
    parser.add_argument("--rows", type=one_or_more, default=64, help="batch of the warm way's reading [64]")
    parser.add_argument(
        "--repeats", type=one_or_more, default=1, help="times that all three ways are run [1]"
    )
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--device", default=None)
    parser.add_argument(
        "--out", type=Path, default=None, help="also write the JSON here, with scores of every cell"
    )
    options = parser.parse_args()
    if not hasattr(os, "wait4"):
        parser.error("this bench needs a POSIX system (os.wait4 measures each process)")
    if options.out is not None and not options.out.resolve().parent.is_dir():
        parser.error(f"--out {options.out}: no folder {options.out.resolve().parent}")
    each = ", ".join(f"{key}: {value:g}" for key, value in options.exposures.items())
    assignments = [
        *(f"sources.{source}.sizes={options.sizes}" for source in SOURCES), "sources.counterfact.generations=0",
        f"modules.spec.rank={options.ranks}", f"modules.budget={{exposures: {{{each}}}}}", "readings=[closed,module]",
        f"metrics=[{','.join(METRICS)}]", "expect=[]",
    ]  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="loramem-grid-") as folder_name:
        bench(parser, options, assignments, Path(folder_name))


def bench(
    parser: argparse.ArgumentParser, options: argparse.Namespace, assignments: list[str], folder: Path
) -> None:
    (folder / "cells").mkdir()
    asked = {"do": "plan", "assignments": assignments, "seeds": options.seeds, "base": options.base}
    _, plan = cell_process(
        {**asked, "device": options.device, "folder": str(folder / "cells"), "probes": options.probes}, folder
    )
    cells = plan["cells"]
    timed = choose(cells, options.published_cells, parser)
    modules = sum(cell["reading"] == "module" for cell in cells)
    print(
        f"{modules} modules and {len(cells) - modules} closed readings, "
        f"{sum(cell['steps'] for cell in cells):,} steps, "
        f"{sum(cell['questions'] for cell in cells):,} questions; {plan['device']}, {plan['dtype']}, {THREADS} threads",
        flush=True,
    )
    job = {key: plan[key] for key in ("base", "device", "dtype", "context_length")}
    if len(timed) < len(cells):
        print(
            f"published: {len(timed)} of {len(cells)} processes are timed; each stands for its source, size and reading"
        )
    rounds: list[dict[str, dict]] = []
    for number in range(options.repeats):
        place = folder / f"round-{number}"
        place.mkdir()
        found = {}
        for way, work in (
            ("loramem", lambda: loramem_way(options, assignments, place)),  # noqa: B023
            ("published", lambda: published_way(job, cells, timed, place)),  # noqa: B023
            ("warm", lambda: warm_way(job, cells, options.rows, place)),  # noqa: B023
        ):
            found[way] = work()
            shown = " ".join(f"{part} {found[way][part]:7.1f}" for part in PARTS)
            print(
                f"{way:9} {found[way]['processes']:3} processes {found[way]['seconds']:7.1f} s: {shown}; peak "
                f"{found[way]['peak_mib']:,.0f} MiB; "
                f"{found[way]['seconds'] / found['loramem']['seconds']:.2f}x loramem",
                flush=True,
            )
        rounds.append(found)
    last = rounds[-1]
    table, largest, apart = compare(
        cells,
        study_scores(last["loramem"]["run"]),
        {way: last[way]["scores"] for way in ("published", "warm")},
    )
    print(f"{'cell':36} {'score':20} {'loramem':>9} {'published':>9} {'warm':>9}")
    for row in table:
        for key in (key for key in HEADLINE if key in row["loramem"]):
            values = [row[way].get(key) for way in ("loramem", "published", "warm")]
            shown = " ".join(
                f"{'not run' if value is None else format(100 * value, '.1f'):>9}" for value in values
            )
            print(f"{row['cell']:36} {key:20} {shown}")
    print(
        f"largest difference of any score of any cell: {100 * largest['difference']:.1f} points ({largest['where']})"
    )
    for line in apart:
        print(f"SCORES APART: {line}")
    card = report(options, plan, rounds, len(timed))
    card |= {"largest_difference": largest, "scores_agree": not apart}
    if options.out is not None:
        whole = {
            **card,
            "assignments": assignments,
            "scores": table,
            "published_mean_process": last["published"]["mean_process"],
        }
        options.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card))
    if apart:
        sys.exit(1)


def report(options: argparse.Namespace, plan: dict, rounds: list[dict[str, dict]], timed: int) -> dict:
    """The card: medians over the rounds, ratios of each round."""
    environment = rounds[-1]["loramem"]["environment"]
    ways = {}
    for way in ("loramem", "published", "warm"):
        found = [measured[way] for measured in rounds]
        ratios = [measured[way]["seconds"] / measured["loramem"]["seconds"] for measured in rounds]
        ways[way] = {
            **{key: round(statistics.median(one[key] for one in found), 2) for key in ("seconds", *PARTS)},
            "processes": found[-1]["processes"], "peak_mib": round(max(one["peak_mib"] for one in found)),
            "ratio_median": round(statistics.median(ratios), 2), "ratio_min": round(min(ratios), 2),
            "ratio_max": round(max(ratios), 2),
        }  # fmt: skip
    cells = plan["cells"]
    return {
        "bench": "grid", "date": time.strftime("%Y-%m-%d"), "device": plan["device"], "dtype": plan["dtype"],
        "processor": environment["processor"], "threads": THREADS, "python": environment["python"],
        "packages": environment["packages"], "base": plan["fingerprint"][:12], "sizes": options.sizes,
        "ranks": options.ranks, "seeds": options.seeds, "exposures": options.exposures, "probes": options.probes,
        "modules": sum(cell["reading"] == "module" for cell in cells), "cells": len(cells),
        "steps": sum(cell["steps"] for cell in cells), "questions": sum(cell["questions"] for cell in cells),
        "warm_rows": options.rows, "repeats": len(rounds), "published_timed": timed,
        "published_estimated": timed < len(cells), "code": environment["code"], "ways": ways,
    }  # fmt: skip


if __name__ == "__main__":
    main()
