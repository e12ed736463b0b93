"""Modules: the spec of a LoRA adapter, the bank that holds many, PEFT's format, the store."""

from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer

__all__ = ["Budget", "LoraSpec", "Objective", "Optimizer"]
