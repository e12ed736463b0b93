"""Bench `distil`: context distillation with the teacher's states kept, against a teacher that runs at every step.

Regime: one PhoneBook document, each fact's teacher reads the piece that holds it; the same modules, examples, steps and
seeds both ways, equal weights at the end within rounding. The one pass of the kept teacher is part of its time. Prints
a card and ends in one JSON line.
Usage: python benchmarks/distil.py [--tokens 2000] [--context 512] [--exposures 6] [--base B] [--device D] [--write]
"""

from __future__ import annotations

import argparse
import statistics

import torch
from bases import bench_base
from meter import common, finish, timed

from loramem.base import Base
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.sources.catalogue import load_source
from loramem.synthesis import synthesize
from loramem.synthesis.contexts import teacher_forms
from loramem.training import Teacher, Trained, TrainJob, bucket_length, train_modules
from loramem.training.teacher import online


class EveryStep:
    """Teacher states that are read anew whenever they are asked for."""

    def __init__(self, base: Base, examples):
        self.base, self.examples = base, examples
        self.tokens = 0

    def of(self, chosen: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        own = [self.examples[index] for index in chosen.tolist()]
        self.tokens += sum(len(one.ids) for one in own)
        return online(self.base, own, counts.tolist(), all_layers=False)[-1]


class OnlineTeacher(Teacher):
    def states(self, examples):
        return EveryStep(self.base, examples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000, help="size of the document")
    parser.add_argument("--context", type=int, default=512, help="most tokens of it that the teacher reads")
    parser.add_argument("--exposures", type=int, default=6)
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    options = common(parser)
    base = bench_base(options.base, options.device, options.dtype)
    source = load_source({"name": "phonebook", "sizes": [options.tokens]}, base.prompts.count)[0]
    supervision = synthesize(source.documents)
    examples = supervision.encode(base.prompts)
    forms = teacher_forms(supervision, source.documents, base.prompts, context_tokens=options.context)
    length = bucket_length(examples, base.context_length)
    steps = max(1, options.exposures * len(examples) // options.batch)

    def jobs(count: int, steps: int) -> list[TrainJob]:
        optimizer = Optimizer(lr=0.001, batch=options.batch)
        return [
            TrainJob(str(seed), LoraSpec(rank=options.rank), Objective(name="dcd"), optimizer, steps, seed, examples, length, teacher=forms.examples)
            for seed in range(count)
        ]  # fmt: skip

    def run(teacher: Teacher, count: int, steps: int) -> dict[str, Trained]:
        done: dict[str, Trained] = {}

        def fail(key: str, error: Exception) -> None:
            raise error

        train_modules(
            base,
            jobs(count, steps),
            on_finish=lambda one: done.update({one.key: one}),
            on_fail=fail,
            teacher=teacher,
        )
        return done

    run(Teacher(base), 1, 2)
    run(OnlineTeacher(base), 1, 2)
    ratios, seconds = [], []
    for _ in range(options.repeats):
        ends: dict[str, dict[str, Trained]] = {}

        def kept(ends=ends):
            ends["kept"] = run(Teacher(base), options.modules, steps)

        def every(ends=ends):
            ends["every"] = run(OnlineTeacher(base), options.modules, steps)

        ours, theirs = timed(kept, base.device), timed(every, base.device)
        ratios.append(theirs / ours)
        seconds.append((ours, theirs))
        if base.device.type == "cpu":
            losses = [[done[str(s)].final_loss for s in range(options.modules)] for done in ends.values()]
            assert torch.allclose(torch.tensor(losses[0]), torch.tensor(losses[1]), rtol=0.02), losses
    teacher = Teacher(base)
    only = timed(lambda: teacher.states(forms.examples), base.device)
    print(
        f"{statistics.median(ratios):.1f}x an online teacher [{min(ratios):.1f}, {max(ratios):.1f}]: {seconds[0][0]:.1f} s against {seconds[0][1]:.1f} s; "
        f"the one pass takes {only:.2f} s for {len(examples)} examples on {forms.pieces} pieces ({teacher.tokens:,} tokens)"
    )
    finish(
        "distil", base,
        {"modules": options.modules, "rank": options.rank, "examples": len(examples), "steps": steps, "batch": options.batch, "length": length,
         "teacher_pieces": forms.pieces, "teacher_tokens": teacher.tokens, "teacher_seconds": round(only, 3),
         "seconds": [round(statistics.median(values), 2) for values in zip(*seconds, strict=True)],
         "ratio_median": round(statistics.median(ratios), 2), "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)]},
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
