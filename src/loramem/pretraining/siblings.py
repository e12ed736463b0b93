"""Siblings of the embedded base: the same model with fewer or more layers, trained on after the change.

They answer what the size of the base does (question 6) on a laptop. All have the base's tokenizer, width and data, and
differ in depth. A sibling starts from the base in place of noise, because the first half of the curriculum only teaches
what the base can do already:

- *deeper*: new layers whose two output matrices are zero follow the old ones, so the model says at first exactly what the
  base says (depth growth that keeps the function, as in Net2Net, arXiv 1511.05641);
- *shallower*: the last layers are taken off. The first ones hold what reads a context (the first two alone have a loss of
  0.12 on lookups, where the first and the last have 14.6), so what must be learnt again is the common facts.

Then both learn on with the curriculum's last two stages for the same number of steps.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from loramem.core.errors import InputError
from loramem.pretraining.train import State, curriculum, train

LAST_STAGES = 2
"""`mix` and `polish`: the stages a sibling is trained on with."""


def with_depth(model: LlamaForCausalLM, depth: int) -> LlamaForCausalLM:
    """A copy of `model` with `depth` layers.

    Raises:
        InputError: no layer would be left.
    """
    if depth < 1:
        raise InputError(f"depth {depth}: a model has at least one layer")
    old = model.model.layers
    have = len(old)
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[0]] * depth
    made = LlamaForCausalLM(config)
    state = {name: value for name, value in model.state_dict().items() if ".layers." not in name}
    made.load_state_dict(state, strict=False)
    for index, (source, new) in enumerate(layout(have, depth)):
        layer = made.model.layers[index]
        layer.load_state_dict(old[source].state_dict())
        if new:
            with torch.no_grad():
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
    return made.to(dtype=torch.float32)  # type: ignore[call-arg]


def layout(have: int, depth: int) -> list[tuple[int, bool]]:
    """For every layer of the new model: which old layer it starts from, and whether it is a new one with zero output.

    >>> layout(4, 8)
    [(0, False), (0, True), (1, False), (1, True), (2, False), (2, True), (3, False), (3, True)]
    >>> layout(4, 2)
    [(0, False), (1, False)]
    """
    if depth < have:
        return [(index, False) for index in range(depth)]
    copies = [depth // have + (1 if index < depth % have else 0) for index in range(have)]
    return [(index, copy > 0) for index, count in enumerate(copies) for copy in range(count)]


def train_sibling(
    folder: Path, base: Path, *, depth: int, seed: int = 0, steps: int = 600, polish: int = 200
) -> State:
    """Train in `folder` a sibling of the checkpoint in `base` with `depth` layers; resumes like `train`."""
    start = with_depth(LlamaForCausalLM.from_pretrained(base), depth)
    return train(folder, seed=seed, stages=curriculum(steps, polish)[-LAST_STAGES:], start=start, lr=2e-3)
