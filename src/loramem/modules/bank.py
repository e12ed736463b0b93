"""The bank: many LoRA modules attached to one frozen model at once, trained and read in one forward pass.

Every target layer of the model is wrapped (`layer.BankedLinear`). For each *bucket* of modules of equal shape the bank
holds contiguous `A[n, in, R]` and `B[n, R, out]`, and the wrapper adds `scale * x A B` to the layer's own output. A
batch is a sequence of blocks of rows, each with its own module; consecutive blocks of one bucket and height are one
`bmm`.

All parameters of a bucket are views of one flat fp32 buffer `[n, P]`, and their gradients views of another: clipping
and AdamW are then a few operations on one tensor, module by module, and a module never sees its neighbours. A module
that does not target a layer is simply not in a bucket of that layer. Modules come and go: a place that has become free
is zeroed and used again.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.modules.bucket import Bucket, BucketKey, padded_rank
from loramem.modules.layer import BankedLinear
from loramem.modules.runs import Block, Run, runs_of
from loramem.modules.spec import LoraSpec
from loramem.modules.targets import features, linears, resolve_targets
from loramem.modules.variants import pissa_factors, weight_of

PEFT_PREFIX = "base_model.model."
MAGNITUDE = "lora_magnitude_vector"


class Bank:
    """LoRA modules of any mixture of specs on one model.

    Args:
        model: A frozen Hugging Face causal model; its target layers are wrapped until `detach`.
        specs: Modules to begin with, in slots 0, 1, ...
        seeds: Initialisation seed of each (`add`).
        frozen: They will only be read: nothing is kept for a gradient.

    Raises:
        InputError: a spec names a target or layer the model does not have.
    """

    def __init__(
        self,
        model: Any,
        specs: Sequence[LoraSpec] = (),
        seeds: Sequence[int] | None = None,
        *,
        frozen: bool = False,
    ):
        self.model = model
        self.device = next(model.parameters()).device
        if any(isinstance(module, BankedLinear) for module in model.modules()):
            raise InputError("this model already carries a bank; detach it first")
        self.layers = linears(model)
        self.specs: dict[int, LoraSpec] = {}
        self.buckets: list[Bucket] = []
        self.bucket_of: dict[int, Bucket] = {}
        self.companion: dict[int, int] = {}
        """PiSSA: the frozen slot that takes a module's start away again, so that training begins at the plain base."""
        self.wrapped: dict[str, BankedLinear] = {}
        self.blocks: tuple[Block, ...] = ()
        self.stacks: list[list[Run]] = []
        self.rows = 0
        self._numbers = itertools.count()
        self._names: dict[tuple, tuple[str, ...]] = {}
        self._singular: dict[tuple[str, int, float], tuple[Tensor, Tensor]] = {}
        try:
            self.reserve(specs, frozen=frozen)
            for number, spec in enumerate(specs):
                self.add(spec, None if seeds is None else seeds[number], frozen=frozen)
        except BaseException:
            self.detach()
            raise

    # -- slots -----------------------------------------------------------------------------------
    def _bucket(self, spec: LoraSpec, frozen: bool, compute: torch.dtype | None, group: Hashable) -> Bucket:
        place = (spec.targets, spec.layers)
        if place not in self._names:
            self._names[place] = tuple(resolve_targets(self.model, spec))
        names = self._names[place]
        if not names:
            raise InputError(f"spec {spec.identity()} attaches to no layer of this base")
        compute = compute or torch.get_default_dtype()
        key = BucketKey(padded_rank(spec.rank), names, spec.variant == "dora", frozen, compute, group)
        for bucket in self.buckets:
            if bucket.key == key:
                return bucket
        bucket = Bucket(key, {name: features(self.layers[name]) for name in names}, self.device)
        self.buckets.append(bucket)
        for name in names:
            if name not in self.wrapped:
                parent, _, leaf = name.rpartition(".")
                self.wrapped[name] = BankedLinear(self.layers[name], name, self)
                setattr(self.model.get_submodule(parent), leaf, self.wrapped[name])
        return bucket

    def reserve(
        self,
        specs: Sequence[LoraSpec],
        *,
        frozen: bool = False,
        compute: torch.dtype | None = None,
        group: Hashable = None,
    ) -> None:
        """Make room for modules that are about to be added, in one step per bucket."""
        wanted: Counter[int] = Counter()
        buckets = [self._bucket(spec, frozen, compute, group) for spec in specs]
        for bucket in buckets:
            wanted[self.buckets.index(bucket)] += 1
        for number, more in wanted.items():
            bucket = self.buckets[number]
            if len(bucket.slots) + more > bucket.capacity:
                bucket.resize(len(bucket.slots) + more)

    def add(
        self,
        spec: LoraSpec,
        seed: int | None = None,
        *,
        frozen: bool = False,
        compute: torch.dtype | None = None,
        group: Hashable = None,
    ) -> int:
        """Attach a module and return its slot, a number that is never used again.

        Args:
            seed: Of its start: A as PEFT draws it (kaiming uniform, a = sqrt 5), B zero; PiSSA and DoRA as their
                papers say. None: zero, to be filled by `load`.
            frozen: It does not learn.
            compute: Precision of its products; None: fp32.
            group: Kept apart from modules of other groups.

        Raises:
            InputError: a target or layer the model does not have; a PiSSA rank above the weights'.
        """
        bucket = self._bucket(spec, frozen, compute, group)
        slot = next(self._numbers)
        bucket.append(slot, spec.scale)
        self.specs[slot], self.bucket_of[slot] = spec, bucket
        if seed is not None:
            try:
                self._initialise(slot, seed)
            except BaseException:  # a start that fails leaves nothing behind
                self.drop([slot])
                raise
        return slot

    def drop(self, slots: Sequence[int]) -> None:
        """Take modules out; what stays is untouched, the room stays for others until `trim`."""
        gone = [*slots, *(self.companion.pop(slot) for slot in slots if slot in self.companion)]
        for slot in gone:
            self.bucket_of.pop(slot).remove([slot])
            del self.specs[slot]
        self.buckets = [bucket for bucket in self.buckets if bucket.slots]

    def trim(self) -> None:
        """Give back room that is at least half empty."""
        for bucket in self.buckets:
            if 2 * len(bucket.slots) <= bucket.capacity:
                bucket.resize(len(bucket.slots))

    @property
    def learning(self) -> list[Bucket]:
        return [bucket for bucket in self.buckets if not bucket.key.frozen]

    def in_order(self) -> list[int]:
        """Slots bucket by bucket: the order of blocks in which no weight is gathered."""
        return [slot for bucket in self.buckets for slot in bucket.slots]

    # -- weights ---------------------------------------------------------------------------------
    @torch.no_grad()
    def _initialise(self, slot: int, seed: int) -> None:
        """The start of a module: depends on (seed, layer name, base weights) alone."""
        spec, bucket = self.specs[slot], self.bucket_of[slot]
        if spec.variant == "pissa":
            plain = spec.stored.model_copy(update={"rank": spec.rank, "alpha": spec.scale * spec.rank})
            partner = self.companion[slot] = self.add(
                plain, frozen=True, compute=bucket.key.compute, group=bucket.key.group
            )
        for name, (inner, _) in bucket.sizes.items():
            a_IR, b_RO = self._own(slot, name)
            if spec.variant == "pissa":
                first, second = self._principal(name, spec)
                a_IR.copy_(first)
                b_RO.copy_(second)
                away_IR, away_RO = self._own(partner, name)
                away_IR.copy_(a_IR)
                away_RO.copy_(-b_RO)
                continue
            generator = torch.Generator().manual_seed(seed_from("lora-init", seed, name))
            drawn_RI = torch.empty(spec.rank, inner)
            nn.init.kaiming_uniform_(drawn_RI, a=math.sqrt(5), generator=generator)
            a_IR.copy_(drawn_RI.T)
            if spec.variant == "dora":
                weight = weight_of(self.layers[name], name)
                norms_O = torch.linalg.vector_norm(
                    weight, dim=1, dtype=torch.promote_types(weight.dtype, torch.float32)
                )
                bucket.m[name][bucket.slots.index(slot)] = norms_O.to(bucket.flat_CP.dtype)

    def _principal(self, name: str, spec: LoraSpec) -> tuple[Tensor, Tensor]:
        key = (name, spec.rank, spec.scale)
        if key not in self._singular:
            self._singular[key] = pissa_factors(weight_of(self.layers[name], name), spec.rank, spec.scale)
        return self._singular[key]

    @torch.no_grad()
    def load(self, slot: int, tensors: Mapping[str, Tensor]) -> None:
        """Fill a slot from PEFT-named tensors. Raises `InputError` when names or shapes do not match its spec."""
        bucket = self.bucket_of[slot]
        own = {key: view for name in bucket.sizes for key, view in self._named(slot, name)}
        if set(tensors) != set(own):
            odd = sorted(set(tensors) ^ set(own))
            raise InputError(
                f"the adapter does not match this base: {len(odd)} tensors differ, e.g. {odd[0]}"
            )
        for key, view in own.items():
            if tensors[key].t().shape != view.shape:
                raise InputError(
                    f"the adapter does not match this base: {key.removeprefix(PEFT_PREFIX)} is {tuple(tensors[key].shape)}, expected {tuple(view.t().shape)}"
                )
            view.copy_(tensors[key].t())
        bucket.gains = {}

    @torch.no_grad()
    def tensors(self, slot: int) -> dict[str, Tensor]:
        """The weights of a slot under PEFT's names, fp32 on the CPU, as they are saved (`LoraSpec.stored`).

        lora_A `[R, in]`, lora_B `[out, R]`, DoRA's magnitude `[out]`. For PiSSA R is twice the rank: what was
        learnt, and its start taken away.
        """
        found = {}
        for name in self.bucket_of[slot].sizes:
            for key, view in self._named(slot, name):
                value = view
                if slot in self.companion:
                    away = dict(self._named(self.companion[slot], name))[key]
                    value = torch.cat([view, away], dim=1 if ".lora_A." in key else 0)
                found[key] = value.detach().t().cpu().clone(memory_format=torch.contiguous_format)
        return found

    def _named(self, slot: int, name: str) -> Iterator[tuple[str, Tensor]]:
        """(PEFT's name, transposed view) of each tensor of a slot in one layer."""
        bucket = self.bucket_of[slot]
        a_IR, b_RO = self._own(slot, name)
        yield f"{PEFT_PREFIX}{name}.lora_A.weight", a_IR
        yield f"{PEFT_PREFIX}{name}.lora_B.weight", b_RO
        if bucket.key.dora:
            yield f"{PEFT_PREFIX}{name}.{MAGNITUDE}", bucket.m[name].detach()[bucket.slots.index(slot)]

    def _own(self, slot: int, name: str) -> tuple[Tensor, Tensor]:
        """Views of a slot's factors in one layer, A `[in, rank]` and B `[rank, out]`, without their padding."""
        bucket = self.bucket_of[slot]
        position, rank = bucket.slots.index(slot), self.specs[slot].rank
        return bucket.a[name].detach()[position, :, :rank], bucket.b[name].detach()[position, :rank]

    # -- activation ------------------------------------------------------------------------------
    @contextmanager
    def active(self, blocks: Sequence[Block]) -> Iterator[None]:
        """Within the block of code, a batch has the rows of `blocks`, each under its own modules."""
        assert not self.blocks, "a bank is active once at a time"
        self.change(blocks)
        try:
            yield
        finally:
            self._off()

    def change(self, blocks: Sequence[Block]) -> None:
        """Within `active`: the batch goes on as other blocks (rows have left it or joined it)."""
        self.blocks = tuple(blocks)
        self.rows = sum(block.rows for block in blocks)
        besides = [
            (*((self.companion[b.slot],) if b.slot in self.companion else ()), *b.beside) for b in self.blocks
        ]
        self.stacks = [list(runs_of(self.blocks, [block.slot for block in self.blocks], self.bucket_of))]
        for depth in range(max(map(len, besides), default=0)):
            slots = [own[depth] if depth < len(own) else None for own in besides]
            self.stacks.append(list(runs_of(self.blocks, slots, self.bucket_of, learnt=False)))
        self.stacks = [runs for runs in self.stacks if runs]

    def _off(self) -> None:
        self.blocks, self.stacks, self.rows = (), [], 0

    def detach(self) -> None:
        """Give the model its own layers back."""
        for name, wrapper in self.wrapped.items():
            parent, _, leaf = name.rpartition(".")
            setattr(self.model.get_submodule(parent), leaf, wrapper.layer)
        self.wrapped = {}
