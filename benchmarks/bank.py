"""Bench `bank`: modules trained together against one PEFT run after another. Prints a card and ends in one JSON line.

Regime: same base, facts, rank, batch and steps for every module; all ways in one process, in turn, after a warm-up of
each; medians of paired repeats. `plain`: PEFT, attention mask, labels, torch AdamW, as a researcher would write it.
`tuned`: PEFT with fused AdamW, no mask, and logits before learnt tokens only. The ratio is module-steps per second.
Usage: python benchmarks/bank.py [--modules 1,4,16,32] [--rank 4] [--base llama-3.1-8b --device cuda] [--write]
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial

import peft
import torch
from bases import bench_base
from meter import common, finish, matmul_rate, measured_peak, timed

from loramem.base import Base
from loramem.base.forward import hidden_states, logits_of
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.sources.catalogue import load_source
from loramem.synthesis import synthesize
from loramem.training import TrainJob, bucket_length, train_modules
from loramem.training import loop as training_loop
from loramem.training.feed import Feed
from loramem.training.planner import Planner


def solo(base: Base, job: TrainJob, *, tuned: bool) -> Callable[[], None]:
    """The loop of one PEFT run, ready to be timed: model and optimiser are made beforehand."""
    config = peft.LoraConfig(r=job.spec.rank, lora_alpha=job.spec.rank, target_modules="all-linear", lora_dropout=job.spec.dropout)  # fmt: skip
    own = copy.deepcopy(base.model) if base.parameters < 10**8 else base.model
    model = peft.get_peft_model(own, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job.optimizer.lr, weight_decay=0.0, fused=tuned)
    feed = Feed(job, base.prompts.pad_id, base.device)

    def run() -> None:
        model.train(job.spec.dropout > 0)
        for _ in range(job.steps):
            chosen = feed.next()
            ids, learn = feed.ids_ET[chosen], feed.learn_ET[chosen]
            if tuned:
                states = hidden_states(
                    model.base_model.model, ids, torch.nn.functional.pad(learn[:, 1:], (0, 1))
                )
                logits = logits_of(model.base_model.model, states[0])
                torch.nn.functional.cross_entropy(logits, ids[learn]).backward()
            else:
                labels = ids.masked_fill(~learn, -100)
                model(input_ids=ids, attention_mask=feed.mask_ET[chosen], labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def unload(base: Base) -> None:
    """Take PEFT's layers out of a base that was too large to copy."""
    for name, module in list(base.model.named_modules()):
        if isinstance(module, peft.tuners.lora.LoraLayer):
            parent, _, leaf = name.rpartition(".")
            setattr(base.model.get_submodule(parent), leaf, module.get_base_layer())


def banked(base: Base, jobs: list[TrainJob]) -> None:
    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(base, jobs, on_finish=lambda done: None, on_fail=fail, rows=10**6)


def predicted(base: Base, jobs: list[TrainJob]) -> int:
    """Peak bytes that the planner foresees for these jobs, once it has probed them."""
    planners: list[Planner] = []

    class Kept(Planner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            planners.append(self)

    training_loop.Planner = Kept  # type: ignore[misc]
    try:
        banked(base, jobs)
    finally:
        training_loop.Planner = Planner  # type: ignore[misc]
    return planners[0].peak(jobs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", default="1,4,16,32")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--batch", type=int, default=8)
    options = common(parser)
    base = bench_base(options.base, options.device, options.dtype)
    source = load_source({"name": "phonebook", "sizes": [1000]}, base.prompts.count)[0]
    examples = synthesize(source.documents).encode(base.prompts)
    length = bucket_length(examples, base.context_length)
    real = sum(len(example.ids) for example in examples) / len(examples)

    def jobs(count: int, steps: int) -> list[TrainJob]:
        optimizer = Optimizer(lr=0.001, batch=options.batch)
        spec = LoraSpec(rank=options.rank, dropout=options.dropout)
        return [
            TrainJob(str(i), spec, Objective(), optimizer, steps, i, examples, length) for i in range(count)
        ]

    peak_flops = matmul_rate(base.device, base.dtype)
    results = []
    for count in map(int, options.modules.split(",")):
        banked(base, jobs(count, 3))
        times: dict[str, list[float]] = {"plain": [], "tuned": [], "bank": [], "one step": []}
        for _ in range(options.repeats):
            for way in ("plain", "tuned"):
                call = solo(base, jobs(1, options.steps)[0], tuned=way == "tuned")
                times[way].append(timed(call, base.device))
                unload(base)
            times["bank"].append(timed(partial(banked, base, jobs(count, options.steps)), base.device))
            times["one step"].append(timed(partial(banked, base, jobs(count, 1)), base.device))
        peak = measured_peak(partial(banked, base, jobs(count, 3)), base.device)
        rate = count * options.steps / statistics.median(times["bank"])
        peak_flops = max(peak_flops, matmul_rate(base.device, base.dtype))
        row: dict = {"modules": count, "module_steps_per_second": round(rate, 1)}
        for way in ("plain", "tuned"):
            ratios = [count * alone / bank for alone, bank in zip(times[way], times["bank"], strict=True)]
            row |= {
                f"ratio_{way}": round(statistics.median(ratios), 3),
                f"ratio_{way}_range": [round(min(ratios), 3), round(max(ratios), 3)],
            }
        # PEFT's models and optimisers are made beforehand; the bank's time holds making and handing over, which few steps cannot pay for
        step = (statistics.median(times["bank"]) - statistics.median(times["one step"])) / (options.steps - 1)
        flops = 4 * base.parameters * options.batch * length
        row |= {
            "real_tokens_per_second": round(rate * options.batch * real), "padded_tokens_per_second": round(rate * options.batch * length),
            "share_of_matmul_peak": round(flops * rate / peak_flops, 3), "step_seconds": round(step, 5),
            "share_of_matmul_peak_in_steps": round(flops * count / step / peak_flops, 3), "peak_bytes": peak, "predicted_peak_bytes": predicted(base, jobs(count, 2)),
        }  # fmt: skip
        results.append(row)
        print(
            f"{count:3} modules: {rate:8.1f} module-steps/s, {row['ratio_plain']:.2f}x plain PEFT {row['ratio_plain_range']}, "
            f"{row['ratio_tuned']:.2f}x tuned, {row['real_tokens_per_second']:,} tokens/s, {100 * row['share_of_matmul_peak']:.0f} % of matmul peak ({100 * row['share_of_matmul_peak_in_steps']:.0f} % in the steps alone), "
            f"peak {peak / 2**20:.0f} MiB (predicted {row['predicted_peak_bytes'] / 2**20:.0f})"
        )
    finish(
        "bank", base,
        {"peft": peft.__version__, "rank": options.rank, "dropout": options.dropout, "batch": options.batch, "length": length,
         "steps": options.steps, "matmul_flops": round(peak_flops), "results": results},
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
