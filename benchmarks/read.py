"""Bench `read`: questions per second, batched mixed-module decoding against one question at a time and the base alone.

Regime: 16 modules, the same prompts, the same number of new tokens for every answer whatever it says, all ways in one
process. One at a time: one module on, one row. The base alone: the same batches without a module. Prints a card and
ends in one JSON line. Usage: python benchmarks/read.py [--modules 16] [--rank 8] [--base B] [--device D] [--write]
"""

from __future__ import annotations

import argparse
import statistics

from bases import bench_base
from meter import common, finish, measured_peak, timed

from loramem.inference import Request, generate
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec
from loramem.sources.catalogue import load_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=16)
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--single", type=int, default=24, help="questions asked one at a time")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=12)
    options = common(parser)
    base = bench_base(options.base, options.device, options.dtype)
    # every answer takes its full length, so all ways do equal work
    base.prompts.__dict__["stop_ids"] = frozenset()
    source = load_source({"name": "phonebook", "sizes": [30 * options.questions]}, base.prompts.count)[0]
    prompts = [tuple(base.prompts.chat(record.prompt)) for record in source.records][: options.questions]
    bank = Bank(
        base.model, [LoraSpec(rank=options.rank)] * options.modules, seeds=range(options.modules), frozen=True
    )
    requests = [Request(p, index % options.modules, options.new_tokens) for index, p in enumerate(prompts)]
    plain = [Request(p, None, options.new_tokens) for p in prompts]
    few = requests[: options.single]
    generate(base, requests[:32], bank=bank, rows=options.rows)
    ratios, shares, rates = [], [], []
    for _ in range(options.repeats):
        answers: dict[str, list] = {}

        def together(answers=answers):
            answers["together"] = generate(base, requests, bank=bank, rows=options.rows)

        def alone(answers=answers):
            answers["alone"] = [generate(base, [one], bank=bank, rows=1)[0] for one in few]

        batched = timed(together, base.device) / len(requests)
        single = timed(alone, base.device) / len(few)
        bare = timed(lambda: generate(base, plain, rows=options.rows), base.device) / len(plain)
        if base.device.type == "cpu":  # in bf16 on an accelerator a tie may fall the other way
            same = [g.ids for g in answers["alone"]] == [g.ids for g in answers["together"][: len(few)]]
            assert same, "both ways must give the same answers"
        ratios.append(single / batched)
        shares.append(bare / batched)
        rates.append(1 / batched)
    peak = measured_peak(lambda: generate(base, requests, bank=bank, rows=options.rows), base.device)
    print(
        f"{statistics.median(rates):.0f} questions/s batched, {statistics.median(ratios):.1f}x one at a time [{min(ratios):.1f}, {max(ratios):.1f}], "
        f"{100 * statistics.median(shares):.0f} % of the base's own rate, peak {peak / 2**20:.0f} MiB"
    )
    finish(
        "read", base,
        {"modules": options.modules, "rank": options.rank, "rows": options.rows, "questions": len(requests), "new_tokens": options.new_tokens,
         "ratio_median": round(statistics.median(ratios), 2), "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
         "share_of_base_rate": round(statistics.median(shares), 3), "questions_per_second": round(statistics.median(rates), 1), "peak_bytes": peak},
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
