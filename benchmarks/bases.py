"""The bases of the benches: the embedded one, any folder or hub id, or a random model of a known shape.

Throughput needs no real weights: `llama-3.1-8b` here is a randomly initialised model of that architecture's shape, with
the embedded base's tokenizer, so that the benches run on an accelerator without a download.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from loramem.base import Base, load_base
from loramem.base.model import choose_device, choose_dtype
from loramem.base.prompts import PromptBuilder

SHAPES = {
    "llama-3.1-8b": LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=131072,
    ),
    "llama-3.2-1b": LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=131072, tie_word_embeddings=True,
    ),
}  # fmt: skip


def bench_base(name: str, device: str | None, dtype: str | None) -> Base:
    """A base by name; a name in `SHAPES` is built at random on the device (the fingerprint says so)."""
    if name not in SHAPES:
        return load_base(name, device=device, dtype=dtype)
    embedded = load_base()
    where = choose_device(device)
    precision = choose_dtype(dtype, where)
    torch.manual_seed(0)
    with torch.device(where):
        model: Any = AutoModelForCausalLM.from_config(SHAPES[name], dtype=precision)
    model.eval().requires_grad_(False)
    length = SHAPES[name].max_position_embeddings
    return dataclasses.replace(
        embedded, name=name, model=model, fingerprint=f"random-{name}", device=where, dtype=precision, context_length=length,
        prompts=PromptBuilder(embedded.tokenizer, length), card={},
    )  # fmt: skip
