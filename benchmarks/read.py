"""Bench `read`: questions per second, batched mixed-module decoding against one question at a time.

Regime: 16 modules, the same prompts, 12 new tokens for every answer whatever it says, both ways in one process; the
one-at-a-time way switches one module on and decodes one row. Prints a card and ends in one JSON line.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

import torch

from loramem.base import load_base
from loramem.inference import Request, generate
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec
from loramem.sources.catalogue import load_source
from loramem.studies.run import code_state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modules", type=int, default=16)
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--device", default=None)
    options = parser.parse_args()
    base = load_base(options.base, device=options.device)
    base.prompts.__dict__["stop_ids"] = (
        frozenset()
    )  # every answer takes its full length, so both ways do equal work
    source = load_source({"name": "phonebook", "sizes": [30 * options.questions]}, base.prompts.count)[0]
    prompts = [tuple(base.prompts.chat(record.prompt)) for record in source.records][: options.questions]
    bank = Bank(base.model, [LoraSpec(rank=options.rank)] * options.modules, seeds=range(options.modules))
    requests = [Request(prompt, index % options.modules, 12) for index, prompt in enumerate(prompts)]
    generate(base, requests[:32], bank=bank, rows=options.rows)
    ratios, rates = [], []
    for _ in range(options.repeats):
        start = time.perf_counter()
        together = generate(base, requests, bank=bank, rows=options.rows)
        batched = (time.perf_counter() - start) / len(requests)
        few = requests[:24]
        start = time.perf_counter()
        alone = [generate(base, [request], bank=bank, rows=1)[0] for request in few]
        single = (time.perf_counter() - start) / len(few)
        assert [g.ids for g in alone] == [g.ids for g in together[: len(few)]], (
            "both ways must give the same answers"
        )
        ratios.append(single / batched)
        rates.append(1 / batched)
    print(
        f"{statistics.median(rates):.0f} questions/s batched, {statistics.median(ratios):.1f}x one at a time [{min(ratios):.1f}, {max(ratios):.1f}]"
    )
    print(json.dumps({
        "bench": "read", "date": time.strftime("%Y-%m-%d"), "device": str(base.device), "processor": platform.machine(), "threads": torch.get_num_threads(),
        "torch": torch.__version__, "base": base.fingerprint[:12], "modules": options.modules, "rank": options.rank, "rows": options.rows, "questions": len(requests),
        "new_tokens": 12, "ratio_median": round(statistics.median(ratios), 2), "ratio_min": round(min(ratios), 2), "ratio_max": round(max(ratios), 2),
        "questions_per_second": round(statistics.median(rates), 1), "code": code_state(),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
