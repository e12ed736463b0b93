"""Memory of the process: how much it takes, and how what was freed is kept, since large tensors come and go at every step."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # what glibc accepts


def keep_freed_memory() -> bool:
    """Have glibc reuse freed blocks in place of returning them to the system (about 10 % of reading on a CPU).

    Returns:
        Whether it took; False with another C library, where nothing changes.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD) and libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    )


def resident_bytes() -> int | None:
    """Memory of the machine that this process takes now; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int | None:
    """Memory of the machine that could be had now; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def accelerator_bytes() -> int | None:
    """Memory of accelerators that this process has taken; None where it uses none. Never the first to load torch or CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return sum(torch.cuda.memory_reserved(index) for index in range(torch.cuda.device_count()))
