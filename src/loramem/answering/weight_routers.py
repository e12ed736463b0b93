"""Routing by weights: whose update does the question's path through the base excite most?

For a layer with input x the update of a module is s B A x = U S V^T x. *Arrow* (Ostapenko et al. 2024, arXiv 2405.11157, section 4) keeps
of each update its direction of largest change, the top right-singular vector v, and scores |v . x|. *SpectR* (Fleshman and Van
Durme 2025, arXiv 2504.03454) keeps S V^T and scores |S V^T x|, the norm of the change itself. *LAG* (the same authors 2025, arXiv
2507.05346) lets Arrow choose a short list and SpectR the best of it.

Where we differ: they choose anew for every token at every layer; here a question is routed once, by the same scores averaged over its
own tokens and then over the layers that the module adapts. So that layers of large inputs do not drown the others, each score is divided
by |x|: Arrow's becomes the cosine's magnitude, SpectR's the relative size of the change. x is what the *base alone* feeds to the layer;
in the originals the modules chosen below have already changed it.

Nothing here is ever as large as a weight: singular values come from QR of the two factors and an SVD of their R x R core. Every
module is loaded and decomposed once for all questions, and the base reads every question once (once per part of a
pool whose directions exceed `PART_BYTES`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from loramem.answering.likelihood_routers import Load, Question, question_ids
from loramem.base.forward import head_inputs
from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.batching import Lane, check_length, make_batches
from loramem.modules.bank import PEFT_PREFIX
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import features, linears

PART_BYTES = 2 * 2**30
"""Directions of modules kept at once."""
TINY = 1e-30


def right_factor(a_RI: Tensor, b_OR: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Singular values `[K]`, largest first, and right-singular vectors `[I, K]` of scale * B A, in fp64; K is at most R.

    QR of both factors leaves a core of R x R, whose singular values are those of the product (its left and right factors
    are orthonormal); the product is never built.
    """
    core_left = torch.linalg.qr(b_OR.double()).R  # [K1, R]
    q_IK, core_right = torch.linalg.qr(a_RI.double().T)  # [I, K2], [K2, R]
    _, s_K, vh_KK = torch.linalg.svd(scale * core_left @ core_right.T, full_matrices=False)
    return s_K, q_IK @ vh_KK.T


def shortlist(
    arrow_QM: NDArray[np.float64], spectr_QM: NDArray[np.float64], kept: int
) -> NDArray[np.float64]:
    """LAG's scores, `[Q, M]`: SpectR's for the `kept` best by Arrow (ties by position), below all of these Arrow's order.

    A module that is left out gets the lowest kept score times its share of the lowest kept Arrow score.
    """
    found_QM = spectr_QM.copy()
    for arrow_M, found_M in zip(arrow_QM, found_QM, strict=True):
        order = np.argsort(-arrow_M, kind="stable")
        inside, outside = order[:kept], order[kept:]
        if len(outside):
            below = np.nextafter(found_M[inside].min(), -np.inf)
            found_M[outside] = below * (
                arrow_M[outside] / max(arrow_M[inside].min(), TINY)
            )  # at most `below`
    return found_QM


@dataclass
class _Layer:
    """What the modules of a part keep of one layer.

    Attributes:
        columns: Module of each entry, as a column of the scores.
        first: Top right-singular vector of each, `[I]`; zero where the update is zero.
        all: S V^T of each, transposed, `[I, K]`.
    """

    columns: list[int] = field(default_factory=list)
    first: list[Tensor] = field(default_factory=list)
    all: list[Tensor] = field(default_factory=list)


