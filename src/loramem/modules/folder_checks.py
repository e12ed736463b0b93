"""What each thing in a store must hold, and what of that is not so.

Every check takes a place and `deep`, and gives the reasons why the place is damaged; none means that it is sound. A quick
check reads markers, headers, sizes and the number of lines; a deep one reads every byte: checksums, tensors, rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from loramem.core.errors import LoramemError
from loramem.core.files import inside, read_json, read_jsonl, read_marker
from loramem.core.identity import digest, file_digest
from loramem.modules import peft_format
from loramem.modules.spec import LoraSpec
from loramem.modules.store import MARKERS, MODULE_MARKER, PREDICTIONS, READING_MARKER, ROUTING

LEDGER, LOG, MERGES, SCORES, SNAPSHOTS = (
    "ledger.json",
    "training.jsonl",
    "merges.jsonl",
    "scores",
    "snapshots",
)
EXAMPLES = MARKERS["supervision"]
MODULE_FILES = (
    peft_format.CONFIG, peft_format.WEIGHTS, LOG, LEDGER, ROUTING, MODULE_MARKER, SNAPSHOTS,
)  # fmt: skip
READING_FILES = (PREDICTIONS, MERGES, READING_MARKER, SCORES)
A, B = ".lora_A.", ".lora_B."
SPELT = ("trained", "random")
"""Types of module whose recipe says the spec that the adapter must have."""
Check = Callable[[Path, bool], list[str]]


def sound(check: Callable[[Path, bool], Iterator[str]]) -> Check:
    """Collect a check's reasons; whatever stops it is one more, unless the place went away meanwhile (another process)."""

    def checked(place: Path, deep: bool) -> list[str]:
        reasons: list[str] = []
        try:
            reasons.extend(check(place, deep))
        except LoramemError as error:
            reasons.append(str(error))
        except OSError as error:
            where = f": {Path(str(error.filename)).name}" if error.filename else ""
            reasons.append(f"cannot be read ({error.strerror or error}{where})")
        except Exception as error:  # damaged bytes break readers in many ways; all of them mean the same here
            reasons.append(
                f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'unreadable'}"
            )
        return [reason.replace(f"{place}/", "") for reason in reasons] if place.exists() else []

    return checked


def _marker(folder: Path, name: str, key: str, identity: str) -> dict:
    """The marker of a folder. Raises where it is no object with `id` and `key`; `identity` is what the folder is called."""
    body = read_marker(folder / name)
    if not isinstance(body, dict) or not isinstance(body.get(key), dict):
        raise ValueError(f"{name} holds no {key}")
    if body.get("id") != identity or digest(body[key]) != identity:
        raise ValueError(f"{name}: its {key} is not the one that the folder is named by; one was changed")
    return body


def _files(folder: Path, kept: object, deep: bool) -> Iterator[str]:
    """Files that are missing or not as they were put; folders of older versions kept no checksums."""
    if not isinstance(kept, Mapping):
        return
    for name, told in kept.items():
        path = inside(folder, str(name))
        if not path.is_file():
            yield f"{name} is missing"
        elif path.stat().st_size != told["bytes"]:
            yield f"{name} has {path.stat().st_size:,} bytes, {told['bytes']:,} were written"
        elif deep and file_digest(path) != told["sha256"]:
            yield f"{name} was changed: another sha256 than when it was written"


# -- modules ------------------------------------------------------------------------------------------------
@sound
def module(folder: Path, deep: bool) -> Iterator[str]:
    """A module's folder: its recipe and name agree, its adapter and snapshots load and fit, its records can be read."""
    if not (folder / MODULE_MARKER).exists():
        yield f"no {MODULE_MARKER}: it was never finished, or half deleted"
        return
    body = _marker(folder, MODULE_MARKER, "recipe", folder.name)
    yield from _files(folder, body.get("files"), deep)
    recipe = body["recipe"]
    yield from _adapter(folder, recipe, deep)
    wanted = {str(step) for step in recipe.get("budget", {}).get("snapshots", ())}
    kept = {path.name for path in (folder / SNAPSHOTS).glob("*")}
    if wanted - kept:
        yield f"snapshots {', '.join(sorted(wanted - kept, key=int))} are missing"
    for step in sorted(kept):
        for reason in _adapter(folder / SNAPSHOTS / step, recipe, deep):
            yield f"snapshot {step}: {reason}"
    ledger = read_json(folder / LEDGER)
    if not isinstance(ledger, dict) or not all(isinstance(value, int | float) for value in ledger.values()):
        yield f"{LEDGER}: expected numbers by name"
    yield from _log(folder / LOG, body)
    if (folder / ROUTING).exists():
        (folder / ROUTING).read_text(encoding="utf-8")


