"""A study on a Ray cluster whose workers are killed again and again, from the command line to its report."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from loramem.modules.store import Store
from loramem.studies.run_log import read_log
from reliability.comparing import check_whole
from reliability.processes import fresh
from reliability.small_study import Place, undisturbed

pytest.importorskip("ray", reason="the extra `ray` is not installed")
pytestmark = pytest.mark.slow
RAY = Path(sys.executable).parent / "ray"
KILLS = 8


@pytest.fixture
def head():
    """A cluster as `docs/scaling.md` starts one; its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    address = f"127.0.0.1:{port}"
    options = ["--num-cpus=2", f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats"]  # fmt: skip
    subprocess.run([RAY, "start", "--head", *options], check=True, capture_output=True, timeout=300)
    yield address
    subprocess.run([RAY, "stop", "--force"], check=False, capture_output=True, timeout=300)


def workers() -> list[int]:
    """Processes that are workers of ours and have begun to work."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if name.startswith("ray::Worker.") or name.startswith("ray::Worker\0"):
                found.append(int(entry.name))
    return sorted(found)


def test_a_study_whose_workers_are_killed_ends_in_the_same_results(known, head, tmp_path, capsys):
    """Each time something more is finished, a worker chosen at random dies: never three over the same thing, which
    would be given up."""
    plain = undisturbed(known.setting, tmp_path / "plain", fresh)
    place, rng, began = Place(tmp_path / "ray"), random.Random(8), time.monotonic()
    command = [
        *place.command(known.setting, rows=256),
        "--executor",
        "ray",
        "--address",
        head,
        "--workers",
        "2",
    ]
    process, killed, seen = fresh(command, tmp_path / "ray"), 0, 0
    while process.poll() is None:
        events = read_log(place.log)[0] if place.log.exists() else []
        done = sum(event["event"] in ("module-done", "reading-done") for event in events)
        alive = workers()
        if killed < KILLS and alive and done > seen:
            os.kill(rng.choice(alive), signal.SIGKILL)
            killed, seen = killed + 1, done
        time.sleep(0.1)
    assert process.code == 0, process.output + process.errors
    check_whole(place)
    events, torn = read_log(place.log)
    finished = [event["id"] for event in events if event["event"] in ("module-done", "reading-done")]
    assert not torn and len(finished) == len(set(finished)), "something was done twice"
    here, there = Store(plain.place.store, look=True), Store(place.store, look=True)
    assert set(here.ids("modules")) == set(there.ids("modules"))
    assert set(here.ids("readings")) == set(there.ids("readings"))
    a, b = (pd.read_parquet(one.out / "results.parquet") for one in (plain.place, place))
    pd.testing.assert_frame_equal(a, b, rtol=1e-3)
    died = sum("died" in event.get("text", "") for event in events)
    assert killed == KILLS and died > 0
    account = {"kills": killed, "deaths_told": died, "modules": len(there.ids("modules")), "readings": len(there.ids("readings")),
               "undisturbed_seconds": round(plain.seconds, 1), "seconds": round(time.monotonic() - began, 1)}  # fmt: skip
    with capsys.disabled():
        print(f"\n{json.dumps(account)}")
