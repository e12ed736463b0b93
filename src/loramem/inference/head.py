"""Logits only where they are wanted: the output head is the widest layer of a small model, and most rows need few of its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def only_at(head: torch.nn.Module, wanted_BT: Tensor) -> Iterator[None]:
    """Within the block the output head sees the wanted positions only, as one row: logits `[1, N, V]`, row-major.

    What a family does to its logits afterwards (scaling, soft-capping) is elementwise and stays its own.
    """

    def select(module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0][wanted_BT][None],)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()
