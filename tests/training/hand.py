"""Training by hand, to compare with: PEFT's layers, torch's AdamW and clipping, transformers' schedules, one module alone."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import get_scheduler

from loramem.base import Base, Encoded
from loramem.modules.bank import Bank
from loramem.modules.masks import dropped_share, kept_mask
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.modules.targets import resolve_targets
from loramem.training import TrainJob, train_modules
from loramem.training.feed import Feed

PREFIX = "base_model.model."


def examples(seed: int, vocab: int, count: int = 12, longest: int = 20) -> tuple[Encoded, ...]:
    rng = random.Random(seed)
    return tuple(
        Encoded(tuple(rng.randrange(5, vocab) for _ in range(rng.randint(6, longest))), rng.randint(2, 5))
        for _ in range(count)
    )


def job(
    base, key: str, *, rank=4, alpha="rank", lr=0.01, steps=20, seed=0, data=0, batch=4, **spec
) -> TrainJob:
    optimizer = Optimizer(
        lr=lr, batch=batch, schedule="cosine", warmup=0.1, clip=1.0, weight_decay=0.01 if seed % 2 else 0.0
    )
    return TrainJob(
        key,
        LoraSpec(rank=rank, alpha=alpha, **spec),
        Objective(),
        optimizer,
        steps,
        seed,
        examples(data, len(base.tokenizer)),
        24,
    )


def train(base, jobs, **options: Any) -> dict:
    """Trained modules by key; an exception where one failed."""
    found: dict = {}
    train_modules(
        base,
        jobs,
        on_finish=lambda done: found.update({done.key: done}),
        on_fail=lambda key, error: found.update({key: error}),
        **options,
    )
    return found


@contextmanager
def in_double(base: Base) -> Iterator[Base]:
    """The base in double precision, where what is left of a difference is not rounding."""
    torch.set_default_dtype(torch.float64)  # the bank's buffers follow it
    try:
        yield dataclasses.replace(base, model=copy.deepcopy(base.model).double())
    finally:
        torch.set_default_dtype(torch.float32)


def initial(base, one: TrainJob) -> dict[str, Tensor]:
    """The start of a LoRA or DoRA module, as the bank draws it."""
    bank = Bank(base.model, [one.spec], seeds=[one.seed])
    try:
        return bank.tensors(0)
    finally:
        bank.detach()


class OwnMasks(nn.Module):
    """A dropout layer for PEFT that drops what the masks of a module say at its step, while it trains."""

    def __init__(self, one: TrainJob, name: str):
        super().__init__()
        self.one, self.name, self.step = one, name, 0

    def forward(self, x_BTI: Tensor) -> Tensor:
        if not self.training:
            return x_BTI
        probability = self.one.spec.dropout
        kept_NI = kept_mask(
            probability, seed=self.one.seed, step=self.step, name=self.name, rows=x_BTI.shape[0] * x_BTI.shape[1],
            columns=x_BTI.shape[2], device=x_BTI.device,
        )  # fmt: skip
        return x_BTI * kept_NI.view(x_BTI.shape) / (1 - dropped_share(probability))


def wrapped(base: Base, one: TrainJob, own: Any = None) -> Any:
    """A PEFT model at the start of a module's training, on `own` in place of a copy of the base's model.

    PiSSA by its paper: the largest singular directions, and what is left of the weight in the weight's place.
    """
    own = own or copy.deepcopy(base.model)
    transposed = own.config.model_type == "gpt2"
    names = resolve_targets(base.model, one.spec)
    config = peft.LoraConfig(
        r=one.spec.rank, lora_alpha=one.spec.scale * one.spec.rank, lora_dropout=one.spec.dropout, target_modules=names,
        use_dora=one.spec.variant == "dora", fan_in_fan_out=transposed,
    )  # fmt: skip
    if one.spec.variant == "pissa":
        start = {}
        for name in names:
            weight = own.get_submodule(name).weight
            u, s, vh = torch.linalg.svd((weight.T if transposed else weight).detach(), full_matrices=False)
            root = s[: one.spec.rank].sqrt() / one.spec.scale**0.5
            a, b = root[:, None] * vh[: one.spec.rank], u[:, : one.spec.rank] * root
            start[f"{PREFIX}{name}.lora_A.weight"], start[f"{PREFIX}{name}.lora_B.weight"] = a, b
            with torch.no_grad():
                update = one.spec.scale * b @ a
                weight -= update.T if transposed else update
    else:
        start = initial(base, one)
    model = peft.get_peft_model(own, config).eval()  # the base's own dropout (GPT-2 has some) is off
    missing = model.load_state_dict({_live(name): tensor for name, tensor in start.items()}, strict=False)
    assert not missing.unexpected_keys
    learnt = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert learnt == sum(tensor.numel() for tensor in start.values())
    if one.spec.dropout:
        for name in names:
            layer = model.base_model.model.get_submodule(name)
            layer.lora_dropout["default"] = OwnMasks(one, name)
            layer.training = True  # PEFT's DoRA looks at it
    return model


def _live(name: str) -> str:
    """PEFT's name for a tensor in a model, from its name in a file.

    >>> _live("q.lora_A.weight"), _live("q.lora_magnitude_vector")
    ('q.lora_A.default.weight', 'q.lora_magnitude_vector.default.weight')
    """
    return f"{name.removesuffix('.weight')}.default.weight"


def solo(base: Base, one: TrainJob, own: Any = None) -> Any:
    """The same training by PEFT, torch's AdamW, torch's clipping and transformers' scheduler: the trained model."""
    model = wrapped(base, one, own)
    parameters = [p for p in model.parameters() if p.requires_grad]
    how = one.optimizer
    optimizer = torch.optim.AdamW(parameters, lr=how.lr, weight_decay=how.weight_decay)
    schedule = get_scheduler(
        "constant_with_warmup" if how.schedule == "constant" else how.schedule,
        optimizer,
        num_warmup_steps=int(how.warmup * one.steps),
        num_training_steps=one.steps,
    )
    feed = Feed(one, base.prompts.pad_id, torch.device("cpu"))
    for step in range(one.steps):
        for masks in (module for module in model.modules() if isinstance(module, OwnMasks)):
            masks.step = step
        chosen = feed.next()
        ids = feed.ids_ET[chosen]
        labels = ids.masked_fill(~feed.learn_ET[chosen], -100)
        logits = model(input_ids=ids, attention_mask=feed.mask_ET[chosen]).logits
        # by hand, since transformers computes its loss in single precision whatever the model's
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        if how.clip is not None:
            nn.utils.clip_grad_norm_(parameters, how.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return model.eval()


def tensors_of(model: Any) -> dict[str, Tensor]:
    """The adapter of a PEFT model, under the names it has in a file."""
    return {
        name.replace(".default.weight", "" if "magnitude" in name else ".weight"): tensor.clone()
        for name, tensor in model.state_dict().items()
        if ".lora_" in name
    }


def logits_of(model: Any, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(input_ids=ids).logits


def read(base: Base, spec: LoraSpec, tensors: dict[str, Tensor], ids: Tensor) -> Tensor:
    """Logits of the base under one finished module, by the bank."""
    bank = Bank(base.model, [spec], frozen=True)
    try:
        bank.load(0, tensors)
        with bank.active([Block(0, len(ids))]):
            return logits_of(base.model, ids)
    finally:
        bank.detach()


def updates(tensors: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """scale * B A per layer."""
    return {
        name: scale * tensors[name.replace("lora_A", "lora_B")] @ tensor
        for name, tensor in tensors.items()
        if ".lora_A." in name
    }


def distance(a: dict, b: dict, scale: float) -> float:
    """Largest relative difference of the updates over layers."""
    mine, theirs = updates(a, scale), updates(b, scale)
    return max(((mine[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs)


def whole_distance(a: dict, b: dict) -> float:
    """Relative difference of two modules: of their updates over all layers, and of their magnitudes where they have some."""
    assert a.keys() == b.keys()
    mine, theirs = updates(a, 1.0), updates(b, 1.0)
    groups = [[(mine[name], theirs[name]) for name in theirs]]
    groups += [[(a[name], b[name])] for name in b if name.endswith("magnitude_vector")]
    found = 0.0
    for pairs in groups:
        apart = sum((x - y).square().sum().item() for x, y in pairs) ** 0.5
        norm = sum(y.square().sum().item() for _, y in pairs) ** 0.5
        found = max(found, apart / norm if norm else float(apart > 0))
    return found


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
