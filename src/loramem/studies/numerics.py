"""What decides the last bits of a number besides the code: kept with every run (docs/determinism.md)."""

from __future__ import annotations

import os
from typing import Any

import torch


def numerics(device: torch.device) -> dict[str, Any]:
    """Libraries, instruction sets and settings by which equal computations may differ in their last bits.

    >>> sorted(numerics(torch.device("cpu")))
    ['blas', 'cpu', 'deterministic', 'matmul_precision', 'threads']
    """
    found: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "blas": "mkl" if torch.backends.mkl.is_available() else "other",
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    if device.type == "cuda":
        found |= {
            "accelerator": torch.cuda.get_device_name(device),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
            "cuda": torch.version.cuda or torch.version.hip,
            "cublas_workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""),
        }
    return found
