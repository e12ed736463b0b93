"""What must hold of a store and of two runs: what is finished is whole and stays as it is, and both end in the same results."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import load_file

from loramem.core.files import read_json, read_jsonl
from loramem.modules.store import READING_MARKER, Store
from loramem.modules.store_check import check_store
from reliability.small_study import MARKERS, Place

TIMES = ("seconds", "seconds_since_previous", "files", "teacher_tokens")
"""What may differ between two runs: times, hashes of files that hold times, and who of those that share a teacher's cached
states paid for them."""
BOUND = 2e-6
"""To which numbers are promised (docs/determinism.md) where a batch holds other rows, as it does for the rest of a batch of readings
some of which were saved before a kill."""

Stamp = tuple[int, tuple[tuple[str, int, int, int], ...]]


def stamps(place: Place) -> dict[str, Stamp]:
    """Identity of every finished folder and file: whoever wrote one again would have another. Scores are made anew by each run."""
    found = {}
    for kind in MARKERS:
        for id, folder in place.finished(kind).items():
            files = sorted(
                path for path in folder.rglob("*") if path.is_file() and path.parent.name != "scores"
            )
            kept = tuple(
                (str(path.relative_to(folder)), (one := path.stat()).st_ino, one.st_mtime_ns, one.st_size)
                for path in files
            )
            found[f"{kind}/{id}"] = (folder.stat().st_ino, kept)
    return found


def check_whole(place: Place) -> None:
    """Every folder that says it is finished loads and holds, byte for byte, what was put into it; so do caches."""
    faults = check_store(place.store, deep=True).faults
    torn = [
        fault
        for fault in faults
        if fault.path.is_file() or any((fault.path / name).exists() for name in MARKERS.values())
    ]
    assert not torn, torn
    store = Store(place.store, look=True)
    for id, folder in place.finished("modules").items():
        steps = [path.name for path in (folder / "snapshots").glob("*")]
        for one in (store.module(id), *(store.module(f"{id}@{step}") for step in steps)):
            spec, tensors = one.load()
            assert spec.rank == 2 and tensors, id
    for id, folder in place.finished("readings").items():
        said = read_jsonl(folder / "predictions.jsonl")
        assert len(said) == read_json(folder / READING_MARKER)["ledger"]["probes"] > 0, id


def alike(one: Any, other: Any) -> bool:
    """Whether two values are equal: numbers to `BOUND`, what says how long something took not compared."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() - set(TIMES)
        return keys == other.keys() - set(TIMES) and all(alike(one[key], other[key]) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=BOUND, abs_tol=BOUND)
    return type(one) is type(other) and one == other


def same_table(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    try:
        pd.testing.assert_frame_equal(one, other, rtol=BOUND, atol=BOUND)
    except AssertionError:
        return False
    return True


def same_weights(one: Path, other: Path) -> bool:
    mine, theirs = load_file(one), load_file(other)
    return mine.keys() == theirs.keys() and all(
        (tensor.double() - theirs[name].double()).norm() <= BOUND * theirs[name].double().norm()
        for name, tensor in mine.items()
    )


COMPARED: dict[str, Callable[[Path, Path], bool]] = {
    ".json": lambda one, other: alike(read_json(one), read_json(other)),
    ".jsonl": lambda one, other: alike(read_jsonl(one), read_jsonl(other)),
    ".parquet": lambda one, other: same_table(pd.read_parquet(one), pd.read_parquet(other)),
    ".csv": lambda one, other: same_table(pd.read_csv(one), pd.read_csv(other)),
    ".safetensors": same_weights,
}
TIMED = ("log.jsonl", "costs.json", "environment.json", "report.html")
"""Files of a run folder that tell of times and places."""


def files(root: Path) -> dict[str, Path]:
    return {str(path.relative_to(root)): path for path in sorted(root.rglob("*")) if path.is_file()}


def check_same(place: Place, wanted: Place) -> list[str]:
    """Everything two runs kept is equal but for times: weights, predictions, scores, caches, results, tables.

    What is drawn or printed is compared where nothing else differs in a byte.

    Returns:
        The files that are equal to `BOUND` only: likelihoods that were read in another batch than those of the other run.
    """
    assert not place.temporaries()
    apart: list[str] = []
    drawn: list[tuple[Path, Path]] = []
    for mine, theirs in ((files(place.store), files(wanted.store)), (files(place.out), files(wanted.out))):
        assert mine.keys() == theirs.keys(), mine.keys() ^ theirs.keys()
        for name in mine.keys() - set(TIMED):
            one, other = mine[name], theirs[name]
            if one.suffix in (".svg", ".png", ".tex"):
                drawn.append((one, other))
            elif one.read_bytes() != other.read_bytes():
                assert one.suffix in COMPARED and COMPARED[one.suffix](one, other), name
                # what holds times differs anyway
                if not any(f'"{time}"'.encode() in one.read_bytes() for time in TIMES):
                    apart.append(name)
    assert apart or all(one.read_bytes() == other.read_bytes() for one, other in drawn)
    return sorted(apart)
