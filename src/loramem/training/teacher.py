"""The teacher of context distillation: the base itself, module off, document in its context.

It never changes, so it runs once per unique example and keeps what its output head would read before each answer token
(`[H]` per token). From that the frozen head gives the exact distribution over the whole vocabulary again. Examples on
one context share its encoding. Kept on disk under the hash of what was read, for other seeds, ranks and runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loramem.base.forward import hidden_states
from loramem.base.model import Base
from loramem.base.prompts import Encoded
from loramem.core.files import new_file
from loramem.core.identity import digest
from loramem.inference.states import hidden_shared
from loramem.training.memory import out_of_memory

TEACHER_VERSION = 1
HELD = 16
"""Sets of states kept in memory: those of the sources that train side by side."""


@dataclass(frozen=True)
class States:
    """Teacher states of a set of examples.

    Attributes:
        hidden_NH: Of all answer tokens, example after example, in the base's dtype.
        first_E: Where each example's tokens begin.
    """

    hidden_NH: Tensor
    first_E: Tensor

    def of(self, chosen: Tensor, counts: Tensor) -> Tensor:
        """States before the first `counts[i]` answer tokens of each chosen example, `[sum(counts), H]`."""
        first = self.first_E[chosen]
        offsets = torch.repeat_interleave(first - (counts.cumsum(0) - counts), counts)
        return self.hidden_NH[(offsets + torch.arange(int(counts.sum()))).to(self.hidden_NH.device)]


class Teacher:
    """Answers for the base with the document in its context.

    Args:
        folder: Where states are kept between runs; None: in memory only.

    Attributes:
        tokens: Read so far: what the teacher cost.
    """

    def __init__(self, base: Base, folder: Path | None = None, *, rows: int = 16):
        self.base, self.folder, self.rows = base, folder, rows
        self.tokens = 0
        self._held: dict[str, States] = {}

    def states(self, examples: Sequence[Encoded]) -> States:
        """States of all examples, from memory, from disk, or by one pass over the unique ones."""
        key = digest(
            {
                "version": TEACHER_VERSION,
                "base": self.base.fingerprint,
                "dtype": self.base.precision,
                "examples": [[list(one.ids), one.answer_start] for one in examples],
            }
        )
        if key not in self._held:
            while len(self._held) >= HELD:
                self._held.pop(next(iter(self._held)))
            self._held[key] = self._load(key) or self._read(key, examples)
        return self._held[key]

    def _load(self, key: str) -> States | None:
        path = None if self.folder is None else self.folder / f"{key}.safetensors"
        if path is None or not path.exists():
            return None
        try:
            found = load_file(path, device=str(self.base.device))
            return States(found["hidden"], found["first"].cpu())
        except (SafetensorError, KeyError):  # damaged: a cache is read again, never trusted
            path.unlink(missing_ok=True)
            return None

    def _read(self, key: str, examples: Sequence[Encoded]) -> States:
        counts = [len(one.ids) - one.answer_start for one in examples]
        unique = list(dict.fromkeys(examples))
        asked = [
            (one.ids[: one.shared], one.ids[one.shared :], len(one.ids) - one.answer_start) for one in unique
        ]
        states, read = hidden_shared(self.base, asked, rows=self.rows)
        self.tokens += read
        by_example = dict(zip(unique, states, strict=True))
        hidden_NH = torch.cat([by_example[one] for one in examples])
        first_E = torch.tensor(counts).cumsum(0) - torch.tensor(counts)
        if self.folder is not None:
            with new_file(self.folder / f"{key}.safetensors") as path:
                save_file({"hidden": hidden_NH.contiguous(), "first": first_E}, path)
        return States(hidden_NH, first_E)


@torch.no_grad()
def online(
    base: Base, examples: Sequence[Encoded], counts: Sequence[int], *, all_layers: bool = True, rows: int = 16
) -> list[Tensor]:
    """States before the first `counts[i]` answer tokens of each example, `[sum(counts), H]` per layer, read now.

    The plain way, padded on the right: what the cache is tested against, and what a comparison of all layers needs.
    Where memory does not hold `rows` rows at once, half of them are tried.
    """
    try:
        parts = [
            _online(base, examples[start : start + rows], counts[start : start + rows], all_layers)
            for start in range(0, len(examples), rows)
        ]
    except Exception as error:
        if rows == 1 or not out_of_memory(error):
            raise
        parts = []
    if not parts:  # outside the handler, whose traceback still holds the tensors that did not fit
        return online(base, examples, counts, all_layers=all_layers, rows=rows // 2)
    return [torch.cat(layer) for layer in zip(*parts, strict=True)]


def _online(base: Base, examples: Sequence[Encoded], counts: Sequence[int], all_layers: bool) -> list[Tensor]:
    longest = max(len(one.ids) for one in examples)
    ids_BT = torch.full((len(examples), longest), base.prompts.pad_id)
    before_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for row, (one, count) in enumerate(zip(examples, counts, strict=True)):
        ids_BT[row, : len(one.ids)] = torch.tensor(one.ids)
        before_BT[row, one.answer_start - 1 : one.answer_start - 1 + count] = True
    return hidden_states(base.model, ids_BT.to(base.device), before_BT.to(base.device), all_layers=all_layers)
