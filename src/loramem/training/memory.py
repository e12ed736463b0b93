"""How much memory training takes: predicted from shapes and one small probe, before anything is spent.

The peak of a step is what stays (masters, gradients, moments; 16 bytes a parameter), what a pass keeps for its backward
pass (counted by a probe, so many bytes a row), and the largest of what comes and goes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from loramem.base.forward import CHUNK_BYTES, decoder_layers
from loramem.base.model import Base
from loramem.modules.bucket import padded_rank
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import features, linears, resolve_targets

LEARNING = 16
"""Bytes of a learning parameter: fp32 weight, gradient and two moments."""
FROZEN = 4
SHARE = 0.5
"""Of a computer's free memory that training may take; of an accelerator's, 0.9."""


def memory_budget(device: torch.device) -> int:
    """Bytes that training may take on `device`, as things stand."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(0.9 * free)
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("MemAvailable"))
        return int(SHARE * 1024 * int(line.split()[1]))
    except (OSError, StopIteration):
        return int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def state_bytes(base: Base, spec: LoraSpec) -> int:
    """Bytes of a module's weights, gradient and moments while it trains, padding and a PiSSA partner counted."""
    layers = linears(base.model)
    sizes = [features(layers[name]) for name in resolve_targets(base.model, spec)]
    factors = padded_rank(spec.rank) * sum(inner + outer for inner, outer in sizes)
    learning = factors + (sum(outer for _, outer in sizes) if spec.variant == "dora" else 0)
    return LEARNING * learning + (FROZEN * factors if spec.variant == "pissa" else 0)


class SavedBytes:
    """Counts what autograd keeps within the block: every storage once, those of `kept` (weights) never."""

    def __init__(self, kept: Sequence[Tensor]):
        self._known = {tensor.untyped_storage().data_ptr() for tensor in kept}
        self.total = 0

    def __enter__(self) -> SavedBytes:
        self._hooks = saved_tensors_hooks(self._count, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        self._hooks.__exit__(*reason)

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return tensor


LOGIT_FORMS = {"ntp": 2, "dcd": 5}
"""Tensors of the size of a part's logits that exist at once while its loss and gradient are taken."""
PASSING = 2
"""Tensors of the width of the widest layer that come and go while a layer runs forward or backward."""


@dataclass(frozen=True)
class Need:
    """Bytes of a pass, as a function of its rows.

    Attributes:
        row: Kept for each row until the backward pass.
        passing: Come and go, for each row.
        answer: Of the logits of one row's learnt tokens, in all the forms in which they exist at once.
        part: Most that logits ever take (`CHUNK_BYTES`, in all forms).
    """

    row: float
    passing: float
    answer: float
    part: float

    def of(self, rows: int) -> int:
        return int(self.row * rows + max(self.passing * rows, min(self.answer * rows, self.part)))

    def rows_within(self, room: float) -> int:
        """The most rows whose pass takes at most `room` bytes."""
        low, high = 0, 1 << 20
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.of(middle) <= room else (low, middle - 1)
        return low


def need_of(
    base: Base, *, saved_row: float, length: int, answers: float, objective: str, recompute: bool
) -> Need:
    """What a row takes, given what a probe saw autograd keep for one (`saved_row`).

    With `recompute` every layer keeps its input only, and one layer at a time what the probe saw.
    """
    size = base.dtype.itemsize
    linear = linears(base.model).values()
    widest = max(max(features(layer)) for layer in linear)
    if recompute:
        depth = len(decoder_layers(base.model))
        hidden = base.model.get_input_embeddings().weight.shape[1]
        saved_row = depth * length * hidden * size + saved_row / depth
    forms = LOGIT_FORMS[objective]
    vocabulary = base.model.get_output_embeddings().weight.shape[0]
    return Need(
        saved_row,
        PASSING * length * widest * max(size, 4),
        forms * answers * vocabulary * 4,
        forms * CHUNK_BYTES,
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on an accelerator or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "not enough memory" in str(error)
