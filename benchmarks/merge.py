"""Bench `merge`: sets of modules merged in one batch, against one set at a time from disk, by ours and by PEFT.

Regime: modules of one rank trained apart, each on its own facts and from its own seed; every set of `--parents` of them, as a router
would ask for; all ways in one process, in turn, after a warm-up, medians of paired repeats. `batch`: `merge_many` on all sets, the
store read once per parent. `single`: the same function set by set, the store read for each. `peft`: what the published code does for
a question: adapters loaded, `add_weighted_adapter`, adapters deleted; its dense updates are cut to the same rank. The merges' measures
(means over sets) come with it. Ends in one JSON line.
Usage: python benchmarks/merge.py [--modules 8] [--parents 3] [--rank 8] [--rules ties-delta,cat] [--device D] [--write]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import peft
from bases import bench_base
from meter import common, finish, timed

from loramem.base import Base
from loramem.modules import peft_format
from loramem.modules.merged import RULES, Merged, Merging, Parent, merge_many, weights_for
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.sources.catalogue import load_source
from loramem.synthesis import synthesize
from loramem.training import TrainJob, bucket_length, train_modules

PEFT_KINDS = {
    "cat": "cat", "svd-delta": "svd", "linear-factors": "linear", "ties-factors": "ties", "dare-linear-factors": "dare_linear",
    "dare-ties-factors": "dare_ties", "magnitude-prune-factors": "magnitude_prune", "ties-delta": "ties_svd",
    "dare-linear-delta": "dare_linear_svd", "dare-ties-delta": "dare_ties_svd", "magnitude-prune-delta": "magnitude_prune_svd",
}  # fmt: skip
SHOWN = ("distance_to_mean", "norm_ratio", "rank_residual", "sign_conflicts", "subspace_overlap")


def trained_apart(base: Base, folder: Path, *, count: int, rank: int, steps: int, facts: int) -> list[str]:
    """Modules that share nothing but the base, saved in folders of PEFT's form; their names."""
    source = load_source({"name": "phonebook", "sizes": [40 * count * facts]}, base.prompts.count)[0]
    examples = synthesize(source.documents).encode(base.prompts)
    assert len(examples) >= count * facts, f"{len(examples)} examples for {count} modules of {facts}"
    spec, length = LoraSpec(rank=rank), bucket_length(examples, base.context_length)
    jobs = [
        TrainJob(f"m{i}", spec, Objective(), Optimizer(lr=0.005, batch=8), steps, i, examples[i * facts : (i + 1) * facts], length)
        for i in range(count)
    ]  # fmt: skip

    def keep(done) -> None:
        (folder / done.key).mkdir()
        peft_format.save(folder / done.key, spec, done.tensors, model=base.model, base_name=base.name)

    def fail(key: str, error: Exception) -> None:
        raise error

    train_modules(base, jobs, on_finish=keep, on_fail=fail)
    return [job.key for job in jobs]


def by_peft(model: peft.PeftModel, folder: Path, chosen: Sequence[str], merging: Merging, rank: int) -> None:
    """One merge as PEFT makes it, from disk, and everything deleted again."""
    rule = RULES.get(merging.rule)
    for name in chosen:
        model.load_adapter(str(folder / name), adapter_name=name)
    weight = 1.0 if rule.elect or rule.whole else 1 / len(chosen)
    if merging.weights != "equal":
        weight = 1 / len(chosen)
    kind = PEFT_KINDS[merging.rule]
    options = {"svd_rank": rank} if kind.endswith("svd") else {}
    model.add_weighted_adapter(
        list(chosen), [weight] * len(chosen), "merged", kind, density=merging.density, **options
    )
    for name in (*chosen, "merged"):
        model.delete_adapter(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=8)
    parser.add_argument("--parents", type=int, default=3)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--facts", type=int, default=16, help="of each module")
    parser.add_argument("--few", type=int, default=5, help="sets that are merged one at a time, and by PEFT")
    parser.add_argument("--rules", default=",".join(RULES))
    options = common(parser)
    base = bench_base(options.base, options.device, options.dtype)
    results = []
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        names = trained_apart(
            base, folder, count=options.modules, rank=options.rank, steps=options.steps, facts=options.facts
        )
        sets = list(combinations(names, options.parents))
        model = peft.get_peft_model(
            copy.deepcopy(base.model), peft.LoraConfig(r=1, target_modules="all-linear"), adapter_name="none"
        )
        for name in options.rules.split(","):
            results.append(_measured(base, folder, sets, Merging(rule=name), model, options))
            if (
                name == "ties-factors"
            ):  # as the published benchmarks call PEFT: weights 1/N, which it divides once more
                published = (1 / options.parents**2,) * options.parents
                results.append(
                    _measured(base, folder, sets, Merging(rule=name, weights=published), model, options)
                )
    finish(
        "merge", base,
        {"peft": peft.__version__, "modules": options.modules, "parents": options.parents, "rank": options.rank, "steps": options.steps,
         "facts": options.facts, "sets": len(sets), "repeats": options.repeats, "results": results},
        options,
    )  # fmt: skip


def _measured(base: Base, folder: Path, sets: list, merging: Merging, model, options) -> dict:
    """One rule, all ways in turn: rates, their ratios, and what its merges measure."""

    def load(name: str):
        return peft_format.load(folder / name)

    weights = weights_for(merging, [1.0] * options.parents)
    parents = [[Parent(*pair) for pair in zip(chosen, weights, strict=True)] for chosen in sets]
    few = parents[: options.few]
    made: list[Merged] = merge_many(parents, merging, load, base=base.fingerprint)

    def singly() -> None:
        for one in few:
            merge_many([one], merging, load, base=base.fingerprint)

    def pefts() -> None:
        for chosen in sets[: options.few]:
            by_peft(model, folder, chosen, merging, made[0].spec.rank)

    ways: dict[str, tuple[Callable[[], object], int]] = {
        "batch": (lambda: merge_many(parents, merging, load, base=base.fingerprint), len(parents)),
        "single": (singly, len(few)),
    }
    if merging.rule in PEFT_KINDS:
        ways["peft"] = (pefts, len(few))
        by_peft(model, folder, sets[0], merging, made[0].spec.rank)
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.repeats):
        for way, (call, count) in ways.items():
            times[way].append(timed(call, base.device) / count)
    row: dict = {
        "rule": merging.label,
        "rank": made[0].spec.rank,
        "sets_per_second": round(1 / statistics.median(times["batch"]), 1),
    }
    for way in ("single", "peft"):
        if way in ways:
            ratios = [other / batch for other, batch in zip(times[way], times["batch"], strict=True)]
            row[f"ratio_{way}"] = round(statistics.median(ratios), 2)
            row[f"ratio_{way}_range"] = [round(min(ratios), 2), round(max(ratios), 2)]
    row["measures"] = {key: round(statistics.mean(one.measures[key] for one in made), 4) for key in SHOWN}
    against = ", ".join(
        f"{row[f'ratio_{way}']:.1f}x {text} {row[f'ratio_{way}_range']}"
        for way, text in (("single", "one at a time from disk"), ("peft", "PEFT"))
        if way in ways
    )
    print(
        f"{merging.label:32} rank {row['rank']:3}: {row['sets_per_second']:7.1f} sets/s, {against}; "
        + ", ".join(f"{key} {value:.3f}" for key, value in row["measures"].items()),
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
