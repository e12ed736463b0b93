"""Configs of one LoRA module: its shape, its objective, its budget, its optimiser.

All are frozen, refuse unknown keys, and are cheap to import. Their JSON with defaults left out is what
enters a module's identity, so adding a field with a default changes no existing hash.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from loramem.core.config import Config

MAX_RANK = 65536
MAX_ALPHA = 1e12
"""A scale beyond this would leave what fp32 holds."""
MAX_BATCH = 65536
MAX_STEPS = 10_000_000
MAX_EXPOSURES = 1_000_000
"""What is more is a slip of the pen: it would not end in a year."""


class LoraSpec(Config):
    """The shape of a module (the `spec` of a study file)."""

    rank: Annotated[int, Field(ge=1, le=MAX_RANK)]
    """Inner dimension of the update B A."""
    alpha: Annotated[float, Field(gt=0, lt=MAX_ALPHA)] | Literal["rank"] = "rank"
    """Numerator of the scale; `rank` makes the standard scale 1, as in the paper's grids."""
    scaling: Literal["standard", "rslora"] = "standard"
    """The scale: alpha / rank, or alpha / sqrt(rank) (rsLoRA, arXiv 2312.03732)."""
    targets: str | tuple[str, ...] = "all-linear"
    """`all-linear` (all but the output head), `attention`, `mlp`, or names such as [q_proj, v_proj]."""
    layers: str | tuple[int, ...] = "all"
    """`all`, `first-half`, `second-half`, or layer numbers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a target's inputs dropped before A while training."""
    variant: Literal["lora", "pissa", "dora"] = "lora"
    """`lora`: A random, B zero. `pissa`: A and B start as the largest singular directions of the weight, which stays
    what it was less those (arXiv 2404.02948). `dora`: a learnt magnitude per output besides (arXiv 2402.09353)."""

    @property
    def scale(self) -> float:
        alpha = self.rank if self.alpha == "rank" else self.alpha
        return float(alpha) / (self.rank if self.scaling == "standard" else math.sqrt(self.rank))

    @property
    def stored(self) -> LoraSpec:
        """The spec of the adapter that is saved: PiSSA becomes plain LoRA of twice the rank, right on the plain base."""
        if self.variant != "pissa":
            return self
        rank = 2 * self.rank
        return self.model_copy(
            update={"rank": rank, "alpha": self.scale * rank, "scaling": "standard", "variant": "lora"}
        )

    @field_validator("targets", mode="before")
    @classmethod
    def _targets(cls, value):
        if value in ("", [], ()):
            raise ValueError(
                "names no matrix; give all-linear, attention, mlp, or names such as [q_proj, v_proj]"
            )
        return tuple(value) if isinstance(value, list) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _layers(cls, value):
        if value in ([], ()):
            raise ValueError("names no layer; give all, first-half, second-half, or a list of layer numbers")
        if isinstance(value, list):
            return tuple(value)
        if isinstance(value, str) and value not in ("all", "first-half", "second-half"):
            raise ValueError("layers must be all, first-half, second-half, or a list of layer numbers")
        return value


_DCD_ONLY = ("temperature", "kl_weight", "l1_weight", "hidden", "context_tokens")


