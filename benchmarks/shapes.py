"""Models by their shapes alone: planned with, counted and measured without a weight of theirs being anywhere.

`planned` is a base on torch's meta device: study plans, parameter counts and the planner's formulas work on it. `saved_bytes`
is what autograd keeps of a token in training, probed on a small model whose every width, heads and rank included, is a
sixteenth of the shape's: all that is kept grows with a width, so sixteen times the small one's is the shape's.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import cache
from typing import Any

import torch
from bases import SHAPES as RANDOM
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedConfig, Qwen3Config

from loramem.base import Base, load_base
from loramem.base.forward import decoder_layers
from loramem.base.prompts import Encoded, PromptBuilder
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.modules.targets import linears
from loramem.training import TrainJob
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.log import Log
from loramem.training.loop import COMPUTE
from loramem.training.memory import Need, SavedBytes, need_of
from loramem.training.passes import Learner, Part, part_losses

SMALLER = 16


def _qwen3(width: int, inner: int, layers: int, heads: int, *, tied: bool) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=151936, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40960, tie_word_embeddings=tied,
    )  # fmt: skip


SHAPES: dict[str, PreTrainedConfig] = {
    "meta-llama/Llama-3.1-8B-Instruct": RANDOM["llama-3.1-8b"],
    "meta-llama/Llama-3.1-70B-Instruct": LlamaConfig(
        vocab_size=128256, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64,
        num_key_value_heads=8, max_position_embeddings=131072,
    ),
    "Qwen/Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, tied=True),
    "Qwen/Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, tied=True),
    "Qwen/Qwen3-4B": _qwen3(2560, 9728, 36, 32, tied=True),
    "Qwen/Qwen3-8B": _qwen3(4096, 12288, 36, 32, tied=False),
    "Qwen/Qwen3-14B": _qwen3(5120, 17408, 40, 40, tied=False),
}  # fmt: skip


def empty(config: PreTrainedConfig) -> Any:
    """A model without weights, in bfloat16."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.eval().requires_grad_(False)


@cache
def planned(name: str) -> Base:
    """A base of that shape with the embedded base's tokenizer, to plan with."""
    embedded = load_base()
    length = SHAPES[name].max_position_embeddings
    return dataclasses.replace(
        embedded, name=name, model=empty(SHAPES[name]), fingerprint=f"shape-{name}", device=torch.device("meta"), dtype=torch.bfloat16,
        context_length=length, prompts=PromptBuilder(embedded.tokenizer, length), card={},
    )  # fmt: skip


def nf4_bytes(model: Any) -> float:
    """Bytes of a model whose linear layers, but not the head, are kept as nf4 with doubly quantised scales: 4 bits a weight, an
    8-bit scale for each 64 of them, and an fp32 one for each 256 of those; the rest in bfloat16."""
    packed = sum(layer.weight.numel() for layer in linears(model).values())
    rest = sum(one.numel() for one in model.parameters()) - packed
    return packed * (4 + 8 / 64 + 32 / (64 * 256)) / 8 + 2 * rest


def smaller(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The shape with a sixteenth of every width."""
    found = copy.deepcopy(config)
    for name in ("hidden_size", "intermediate_size", "vocab_size", "head_dim"):
        setattr(found, name, getattr(config, name) // SMALLER)
    found.num_hidden_layers = layers
    if hasattr(found, "layer_types"):  # one entry a layer
        found.layer_types = list(config.layer_types[:layers])
    return found


@cache
def saved_bytes(name: str, rank: int, length: int, dropout: float = 0.0, compute: str = "float32") -> float:
    """Bytes that autograd keeps of one row of `length` tokens, all of them learnt, without gradient checkpointing."""
    config = SHAPES[name]
    kept = {
        layers: _probe(smaller(config, layers), max(1, rank // SMALLER), length, dropout, compute)
        for layers in (1, 2)
    }
    layer = kept[2] - kept[1]
    return SMALLER * (kept[1] - layer + layer * config.num_hidden_layers)


def _probe(config: PreTrainedConfig, rank: int, length: int, dropout: float, compute: str) -> float:
    """One more row of a pass keeps so many bytes (as `training.planner` measures it)."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval().requires_grad_(False)
    base = dataclasses.replace(load_base(), model=model, dtype=torch.bfloat16)
    bank = Bank(model)
    examples = (Encoded(tuple(range(3, 3 + length)), length // 2),)
    spec, optimizer = LoraSpec(rank=rank, dropout=dropout), Optimizer(lr=0.1, batch=2, compute=compute)
    job = TrainJob("probe", spec, Objective(), optimizer, 1, 0, examples, length)
    slot = bank.add(spec, 0, compute=COMPUTE[compute], group=length)
    feed = Feed(job, 0, torch.device("cpu"))
    learner = Learner(
        job, slot, feed, Course(None, optimizer, steps=1, examples=1), Log(1), set(), None, 0, 0.0
    )
    seen = []
    for rows in (1, 3):
        learner.chosen = torch.zeros(rows, dtype=torch.long)
        weights = [
            *model.parameters(),
            *(one for bucket in bank.buckets for one in (bucket.flat_CP, bucket.scale_C)),
        ]
        with SavedBytes(weights) as saved:
            part_losses(base, bank, [Part(learner, 0, rows)])
        seen.append(saved.total)
    bank.detach()
    return (seen[1] - seen[0]) / 2


def need(
    name: str, rank: int, length: int, *, recompute: bool, dropout: float = 0.0, compute: str = "float32"
) -> Need:
    """What a row takes in training, all of its tokens learnt, by the planner's own formula (ntp)."""
    base = planned(name)
    assert len(decoder_layers(base.model)) == SHAPES[name].num_hidden_layers
    return need_of(
        base, saved_row=saved_bytes(name, rank, length, dropout, compute), length=length, answers=float(length),
        objective="ntp", recompute=recompute,
    )  # fmt: skip
