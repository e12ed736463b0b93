"""Deep context distillation is what its paper says: its loss, its gradient, its teacher, its alignment; `skip_known` too."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from loramem.base import Encoded
from loramem.core.errors import InputError
from loramem.inference.states import hidden_shared
from loramem.modules.bank import Bank
from loramem.modules.runs import Block
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.training import Teacher, TrainJob, bucket_length, loop, train_modules
from loramem.training.course import Course
from loramem.training.feed import Feed
from loramem.training.log import Log
from loramem.training.objectives import HALF, kl_divergence
from loramem.training.passes import Learner, Part, part_losses
from loramem.training.teacher import online

NAMES = ("Ada", "Bela", "Cid", "Dora", "Emil", "Fay", "Gus", "Hal")
DCD = Objective(name="dcd")
ALL = Objective(name="dcd", hidden="all")
KL = Objective(name="dcd", l1_weight=0)
L1 = Objective(name="dcd", kl_weight=0, l1_weight=1)
DEEP = Objective(name="dcd", kl_weight=0, l1_weight=1, hidden="all")
SKIP = Objective(skip_known=True)


# -- what is learnt ----------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Facts:
    """Questions with the answers' token ids, as the student and as the teacher is asked them."""

    own: tuple[Encoded, ...]
    told: tuple[Encoded, ...]
    answers: tuple[tuple[int, ...], ...]


