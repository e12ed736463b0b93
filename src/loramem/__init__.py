"""loramem writes knowledge into LoRA modules on a frozen language model, reads it back, and measures it."""
