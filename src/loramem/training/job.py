"""What is to be trained, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from loramem.base.prompts import Encoded
from loramem.core.errors import InputError
from loramem.modules.spec import Budget, Distractors, LoraSpec, Objective, Optimizer

BUCKET = 8


@dataclass(frozen=True)
class TrainJob:
    """One module to be trained: everything `train_modules` needs and nothing of its neighbours.

    Attributes:
        key: Names the result, e.g. the module's id.
        steps: Optimiser steps, at most.
        seed: Of initialisation, order and dropout.
        examples: Token ids; an example longer than `length` is cut and counted.
        length: Padded length in tokens, from the recipe (`bucket_length`).
        budget: Where given, its plateau, early stop and snapshots apply; `steps` alone decides otherwise.
        teacher: For `dcd`: each example as the teacher reads it, the same answer after another prompt.
        distractors: Finished modules that are on beside it now and then.
    """

    key: str
    spec: LoraSpec
    objective: Objective
    optimizer: Optimizer
    steps: int
    seed: int
    examples: tuple[Encoded, ...]
    length: int
    budget: Budget | None = None
    teacher: tuple[Encoded, ...] = ()
    distractors: Distractors | None = None

    def __post_init__(self) -> None:
        if self.objective.name != "dcd":
            return
        if len(self.teacher) != len(self.examples):
            raise InputError(
                f"objective dcd needs the teacher's form of every example: {len(self.teacher)} for {len(self.examples)}"
            )
        for own, told in zip(self.examples, self.teacher, strict=True):
            if own.ids[own.answer_start :] != told.ids[told.answer_start :]:
                raise InputError(
                    "objective dcd: teacher and student must be asked for the same answer tokens"
                )


@dataclass
class Trained:
    """A finished module.

    Attributes:
        tensors: PEFT-named fp32 weights, as they are saved.
        log: Rows of step, loss (mean nats per supervised token since the row before), lr, grad_norm (L2,
            before clipping).
        final_loss: Mean loss over the last tenth of the steps.
        steps: Optimiser steps taken.
        ended: Why it ended: `steps` (all done), `plateau`, `limit` (no plateau found in time), `memorised`.
        tokens, supervised_tokens: Trained on, padding not counted.
        truncated_tokens: Tokens per epoch that were cut away.
        teacher_tokens: Read by the teacher for this module; 0 where its states were in the cache.
        seconds: Wall seconds from its first step to its last, shared with the modules that trained beside it.
    """

    key: str
    tensors: dict[str, Tensor]
    log: list[dict]
    final_loss: float
    tokens: int
    supervised_tokens: int
    truncated_tokens: int
    seconds: float
    steps: int = 0
    ended: str = "steps"
    snapshots: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    """Step -> weights, held in memory until the module is saved."""
    teacher_tokens: int = 0


def bucket_length(examples: Sequence[Encoded], limit: int) -> int:
    """Padded length of a recipe: its longest example, rounded up to a multiple of 8, at most `limit`.

    Raises:
        InputError: no example, or an example whose answer begins beyond `limit`.
    """
    if not examples:
        raise InputError("no training examples")
    if (
        min(len(example.ids) for example in examples) < 2
        or max(example.answer_start for example in examples) >= limit
    ):
        raise InputError(f"a training example has no answer within the base's context of {limit} tokens")
    return min(limit, -(-max(len(example.ids) for example in examples) // BUCKET) * BUCKET)
