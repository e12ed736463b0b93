"""Bench `schedule`: the fifteen studies at scale `paper` on 1, 8 and 64 GPUs, by arithmetic and by playing the queue.

Nothing of it is timed on a GPU: it is what the plan comes to, at rates that are assumed and named (`ASSUMED`). Left out: the
ablations, calls to other models (supervision, judge), merging, text embedding, and what q15 times.

1. `paper_grid.expand`: every study is planned by the real planner, on the shapes of its bases.
2. `closed_form`: FLOP and bytes over rates; divided by the number of GPUs.
3. `play`: the queue (`studies.queueing`), stage after stage, study after study, as the executor works it off; with deaths, too.
4. `memory`: of a 70B base, by the formulas of `training.memory`.

Prints a card and ends in one JSON line. Usage: python benchmarks/schedule.py [--write] [--docs]
`--write` keeps the JSON; `--docs` renders its tables into docs/scaling.md. Both take the kept JSON's plan where `--replay` is
given, instead of planning anew (minutes).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from meter import RESULTS
from paper_grid import LENGTHS, STAGES, Work, expand
from schedule_tables import rendered, tables
from shapes import need, nf4_bytes, planned

from loramem.modules.merge_rules import RULES
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.studies.balance import Speeds, packs_of
from loramem.studies.provenance import code_state
from loramem.studies.queueing import bounds, simulate
from loramem.studies.series import members
from loramem.studies.workload import Item, Machine, Tokens, machine_of, reading_seconds, training_items
from loramem.training import TrainJob
from loramem.training.memory import state_bytes

KEPT = RESULTS / "schedule.json"
DOCS = Path(__file__).parents[1] / "docs" / "scaling.md"
GPUS = (1, 8, 64)
ROWS = 256
DENSE = re.compile(r"(?:^| )(?:ties|dare-\w+|magnitude-prune)-delta(?: |$)")
"""Rules that build a layer's whole update and cut it by an eigendecomposition (docs/merging.md)."""
RULE = re.compile(r"(?:^| )(?:" + "|".join(RULES.names()) + r")(?: |$)")
ASSUMED = {
    "gpu": "NVIDIA H100 SXM, 80 GB",
    "peak_flops": 989e12,  # dense bf16, its data sheet
    "peak_float32": 67e12,  # not on tensor cores, its data sheet: in what modules compute unless told otherwise
    "peak_bandwidth": 3.35e12,  # bytes a second, its data sheet
    "memory_bytes": 80e9,
    "utilisation": [0.2, 0.35, 0.5],  # of both peaks, in training and in prefill
    "decode_utilisation": 0.5,  # of peak_bandwidth, in decoding
    "load_seconds": 60.0,  # a worker's imports, and its base from a disk at some 0.5 GB/s
    "restart_seconds": 120.0,  # from a death to a worker with its base again
    "deaths_per_hour": 1 / 24 / 64,  # of one worker: one a day among 64
}
PARTS = ("base", "modules", "recomputed", "prefill", "decoding")
MIDDLE = 0.35
"""The utilisation of the tables that have one only."""


# -- its cost ------------------------------------------------------------------------------------------------
@cache
def machine(base: str, utilisation: float) -> Machine:
    return replace(
        machine_of(planned(base)), flops=utilisation * ASSUMED["peak_flops"], adapter_flops=utilisation * ASSUMED["peak_float32"],
        bandwidth=ASSUMED["decode_utilisation"] * ASSUMED["peak_bandwidth"],
    )  # fmt: skip


@cache
def side_by_side(base: str, shape: tuple[int, ...], compute: str) -> tuple[int, bool]:
    """(modules of a kind that train side by side on one GPU, whether layers are recomputed), as `training.planner` decides:
    others join while all rows fit without; it recomputes where not even one module's batch does."""
    rank, length, batch, _, dropout = shape
    room = 0.9 * (ASSUMED["memory_bytes"] - machine(base, MIDDLE).weight_bytes)
    state = state_bytes(planned(base), LoraSpec(rank=rank))
    row = need(base, rank, length, recompute=False, dropout=dropout / 100, compute=compute)
    count = 1
    while (count + 1) * batch <= ROWS and row.of((count + 1) * batch) + (count + 1) * state <= room:
        count += 1
    return count, row.rows_within(room - state) < batch


def job_of(work: Work, compute: str) -> TrainJob:
    rank, length, batch, steps, _ = work.shape
    return TrainJob(
        "",
        LoraSpec(rank=rank),
        Objective(),
        Optimizer(lr=1e-4, batch=batch, compute=compute),
        steps,
        0,
        (),
        length,
    )