class Objective(Config):
    """What is minimised, in nats per learnt token.

    `ntp`: cross-entropy of the next token. `dcd`, deep context distillation (arXiv 2503.08727): the teacher is the
    base itself with the module off and the document in its context, the student the module without the document,
    both on the same tokens; `kl_weight` T^2 KL(teacher || student) at temperature T over the whole vocabulary, plus
    `l1_weight` times the L1 distance of hidden states over the teacher's mean magnitude.
    """

    name: Literal["ntp", "dcd"] = "ntp"
    loss_on: Literal["answer", "all"] = "answer"
    """`answer`: the answer and its end of turn. `all`: every token after the first (ntp only: the teacher's
    prompt is another one, so that only answers can be compared token by token)."""
    skip_known: bool = False
    """No gradient from tokens that already have p > 0.5 (arXiv 2605.30260); the loss shown is still that of all."""
    temperature: Annotated[float, Field(gt=0)] = 2.0
    """T of `dcd`. The factor T^2 keeps the gradient's size (arXiv 1503.02531)."""
    kl_weight: Annotated[float, Field(ge=0)] = 1.0
    l1_weight: Annotated[float, Field(ge=0)] = 0.1
    hidden: Literal["last", "all"] = "last"
    """Hidden states compared: what the output head reads, or the output of every layer (the teacher then runs at every
    step, since only its last states are kept)."""
    context_tokens: Annotated[int, Field(ge=1)] | None = None
    """Most tokens of the document in the teacher's context; None: what the base takes. A longer document is cut at
    whole records, and the piece that holds the example's record is read."""

    @model_validator(mode="after")
    def _of_one_kind(self):
        if self.name == "ntp":
            odd = [key for key in _DCD_ONLY if getattr(self, key) != type(self).model_fields[key].default]
            if odd:
                raise ValueError(f"{', '.join(odd)}: only objective dcd has it")
            return self
        if self.loss_on != "answer":
            raise ValueError("loss_on all: objective dcd compares answers only")
        if self.skip_known:
            raise ValueError("skip_known: only objective ntp has it")
        if not self.kl_weight and not self.l1_weight:
            raise ValueError("kl_weight and l1_weight are both 0: nothing would be learnt")
        if self.hidden == "all" and not self.l1_weight:
            raise ValueError("hidden all needs an l1_weight above 0")
        return self

    @property
    def label(self) -> str:
        """Name and what differs from the default, for columns.

        >>> Objective().label, Objective(name="dcd", l1_weight=0).label
        ('ntp-answer', 'dcd-l1_weight=0')
        """
        if self.name == "ntp":
            return f"ntp-{self.loss_on}" + ("-skip-known" if self.skip_known else "")
        odd = [
            f"{key}={value:g}" if isinstance(value, int | float) else f"{key}={value}"
            for key in _DCD_ONLY
            if (value := getattr(self, key)) != type(self).model_fields[key].default
        ]
        return "-".join(["dcd", *odd])


class Distractors(Config):
    """Finished modules that are switched on, frozen, beside the one that learns (arXiv 2606.04557).

    At every step, with `probability`, one of them, drawn by (seed, step) of the module, adds its update for all of the
    step's examples: the module learns to work in company.
    """

    modules: (
        Annotated[tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...], Field(min_length=1)] | Literal["others"]
    )  # fmt: skip
    """Full ids: they are part of the recipe. `others`, in a study whose source is cut into parts: the other parts' modules of the
    same settings, trained before without company."""
    probability: Annotated[float, Field(ge=0, le=1)] = 0.5

    @property
    def label(self) -> str:
        """In a word, for columns.

        >>> Distractors(modules="others").label
        'others-p0.5'
        """
        who = self.modules if isinstance(self.modules, str) else f"{len(self.modules)}-modules"
        return f"{who}-p{self.probability:g}"


class Plateau(Config):
    """Train until the loss stops falling, then cool down: the budget that lets a failure be called *capacity*.

    The rate is held after warm-up; the mean loss of each window of `window` exposures is compared with the best
    window before. After `patience` windows in a row that fall by less than `min_fall`, or at `max_exposures`, the
    rate goes down to 0 (in the optimiser's `schedule`) within `cooldown` times the steps taken so far.
    """

    max_exposures: Annotated[float, Field(gt=0, le=MAX_EXPOSURES)] = 200.0
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

    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] | None = None
    """Optimiser steps, whatever the amount of data (the paper's protocol)."""
    exposures: Annotated[float, Field(gt=0, le=MAX_EXPOSURES)] | None = None
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
    batch: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 8
    """Examples per step of one module."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """After warm-up: constant, or down to 0 at the last step."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which lr rises linearly from 0."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest L2 norm of a module's gradient, measured over that module alone; None: no clipping."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    compute: Literal["float32", "tf32", "bfloat16"] = "float32"
    """Precision of the adapter's products while it trains; its weights and moments are fp32 always. tf32: CUDA only."""
