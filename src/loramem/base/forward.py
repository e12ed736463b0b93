"""The two halves of a causal language model: tokens to hidden states, hidden states to logits.

Most of what is done here needs logits at few positions. The first half is run on everything, the second on the wanted
positions only: the output head is the widest layer of a small model and its logits are the largest tensor of a big one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

from loramem.core.errors import InputError

FEWEST_ROWS = 8
"""Rows of a head's product: below four, CPU libraries take another kernel that rounds otherwise, and a module would
depend on how many tokens its neighbours learn."""
CHUNK_BYTES = 128 * 2**20
"""Logits that exist at once, in bytes of fp32."""


def head_inputs(model: Any, **inputs: Any) -> tuple[Tensor, Any]:
    """(what the output head would read at every position `[B, T, H]`, the model's output without logits).

    Taken at the head itself, so that whatever a family does between its last layer and its head is in it.
    """
    found: list[Tensor] = []

    def take(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        found.append(given[0])
        return (given[0][:, :0],)

    hook = model.get_output_embeddings().register_forward_pre_hook(take)
    try:
        output = model(**inputs)
    finally:
        hook.remove()
    return found[0], output


def hidden_states(model: Any, ids_BT: Tensor, wanted_BT: Tensor, *, all_layers: bool = False) -> list[Tensor]:
    """What the output head reads at the wanted positions, `[N, H]` in row-major order; with `all_layers` the output of
    every layer as well, first layer first, the head's input last.

    Rows are padded on the right, where a causal model never looks back from: no mask is needed, and attention without
    one is faster.
    """
    states_BTH, output = head_inputs(
        model, input_ids=ids_BT, use_cache=False, output_hidden_states=all_layers
    )
    below = output.hidden_states[1:-1] if all_layers else ()
    return [states[wanted_BT] for states in (*below, states_BTH)]


class _Given(BaseModelOutputWithPast):
    """Hidden states in place of a backbone's output; whatever else a family looks for in it is not there."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


@contextmanager
def _in_place_of(backbone: nn.Module, hidden_NH: Tensor) -> Iterator[list[bool]]:
    """Within the block `backbone` answers with `hidden_NH` whatever it is asked; yields one entry per call."""
    calls: list[bool] = []

    def given(*_: Any, **__: Any) -> _Given:
        calls.append(True)
        return _Given(last_hidden_state=hidden_NH[None])  # type: ignore[arg-type]

    own = backbone.__dict__.get("forward")
    object.__setattr__(backbone, "forward", given)
    try:
        yield calls
    finally:
        if own is None:
            object.__delattr__(backbone, "forward")
        else:
            object.__setattr__(backbone, "forward", own)


def _backbone(model: Any) -> nn.Module:
    """The module whose output a model's forward hands to its head: found once, by trying (OPT goes past its own).

    Raises:
        InputError: there is none.
    """
    if model not in _backbones:
        head = model.get_output_embeddings()
        probe_NH = torch.zeros(
            1, head.weight.shape[1] if head.weight.dim() == 2 else 1, device=head.weight.device
        )
        base = model.base_model
        candidates = [base, *base.children()] if base is not model else list(model.children())
        for candidate in candidates:
            if candidate is head or isinstance(candidate, nn.ModuleList | nn.Embedding):
                continue
            with (
                torch.no_grad(),
                _in_place_of(candidate, probe_NH.to(_floating(model))) as calls,
                suppress(Exception),
            ):
                model(input_ids=torch.zeros(1, 1, dtype=torch.long, device=probe_NH.device), use_cache=False)
                if calls:
                    _backbones[model] = candidate
                    break
        else:
            raise InputError(
                f"{type(model).__name__}: no part of this architecture hands hidden states to its head"
            )
    return _backbones[model]


_backbones: WeakKeyDictionary[Any, nn.Module] = WeakKeyDictionary()


def _floating(model: Any) -> torch.dtype:
    """The precision a model computes in."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def logits_of(model: Any, hidden_NH: Tensor) -> Tensor:
    """Logits `[N, V]` of hidden states, in fp32 or better.

    They go through the model's own forward, in place of what its layers would have given, so that what a family does
    to its logits afterwards (scaling, soft-capping) stays its own.
    """
    count = len(hidden_NH)
    if count < FEWEST_ROWS:
        hidden_NH = torch.cat([hidden_NH, hidden_NH[-1:].expand(FEWEST_ROWS - count, -1)])
    nothing_1N = torch.zeros(1, len(hidden_NH), dtype=torch.long, device=hidden_NH.device)
    with _in_place_of(_backbone(model), hidden_NH):
        logits_NV = model(input_ids=nothing_1N, use_cache=False).logits[0, :count]
    return logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))


RowFunction = Callable[[Tensor, int], Tensor]
"""(hidden states `[n, H]`, index of the first of them) -> a value for each, `[n]`."""


class _RowWise(torch.autograd.Function):
    """A function of each row alone, part by part; its gradient is taken on the way, so that no part is kept."""

    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, function: RowFunction, part: int) -> Tensor:  # type: ignore[override]
        values, grads = [], []
        for start in range(0, len(hidden_NH), part):
            with torch.enable_grad():
                own_nH = hidden_NH[start : start + part].detach().requires_grad_(True)
                value_n = function(own_nH, start)
                grads.append(torch.autograd.grad(value_n.sum(), own_nH)[0])
            values.append(value_n.detach())
        ctx.save_for_backward(torch.cat(grads))
        return torch.cat(values)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (grads_NH,) = ctx.saved_tensors
        return (grads_NH * grad_N[:, None]).to(grads_NH.dtype), None, None


def row_wise(function: RowFunction, hidden_NH: Tensor, *, vocabulary: int) -> Tensor:
    """`function` of every row, `[N]`, in parts of at most `CHUNK_BYTES` of logits; differentiable in `hidden_NH`."""
    part = max(16, CHUNK_BYTES // (4 * vocabulary))
    if torch.is_grad_enabled() and hidden_NH.requires_grad:
        return _RowWise.apply(hidden_NH, function, part)
    starts = range(0, len(hidden_NH), part)
    return torch.cat([function(hidden_NH[start : start + part], start) for start in starts])


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of a model's layers: the longest `ModuleList` of its backbone."""
    lists = [module for module in model.base_model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


@contextmanager
def recomputed(model: Any, on: bool = True) -> Iterator[None]:
    """Gradient checkpointing: within the block every layer keeps its input only and runs again in the backward pass.

    Not the library's own switch: that one works in training mode only, where a base's dropout would be on.
    """
    if not on:
        yield
        return
    layers = list(decoder_layers(model))
    kept = [layer.__dict__.get("forward") for layer in layers]

    def again(forward: Any) -> Any:
        def run(*inputs: Any, **options: Any) -> Any:
            return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **options)

        return run

    for layer in layers:
        object.__setattr__(layer, "forward", again(layer.forward))
    try:
        yield
    finally:
        for layer, own in zip(layers, kept, strict=True):
            if own is None:
                object.__delattr__(layer, "forward")
            else:
                object.__setattr__(layer, "forward", own)
