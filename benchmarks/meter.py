"""What every bench needs: peak memory as it was, the share of the processor's peak, and one JSON line at the end."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("KINETO_LOG_LEVEL", "99")
import torch
from torch.profiler import ProfilerActivity, profile

from loramem.base.model import Base
from loramem.studies.provenance import code_state

RESULTS = Path(__file__).parent / "results"


def common(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line with the options that every bench has."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--base", default="embedded", help="embedded, a folder, a hub id, or a name in bases.SHAPES"
    )
    parser.add_argument("--device", default=None)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--write", action="store_true", help="keep the JSON under benchmarks/results")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where --write keeps it")
    parser.add_argument("--name", help="of the bench in the JSON and its file, where it is run twice")
    parser.add_argument(
        "--commit", help="of which this is an unchanged copy, where the copy is no checkout of it"
    )
    return parser.parse_args()


def synchronise(device: torch.device) -> None:
    """Wait for an accelerator; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Wall seconds of a call, the accelerator's work included."""
    synchronise(device)
    start = time.perf_counter()
    call()
    synchronise(device)
    return time.perf_counter() - start


def measured_peak(call: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that the call had at once, above what was there before.

    On CUDA from the allocator's own count, on a CPU from the profiler's record of every allocation.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]  # type: ignore[union-attr]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@contextlib.contextmanager
def _quiet():
    """The profiler's own remarks go nowhere."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def matmul_rate(device: torch.device, dtype: torch.dtype, size: int | None = None) -> float:
    """FLOP per second of a large square matrix product: the peak that shares are of."""
    size = size or (8192 if device.type == "cuda" else 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    best = min(timed(lambda: a @ b, device) for _ in range(10))
    return 2 * size**3 / best


def finish(bench: str, base: Base, values: dict, options: argparse.Namespace) -> None:
    """Print the bench's one JSON line, and keep it under benchmarks/results if asked."""
    bench = options.name or bench
    code = {"commit": options.commit, "changed": False} if options.commit else code_state()
    processor = torch.cuda.get_device_name(base.device) if base.device.type == "cuda" else _processor()
    line = {
        "bench": bench, "date": time.strftime("%Y-%m-%d"), "device": base.device.type, "processor": processor,
        "threads": torch.get_num_threads(), "torch": torch.__version__, "python": platform.python_version(),
        "base": base.fingerprint[:12], "base_parameters": base.parameters, "dtype": str(base.dtype).removeprefix("torch."),
        "code": code, **values,
    }  # fmt: skip
    print(json.dumps(line))
    if options.write:
        options.results.mkdir(parents=True, exist_ok=True)
        path = options.results / f"{bench}-{'cpu' if base.device.type == 'cpu' else 'cuda'}.json"
        path.write_text(json.dumps(line, indent=1) + "\n")


def _processor() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        for row in Path("/proc/cpuinfo").read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.machine()
