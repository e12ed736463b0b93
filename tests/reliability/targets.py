"""Every parser as a fuzz target.

The same targets are run on made-up and mutated input (`test_fuzz_parsers.py`) and, guided by coverage, by `fuzz_guided.py`.
"""

from __future__ import annotations

from reliability import files_targets, runs_targets, said_targets, settings_targets, sources_targets
from reliability.targeting import TARGETS, attempt

PARTS = (files_targets, sources_targets, settings_targets, runs_targets, said_targets)
"""Importing them registers their targets."""

__all__ = ["PARTS", "TARGETS", "attempt"]