def _adapter(folder: Path, recipe: Mapping[str, Any], deep: bool) -> Iterator[str]:
    """Reasons why an adapter is not what its config and recipe say. Without `deep` the header of its weights is all that is read."""
    config = peft_format.read_config(folder)
    shapes = peft_format.read_header(folder, config).shapes
    for name in shapes:
        other = name.replace(A, B) if A in name else name.replace(B, A)
        if other not in shapes:
            yield f"{name} stands alone: {other} is missing"
    if recipe.get("type") in SPELT and "spec" in recipe:
        spec = LoraSpec.model_validate(recipe["spec"]).stored
        said = (config["r"], config["lora_alpha"], bool(config.get("use_dora")))
        if said != (spec.rank, spec.scale * spec.rank, spec.variant == "dora"):
            yield f"{peft_format.CONFIG} and the recipe's spec contradict each other (rank {said[0]} and {spec.rank})"
    if deep:
        _, tensors = peft_format.load(folder)
        bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:
            yield f"{len(bad)} tensors hold values that are not finite, e.g. {bad[0]}"


def _log(path: Path, body: Mapping[str, Any]) -> Iterator[str]:
    rows = read_jsonl(path)
    if not all(
        isinstance(row, dict) and _number(row.get("step")) and _number(row.get("loss")) for row in rows
    ):
        yield f"{LOG}: a row without step or loss"
        return
    steps = [row["step"] for row in rows]
    if any(late <= early for early, late in pairwise(steps)):
        yield f"{LOG}: its steps do not rise"
    taken = body.get("steps_taken")
    if taken is not None and (not steps or steps[-1] != taken):
        yield f"{LOG} ends at step {steps[-1] if steps else 0}, the module at {taken}"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


# -- readings -----------------------------------------------------------------------------------------------
@sound
def reading(folder: Path, deep: bool) -> Iterator[str]:
    """A reading's folder: its description and name agree, and every question it asked has its line."""
    if not (folder / READING_MARKER).exists():
        yield f"no {READING_MARKER}: it was never finished"
        return
    body = _marker(folder, READING_MARKER, "reading", folder.name)
    yield from _files(folder, body.get("files"), deep)
    path = folder / PREDICTIONS
    asked, found = body.get("ledger", {}).get("probes"), _lines(path)
    if asked is not None and found != asked:
        yield f"{PREDICTIONS} has {found:,} lines, {asked:,} questions were asked"
    if deep:
        yield from _rows(path, ("probe",))
        if (folder / MERGES).exists():
            yield from _rows(folder / MERGES, ())


@sound
def scores(path: Path, deep: bool) -> Iterator[str]:
    """One file of scores, which stands beside a reading and is made again on its own."""
    if not path.stat().st_size:
        yield "is empty"
    _lines(path)
    if deep:
        yield from _rows(path, ("probe",))


def _lines(path: Path) -> int:
    """Lines of a file that ends in a whole one. Raises where it does not: it was cut short."""
    count, last = 0, b"\n"
    with open(path, "rb") as file:
        while block := file.read(2**20):
            count += block.count(b"\n")
            last = block[-1:]
    if last != b"\n":
        raise ValueError(f"{path.name} ends in the middle of a line")
    return count


def _rows(path: Path, keys: tuple[str, ...]) -> Iterator[str]:
    for number, row in enumerate(read_jsonl(path), start=1):
        if not isinstance(row, dict) or any(key not in row for key in keys):
            yield f"{path.name}:{number}: expected an object{' with ' + ', '.join(keys) if keys else ''}"
            return


# -- supervision, caches, downloads -------------------------------------------------------------------------
@sound
def supervision(folder: Path, deep: bool) -> Iterator[str]:
    """The examples of a supervision; their hash (form, prompt and answer of each) is what the folder is called."""
    path = folder / EXAMPLES
    if not path.exists():
        yield f"no {EXAMPLES}"
        return
    if not _lines(path):
        yield f"{EXAMPLES} is empty"
    if deep:
        rows = read_jsonl(path)
        if digest([[row["form"], row["prompt"], row["answer"]] for row in rows]) != folder.name:
            yield f"{EXAMPLES} was changed: its content is not the one that the folder is named by"


@sound
def teacher(path: Path, deep: bool) -> Iterator[str]:
    """A teacher's states (`training.teacher`)."""
    with safe_open(path, framework="pt") as file:
        if not {"hidden", "first"} <= set(file.keys()):
            yield "lacks hidden or first"
        elif deep and not torch.isfinite(file.get_tensor("hidden")).all():
            yield "holds values that are not finite"


@sound
def cached(path: Path, deep: bool) -> Iterator[str]:
    """A kept answer of a model, or another file of a cache."""
    if not path.stat().st_size:
        yield "is empty"
    elif deep and path.suffix == ".json":
        json.loads(path.read_bytes())


@sound
def downloaded(path: Path, deep: bool) -> Iterator[str]:
    """A downloaded file; its folder is called by its sha256."""
    if deep and file_digest(path) != path.parent.name:
        yield "was changed: another sha256 than its folder is named by"
