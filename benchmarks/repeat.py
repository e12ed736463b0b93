"""Bench `repeat`: how far apart the same modules and answers come out on a device, trained and read in other ways.

Regime: modules of several kinds on one PhoneBook source, trained twice at once, each alone, with fewer rows, with deterministic
algorithms asked for, and (a small base only) on the CPU; a difference is the norm of the updates' difference over the update's norm.
Answers and log-likelihoods of the same modules in batches of 64 rows, again, and of 8. Not a timing. Ends in one JSON line.
Usage: python benchmarks/repeat.py [--rank 8] [--steps 40] [--base B] [--device D] [--dtype T] [--write]
"""

from __future__ import annotations

import argparse
import warnings

import torch
from bases import bench_base
from meter import common, finish

from loramem.base import Base
from loramem.inference import Request, ScoreRequest, generate, loglikelihood
from loramem.modules.bank import Bank
from loramem.modules.spec import Budget, LoraSpec, Objective, Optimizer
from loramem.sources.catalogue import load_source
from loramem.synthesis import synthesize
from loramem.synthesis.contexts import teacher_forms
from loramem.training import Teacher, Trained, TrainJob, bucket_length, train_modules

SMALL = 10**8
"""Parameters up to which the CPU is asked too."""


def jobs_of(base: Base, *, rank: int, steps: int) -> list[TrainJob]:
    """One module of every kind whose arithmetic is its own. Dropout has two, for its masks are drawn per module."""
    source = load_source({"name": "phonebook", "sizes": [1000]}, base.prompts.count)[0]
    supervision = synthesize(source.documents)
    examples = supervision.encode(base.prompts)
    forms = teacher_forms(supervision, source.documents, base.prompts, context_tokens=512)
    length = bucket_length(examples, base.context_length)

    def job(key: str, seed: int = 0, objective: str = "ntp", **spec) -> TrainJob:
        optimizer = Optimizer(lr=0.002, batch=8)
        taught = forms.examples if objective == "dcd" else ()
        return TrainJob(
            key, LoraSpec(rank=rank, **spec), Objective(name=objective), optimizer, steps, seed, examples, length,
            Budget(steps=steps, snapshots=(0,)), taught,
        )  # fmt: skip

    return [
        job("lora"), job("lora, seed 1", 1), job("dropout", dropout=0.1), job("dropout, seed 1", 1, dropout=0.1),
        job("dora", variant="dora"), job("dcd", objective="dcd"),
    ]  # fmt: skip


def train(base: Base, jobs: list[TrainJob], **options) -> dict[str, Trained]:
    done: dict[str, Trained] = {}

    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(
        base, jobs, on_finish=lambda one: done.update({one.key: one}), on_fail=fail, teacher=Teacher(base, None), **options
    )  # fmt: skip
    return done


def apart(one: Trained, other: Trained) -> float:
    """Norm of the difference of two modules' tensors, relative to the norm of what training changed."""
    start = one.snapshots[0]

    def norm(others) -> float:
        return (
            sum(float((a.double() - others[key].double()).square().sum()) for key, a in one.tensors.items())
            ** 0.5
        )

    return norm(other.tensors) / norm(start)


def compare(first: dict[str, Trained], then: dict[str, Trained]) -> dict:
    """By kind: whether no bit differs, and how far apart."""
    return {
        key: {"equal_bits": all(torch.equal(a, then[key].tensors[name]) for name, a in one.tensors.items()),
              "apart": float(f"{apart(one, then[key]):.3g}")}
        for key, one in first.items() if key in then
    }  # fmt: skip


def read(
    base: Base, jobs: list[TrainJob], trained: dict[str, Trained], rows: int
) -> tuple[list, list[float]]:
    """Answers to the same questions under every module, and the log-likelihoods of the gold ones."""
    source = load_source({"name": "phonebook", "sizes": [1000]}, base.prompts.count)[0]
    bank = Bank(base.model, [job.spec for job in jobs], frozen=True)
    try:
        for slot, job in enumerate(jobs):
            bank.load(slot, trained[job.key].tensors)
        asked = [
            (slot, tuple(base.prompts.chat(one.prompt)), tuple(base.prompts.answer(one.answer)))
            for one in source.records[:32] for slot in range(len(jobs))
        ]  # fmt: skip
        said = generate(base, [Request(prompt, slot, 12) for slot, prompt, _ in asked], bank=bank, rows=rows)
        told = loglikelihood(
            base, [ScoreRequest(p, target, slot) for slot, p, target in asked], bank=bank, rows=rows
        )
    finally:
        bank.detach()
    return [tuple(one.ids) for one in said], [one.sum_nats for one in told]


def same_answers(one: tuple[list, list[float]], other: tuple[list, list[float]]) -> dict:
    pairs = list(zip(one[1], other[1], strict=True))
    return {
        "answers": len(one[0]), "different_answers": sum(a != b for a, b in zip(one[0], other[0], strict=True)),
        "equal_likelihoods": sum(a == b for a, b in pairs),
        "largest_relative_difference": float(f"{max(abs(a - b) / abs(a) for a, b in pairs):.3g}"),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=40)
    options = common(parser)
    base = bench_base(options.base, options.device, options.dtype)
    jobs = jobs_of(base, rank=options.rank, steps=options.steps)
    first = train(base, jobs)
    ways = {
        "another seed": {"lora": compare({"lora": first["lora"]}, {"lora": first["lora, seed 1"]})["lora"]}
    }
    ways["again"] = compare(first, train(base, jobs))
    alone = {job.key: train(base, [job])[job.key] for job in jobs}
    ways["each alone"] = compare(first, alone)
    ways["each alone, again"] = compare(alone, {job.key: train(base, [job])[job.key] for job in jobs})
    ways["16 rows at once"] = compare(first, train(base, jobs, rows=16))
    with warnings.catch_warnings(record=True) as met:
        warnings.simplefilter("always")
        torch.use_deterministic_algorithms(True, warn_only=True)
        exact = train(base, jobs)
        ways["deterministic algorithms, twice"] = compare(exact, train(base, jobs))
        torch.use_deterministic_algorithms(False)
    remarks = sorted(
        {str(one.message).split("\n")[0][:200] for one in met if "determinis" in str(one.message)}
    )
    if base.device.type != "cpu" and base.parameters < SMALL:
        ways["on the CPU"] = compare(first, train(bench_base(options.base, "cpu", "float32"), jobs))
    answers = read(base, jobs, first, 64)
    readings = {
        "again": same_answers(answers, read(base, jobs, first, 64)),
        "8 rows at once": same_answers(answers, read(base, jobs, first, 8)),
    }
    for way, found in ways.items():
        print(
            f"{way}: "
            + "; ".join(
                f"{kind} {row['apart']:.2g}{' (equal bits)' if row['equal_bits'] else ''}"
                for kind, row in found.items()
            )
        )
    for way, row in readings.items():
        print(
            f"read, {way}: {row['different_answers']} of {row['answers']} answers differ, likelihoods by {row['largest_relative_difference']:.2g}"
        )
    finish(
        "repeat", base,
        {"rank": options.rank, "steps": options.steps, "training": ways, "reading": readings, "remarks": remarks}, options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