def facts(base, seed: int = 0, count: int = 6) -> Facts:
    """Answers of different lengths; two contexts, each read before half of the questions."""
    rng = random.Random(seed)
    numbers = ["".join(rng.choices("0123456789", k=rng.randint(2, 8))) for _ in range(count)]
    lines = [f"{name} {number}." for name, number in zip(NAMES, numbers, strict=False)]
    contexts = [" ".join(lines[: count // 2]), "Also: " + " ".join(lines[count // 2 :])]
    prompts = base.prompts
    asked = list(zip((f"{name}?" for name in NAMES), numbers, contexts[:1] * (count // 2) + contexts[1:] * count, strict=False))  # fmt: skip
    return Facts(
        tuple(prompts.chat_example(question, number) for question, number, _ in asked[:count]),
        tuple(prompts.chat_example(*one) for one in asked[:count]),
        tuple((*prompts.answer(number), *prompts.end) for number in numbers),
    )


def job(base, objective: Objective, data: Facts, key="x", *, rank=4, steps=5, seed=0, batch=4, lr=0.01, length=0, **spec) -> TrainJob:  # fmt: skip
    return TrainJob(
        key, LoraSpec(rank=rank, **spec), objective, Optimizer(lr=lr, batch=batch), steps, seed, data.own,
        length or bucket_length(data.own, base.context_length), teacher=data.told if objective.name == "dcd" else (),
    )  # fmt: skip


def train(base, *jobs: TrainJob, **options) -> dict:
    found: dict = {}

    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(base, jobs, on_finish=lambda done: found.update({done.key: done}), on_fail=fail, **options)
    return found


def learner(base, one: TrainJob, slot: int = 0, chosen: Sequence[int] | None = None) -> Learner:
    """A learner about to take a step on `chosen` (None: all); what the teacher says is read now."""
    feed = Feed(one, base.prompts.pad_id, base.device)
    course = Course(None, one.optimizer, steps=one.steps, examples=len(one.examples))
    found = Learner(one, slot, feed, course, Log(one.steps), set(), None, 0, 0.0)
    found.chosen = torch.tensor(list(range(len(one.examples))) if chosen is None else list(chosen))
    if one.objective.name == "dcd":
        told = [one.teacher[index] for index in found.chosen.tolist()]
        deep = one.objective.hidden == "all"
        found.told = online(base, told, found.counts.tolist(), all_layers=deep)
    return found


def whole_loss(base, bank: Bank, one: Learner) -> float:
    """The loss of a step, in one part; its gradient is left in the bank, alone."""
    for bucket in bank.learning:
        bucket.grad_NP.zero_()
    return part_losses(base, bank, [Part(one, 0, len(one.chosen))])[0].item()


def gradients(bank: Bank, slot: int = 0) -> dict[str, Tensor]:
    """The gradient of a slot under the names of its tensors."""
    bucket, rank = bank.bucket_of[slot], bank.specs[slot].rank
    place, found = bucket.slots.index(slot), {}
    for name in bucket.sizes:
        stem = f"base_model.model.{name}"
        found[f"{stem}.lora_A.weight"] = bucket.a[name].grad[place, :, :rank].T.clone()
        found[f"{stem}.lora_B.weight"] = bucket.b[name].grad[place, :rank].T.clone()
    return found


def random_weights(bank: Bank, slot: int = 0, seed: int = 7, size: float = 0.1) -> dict[str, Tensor]:
    """Fill a slot with a module that says something; its weights."""
    generator = torch.Generator().manual_seed(seed)
    weights = {n: size * torch.randn(t.shape, generator=generator) for n, t in bank.tensors(slot).items()}
    bank.load(slot, weights)
    return weights


@pytest.fixture
def banked():
    """Makes banks, and takes them off again."""
    made: list[Bank] = []

    def make(base, *specs: LoraSpec) -> Bank:
        made.append(Bank(base.model, specs or [LoraSpec(rank=4)], seeds=range(max(1, len(specs)))))
        return made[-1]

    yield make
    for bank in made:
        bank.detach()


def doubled(base):
    return dataclasses.replace(base, model=copy.deepcopy(base.model).double(), dtype=torch.float64)


@pytest.fixture
def exact(bases) -> Iterator:
    """Bases in double precision; banks made meanwhile are so too."""
    torch.set_default_dtype(torch.float64)
    yield lambda family="llama": doubled(bases[family])
    torch.set_default_dtype(torch.float32)


# -- the reference: plain autograd, written without any of the code it tests -------------------------
def places(ids: Sequence[int], answer: Sequence[int]) -> list[int]:
    """Where the last occurrence of `answer` in `ids` is predicted from: one position before each of its tokens."""
    size = len(answer)
    start = max(i for i in range(1, len(ids) - size + 1) if tuple(ids[i : i + size]) == tuple(answer))
    return list(range(start - 1, start + size - 1))


def student(base, spec: LoraSpec, leaves: dict[str, Tensor], ids: Sequence[int]):
    """The model with its weights replaced by W + scale B A, on one example that is not padded."""
    layers = dict(base.model.named_modules())
    changed = {}
    for name, a in leaves.items():
        if ".lora_A." in name:
            layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            update = spec.scale * leaves[name.replace("lora_A", "lora_B")] @ a
            own = layers[layer].weight
            changed[f"{layer}.weight"] = own + (update.T if isinstance(layers[layer], Conv1D) else update)
    inputs = {"input_ids": torch.tensor([list(ids)]), "output_hidden_states": True, "use_cache": False}
    return torch.func.functional_call(base.model, changed, kwargs=inputs)


def reference(base, spec: LoraSpec, weights: dict[str, Tensor], objective: Objective, data: Facts):
    """(loss, gradients) of distillation over all examples, one after the other."""
    leaves = {name: tensor.double().clone().requires_grad_() for name, tensor in weights.items()}
    heat, kl, tokens = objective.temperature, torch.zeros(()), 0
    depth = base.model.config.num_hidden_layers if objective.hidden == "all" else 1
    apart, size = [torch.zeros(()) for _ in range(depth)], [0.0] * depth
    for own, told, answer in zip(data.own, data.told, data.answers, strict=True):
        mine = student(base, spec, leaves, own.ids)
        with torch.no_grad():
            theirs = base.model(
                input_ids=torch.tensor([list(told.ids)]), output_hidden_states=True, use_cache=False
            )
        here, there = places(own.ids, answer), places(told.ids, answer)
        p = torch.softmax(theirs.logits[0, there] / heat, -1)
        q = torch.softmax(mine.logits[0, here] / heat, -1)
        kl = kl + (p * (p / q).log()).sum()
        tokens += len(answer)
        for layer in range(depth):
            gap = mine.hidden_states[layer - depth][0, here] - theirs.hidden_states[layer - depth][0, there]
            apart[layer] = apart[layer] + gap.abs().sum()
            size[layer] += theirs.hidden_states[layer - depth][0, there].abs().sum().item()
    l1 = sum(a / s for a, s in zip(apart, size, strict=True)) / depth
    loss = objective.kl_weight * heat**2 * kl / tokens + objective.l1_weight * l1
    names = list(leaves)
    return loss.item(), dict(
        zip(names, torch.autograd.grad(loss, [leaves[name] for name in names]), strict=True)
    )


def agree(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """Largest difference over all tensors, relative to the largest gradient."""
    assert mine.keys() == theirs.keys()
    largest = max(tensor.abs().max().item() for tensor in theirs.values())
    assert largest > 0
    return max((mine[name] - theirs[name]).abs().max().item() for name in theirs) / largest


VARIANTS = [
    DCD, ALL, KL, L1, DEEP, Objective(name="dcd", temperature=0.7, kl_weight=0.3, l1_weight=2.0),
    Objective(name="dcd", temperature=5.0, hidden="all"),
]  # fmt: skip


@pytest.mark.parametrize(
    "family, objective",
    [*(("llama", one) for one in VARIANTS), *((f, ALL) for f in ("gpt2", "qwen3", "gemma", "mistral"))],
    ids=lambda one: one if isinstance(one, str) else one.label,
)
def test_loss_and_gradient_are_those_of_plain_autograd(exact, banked, family, objective):
    base = exact(family)
    spec, data = LoraSpec(rank=3, alpha=6), facts(base)
    bank = banked(base, spec)
    weights = random_weights(bank)
    one = learner(base, job(base, objective, data, rank=3, alpha=6))
    loss, mine = whole_loss(base, bank, one), gradients(bank)
    bank.detach()
    expected, theirs = reference(base, spec, weights, objective, data)
    assert abs(loss - expected) < 1e-10 * max(1.0, expected) and expected > 1e-3
    assert agree(mine, theirs) < 1e-10


def test_the_parts_of_a_batch_add_up_to_it(exact, banked):
    """A batch that memory does not hold goes through in parts: loss and gradient stay those of the batch."""
    base = exact()
    data = facts(base)
    bank = banked(base)
    random_weights(bank)
    for objective in (DCD, ALL, SKIP):
        one = learner(base, job(base, objective, data))
        loss, whole = whole_loss(base, bank, one), gradients(bank)
        for bucket in bank.learning:
            bucket.grad_NP.zero_()
        cut = [Part(one, 0, 1), Part(one, 1, 4), Part(one, 4, 6)]
        parts = [part_losses(base, bank, [part])[0].item() for part in cut]
        assert sum(parts) == pytest.approx(loss, rel=1e-12) and agree(gradients(bank), whole) < 1e-11
        together = part_losses(base, bank, cut)[0]
        assert together.tolist() == pytest.approx(parts, rel=1e-11)


# -- the divergence ----------------------------------------------------------------------------------
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_divergence_is_its_formula(temperature):
    told, own = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
    found = kl_divergence(told, own, temperature)
    for row in range(7):
        p = [x.exp().item() for x in told[row] / temperature]
        q = [x.exp().item() for x in own[row] / temperature]
        p, q = [x / sum(p) for x in p], [x / sum(q) for x in q]
        by_hand = sum(a * torch.tensor(a / b, dtype=torch.float64).log().item() for a, b in zip(p, q, strict=True))  # fmt: skip
        assert found[row].item() == pytest.approx(by_hand, rel=1e-12) and by_hand > 0
    assert not torch.allclose(kl_divergence(own, told, temperature), found), "it has a direction"
    assert kl_divergence(told, told, temperature).abs().max() == 0


def test_the_square_of_the_temperature_keeps_the_size_of_the_gradient(exact, banked):
    """Hinton's argument: for large T the loss T^2 KL does not depend on T; without the factor it would fall by 100."""
    base = exact()
    data, bank = facts(base), banked(base)
    random_weights(bank)
    found = []
    for heat in (100.0, 1000.0):
        objective = Objective(name="dcd", temperature=heat, l1_weight=0)
        one = learner(base, job(base, objective, data))
        found.append((whole_loss(base, bank, one), gradients(bank)))
    assert found[0][0] == pytest.approx(found[1][0], rel=0.05) and agree(found[0][1], found[1][1]) < 0.05


# -- alignment ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", [DCD, ALL], ids=lambda one: one.label)
def test_nothing_is_learnt_from_a_teacher_that_reads_nothing(exact, objective):
    base = exact()
    data = facts(base)
    same = Facts(data.own, data.own, data.answers)
    assert abs(train(base, job(base, objective, same, steps=1))["x"].log[0]["loss"]) < 1e-10
    assert train(base, job(base, objective, data, steps=1))["x"].log[0]["loss"] > 1e-2


def test_in_single_precision_it_is_nothing_at_all(bases, banked):
    base = bases["llama"]
    data = facts(base)
    same = Facts(data.own, data.own, data.answers)
    length = max(len(one.ids) for one in data.own)
    one = learner(base, job(base, ALL, same, length=length))
    assert whole_loss(base, banked(base), one) == 0.0


def test_a_shift_by_one_token_is_another_loss(exact, banked):
    base = exact()
    data, bank = facts(base), banked(base)
    weights = random_weights(bank)
    one = learner(base, job(base, DCD, data))
    right = whole_loss(base, bank, one)
    shifts = []
    for shift in (-1, 1):
        counts = one.counts.tolist()
        moved = [
            dataclasses.replace(told, answer_start=told.answer_start + shift) for told in one.job.teacher
        ]
        other = dataclasses.replace(one, told=online(base, moved, counts, all_layers=False))
        shifts.append(whole_loss(base, bank, other))
    bank.detach()
    by_hand, _ = reference(base, LoraSpec(rank=4), weights, DCD, data)
    assert right == pytest.approx(by_hand, rel=1e-10)
    assert all(abs(shifted - right) > 0.05 * right for shifted in shifts), (right, shifts)


def test_every_answer_token_is_distilled_from_the_first_to_the_last(exact, banked):
    """A change of the teacher's state before any answer token changes the loss; there is no state after the last one."""
    base = exact()
    data, bank = facts(base, count=2), banked(base)
    one = learner(base, job(base, DCD, data))
    right, (told_NH,) = whole_loss(base, bank, one), one.told
    assert len(told_NH) == sum(map(len, data.answers)) == int(one.counts.sum())
    for row in range(len(told_NH)):
        other = told_NH.clone()
        other[row] += 0.3
        assert abs(whole_loss(base, bank, dataclasses.replace(one, told=[other])) - right) > 1e-6, row
    first = [0, len(data.answers[0])]
    for example, row in enumerate(first):
        states = base.model(
            input_ids=torch.tensor([data.told[example].ids]), output_hidden_states=True
        ).hidden_states[-1]
        before = data.told[example].answer_start - 1
        assert torch.allclose(states[0, before], told_NH[row], atol=1e-12), "the state before the answer"


def test_what_follows_the_last_answer_token_is_not_distilled(exact, banked):
    """States at the last token see only that token's id: another one there changes nothing, one before it does."""
    base = exact()
    data, bank = facts(base), banked(base)
    random_weights(bank)

    def loss(places: int) -> float:
        def other(example: Encoded) -> Encoded:
            at = len(example.ids) - places
            return dataclasses.replace(example, ids=(*example.ids[:at], 9, *example.ids[at + 1 :]))

        changed = Facts(tuple(map(other, data.own)), tuple(map(other, data.told)), ())
        return whole_loss(base, bank, learner(base, job(base, ALL, changed if places else data)))

    assert loss(1) == pytest.approx(loss(0), abs=1e-12) and abs(loss(2) - loss(0)) > 1e-3


@pytest.mark.parametrize("objective", [DCD, ALL], ids=lambda one: one.label)
def test_padding_changes_nothing(exact, banked, objective):
    """Examples of different lengths, in rows longer than any: the loss is that of each alone, weighted as it should."""
    base = exact()
    data, bank = facts(base), banked(base)
    random_weights(bank)
    assert len({len(one.ids) for one in data.own}) > 2 and len({len(one.ids) for one in data.told}) > 2
    kl_only, l1_only = (
        objective.model_copy(update=update) for update in ({"l1_weight": 0.0}, {"kl_weight": 0.0})
    )

    def alone(kind: Objective) -> list[tuple[float, Learner]]:
        found = []
        for row in range(len(data.own)):
            cut = Facts(data.own[row : row + 1], data.told[row : row + 1], ())
            one = learner(base, job(base, kind, cut, length=len(data.own[row].ids)))
            found.append((whole_loss(base, bank, one), one))
        return found

    together = {}
    for kind in (objective, kl_only, l1_only):
        lengths = (0, 8 + bucket_length(data.own, 512))
        losses = [whole_loss(base, bank, learner(base, job(base, kind, data, length=n))) for n in lengths]
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        together[kind] = losses[0]
    kl = [(loss, int(one.counts.sum())) for loss, one in alone(kl_only)]
    assert together[kl_only] == pytest.approx(sum(a * n for a, n in kl) / sum(n for _, n in kl), rel=1e-10)
    if objective.hidden == "last":
        l1 = [(loss, one.told[0].abs().sum().item()) for loss, one in alone(l1_only)]
        assert together[l1_only] == pytest.approx(
            sum(a * n for a, n in l1) / sum(n for _, n in l1), rel=1e-10
        )
    assert together[objective] == pytest.approx(together[kl_only] + together[l1_only], rel=1e-10)


@pytest.mark.parametrize("objective", [DCD, ALL], ids=lambda one: one.label)
def test_of_a_cut_example_only_the_kept_answer_tokens_count(exact, banked, objective):
    base = exact()
    data, bank = facts(base), banked(base)
    random_weights(bank)
    length = max(one.answer_start for one in data.own) + 2
    kept = [min(len(one.ids), length) for one in data.own]
    assert sum(n < len(one.ids) for n, one in zip(kept, data.own, strict=True)) >= 3, "some are cut"
    gone = [len(one.ids) - n for n, one in zip(kept, data.own, strict=True)]
    cut = Facts(
        tuple(dataclasses.replace(one, ids=one.ids[:n]) for one, n in zip(data.own, kept, strict=True)),
        tuple(
            dataclasses.replace(one, ids=one.ids[: len(one.ids) - n])
            for one, n in zip(data.told, gone, strict=True)
        ),
        (),
    )
    mine = learner(base, job(base, objective, data, length=length))
    loss, found = whole_loss(base, bank, mine), gradients(bank)
    expected = whole_loss(base, bank, learner(base, job(base, objective, cut, length=length)))
    assert loss == pytest.approx(expected, rel=1e-11) and agree(found, gradients(bank)) < 1e-10
    if objective.hidden == "last":  # the cache holds all, and gives what is asked
        states = Teacher(base).states(data.told).of(mine.chosen, mine.counts)
        assert torch.allclose(states, mine.told[0], atol=1e-11)
    done = train(base_without(bank, base), job(base, objective, data, length=length, steps=1, batch=6))["x"]
    assert done.truncated_tokens == sum(gone) and done.supervised_tokens == int(mine.counts.sum())


def base_without(bank: Bank, base):
    bank.detach()
    return base


def test_teacher_and_student_must_be_asked_for_the_same_tokens(bases):
    base = bases["llama"]
    data = facts(base)
    with pytest.raises(InputError, match="5 for 6"):
        job(base, DCD, Facts(data.own, data.told[:-1], ()))
    swapped = (data.told[1], data.told[0], *data.told[2:])
    with pytest.raises(InputError, match="same answer tokens"):
        job(base, DCD, Facts(data.own, swapped, ()))
    moved = (dataclasses.replace(data.told[0], answer_start=data.told[0].answer_start + 1), *data.told[1:])
    with pytest.raises(InputError, match="same answer tokens"):
        job(base, DCD, Facts(data.own, moved, ()))


# -- the teacher -------------------------------------------------------------------------------------
def test_the_kept_states_are_those_read_now(base):
    data = facts(base)
    assert {one.shared > 0 for one in data.told} == {True}
    assert len({one.ids[: one.shared] for one in data.told}) == 2
    feed = Feed(job(base, DCD, data), base.prompts.pad_id, base.device)
    states = Teacher(base).states(data.told)
    for chosen in ([0, 1, 2, 3, 4, 5], [5, 0, 3, 3], [2]):
        counts = feed.supervised[torch.tensor(chosen)]
        (expected,) = online(base, [data.told[i] for i in chosen], counts.tolist(), all_layers=False)
        found = states.of(torch.tensor(chosen), counts)
        assert found.dtype == base.dtype and (found - expected).abs().max() < 1e-5
        assert expected.std() > 0.1


def test_each_unique_example_is_read_once_and_each_context_once(base):
    data = facts(base)
    teacher = Teacher(base)
    teacher.states((*data.told, *data.told[:3]))
    contexts = {one.ids[: one.shared] for one in data.told}
    rests = [one.ids[one.shared :] for one in data.told]
    assert teacher.tokens == sum(map(len, contexts)) + sum(map(len, rests))
    before = teacher.tokens
    teacher.states((*data.told, *data.told[:3]))
    assert teacher.tokens == before, "it is held in memory"
    double = teacher.states((*data.told, *data.told[:3]))
    own = double.of(torch.tensor([0, 6]), torch.tensor([2, 2]))
    assert torch.equal(own[:2], own[2:])


def test_another_teacher_finds_the_states_in_the_folder(bases, tmp_path):
    base = bases["llama"]
    data = facts(base)
    first, second = Teacher(base, tmp_path / "cache"), Teacher(base, tmp_path / "cache")
    states, again = first.states(data.told), second.states(data.told)
    assert first.tokens > 0 and second.tokens == 0
    assert torch.equal(states.hidden_NH, again.hidden_NH) and torch.equal(states.first_E, again.first_E)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".safetensors"]


def _empty(path) -> None:
    path.write_bytes(b"")


def _garbage(path) -> None:
    path.write_bytes(b"not a tensor file at all, but long enough to hold a header")


def _half(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other(path) -> None:
    from safetensors.torch import save_file

    save_file({"something": torch.zeros(3)}, path)


@pytest.mark.parametrize("damage", [_empty, _garbage, _half, _other])
def test_a_damaged_file_is_read_again(bases, tmp_path, damage):
    base = bases["llama"]
    data = facts(base)
    first = Teacher(base, tmp_path)
    expected = first.states(data.told)
    (path,) = tmp_path.iterdir()
    damage(path)
    second, third = Teacher(base, tmp_path), Teacher(base, tmp_path)
    assert torch.equal(second.states(data.told).hidden_NH, expected.hidden_NH)
    assert second.tokens == first.tokens, "read anew"
    third.states(data.told)
    assert third.tokens == 0 and list(tmp_path.iterdir()) == [path], "and kept again"


def test_states_are_kept_under_what_was_read_and_by_whom(bases, tmp_path):
    base = bases["llama"]
    told = facts(base).told

    def read(base, examples) -> bool:
        teacher = Teacher(base, tmp_path)
        teacher.states(examples)
        return teacher.tokens > 0

    assert read(base, told) and not read(base, told)
    assert read(dataclasses.replace(base, fingerprint="another"), told)
    ids = told[0].ids
    changed = dataclasses.replace(told[0], ids=(*ids[:-1], ids[-1] + 1))
    moved = dataclasses.replace(told[0], answer_start=told[0].answer_start + 1)
    for other in ((changed, *told[1:]), (moved, *told[1:]), told[:-1], told[::-1]):
        assert read(base, other)
    as_one = tuple(dataclasses.replace(one, shared=0) for one in told)
    assert not read(base, as_one), "how it was read makes no difference"
    lower = dataclasses.replace(base, model=copy.deepcopy(base.model).bfloat16(), dtype=torch.bfloat16)
    assert read(lower, told)
    assert len(list(tmp_path.iterdir())) == 7


def test_contexts_that_are_not_shared_give_the_same_states(base):
    told = facts(base).told
    asked = [((), one.ids, len(one.ids) - one.answer_start) for one in told]
    whole, read = hidden_shared(base, asked, rows=3)
    teacher = Teacher(base)
    assert (torch.cat(whole) - teacher.states(told).hidden_NH).abs().max() < 1e-5
    assert read == sum(len(one.ids) for one in told) > teacher.tokens


def test_learning_from_kept_states_is_learning_from_a_teacher_that_runs(exact, monkeypatch):
    base = exact()
    one = job(base, DCD, facts(base), steps=12)
    kept = train(base, one)["x"]
    calls: list[int] = []

    def draw(self, learner: Learner, chosen: Tensor) -> None:
        learner.chosen = chosen
        told = [learner.job.teacher[index] for index in chosen.tolist()]
        learner.told = online(self.base, told, learner.counts.tolist(), all_layers=False)
        calls.append(learner.step)

    monkeypatch.setattr(loop._Trainer, "_draw", draw)
    running = train(base, one)["x"]
    assert calls == list(range(12)), "the reference asked at every step"
    assert distance(running.tensors, kept.tensors) < 1e-5
    assert running.log[-1]["loss"] == pytest.approx(kept.log[-1]["loss"], rel=1e-6)


def updates(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    pairs = [name for name in tensors if ".lora_A." in name]
    return {name: tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for name in pairs}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Largest relative difference of the updates over layers."""
    mine, theirs = updates(a), updates(b)
    return max(((mine[name] - theirs[name]).norm() / theirs[name].norm()).item() for name in theirs)


@pytest.mark.parametrize("objective", [DCD, ALL], ids=lambda one: one.label)
def test_the_teacher_is_the_base_with_the_module_off_and_stays_what_it_was(bases, monkeypatch, objective):
    """At every step, also when the module says something by then, and while another one trains beside it."""
    base = bases["llama"]
    data = facts(base)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    pristine = dataclasses.replace(base, model=copy.deepcopy(base.model))
    beside = job(base, Objective(), facts(base, seed=1), "beside", rank=2, lr=0.05, steps=8)
    seen: list[float] = []
    draw = loop._Trainer._draw

    def watched(self, learner: Learner, chosen: Tensor) -> None:
        draw(self, learner, chosen)
        if learner.job.objective.name == "dcd":
            told = [learner.job.teacher[index] for index in chosen.tolist()]
            deep = objective.hidden == "all"
            expected = online(pristine, told, learner.counts.tolist(), all_layers=deep)
            assert len(expected) == len(learner.told)
            for mine, theirs in zip(learner.told, expected, strict=True):
                assert (mine - theirs).abs().max() < 1e-5
            weights = self.bank.tensors(learner.slot)
            seen.append(max(t.abs().max().item() for n, t in weights.items() if ".lora_B." in n))

    monkeypatch.setattr(loop._Trainer, "_draw", watched)
    done = train(base, job(base, objective, data, lr=0.05, steps=8), beside)["x"]
    assert len(seen) == 8 and seen[0] == 0 and seen[-1] > 0.05, "the module was on its way"
    bank = Bank(base.model, [LoraSpec(rank=4)])
    try:  # and such a module, were it on, would be heard
        bank.load(0, done.tensors)
        feed = Feed(job(base, objective, data), base.prompts.pad_id, base.device)
        plain = online(base, data.told, feed.supervised.tolist(), all_layers=False)[0]
        with bank.active([Block(0, len(data.told))]):
            heard = online(base, data.told, feed.supervised.tolist(), all_layers=False)[0]
        assert (heard - plain).abs().max() > 0.01
        assert (Teacher(base).states(data.told).hidden_NH - plain).abs().max() < 1e-5, "a bank that is off"
    finally:
        bank.detach()
    after = base.model.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[name], after[name]) for name in before)


def test_what_the_teacher_read_is_told(bases, tmp_path):
    base = bases["llama"]
    data = facts(base)
    teacher = Teacher(base, tmp_path)
    first = train(base, job(base, DCD, data, steps=2), teacher=teacher)["x"]
    again = train(base, job(base, DCD, data, steps=2, seed=1), teacher=Teacher(base, tmp_path))["x"]
    deep = train(base, job(base, ALL, data, steps=2, batch=6), teacher=teacher)["x"]
    assert first.teacher_tokens == teacher.tokens > 0 and again.teacher_tokens == 0
    assert deep.teacher_tokens == 2 * sum(len(one.ids) for one in data.told), "it runs at every step"
    assert train(base, job(base, Objective(), data, steps=1))["x"].teacher_tokens == 0


# -- training ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("objective", [DCD, ALL, KL, L1, DEEP], ids=lambda one: one.label)
def test_every_form_trains(bases, objective):
    base = bases["llama"]
    done = train(base, job(base, objective, facts(base), steps=30, batch=6, lr=0.02))["x"]
    first, last = done.log[0]["loss"], done.log[-1]["loss"]
    assert last < 0.6 * first and done.final_loss < 0.7 * first and first > 0


def test_each_term_has_its_own_gradient_and_no_other(exact, banked):
    """The whole is the sum of both; temperature does not touch the L1 term. (GPT-2, whose norms are not in fp32.)"""
    base = exact("gpt2")
    data, bank = facts(base), banked(base)
    random_weights(bank)

    def of(**settings) -> tuple[float, dict[str, Tensor]]:
        objective = Objective(name="dcd", **settings)
        return whole_loss(base, bank, learner(base, job(base, objective, data))), gradients(bank)

    kl, l1 = of(l1_weight=0), of(kl_weight=0)
    both, doubled = of(), of(kl_weight=2.0, l1_weight=0.2)
    assert both[0] == pytest.approx(kl[0] + l1[0], rel=1e-12) and kl[0] > 1e-3 and l1[0] > 1e-3
    assert agree({name: kl[1][name] + l1[1][name] for name in kl[1]}, both[1]) < 1e-12
    assert agree({name: 2 * tensor for name, tensor in both[1].items()}, doubled[1]) < 1e-12
    assert agree(of(kl_weight=0, temperature=9.0)[1], l1[1]) == 0
    assert agree(kl[1], both[1]) > 1e-3 and agree(l1[1], both[1]) > 1e-3


def test_a_mixed_pack_equals_each_alone(exact):
    """Objectives of all kinds in the same pass, one of them with the layers that the others do not ask for."""
    base = exact()
    length = max(bucket_length(facts(base, seed=seed).own, 512) for seed in range(5))
    objectives = [Objective(), DCD, ALL, SKIP, KL, Objective(loss_on="all")]
    jobs = [
        job(base, one, facts(base, seed=number), one.label, seed=number, rank=2 + number, steps=6 + number,
            batch=2 + number % 3, length=length, lr=0.02)
        for number, one in enumerate(objectives)
    ]  # fmt: skip
    together = train(base, *jobs)
    for one in jobs:
        alone = train(base, one)[one.key]
        assert distance(together[one.key].tensors, alone.tensors) < 1e-9, one.key
        for mine, theirs in zip(together[one.key].log, alone.log, strict=True):
            assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-9)
        assert together[one.key].teacher_tokens == alone.teacher_tokens


def test_a_teacher_that_fails_ends_its_own_module_only(bases, monkeypatch):
    base = bases["llama"]
    good, bad = job(base, DCD, facts(base), "good"), job(base, ALL, facts(base), "bad")

    def fail(*_, **__):
        raise RuntimeError("no memory for the teacher")

    monkeypatch.setattr(loop, "online", fail)
    found: dict = {}
    train_modules(
        base, [bad, good], on_finish=lambda done: found.update({done.key: done}),
        on_fail=lambda key, error: found.update({key: error}),
    )  # fmt: skip
    assert "no memory" in str(found["bad"]) and found["good"].steps == 5


# -- skip_known --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def half_learnt(sharp) -> dict[str, Tensor]:
    """A module that is sure of some tokens and not of others."""
    return train(sharp, job(sharp, Objective(), facts(sharp), lr=0.02, steps=25, batch=6))["x"].tensors


def test_known_tokens_have_no_gradient_and_are_counted(exact, banked, sharp, half_learnt):
    base = doubled(sharp)
    data, spec = facts(base), LoraSpec(rank=4)
    bank = banked(base, spec)
    bank.load(0, half_learnt)
    loss = whole_loss(base, bank, learner(base, job(base, SKIP, data)))
    found = gradients(bank)
    plain_loss = whole_loss(base, bank, learner(base, job(base, Objective(), data)))
    plain = gradients(bank)
    bank.detach()
    leaves = {name: tensor.double().clone().requires_grad_() for name, tensor in half_learnt.items()}
    learnt = all_nats = torch.zeros(())
    tokens = known = 0
    for own, answer in zip(data.own, data.answers, strict=True):
        p = torch.softmax(student(base, spec, leaves, own.ids).logits[0, places(own.ids, answer)], -1)
        p_N = p[range(len(answer)), list(answer)]
        learnt = learnt - p_N.log()[p_N < 0.5].sum()
        all_nats = all_nats - p_N.log().sum()
        tokens, known = tokens + len(answer), known + int((p_N >= 0.5).sum())
    assert 3 <= known <= tokens - 3, "of both kinds"
    expected = dict(zip(leaves, torch.autograd.grad(learnt / tokens, list(leaves.values())), strict=True))
    assert agree(found, expected) < 1e-10 and agree(plain, expected) > 0.01
    assert loss == pytest.approx(all_nats.item() / tokens, rel=1e-10) == plain_loss, "the loss of all tokens"


def test_nothing_is_learnt_where_everything_is_known(banked, sharp):
    """A module that memorised its facts has no gradient left, and still a loss."""
    data = facts(sharp, count=2)
    done = train(sharp, job(sharp, Objective(), data, lr=0.02, steps=60, batch=2))["x"]
    bank = banked(sharp)
    bank.load(0, done.tensors)
    for objective in (SKIP, Objective()):
        one = learner(sharp, job(sharp, objective, data))
        loss, found = whole_loss(sharp, bank, one), gradients(bank)
        worst_B = part_losses(sharp, bank, [Part(one, 0, 2)])[1]
        assert 0 < loss < HALF and bool((worst_B < HALF).all())
        assert any(tensor.any() for tensor in found.values()) == (not objective.skip_known)


def test_the_loss_that_is_logged_is_that_of_all_tokens(sharp):
    """While nothing is known both learn alike; in the end the one that skips has learnt less, and its loss shows it."""
    skip, plain = (
        train(sharp, job(sharp, one, facts(sharp), lr=0.02, steps=60, batch=6))["x"]
        for one in (SKIP, Objective())
    )
    assert skip.log[0]["loss"] == pytest.approx(plain.log[0]["loss"], rel=1e-6)
    assert skip.log[-1]["loss"] < 0.3 * skip.log[0]["loss"]
    assert skip.log[-1]["loss"] > 1.1 * plain.log[-1]["loss"] > 0


# -- the objective's settings ------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings, named",
    [
        ({"temperature": 3.0}, "temperature: only objective dcd"),
        ({"kl_weight": 0.5}, "kl_weight: only objective dcd"),
        ({"l1_weight": 1.0, "hidden": "all"}, "l1_weight, hidden: only objective dcd"),
        ({"context_tokens": 100}, "context_tokens: only objective dcd"),
        ({"name": "dcd", "loss_on": "all"}, "loss_on all: objective dcd compares answers only"),
        ({"name": "dcd", "skip_known": True}, "skip_known: only objective ntp"),
        ({"name": "dcd", "kl_weight": 0, "l1_weight": 0}, "kl_weight and l1_weight are both 0"),
        ({"name": "dcd", "hidden": "all", "l1_weight": 0}, "hidden all needs an l1_weight"),
        ({"name": "dcd", "temperature": 0}, "temperature"),
        ({"name": "dcd", "kl_weight": -1}, "kl_weight"),
        ({"name": "dcd", "context_tokens": 0}, "context_tokens"),
        ({"name": "sft"}, "name"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        Objective(**settings)


def test_labels_say_what_differs():
    labels = {
        Objective(): "ntp-answer",
        Objective(loss_on="all"): "ntp-all",
        SKIP: "ntp-answer-skip-known",
        DCD: "dcd",
        ALL: "dcd-hidden=all",
        KL: "dcd-l1_weight=0",
        Objective(name="dcd", temperature=1, context_tokens=300): "dcd-temperature=1-context_tokens=300",
    }
    assert {one.label: one for one in labels} == {label: one for one, label in labels.items()}


def test_objectives_that_were_there_before_keep_their_identity():
    """Ids of modules trained earlier must not change."""
    assert Objective().identity() == {} and Objective(loss_on="all").identity() == {"loss_on": "all"}
    assert Objective(name="ntp", temperature=2.0, hidden="last").identity() == {}
    assert DCD.identity() == {"name": "dcd"} and KL.identity() == {"name": "dcd", "l1_weight": 0.0}
