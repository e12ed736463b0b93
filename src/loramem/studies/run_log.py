"""What a run's log tells of it, for whoever comes back after a night: how it ended, or how far it is, and what failed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from loramem.core import files
from loramem.core.errors import InputError, nearest
from loramem.core.shown import told
from loramem.core.storage import size
from loramem.studies.progress import BEAT_SECONDS, clock

LOG = "log.jsonl"
QUIET_SECONDS = 4 * BEAT_SECONDS
"""A run that is there says something every `BEAT_SECONDS`; after so long without a word it is not well."""
SHOWN_FAILURES = 10
MEANING = {
    "done": "done",
    "incomplete": "done, but something failed",
    "stopped": "stopped; the same command goes on from there",
    "failed": "failed",
    "running": "running",
    "silent": "silent: its process is there, but has said nothing for {age}; it may be stuck or suspended",
    "killed": "killed: its process is gone and left no word (SIGKILL, out of memory, power); the same command goes on from there",
    "lost": "lost: no word for {age}, and its machine ({host}) cannot be asked from here",
}


def read_log(path: Path) -> tuple[list[dict], int]:
    """The events of a log, and how many of its lines are torn (by a kill) and were skipped.

    Raises:
        InputError: it cannot be read.
    """
    try:
        rows = files.read_log(path)
        lines = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    events = [row for row in rows if isinstance(row, dict)]
    return events, lines - len(events)


def logs_of(run: Path) -> list[Path]:
    """The logs of a run folder; of a series, those of its studies. Raises `InputError` where there is none."""
    if run.is_file():
        return [run]
    found = [
        path for path in (run / LOG, *sorted(run.glob(f"*/{LOG}"))) if path.is_file() and path.stat().st_size
    ]
    if not found:
        near = [path.parent.name for path in run.parent.glob(f"*/{LOG}")] if run.parent.is_dir() else []
        raise InputError(
            f"{run}: no {LOG} there; give the folder that `study run` writes; {nearest(run.name, near)}"
        )
    return found


def account(
    events: Sequence[Mapping[str, Any]], torn: int = 0, *, now: float | None = None
) -> dict[str, Any]:
    """What a log tells: of its last run how it is, of all its runs what is done and what still fails.

    Args:
        now: Seconds since the epoch; by default the present.

    Returns:
        `state` (a key of `MEANING`), `start` and `last` events of the last run, its last `progress`, the `end` of each run,
        counts, `failures` that no later run mended, `out_of_memory`, `signals`, and `torn` lines.
    """
    now = time.time() if now is None else now
    own = [event for event in events if event.get("run") is not None]
    runs = list(dict.fromkeys(event["run"] for event in own))
    last = [event for event in own if event["run"] == runs[-1]] if runs else []
    done: dict[str, set[str]] = {"module": set(), "reading": set()}
    failures: dict[str, Mapping[str, Any]] = {}
    for event in own:
        kind, _, what = str(event["event"]).partition("-")
        identity = str(event.get("id", ""))
        if kind in done and what == "done":
            done[kind].add(identity)
            failures.pop(identity, None)
        elif kind in done and what == "failed":
            failures[identity] = event
    ends = [event for event in own if event["event"] == "run-end"]
    age = max(0.0, now - _seconds(last[-1])) if last else 0.0
    return {
        "state": _state(last, age) if last else "lost",
        "age_seconds": age,
        "start": _first(last, "run-start"),
        "last": dict(last[-1]) if last else None,
        "end": _first(last, "run-end"),
        "progress": _first(reversed(last), "progress"),
        "runs": len(runs),
        "ends": [event["state"] for event in ends],
        "done": {f"{kind}s": len(found) for kind, found in done.items()},
        "failures": [dict(event) for event in failures.values()],
        "out_of_memory": [dict(e) for e in last if e["event"] == "out-of-memory" or e.get("out_of_memory")],
        "signals": [event["signal"] for event in last if event["event"] == "signal"],
        "torn": torn,
    }


def _first(events: Any, name: str) -> dict | None:
    return next((dict(event) for event in events if event["event"] == name), None)


def _seconds(event: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(str(event["time"])).timestamp()
    except (KeyError, ValueError):
        return 0.0


def _state(last: Sequence[Mapping[str, Any]], age: float) -> str:
    end = _first(last, "run-end")
    if end is not None:
        return str(end["state"]) if end["state"] in MEANING else "failed"
    here = last[-1].get("host") == files.host()
    if here and not _is_there(int(last[-1]["pid"])):
        return "killed"
    if age <= QUIET_SECONDS:
        return "running"
    return "silent" if here else "lost"


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


# -- for people ---------------------------------------------------------------------------------------------
def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """An account in lines."""
    last, start, end = found["last"], found["start"] or {}, found["end"]
    if last is None:
        yield "no run in this log tells of itself: it is of an older version, or nothing has begun"
        return
    yield MEANING[found["state"]].format(age=clock(found["age_seconds"]), host=last.get("host"))
    if end is not None and end.get("error"):
        yield f"error: {end['error']}"
    if start:
        what = " ".join(str(start[name]) for name in ("study", "scale") if start.get(name))
        yield f"{what or 'run'} {last['run']}, process {last['pid']}: {start.get('command') or '(no command)'}"
    took = f" ({clock(_seconds(last) - _seconds(start))} later)" if start else ""
    yield f"began {start.get('time', '?')}, last word {last['time']}{took}"
    if found["progress"] is not None:
        yield from _progress(found["progress"])
    yield f"in the store by this log: {found['done']['modules']:,} modules, {found['done']['readings']:,} readings"
    if end is not None and end.get("holes"):
        yield f"{end['holes']:,} cells have no result"
    if found["runs"] > 1:
        yield f"{found['runs']} runs began in this log, {len(found['ends'])} told of their end ({', '.join(found['ends'])})"
    failures = found["failures"]
    for event in failures[:SHOWN_FAILURES]:
        yield f"failed: {event['event'].partition('-')[0]} {event['id'][:12]}: {event.get('error')}"
    if len(failures) > SHOWN_FAILURES:
        yield f"failed: {len(failures) - SHOWN_FAILURES} more"
    if found["out_of_memory"]:
        latest = found["out_of_memory"][-1]
        yield f"out of memory: {len(found['out_of_memory'])} times, at last: {latest.get('text') or latest.get('error')}"
    if found["signals"]:
        yield f"signals: {', '.join(found['signals'])}"
    if found["torn"]:
        yield f"torn lines skipped: {found['torn']}"


def _progress(event: Mapping[str, Any]) -> Iterator[str]:
    if event.get("stage"):
        eta = event.get("eta_seconds")
        yield (
            f"{event['stage']}: {100 * event['done'] / max(1, event['total']):.0f} % of {event['total']:,} {event['unit']}, "
            f"{event['things_done']:,} of {event['things']:,} done, {event['tokens_per_second']:,.0f} tokens/s, "
            f"ETA {clock(eta) if eta is not None else '-'} (at {event['time']})"
        )
    elif event.get("said"):
        yield f"said before: {event['said']}"
    memory = [
        f"{size(event[name])} {words}"
        for name, words in (
            ("resident_bytes", "in use"),
            ("available_bytes", "of the machine free"),
            ("accelerator_bytes", "on accelerators"),
        )
        if event.get(name) is not None
    ]
    if memory:
        yield f"memory: {', '.join(memory)}"


def show(run: Path) -> Iterator[tuple[Path, dict[str, Any], list[str]]]:
    """Each log of a run or series: where it is, what it tells, and that in lines fit for a terminal."""
    for path in logs_of(run):
        found = account(*read_log(path))
        yield path, found, [told(line) for line in lines(found)]