def _factors(
    base_layers: Mapping[str, nn.Module], spec: LoraSpec, tensors: Mapping[str, Tensor], module: str
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """(layer, A `[R, I]`, B `[O, R]`) of each layer of a module.

    Raises:
        InputError: a DoRA module; a layer that the base has not, or of another size.
    """
    if spec.variant == "dora":
        raise InputError(
            f"module {module[:12]} is a dora module: its update is no product of two small factors; route it by text or perplexity"
        )
    for key, a_RI in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
        b_OR = tensors[key.replace(".lora_A.", ".lora_B.")]
        if name not in base_layers or features(base_layers[name]) != (a_RI.shape[1], b_OR.shape[0]):
            raise InputError(
                f"module {module[:12]} does not match this base: layer {name} of {a_RI.shape[1]} inputs and {b_OR.shape[0]} outputs"
            )
        yield name, a_RI, b_OR


def _parts(base: Base, modules: Sequence[str], load: Load) -> Iterator[dict[str, _Layer]]:
    """The pool's directions by layer, on the base's device in fp32, at most about `PART_BYTES` at once."""
    own = linears(base.model)
    part: dict[str, _Layer] = defaultdict(_Layer)
    size = 0
    for column, module in enumerate(modules):
        spec, tensors = load(module)
        for name, a_RI, b_OR in _factors(own, spec, tensors, module):
            s_K, v_IK = right_factor(a_RI, b_OR, spec.scale)
            kept = part[name]
            kept.columns.append(column)
            kept.first.append((v_IK[:, 0] * (s_K[0] > 0)).to(base.device, torch.float32))
            kept.all.append((v_IK * s_K).to(base.device, torch.float32))
            size += 4 * (v_IK.numel() + len(v_IK))
        if size >= PART_BYTES:
            yield part
            part, size = defaultdict(_Layer), 0
    if part:
        yield part


@torch.inference_mode()
def spectral_scores(
    base: Base, questions: Sequence[Question], modules: Sequence[str], load: Load, *, rows: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(Arrow's scores, SpectR's scores) of each module on each question, `[Q, M]` each.

    Args:
        modules: Ids, each once.

    Raises:
        InputError: a question without tokens or too long for the base; a module of another base, or DoRA; a layer that does
            not see every token (a mixture of experts).
    """
    asked = [question_ids(base, question) for question in questions]
    for question, (_, own) in zip(questions, asked, strict=True):
        if not own:
            raise InputError(f"question {question.prompt!r} has no token to route by")
    check_length(base, max(len(before) + len(own) for before, own in asked))
    sums_KQM = torch.zeros(2, len(asked), len(modules), dtype=torch.float64)
    layers_M = torch.zeros(len(modules), dtype=torch.float64)
    for part in _parts(base, modules, load):
        for layer in part.values():
            layers_M[layer.columns] += 1
        _read(base, asked, part, sums_KQM, rows)
    assert (layers_M > 0).all(), "a module that adapts no layer"
    arrow_QM, spectr_QM = (sums_KQM / layers_M).numpy()
    return arrow_QM, spectr_QM


def _read(
    base: Base, asked: Sequence[tuple[tuple, tuple]], part: Mapping[str, _Layer], sums_KQM: Tensor, rows: int
) -> None:
    """Run the base alone on all questions and add each layer's mean over tokens to `sums_KQM`."""
    stacked = {name: _stack(layer) for name, layer in part.items()}
    own = linears(base.model)
    lengths = [len(before) + len(tokens) for before, tokens in asked]
    for batch in make_batches([Lane(None)] * len(asked), lengths, None, rows=rows):
        members = batch.filled
        ids_BT = torch.full((len(members), max(lengths[i] for i in members)), base.prompts.pad_id)
        share_BT = torch.zeros(ids_BT.shape)  # of each of the question's own tokens in their mean
        for row, index in enumerate(members):
            before, tokens = asked[index]
            ids_BT[row, : lengths[index]] = torch.tensor([*before, *tokens])
            share_BT[row, len(before) : lengths[index]] = 1 / len(tokens)
        share_BT = share_BT.to(base.device)

        def seen(name: str, x: Tensor, share_BT: Tensor = share_BT, members: list[int] = members) -> None:
            if x[..., 0].numel() != share_BT.numel():
                raise InputError(
                    f"layer {name} does not read every token of this base; route by text or perplexity"
                )
            own_BT = share_BT > 0
            x_NI = x.reshape(*share_BT.shape, -1)[own_BT].float()
            over_N1 = (share_BT[own_BT] / x_NI.norm(dim=1).clamp(min=TINY))[:, None]
            row_N = own_BT.nonzero()[:, 0]
            columns, first_Im, all_IK, owner_K = stacked[name]
            squared_Nm = x_NI.new_zeros(len(x_NI), len(columns))
            squared_Nm.index_add_(1, owner_K, (x_NI @ all_IK).square())
            where = (torch.tensor(members)[:, None], torch.tensor(columns)[None])
            for kind, found_Nm in enumerate(((x_NI @ first_Im).abs(), squared_Nm.sqrt())):
                mean_Bm = x_NI.new_zeros(len(members), len(columns))
                mean_Bm.index_add_(0, row_N, found_Nm * over_N1)
                sums_KQM[kind].index_put_(where, mean_Bm.double().cpu(), accumulate=True)

        hooks = [
            own[name].register_forward_pre_hook(lambda _, given, name=name: seen(name, given[0]))
            for name in stacked
        ]
        try:
            head_inputs(base.model, input_ids=ids_BT.to(base.device), use_cache=False)
        finally:
            for hook in hooks:
                hook.remove()


def _stack(layer: _Layer) -> tuple[list[int], Tensor, Tensor, Tensor]:
    """(columns, first vectors `[I, m]`, all directions side by side `[I, K]`, entry of each direction `[K]`)."""
    owner = [entry for entry, own in enumerate(layer.all) for _ in range(own.shape[1])]
    device = layer.first[0].device
    return (
        layer.columns,
        torch.stack(layer.first, 1),
        torch.cat(layer.all, 1),
        torch.tensor(owner, device=device),
    )