def parts(work: Work, utilisation: float, compute: str = "float32") -> dict[str, float]:
    """GPU-seconds of one module or reading, by what they are spent on."""
    own = machine(work.base, utilisation)
    if work.stage.endswith("read"):
        read, written, writers = work.shape
        prefill = reading_seconds(Tokens(read), own, rows=ROWS)
        return {
            "prefill": prefill,
            "decoding": reading_seconds(Tokens(read, written, writers), own, rows=ROWS) - prefill,
        }
    rank, length, batch, steps, _ = work.shape
    (item,) = training_items([job_of(work, compute)], own)
    base = batch * length * steps * 4.0 * own.weights / own.flops
    # once more forward: half of what forward and backward to the activations take, and a third of a module's
    again = base / 2 + (item.seconds - base) / 3 if side_by_side(work.base, work.shape, compute)[1] else 0.0
    return {"base": base, "modules": item.seconds - base, "recomputed": again}


def items_of(works: Iterable[Work], utilisation: float, compute: str = "float32") -> list[Item]:
    """Work as what `studies.balance` packs."""
    found: list[Item] = []
    for number, work in enumerate(works):
        seconds = sum(parts(work, utilisation, compute).values())
        if work.stage.endswith("train"):
            (item,) = training_items([job_of(work, compute)], machine(work.base, utilisation))
            rows = max(work.shape[2], ROWS // side_by_side(work.base, work.shape, compute)[0])
            item = replace(item, seconds=seconds, rows=rows, kind=(*item.kind, work.base))
        else:
            item = Item("", ("read", work.what, work.base), seconds, rows=ROWS)
        found += [replace(item, key=f"{number}-{copy}") for copy in range(work.count)]
    return found


def closed_form(works: Iterable[Work], utilisation: float, compute: str = "float32") -> dict[str, float]:
    """GPU-hours by arithmetic: every step filled, every worker busy."""
    found = dict.fromkeys(PARTS, 0.0)
    for work in works:
        for name, seconds in parts(work, utilisation, compute).items():
            found[name] += work.count * seconds / 3600
    return {**found, "all": sum(found.values())}


# -- the queue ------------------------------------------------------------------------------------------------
def stages(works: Sequence[Work], *, pooled: bool = False) -> Iterator[tuple[tuple, list[Work]]]:
    """What is on the queue at one time: a stage of a study on one base; `pooled`: of all studies."""
    groups: dict[tuple, list[Work]] = defaultdict(list)
    order = {name: number for number, name in enumerate(members())}
    for work in works:
        stage = STAGES.index(work.stage)
        groups[(stage,) if pooled else (order[work.study], work.base, stage)].append(work)
    for place in sorted(groups):
        yield place, groups[place]


def play(
    works: Sequence[Work], gpus: int, *, utilisation: float = MIDDLE, pooled: bool = False, **faults: float
) -> dict[str, Any]:
    """Hours of the whole series on so many GPUs, as the executor works it off; a base is loaded once for each study on it.

    Args:
        faults: Deaths and spread of speeds, as `simulate` takes them.
    """
    hours, low, high, busy, lost, longest = (0.0,) * 6
    died = 0
    loaded: set[tuple] = set()
    studies: dict[str, float] = defaultdict(float)
    for seed, (place, own) in enumerate(stages(works, pooled=pooled)):
        speed = Speeds(machine(own[0].base, utilisation))
        packs = packs_of(items_of(own, utilisation), workers=gpus, rows=ROWS, speed=speed)
        leg = () if pooled else place[:2]
        load = 0.0 if leg in loaded else ASSUMED["load_seconds"]
        loaded.add(leg)
        run = simulate(
            packs,
            workers=gpus,
            load_seconds=load,
            restart_seconds=ASSUMED["restart_seconds"],
            seed=seed,
            **faults,
        )
        least, most = bounds(packs, gpus)
        hours, low, high = hours + run.makespan, low + least + load, high + most + load
        busy, lost, died = busy + run.busy_share * run.makespan, lost + run.lost_seconds, died + run.deaths
        longest = max(longest, run.longest_pack)
        studies["all" if pooled else own[0].study] += run.makespan / 3600
    return {
        "gpus": gpus, "hours": hours / 3600, "at_least": low / 3600, "at_most": high / 3600, "busy_share": busy / hours,
        "longest_pack_hours": longest / 3600, "lost_hours": lost / 3600, "deaths": died, "loads": len(loaded), "studies": dict(studies),
    }  # fmt: skip


# -- 70B ------------------------------------------------------------------------------------------------------
LARGE = "meta-llama/Llama-3.1-70B-Instruct"
CARDS = {"H100": 80e9, "H200": 141e9, "H200, 139 GiB": 139 * 2**30, "2 x H100": 160e9, "4 x H100": 320e9}
"""Bytes by the data sheets; drivers show an H200 with some 139 GiB, which is more."""


def memory() -> dict[str, Any]:
    """Bytes of a 70B base and of modules in training on it, and what fits where (training takes nine tenths of what the base
    leaves, `training.memory.memory_budget`)."""
    base, own = planned(LARGE), machine_of(planned(LARGE))
    weights = {"bfloat16": own.weight_bytes, "nf4": nf4_bytes(base.model)}
    rows = []
    for rank, (length, batch) in itertools.product((4, 16, 64, 256), ((96, 8), (256, 32))):
        state = state_bytes(base, LoraSpec(rank=rank))
        kept, again = (need(LARGE, rank, length, recompute=recompute) for recompute in (False, True))
        rows.append({
            "rank": rank, "length": length, "batch": batch, "state": state, "pass": kept.of(batch), "recomputed": again.of(batch),
            "row": again.of(1),
            "fits": {
                dtype: [card for card, room in CARDS.items() if 0.9 * (room - held) > state + again.of(1)]
                for dtype, held in weights.items()
            },
        })  # fmt: skip
    return {
        "parameters": base.parameters, "weights": own.weights, "per_rank": own.per_rank, "bytes": weights, "cards": CARDS, "rows": rows,
        "times": own.weights / machine_of(planned("meta-llama/Llama-3.1-8B-Instruct")).weights,
    }  # fmt: skip


# -- the bench ------------------------------------------------------------------------------------------------
def account(works: Sequence[Work]) -> dict[str, Any]:
    """What one study adds to those before it."""
    modules, readings = ([one for one in works if one.stage.endswith(stage)] for stage in ("train", "read"))

    def merges(rule: re.Pattern) -> int:
        return sum(one.count * one.shape[2] for one in readings if rule.search(one.what))

    return {
        "modules": sum(one.count for one in modules),
        "padded_tokens": sum(one.count * math.prod(one.shape[1:4]) for one in modules),
        "module_bytes": sum(4 * one.count * one.shape[0] * machine(one.base, MIDDLE).per_rank for one in modules),
        "readings": sum(one.count for one in readings),
        "read_tokens": sum(one.count * one.shape[0] for one in readings),
        "written_tokens": sum(one.count * one.shape[1] for one in readings),
        "merges_at_most": merges(RULE), "dense_merges_at_most": merges(DENSE),
        "gpu_hours": closed_form(works, MIDDLE),
    }  # fmt: skip


def bench(works: Sequence[Work]) -> dict[str, Any]:
    """Everything the tables hold, from a plan."""
    rates = {f"{100 * rate:.0f}": rate for rate in ASSUMED["utilisation"]}
    return {
        "assumed": ASSUMED, "rows": ROWS, "lengths": LENGTHS,
        "studies": {name: account([one for one in works if one.study == name]) for name in dict.fromkeys(one.study for one in works)},
        "closed_form": {name: closed_form(works, rate) for name, rate in rates.items()},
        "compute": {name: closed_form(works, MIDDLE, name) for name in ("float32", "bfloat16")},
        "played": {name: {str(gpus): play(works, gpus, utilisation=rate)["hours"] for gpus in GPUS} for name, rate in rates.items()},
        "runs": {str(gpus): play(works, gpus) for gpus in GPUS},
        "deaths": {str(per_day): play(works, 64, deaths=per_day * ASSUMED["deaths_per_hour"]) for per_day in (1, 24)},
        "spread": play(works, 64, speed_spread=0.1),
        "pooled": {str(gpus): play(works, gpus, pooled=True) for gpus in GPUS[1:]},
        "memory": memory(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep the JSON under benchmarks/results")
    parser.add_argument("--docs", action="store_true", help="render the tables into docs/scaling.md")
    parser.add_argument("--replay", action="store_true", help="take the plan of the kept JSON")
    options = parser.parse_args()
    if options.replay:
        works = [Work.of(line) for line in json.loads(KEPT.read_text(encoding="utf-8"))["plan"]]
    else:
        works = expand()
    card = {
        "bench": "schedule", "date": time.strftime("%Y-%m-%d"), "device": "none: planned and played, not timed", "python": platform.python_version(),
        "code": code_state(), **bench(works),
    }  # fmt: skip
    whole = {**card, "plan": [one.line() for one in works]}
    for text in tables(whole).values():
        print(text, end="\n\n")
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if options.docs:
        DOCS.write_text(rendered(DOCS.read_text(encoding="utf-8"), tables(whole)), encoding="utf-8")
    print(json.dumps(card))


if __name__ == "__main__":
    main()
