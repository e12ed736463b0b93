"""Bench `context`: many questions on one context, its encoding shared against encoding it again for each.

Regime: one document of a given length, N questions on it, the same number of new tokens each; all ways in one process,
equal answers. `batched`: whole prompts in the same batches, the context encoded once per question. `single`: one whole
prompt at a time, as the published code does. `module`: as shared, with a module on. Prints a card and ends in one JSON
line. Usage: python benchmarks/context.py [--tokens 950] [--questions 50] [--base B] [--device D] [--write]
"""

from __future__ import annotations

import argparse
import statistics

from bases import bench_base
from meter import common, finish, timed

from loramem.inference import PrefixCache, Request, generate
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec
from loramem.sources.catalogue import load_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=950, help="length of the context")
    parser.add_argument("--questions", type=int, default=50)
    parser.add_argument("--new-tokens", type=int, default=12)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--single", type=int, default=10, help="questions asked one at a time")
    options = common(parser)
    base = bench_base(options.base, options.device, options.dtype)
    base.prompts.__dict__["stop_ids"] = frozenset()  # every answer takes its full length
    size = max(2 * options.tokens, 30 * options.questions)
    source = load_source({"name": "phonebook", "sizes": [size]}, base.prompts.count)[0]
    text, _ = base.prompts.cut("\n".join(document.text for document in source.documents), options.tokens)
    questions = [record.prompt for record in source.records][: options.questions]
    prefix, cut = base.prompts.fit_context(text, questions, reserve=options.new_tokens)
    suffixes = [tuple(base.prompts.suffix(question)) for question in questions]
    shared = [Request(s, None, options.new_tokens, prefix=tuple(prefix)) for s in suffixes]
    whole = [Request((*prefix, *s), None, options.new_tokens) for s in suffixes]
    few = whole[: options.single]
    bank = Bank(base.model, [LoraSpec(rank=options.rank)], seeds=[0], frozen=True)
    under = [Request(s, 0, options.new_tokens, prefix=tuple(prefix)) for s in suffixes]
    generate(base, shared[:4], rows=options.rows)
    generate(base, whole[:2], rows=options.rows)
    found: dict[str, list[float]] = {"shared": [], "batched": [], "single": [], "module": []}
    for _ in range(options.repeats):
        answers: dict[str, list] = {}
        cache = PrefixCache(base)

        def once(answers=answers, cache=cache):
            answers["shared"] = generate(base, shared, rows=options.rows, prefixes=cache)

        def again(answers=answers):
            answers["batched"] = generate(base, whole, rows=options.rows)

        found["shared"].append(timed(once, base.device) / len(shared))
        found["batched"].append(timed(again, base.device) / len(whole))
        found["single"].append(
            timed(lambda: [generate(base, [one], rows=1) for one in few], base.device) / len(few)
        )
        found["module"].append(
            timed(lambda: generate(base, under, bank=bank, rows=options.rows), base.device) / len(under)
        )
        assert cache.encoded == 1
        if base.device.type == "cpu":
            assert [g.ids for g in answers["shared"]] == [g.ids for g in answers["batched"]], "equal answers"
    ratios = {
        way: [theirs / ours for theirs, ours in zip(found[way], found["shared"], strict=True)]
        for way in ("batched", "single", "module")
    }
    values = {
        f"ratio_{way}": {
            "median": round(statistics.median(r), 2),
            "range": [round(min(r), 2), round(max(r), 2)],
        }
        for way, r in ratios.items()
    }
    print(
        f"{1 / statistics.median(found['shared']):.0f} questions/s on a context of {len(prefix)} tokens: {values['ratio_batched']['median']}x encoding it again in batches, "
        f"{values['ratio_single']['median']}x one at a time; with a module on {values['ratio_module']['median']} of the time"
    )
    finish(
        "context", base,
        {"context_tokens": len(prefix), "context_cut": cut, "questions": len(questions), "new_tokens": options.new_tokens, "rows": options.rows,
         "questions_per_second": round(1 / statistics.median(found["shared"]), 1), **values},
        options,
    )  # fmt: skip


if __name__ == "__main__":
    main()
