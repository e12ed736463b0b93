"""loramem writes knowledge into LoRA modules on a frozen language model, reads it back, and measures it."""

__version__ = "0.1.0"
