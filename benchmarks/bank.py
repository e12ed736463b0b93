"""Bench `bank`: modules trained together against one PEFT run after another. Prints a card and ends in one JSON line.

Regime: same base, facts, rank, batch and steps for every module; both ways in one process, in turn, after a
warm-up of each; the ratio is modules * steps per second, banked over solo. Usage: python benchmarks/bank.py
[--modules 1,4,16] [--steps 40] [--base B] [--device D]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time

import peft
import torch

from loramem.base import load_base
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.sources.catalogue import load_source
from loramem.studies.run import code_state
from loramem.synthesis import synthesize
from loramem.training import TrainJob, bucket_length, train_pack
from loramem.training.loop import _Data


def solo(base, job: TrainJob) -> float:
    """Seconds of the plain loop: PEFT, torch AdamW, clipping; model and optimiser made beforehand."""
    config = peft.LoraConfig(r=job.spec.rank, lora_alpha=job.spec.rank, target_modules="all-linear")
    model = peft.get_peft_model(copy.deepcopy(base.model), config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job.optimizer.lr, weight_decay=0.0)
    feed = _Data(job, base.prompts.pad_id, base.device)
    start = time.perf_counter()
    for _ in range(job.steps):
        chosen = feed.next()
        ids = feed.ids_ET[chosen]
        labels = ids.masked_fill(~feed.learn_ET[chosen], -100)
        model(input_ids=ids, attention_mask=feed.mask_ET[chosen], labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def banked(base, jobs: list[TrainJob]) -> float:
    start = time.perf_counter()
    train_pack(base, jobs, on_finish=lambda done: None, on_fail=lambda key, error: print(key, error))
    if base.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", default="1,4,16")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    base = load_base(options.base, device=options.device)
    source = load_source({"name": "phonebook", "sizes": [1000]}, base.prompts.count)[0]
    examples = synthesize(source.documents).encode(base.prompts)
    length = bucket_length(examples, base.context_length)

    def jobs(count: int, steps: int) -> list[TrainJob]:
        optimizer = Optimizer(lr=0.01, batch=options.batch)
        return [
            TrainJob(str(i), LoraSpec(rank=options.rank), Objective(), optimizer, steps, i, examples, length)
            for i in range(count)
        ]

    results = []
    for count in map(int, options.modules.split(",")):
        banked(base, jobs(count, 3))
        solo(base, jobs(1, 3)[0])
        ratios, rates = [], []
        for _ in range(options.repeats):
            alone = statistics.median(solo(base, jobs(1, options.steps)[0]) for _ in range(2))
            together = banked(base, jobs(count, options.steps))
            ratios.append(alone * count / together)
            rates.append(count * options.steps / together)
        results.append({
            "modules": count, "ratio_median": round(statistics.median(ratios), 3), "ratio_min": round(min(ratios), 3),
            "ratio_max": round(max(ratios), 3), "module_steps_per_second": round(statistics.median(rates), 1),
            "padded_tokens_per_second": round(statistics.median(rates) * options.batch * length),
        })  # fmt: skip
        print(
            f"{count:3} modules: {results[-1]['module_steps_per_second']:8.1f} module-steps/s, {results[-1]['ratio_median']:.2f}x solo PEFT [{min(ratios):.2f}, {max(ratios):.2f}]"
        )
    print(json.dumps({
        "bench": "bank", "date": time.strftime("%Y-%m-%d"), "device": str(base.device), "processor": platform.machine(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "peft": peft.__version__, "base": base.fingerprint[:12], "rank": options.rank, "batch": options.batch,
        "length": length, "steps": options.steps, "code": code_state(), "results": results,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
