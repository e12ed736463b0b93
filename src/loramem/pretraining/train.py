"""Pretrains the embedded base: ``python -m loramem.pretraining --out DIR``. Resumable, CPU, about an hour.

The order matters more than the amount. *Induction* on random tokens comes first: without it, lookups in a
context were not learnt in 10M tokens. Then phonebooks of 2 entries in one form, in several forms, then 4
to 32 entries, each once the loss of the one before is low; common facts and articles join on the way; the
last stage mixes everything while the learning rate falls to zero.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from loramem.core.files import write_json
from loramem.core.identity import seed_from
from loramem.pretraining import data
from loramem.pretraining.tokenizer import BOS, END, PAD, build_tokenizer

CONTEXT = 1024
FORMS = len(data.phrasing.PHONE_LINES)


@dataclass(frozen=True)
class Part:
    """One kind of example in a step: `rows` examples of `make`; its loss (nats per learnt token) counts `weight`."""

    name: str
    rows: int
    make: Callable[[random.Random], data.Segments] | None = None
    weight: float = 1.0
    length: int = 0  # of an induction row, which needs no text


@dataclass(frozen=True)
class Stage:
    """Parts trained together until the first part's loss falls below `until`, or for `steps` at most."""

    name: str
    parts: tuple[Part, ...]
    steps: int
    until: float = 0.0
    decay: bool = False
    peak: float = 1.0  # of the run's lr


def _lookup(entries: tuple[int, ...], forms: int, questions: int = 12):
    return lambda rng: data.lookup(rng, entries=rng.choice(entries), forms=forms, questions=questions)


def _reading(low: int, high: int):
    return lambda rng: data.reading(rng, facts=rng.randint(low, high), questions=10)


def curriculum(final_steps: int, polish_steps: int = 200) -> tuple[Stage, ...]:
    """The stages. Rows are chosen so that a step has 6k to 18k tokens."""
    common = Part("common", 48, lambda rng: data.common(rng, count=4))
    stages = [
        Stage(f"induction-{length}", (Part("induction", 4096 // length, length=length),), 2500, until)
        for length, until in ((32, 0.16), (64, 0.16), (128, 0.16))
    ]
    keep = Part("induction", 24, length=64, weight=0.3)
    stages += [
        Stage("lookup-2-one-form", (Part("lookup", 96, _lookup((2,), 1)), keep), 500, 0.15),
        Stage("lookup-2", (Part("lookup", 96, _lookup((2,), FORMS)), common, keep), 500, 0.15),
        Stage("lookup-4", (Part("lookup", 56, _lookup((2, 4), FORMS)), common, keep), 400, 0.15),
        Stage(
            "lookup-8",
            (Part("lookup", 32, _lookup((2, 4, 8, 8), FORMS)), common, Part("reading", 16, _reading(2, 6))),
            400,
            0.15,
        ),
        Stage(
            "lookup-16",
            (
                Part("lookup", 16, _lookup((4, 8, 16, 16), FORMS)),
                common,
                Part("reading", 12, _reading(2, 12)),
            ),
            300,
            0.15,
        ),
    ]
    final = (
        Part("lookup", 12, _lookup((2, 4, 8, 12, 16, 24, 32, 32), FORMS)),
        Part("common", 80, lambda rng: data.common(rng, count=4)),
        Part("reading", 14, _reading(3, 22)),
        Part("article", 3, lambda rng: data.plain_article(rng, facts=rng.randint(4, 20)), weight=0.1),
    )
    # Rows of several questions leave the first place of a row, where a reader asks, the least trained.
    polish = (
        Part("common", 160, lambda rng: data.common(rng, count=rng.randint(1, 2))),
        Part("lookup", 8, _lookup((4, 8, 16, 24, 32, 32), FORMS)),
        Part("reading", 9, _reading(3, 24)),
    )
    return (
        *stages,
        Stage("mix", final, final_steps, decay=True),
        Stage("polish", polish, polish_steps, decay=True, peak=0.4),
    )


@dataclass
class State:
    """Where the run stands; saved with the weights. Seconds and tokens add up over resumed runs."""

    stage: int = 0
    stage_step: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    averages: dict[str, float] = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)


def new_model(tokenizer: Tokenizer, seed: int) -> LlamaForCausalLM:
    """Llama, d 128, 4 layers, 4 heads, tied embeddings, init 0.02: 1.3M parameters."""
    torch.manual_seed(seed_from("embedded", seed) % 2**32)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        initializer_range=0.02, bos_token_id=tokenizer.token_to_id(BOS), eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _save(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, state: State) -> None:
    tensors = {}
    for name, parameter in model.named_parameters():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = value
    temporary = folder / "checkpoint.safetensors.part"
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        temporary,
        metadata={"state": json.dumps(vars(state))},
    )
    temporary.replace(folder / "checkpoint.safetensors")


def _resume(folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW) -> State:
    path = folder / "checkpoint.safetensors"
    if not path.exists():
        return State()
    with safe_open(path, framework="pt") as file, torch.no_grad():
        state = State(**json.loads(file.metadata()["state"]))
        keys = set(file.keys())
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(f"weight/{name}"))
            optimizer.state[parameter] = {
                key: file.get_tensor(f"{key}/{name}")
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}/{name}" in keys
            }
    return state


