"""The recipe of a module: everything that decides its weights, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from loramem.base.model import Base
from loramem.base.prompts import PROMPT_VERSION, Encoded
from loramem.core.config import Config
from loramem.core.identity import digest
from loramem.modules.spec import Budget, Distractors, LoraSpec, Objective, Optimizer

RECIPE_VERSION = 1
"""Raised when code changes what a recipe means; older modules then stay what they were."""


class ModuleConfig(Config):
    """One point of a study's grid of modules."""

    spec: LoraSpec
    objective: Objective = Objective()
    budget: Budget
    optimizer: Optimizer
    distractors: Distractors | None = None


def trained_recipe(
    base: Base,
    supervision_hash: str,
    config: ModuleConfig,
    *,
    steps: int,
    length: int,
    seed: int,
    teacher: Sequence[Encoded] = (),
) -> dict:
    """The recipe of a `trained` module. Device, packing and paths are left out on purpose.

    Args:
        teacher: What a teacher reads, for `dcd`; its token ids are part of the recipe.
    """
    recipe = {
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
        "dtype": base.precision,
        "adapter_compute": config.optimizer.compute,
        "seed": seed,
    }
    if config.objective.name == "dcd":
        recipe["teacher"] = digest([[list(one.ids), one.answer_start] for one in teacher])
    if config.distractors is not None:
        recipe["distractors"] = config.distractors.identity()
    return recipe


def module_hash(recipe: dict) -> str:
    return digest(recipe)
