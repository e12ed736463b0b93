"""Configs of one LoRA module: its shape, its objective, its budget, its optimiser.

All are frozen, refuse unknown keys, and are cheap to import. Their JSON with defaults left out is what
enters a module's identity, so adding a field with a default changes no existing hash.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from loramem.core.config import Config


class LoraSpec(Config):
    """The shape of a module (the `spec` of a study file)."""

    rank: Annotated[int, Field(ge=1, le=65536)]
    """Inner dimension of the update B A."""
    alpha: Annotated[float, Field(gt=0)] | Literal["rank"] = "rank"
    """Numerator of the scale alpha / rank; `rank` makes the scale 1, as in the paper's grids."""
    targets: str | tuple[str, ...] = "all-linear"
    """`all-linear` (all but the output head), `attention`, `mlp`, or names such as [q_proj, v_proj]."""
    layers: str | tuple[int, ...] = "all"
    """`all`, `first-half`, `second-half`, or layer numbers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a target's inputs dropped before A while training."""
    variant: Literal["lora"] = "lora"

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha == "rank" else float(self.alpha) / self.rank

    @field_validator("targets", mode="before")
    @classmethod
    def _targets(cls, value):
        return tuple(value) if isinstance(value, list) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _layers(cls, value):
        if isinstance(value, list):
            return tuple(value)
        if isinstance(value, str) and value not in ("all", "first-half", "second-half"):
            raise ValueError("layers must be all, first-half, second-half, or a list of layer numbers")
        return value


class Objective(Config):
    """What is minimised. `ntp`: mean cross-entropy (nats per token) of the next token."""

    name: Literal["ntp"] = "ntp"
    loss_on: Literal["answer", "all"] = "answer"
    """`answer`: the answer and its end of turn. `all`: every token after the first."""


class Plateau(Config):
    """Train until the loss stops falling, then cool down: the budget that lets a failure be called *capacity*.

    The rate is held after warm-up; the mean loss of each window of `window` exposures is compared with the best
    window before. After `patience` windows in a row that fall by less than `min_fall`, or at `max_exposures`, the
    rate goes down to 0 (in the optimiser's `schedule`) within `cooldown` times the steps taken so far.
    """

    max_exposures: Annotated[float, Field(gt=0)] = 200.0
    """Where the search for a plateau gives up; a module that ends there ended by *budget*."""
    window: Annotated[float, Field(gt=0)] = 5.0
    """Exposures whose mean loss is one observation."""
    min_fall: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Smallest relative fall of the window's loss that counts as learning."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Windows in a row without such a fall that make a plateau."""
    cooldown: Annotated[float, Field(ge=0, le=2)] = 0.25
    """Length of the final decay, as a share of the steps before it."""


class Budget(Config):
    """How long a module trains: exactly one of `steps`, `exposures` and `plateau`."""

    steps: Annotated[int, Field(ge=1)] | None = None
    """Optimiser steps, whatever the amount of data (the paper's protocol)."""
    exposures: Annotated[float, Field(gt=0)] | None = None
    """Times every example is seen; steps = ceil(exposures * examples / batch)."""
    plateau: Plateau | None = None
    """Until the loss stops falling."""
    stop_when_memorised: bool = False
    """End early once every learnt token of every example has p > 0.5 (checked in a pass of its own at the
    weights that are saved): sufficient for greedy recall (arXiv 2605.30260), so nothing is left to learn."""
    snapshots: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """Steps whose weights are kept beside the final ones and read like modules; 0 is the untrained module."""

    @model_validator(mode="after")
    def _one(self):
        given = [name for name in ("steps", "exposures", "plateau") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of steps, exposures and plateau, not {' and '.join(given) or 'none'}"
            )
        if self.steps is not None and any(step > self.steps for step in self.snapshots):
            raise ValueError(
                f"snapshots {list(self.snapshots)} lie beyond the {self.steps} steps of the budget"
            )
        return self

    @property
    def kind(self) -> Literal["steps", "exposures", "plateau"]:
        return "steps" if self.steps is not None else "exposures" if self.exposures is not None else "plateau"

    @property
    def label(self) -> str:
        """The protocol in a word, for columns and legends.

        >>> Budget(steps=400).label, Budget(exposures=30).label, Budget(plateau=Plateau(max_exposures=60)).label
        ('steps=400', 'exposures=30', 'plateau<=60')
        """
        if self.plateau is not None:
            return f"plateau<={self.plateau.max_exposures:g}"
        return f"{self.kind}={self.steps if self.steps is not None else format(self.exposures, 'g')}"

    def steps_for(self, examples: int, batch: int) -> int:
        """Optimiser steps at most (a plateau or memorised module ends earlier)."""
        if self.steps is not None:
            return self.steps
        if self.exposures is not None:
            return max(1, -(-int(self.exposures * examples) // batch))
        assert self.plateau is not None
        search = max(1, -(-int(self.plateau.max_exposures * examples) // batch))
        return search + int(self.plateau.cooldown * search)


class Optimizer(Config):
    """AdamW (betas 0.9, 0.999, eps 1e-8, decay 0 by default) and its schedule."""

    lr: Annotated[float, Field(gt=0)]
    batch: Annotated[int, Field(ge=1)] = 8
    """Examples per step of one module."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """After warm-up: constant, or down to 0 at the last step."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which lr rises linearly from 0."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest L2 norm of a module's gradient, measured over that module alone; None: no clipping."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