def _batch(tokenizer: Tokenizer, part: Part, seed: int, step: int) -> data.Batch:
    if part.make is None:
        rng = random.Random(seed_from("pretraining", seed, step, part.name))
        return data.induction(rng, tokenizer.get_vocab_size(), length=part.length, rows=part.rows)
    return data.batch(
        tokenizer, part.make, seed=seed, step=step, tag=part.name, rows=part.rows, limit=CONTEXT
    )


def _loss(model: LlamaForCausalLM, batch: data.Batch) -> torch.Tensor:
    """Mean cross-entropy over the learnt tokens; the head sees only the positions before them."""
    with torch.autocast("cpu", torch.bfloat16):
        hidden_BTD = model.model(input_ids=batch.ids_BT, use_cache=False).last_hidden_state
        chosen_ND = hidden_BTD[:, :-1][batch.learn_BT[:, 1:]]
        logits_NV = model.lm_head(chosen_ND)
    return torch.nn.functional.cross_entropy(logits_NV.float(), batch.ids_BT[:, 1:][batch.learn_BT[:, 1:]])


def train(
    folder: Path,
    *,
    seed: int = 0,
    final_steps: int = 1800,
    lr: float = 3e-3,
    save_every: int = 100,
    stages: tuple[Stage, ...] | None = None,
    start: LlamaForCausalLM | None = None,
) -> State:
    """Train in `folder` until the curriculum ends, from its checkpoint if it has one, else from `start` or from noise."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(seed)
    tokenizer.save(str(folder / "tokenizer.json"))
    model = start or new_model(tokenizer, seed)
    write_json(folder / "config.json", model.config.to_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True)
    state = _resume(folder, model, optimizer)
    stages = stages or curriculum(final_steps)
    started = time.perf_counter() - state.seconds
    while state.stage < len(stages):
        stage = stages[state.stage]
        warm = min(1.0, (state.step + 1) / 100)
        fall = 0.5 * (1 + math.cos(math.pi * state.stage_step / stage.steps)) if stage.decay else 1.0
        for group in optimizer.param_groups:
            group["lr"] = lr * stage.peak * warm * max(fall, 0.01)
        for part in stage.parts:
            batch = _batch(tokenizer, part, seed, state.step)
            loss = _loss(model, batch)
            (part.weight * loss).backward()
            old = state.averages.get(part.name)
            state.averages[part.name] = loss.item() if old is None else 0.95 * old + 0.05 * loss.item()
            state.tokens += batch.ids_BT.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.stage_step += 1
        state.seconds = time.perf_counter() - started
        if state.step % 20 == 0:
            losses = " ".join(f"{name} {value:.3f}" for name, value in state.averages.items())
            print(
                f"{stage.name} step {state.stage_step}/{stage.steps} | {losses} | {state.tokens / 1e6:.2f}M tokens {state.seconds:.0f}s",
                flush=True,
            )
        reached = state.stage_step >= 20 and state.averages[stage.parts[0].name] < stage.until
        if reached or state.stage_step >= stage.steps:
            state.history.append(
                {
                    "stage": stage.name,
                    "steps": state.stage_step,
                    "tokens": state.tokens,
                    "seconds": round(state.seconds, 1),
                    "loss": dict(state.averages),
                }
            )
            state.stage, state.stage_step, state.averages = state.stage + 1, 0, {}
            _save(folder, model, optimizer, state)
        elif state.step % save_every == 0:
            _save(folder, model, optimizer, state)
    write_json(folder / "history.json", state.history)
    return state
