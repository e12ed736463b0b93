"""The recipe of a module: everything that decides its weights, and nothing else."""

from __future__ import annotations

from loramem.base.model import Base
from loramem.base.prompts import PROMPT_VERSION
from loramem.core.config import Config
from loramem.core.identity import digest
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer

RECIPE_VERSION = 1
"""Raised when code changes what a recipe means; older modules then stay what they were."""


class ModuleConfig(Config):
    """One point of a study's grid of modules."""

    spec: LoraSpec
    objective: Objective = Objective()
    budget: Budget
    optimizer: Optimizer


def trained_recipe(
    base: Base, supervision_hash: str, config: ModuleConfig, *, steps: int, length: int, seed: int
) -> dict:
    """The recipe of a `trained` module. Device, packing and paths are left out on purpose."""
    return {
        "type": "trained",
        "recipe_version": RECIPE_VERSION,
        "base": base.fingerprint,
        "supervision": supervision_hash,
        "prompt_version": PROMPT_VERSION,
        "spec": config.spec.identity(),
        "objective": config.objective.identity(),
        "budget": config.budget.identity(),
        "steps": steps,
        "optimizer": config.optimizer.identity(),
        "length": length,
        "dtype": str(base.dtype).removeprefix("torch."),
        "adapter_compute": "float32",
        "seed": seed,
    }


def module_hash(recipe: dict) -> str:
    return digest(recipe)
