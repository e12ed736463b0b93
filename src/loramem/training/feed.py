"""The examples of one module: padded once, and drawn in its own order."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from loramem.core.identity import seed_from
from loramem.training.job import TrainJob


class Feed:
    """Padded tensors of one job and its own seeded order of examples.

    Attributes:
        ids_ET: int64 `[examples, length]`, padded on the right.
        learn_ET: bool; True where the token is learnt (never at the first).
        lengths, supervised: Real and learnt tokens of each example.
        truncated: Tokens cut away.
    """

    def __init__(self, job: TrainJob, pad_id: int, device: torch.device):
        count = len(job.examples)
        ids_ET = torch.full((count, job.length), pad_id, dtype=torch.long)
        learn_ET = torch.zeros(count, job.length, dtype=torch.bool)
        self.truncated = 0
        lengths = []
        for row, example in enumerate(job.examples):
            ids = example.ids[: job.length]
            self.truncated += len(example.ids) - len(ids)
            ids_ET[row, : len(ids)] = torch.tensor(ids)
            lengths.append(len(ids))
            # masked by position, never by token id: the end of turn is learnt even where it is the pad token
            learn_ET[row, (example.answer_start if job.objective.loss_on == "answer" else 1) : len(ids)] = (
                True
            )
        self.lengths = torch.tensor(lengths)
        self.supervised = learn_ET.sum(1)
        self.ids_ET, self.learn_ET = ids_ET.to(device), learn_ET.to(device)
        self.count, self.seed, self.batch = count, job.seed, job.optimizer.batch
        self.order: list[int] = []
        self.epoch = 0

    @cached_property
    def mask_ET(self) -> Tensor:
        """int64, 1 where there is a token: for loops that pass an attention mask (ours needs none)."""
        return (torch.arange(self.ids_ET.shape[1]) < self.lengths[:, None]).long().to(self.ids_ET.device)

    def next(self) -> Tensor:
        """Indices `[batch]` of the next examples; epochs follow each other, so all are seen equally often."""
        while len(self.order) < self.batch:
            generator = torch.Generator().manual_seed(seed_from("order", self.seed, self.epoch))
            self.order += torch.randperm(self.count, generator=generator).tolist()
            self.epoch += 1
        chosen, self.order = self.order[: self.batch], self.order[self.batch :]
        return torch.tensor(chosen)
