"""Study files and settings that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

from reliability.case import Case, Cases, raw_study, setting, study, study_text

DEEP = 100_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 10)}]}}\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip
ONE_OF_EACH = {
    "study": 5, "question": ["a"], "version": "x", "base": {"a": 1}, "sources": ["a"], "supervision": "raw", "modules": 5, "contrasts": 5,
    "skip": 5, "partition": {"a": 1}, "chunking": [], "seeds": "many", "readings": "closed", "pool": 5, "harm": 5, "strangers": 5,
    "latency": 5, "retrieval": [], "metrics": "exact_match", "judge": 5, "capacity": [], "expect": 5,
}  # fmt: skip


def chain(length: int):
    """Makes studies that extend each other."""

    def make(path: Path) -> None:
        for number in range(length):
            after = f"s{number + 1}.yaml" if number + 1 < length else "q02"
            name = path if number == 0 else path.with_name(f"s{number}.yaml")
            name.write_text(f"extends: {after}\n")

    return make


FILES: Cases = {
    "study-empty": raw_study("", "s.yaml", "empty"),
    "study-blank": raw_study("\n\n# nothing\n", "s.yaml", "empty"),
    "study-list-at-the-top": raw_study("- a\n- b\n", "s.yaml", "a study file holds key: value settings", "list"),
    "study-word": raw_study("hello", "s.yaml", "a study file holds key: value settings"),
    "study-two-documents": raw_study("study: a\n---\nstudy: b\n", "s.yaml:2", "document"),
    "study-tabs": raw_study("study: a\nsources:\n\tphonebook: {}\n", "s.yaml:3", "not YAML", "\\t"),
    "study-half-open": raw_study("study: [a\nquestion: b\n", "s.yaml:2", "not YAML"),
    "study-duplicate-keys": raw_study("study: a\nquestion: q\nstudy: b\n", "s.yaml:3", "'study'", "twice"),
    "study-duplicate-keys-below": raw_study("study: a\nmodules:\n  spec: {rank: 1, rank: 2}\n", "s.yaml:3", "'rank'", "twice"),
    "study-billion-laughs": raw_study(LAUGHS, "s.yaml", "anchors"),
    "study-merge-bomb": raw_study(MERGES, "s.yaml", "anchors"),
    "study-anchor-of-itself": raw_study("study: a\nmodules: &m {spec: *m}\n", "s.yaml:2", "itself"),
    "study-unknown-anchor": raw_study("study: *nobody\n", "s.yaml:1", "nobody"),
    "study-deep": raw_study("study: " + "[" * DEEP, "s.yaml", "nested too deeply"),
    "study-rather-deep": raw_study("study: " + "[" * 90 + "]" * 90, "s.yaml", "nested too deeply"),
    "study-deep-blocks": raw_study("".join(" " * n + "a:\n" for n in range(400)), "s.yaml", "nested too deeply"),
    "study-latin-1": raw_study("study: Zo\xeb\n".encode("latin-1"), "s.yaml", "not UTF-8 text (byte 9)"),
    "study-utf-16": raw_study("study: a\n".encode("utf-16"), "s.yaml", "UTF-16"),
    "study-bom": raw_study(b"\xef\xbb\xbfstudi: a\n", "studi: unknown key", "Did you mean 'study'?"),
    "study-control-characters": raw_study("study: a\x07b\n", "s.yaml:1", "character"),
    "study-nul": raw_study("study: a\nquestion: a\x00b\n", "s.yaml:2", "character"),
    "study-huge-line": raw_study("question: " + "x" * 3_000_000, "s.yaml", "3,000,010 bytes"),
    "study-huge-file": raw_study(lambda path: path.touch() or os.truncate(path, 60_000_000), "s.yaml", "60,000,000 bytes"),
    "study-python-tag": raw_study('study: !!python/object/apply:os.system ["touch pwned"]\n', "s.yaml:1", "not YAML"),
    "study-no-date": raw_study(study_text(seeds="x").replace("seeds: x", "seeds: 2001-99-99"), "seeds", "'2001-99-99'"),
    "study-number-of-5000-digits": raw_study(f"study: a\nseeds: {'9' * 5000}\n", "s.yaml:2", "digits"),
    "study-hexadecimal-of-5000-digits": raw_study(study_text().replace("seeds: 2", f"seeds: 0x{'f' * 5000}"), "digits"),
    "study-no-such-character": raw_study('study: "\\UFFFFFFFF"\n', "s.yaml:1", "character"),
    "study-half-a-character": raw_study('study: "a\\uD800"\n', "s.yaml", "half a character"),
    "study-binary": raw_study(bytes(range(256)), "s.yaml", "not UTF-8"),
    "study-pickle": raw_study(b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05hello\x94.", "s.yaml", "not UTF-8"),
    "study-is-a-folder": raw_study(lambda path: path.mkdir(), "s.yaml", "folder"),
    "study-is-a-device": Case("study run /dev/zero", ("/dev/zero", "a device"), about=("name",)),
    "study-null-key": raw_study("~: 1\nstudy: a\n", "None"),
    "study-numbers-as-keys": raw_study("1: 2\nmodules: {1: 2, a: b, spec: {rank: 1}}\n", "modules.1: unknown key", "modules.a: unknown key"),
    "study-list-as-key": raw_study("? [a, b]\n: c\n", "s.yaml:1", "key"),
    "study-2000-unknown-keys": raw_study("".join(f"key{n}: {n}\n" for n in range(2000)), "key0: unknown key", "more"),
    "study-a-key-of-100-kilobytes": raw_study(f"{'k' * 1000}: 1\n? {'q' * 100_000}\n: 1\n", "unknown key"),
}  # fmt: skip

WRONG: Cases = {
    "unknown-key": study("readigns: unknown key", "Did you mean 'readings'?", readigns=["closed"]),
    "unknown-key-of-a-source": study("sources.phonebook.sises: unknown key", "Did you mean 'sizes'?", sources__phonebook__sises=[3]),
    "unknown-key-of-a-budget": study("stepz", "Did you mean 'steps'?", modules__budget={"stepz": 3}),
    "every-type-wrong": raw_study(str(ONE_OF_EACH), "study", "question", "sources", "modules", "metrics"),
    "study-name-is-a-path": study("study", "../../etc", study="../../etc"),
    "no-sources": study("sources", sources={}),
    "a-source-is-a-number": study("sources.phonebook", sources={"phonebook": 5}),
    "a-source-without-a-name": study("sources.phonebook: no name; allowed:", sources={"phonebook": {"sizes": [3]}}),
    "unknown-source": study("unknown source 'phonbook'", "Did you mean 'phonebook'?", sources__phonebook__name="phonbook"),
    "a-source-named-by-a-list": study("unknown source", sources__phonebook__name=["phonebook"]),
    "sizes-zero": study("sources.phonebook.sizes.0", "greater than 0", "0", sources__phonebook__sizes=[0]),
    "sizes-negative": study("sources.phonebook.sizes.0", "-5", sources__phonebook__sizes=[-5]),
    "sizes-huge": study("sources.phonebook.sizes.0", "10000000", sources__phonebook__sizes=[10**15]),
    "sizes-huge-articles": study("sources.a.sizes.0", "10000000", sources={"a": {"name": "almanac", "sizes": [10**15]}}),
    "sizes-huge-chronicles": study("sources.a.sizes.0", "10000000", sources={"a": {"name": "almanac-chronicles", "sizes": [10**15]}}),
    "sizes-none": study("sources.phonebook.sizes", sources__phonebook__sizes=[]),
    "sizes-no-articles": study("sources.a.sizes", sources={"a": {"name": "almanac", "sizes": []}}),
    "sizes-a-number-where-a-contrast-names-sizes": study("sources.phonebook.sizes", sources__phonebook__sizes=5, contrasts=[{"sizes": [60], "modules.spec.rank": [2]}]),
    "sizes-infinite": study("sources.phonebook.sizes.0", sources__phonebook__sizes=[float("inf")]),
    "documents-zero": study("sources.a.documents", sources={"a": {"name": "almanac-papers", "documents": 0}}),
    "documents-huge": study("sources.a.documents", "1000", sources={"a": {"name": "almanac-stories", "documents": 10**12}}),
    "a-path-with-a-nul": study("NUL", sources={"a": {"name": "folder", "path": "a\0b"}}, modules__spec__targets="all-linear"),
    "modules-is-a-number": study("modules", modules=5),
    "modules-spec-is-a-number": study("modules.spec: must be settings", modules__spec=5),
    "modules-mixed-keys": study("modules.1: unknown key", "modules.a: unknown key", modules={1: 2, "a": 3}),
    "no-modules": study("modules", modules=None),
    "rank-nan": study("spec.rank", modules__spec__rank=[float("nan")]),
    "rank-negative": study("spec.rank", "-3", modules__spec__rank=[-3]),
    "rank-huge": study("spec.rank", "65536", modules__spec__rank=[10**9]),
    "rank-of-20-digits": study("spec.rank", modules__spec__rank=[10**20]),
    "rank-is-text": study("spec.rank", "'four'", modules__spec__rank=["four"]),
    "rank-is-half": study("spec.rank", "1.5", modules__spec__rank=[1.5]),
    "rank-no-values": study("modules.spec.rank: an empty list has no cells", modules__spec__rank=[]),
    "alpha-zero": study("spec.alpha", modules__spec__alpha=0),
    "alpha-infinite": study("spec.alpha", modules__spec__alpha=float("inf")),
    "alpha-of-400-digits": study("spec.alpha", modules__spec__alpha=10**400),
    "dropout-one": study("spec.dropout", "1", modules__spec__dropout=1),
    "variant-unknown": study("spec.variant", "'lora'", modules__spec__variant="loha"),
    "targets-of-mappings": study("spec.targets", modules__spec__targets=[{"a": "b"}]),
    "targets-none": study("spec.targets", modules__spec__targets=[]),
    "layers-unknown": study("layers must be all, first-half, second-half", modules__spec__layers="some"),
    "layers-half": study("spec.layers", modules__spec__layers=[1.5]),
    "lr-nan": study("optimizer.lr", modules__optimizer__lr=float("nan")),
    "lr-negative": study("optimizer.lr", "-1", modules__optimizer__lr=-1),
    "lr-for-no-rank": study("modules.optimizer.lr: no value for rank 1", modules__optimizer__lr={4: 0.1}),
    "batch-zero": study("optimizer.batch", modules__optimizer__batch=0),
    "batch-huge": study("optimizer.batch", "65536", modules__optimizer__batch=10**12),
    "schedule-unknown": study("optimizer.schedule", "'cosine'", modules__optimizer__schedule="cosin"),
    "steps-huge": study("budget.steps", "10000000", modules__budget={"steps": 10**30}),
    "exposures-huge": study("budget.exposures", "1000000", modules__budget={"exposures": 1e308}),
    "exposures-and-steps": study("exactly one of steps, exposures and plateau, not steps and exposures", modules__budget={"steps": 3, "exposures": 2}),
    "no-budget": study("exactly one of steps, exposures and plateau, not none", modules__budget={}),
    "plateau-huge": study("budget.plateau.max_exposures", modules__budget={"plateau": {"max_exposures": 1e300}}),
    "plateau-of-nothing": study("budget.plateau.window", modules__budget={"plateau": {"max_exposures": 3, "window": 0}}),
    "snapshots-beyond": study("snapshots [9] lie beyond the 3 steps", modules__budget={"steps": 3, "snapshots": [9]}),
    "snapshots-negative": study("budget.snapshots", modules__budget={"steps": 3, "snapshots": [-1]}),
    "grid-explodes": study(
        "combinations", "modules", modules__spec__rank=list(range(1, 60)), modules__spec__alpha=list(range(1, 60)), modules__optimizer__batch=list(range(1, 60)),
        modules__optimizer__warmup=[n / 100 for n in range(60)], modules__optimizer__lr=[n / 100 for n in range(1, 60)],
    ),
    "grid-of-readings-explodes": study(
        "combinations", "readings[0]",
        readings=[{"reading": "merged", "router": ["bm25"] * 99, "rule": ["cat"] * 99, "top_k": [2] * 99, "temperature": [0.5] * 99}],
    ),
    "grid-of-supervision-explodes": study(
        "combinations", "supervision",
        supervision={"recipe": ["qa:1"] * 200, "seed": list(range(200)), "temperature": [n / 200 for n in range(200)]},
    ),
    "seeds-zero": study("seeds", "0", seeds=0),
    "seeds-many": study("seeds", "1000", seeds=10**6),
    "seeds-half": study("seeds", "2.5", seeds=2.5),
    "seeds-text": study("seeds", "'many'", seeds="many"),
    "readings-none": study("readings", readings=[]),
    "readings-a-word": study("readings", readings="closed"),
    "readings-of-lists": study("readings", readings=[["closed"]]),
    "reading-unknown": study("readings: unknown reading 'modul'", "Did you mean 'module'?", readings=["modul"]),
    "reading-named-by-lists": study("readings[0].reading: unknown reading", readings=[{"reading": [["closed"], {"a": 1}]}]),
    "reading-without-a-name": study("readings[0].reading: unknown reading None", readings=[{"router": "bm25"}]),
    "reading-with-an-unknown-key": study("readings[0].ruter: unknown key for routed", "Did you mean 'router'?", readings=[{"reading": "routed", "ruter": "bm25"}], partition="document"),
    "router-unknown": study("unknown", "'embeding'", "Did you mean 'embedding'?", readings=[{"reading": "routed", "router": "embeding"}], partition="document"),
    "router-is-a-mapping": study("readings[0]", "router", readings=[{"reading": "routed", "router": {"a": 1}}], partition="document"),
    "rule-unknown": study("unknown merge rule 'ties'", readings=[{"reading": "merged", "rule": "ties"}], partition="document"),
    "top-k-zero": study("readings[0]", "top_k", readings=[{"reading": "merged", "top_k": 0}], partition="document"),
    "density-two": study("readings[0]", "density", readings=[{"reading": "merged", "density": 2}], partition="document"),
    "routed-among-one": study("partition corpus makes one of it", readings=["routed"]),
    "abstain-without-a-threshold": study("abstain needs none_below", readings=[{"reading": "routed", "abstain": True}], partition="document"),
    "metric-unknown": study("metrics: unknown metric 'exact'", "Did you mean 'exact_match'?", metrics=["exact"]),
    "metrics-of-lists": study("metrics", metrics=[["exact_match"], {"a": 1}]),
    "metrics-none": study("metrics", metrics=[]),
    "base-none": study("base: an empty list has no values", base=[]),
    "base-twice": study("base: 'a/b' is named twice", base=["a/b", "a/b"]),
    "partition-unknown": study("partition 'tokens:0'", "tokens:N (N > 0)", partition="tokens:0"),
    "partition-none": study("partition: an empty list has no values", partition=[]),
    "chunking-of-nothing": study("needs tokens >= 1", chunking="0"),
    "chunking-of-10000-digits": study("chunks", chunking="9" * 10_000),
    "recipe-unknown": study("unknown part 'sumary'", "Did you mean 'summary'?", supervision={"recipe": "sumary:2"}),
    "recipe-of-nothing": study("supervision.recipe: an empty list has no values", supervision={"recipe": []}),
    "recipe-is-a-number": study("supervision.recipe", supervision={"recipe": 5}),
    "recipe-too-many": study("from 1 to 100,000", supervision={"recipe": "qa:0+summary:9999999"}),
    "generator-bad-scheme": study("unknown generator 'ftp://host/v1'", supervision={"recipe": "qa:2", "generator": "ftp://host/v1", "model": "m"}),
    "generator-with-a-password": study("url: expected http(s)://HOST", supervision={"recipe": "qa:2", "generator": "http://me:secret@host/v1", "model": "m"}),
    "generator-bad-port": study("url: expected http(s)://HOST", supervision={"recipe": "qa:2", "generator": "http://host:99999/v1", "model": "m"}),
    "generator-without-a-model": study("an endpoint needs model", supervision={"recipe": "qa:2", "generator": "http://host/v1"}),
    "judge-bad-url": study("judge", "url: expected http(s)://HOST", judge={"model": "m", "url": "host:80"}, metrics=["judge"]),
    "judge-unknown-setting": study("judge", "timeuot", "Did you mean 'timeout'?", judge={"model": "m", "url": "http://host/v1", "endpoint": {"timeuot": 3}}, metrics=["judge"]),
    "judge-without-a-model": study("judge.model", judge={"model": ""}, metrics=["judge"]),
    "contrast-of-an-unknown-path": study("contrasts[0]: 'spec.rank' is no path of modules", contrasts=[{"spec.rank": 3}]),
    "contrast-of-unhashable-sources": study("contrasts[0].sources", contrasts=[{"sources": [["phonebook"]], "modules.spec.rank": [2]}]),
    "contrast-of-odd-sizes": study("contrasts[0].sizes", contrasts=[{"sizes": [[60]], "modules.spec.rank": [2]}]),
    "contrast-of-one-partition": study("contrasts[0].partitions", "list", contrasts=[{"partitions": "corpus", "modules.spec.rank": [2]}]),
    "contrast-of-one-recipe": study("contrasts[0].supervisions", "list", contrasts=[{"supervisions": "raw", "modules.spec.rank": [2]}]),
    "contrast-through-a-value": study("contrasts[0]", "holds a value", contrasts=[{"modules.spec.rank.x": 2}]),
    "skip-of-everything": study("skip[0]: give at least one", skip=[{}]),
    "skip-of-an-unknown-source": study("skip: unknown source 'phone'", "Did you mean 'phonebook'?", skip=[{"source": "phone"}]),
    "capacity-of-an-unknown-metric": study("capacity.phonebook.metric: 'bits' is not measured", capacity={"phonebook": {"metric": "bits", "thresholds": [0.9]}}),
    "capacity-of-a-threshold-above-one": study("capacity.phonebook.thresholds.0", capacity={"phonebook": {"metric": "exact_match", "thresholds": [9]}}),
    "expect-an-unknown-metric": study("expect.0", "exact", expect=[{"claim": "c", "metric": "exact", "at": {"reading": "module"}, "at_least": 0.5}]),
    "expect-of-one-cell": study("expect.0.compare", expect=[{"claim": "c", "metric": "exact_match", "compare": ["largest"]}]),
    "expect-nothing": study("expect.0", expect=[{"claim": "c", "metric": "exact_match"}]),
    "expect-an-unknown-column": study("expect.0", "colour", expect=[{"claim": "c", "metric": "exact_match", "at": {"colour": "red"}, "at_least": 0.5}]),
    "sweep-of-nothing": study("modules.optimizer.lr.sweep", modules__optimizer__lr={"sweep": [], "dev_tokens": 9}),
    "sweep-on-a-huge-split": study("modules.optimizer.lr.dev_tokens", "10000000", modules__optimizer__lr={"sweep": [0.1], "dev_tokens": 10**15}),
    "strangers-on-a-huge-split": study("strangers.dev_tokens", "10000000", strangers={"dev_tokens": 10**15}),
    "harm-of-more-than-there-are": study("harm.facts", "2000", harm={"facts": 10**9}),
    "latency-of-no-questions": study("latency.questions", latency={"questions": 0}),
    "retrieval-unknown": study("retrieval.method", "'bm25'", retrieval={"method": "bm52"}),
    "retrieval-of-no-passages": study("retrieval.passages_k", retrieval={"passages_k": 0}),
    "text-of-100-kilobytes-for-a-number": study("seeds", seeds="x" * 100_000),
    "ansi-escapes-in-a-name": study("unknown source", sources__phonebook__name="\x1b[31mred\x1b[0m"),
}  # fmt: skip

EXTENDS: Cases = {
    "extends-itself": raw_study("extends: s.yaml\n", "s.yaml -> s.yaml is a circle"),
    "extends-in-a-circle": Case(
        "study run s.yaml", ("is a circle",), {"s.yaml": "extends: t.yaml\n", "t.yaml": "extends: ./s.yaml\n"}, about=("name",)
    ),
    "extends-nothing-there": raw_study("extends: none.yaml\n", "no such file: none.yaml"),
    "extends-an-unknown-study": raw_study("extends: q2\n", "unknown study 'q2'", "Did you mean 'q"),
    "extends-a-list": raw_study("extends: [q02]\n", "s.yaml: extends: give the name of a study"),
    "extends-an-empty-file": Case("study run s.yaml", ("t.yaml", "empty"), {"s.yaml": "extends: t.yaml\n", "t.yaml": ""}, about=("name",)),
    "extends-a-long-chain": raw_study(chain(400), "extends"),
    "scales-are-a-list": Case("study run s.yaml --scale laptop", ("scales",), {"s.yaml": study_text(scales=[1])}, about=("name", "--scale")),
    "scales-are-a-number": Case("study run s.yaml --scale laptop", ("scales",), {"s.yaml": study_text(scales=5)}, about=("name", "--scale")),
    "a-scale-is-a-list": Case("study run s.yaml --scale laptop", ("scales.laptop",), {"s.yaml": study_text(scales={"laptop": [1]})}, about=("name", "--scale")),
    "a-scale-of-an-extended-study-is-a-number": raw_study("extends: q02\nscales: {laptop: 5}\n", "scales.laptop"),
    "a-scale-through-a-value": Case(
        "study run s.yaml --scale laptop", ("seeds", "holds a value"), {"s.yaml": study_text(scales={"laptop": {"seeds.x": 1}})}, about=("--scale",)
    ),
    "an-unknown-scale": Case("study run q02 --scale laptp", ("no scale 'laptp'", "Did you mean 'laptop'?"), about=("--scale",)),
    "no-scale": Case("study run q02 --scale", ("no scale ''",), more=("",), about=("--scale",)),
}  # fmt: skip

SETTINGS: Cases = {
    "set-without-a-value": setting("modules.spec.rank", "give PATH=VALUE"),
    "set-without-a-path": setting("=5", "give PATH=VALUE"),
    "set-with-a-gap": setting("modules..rank=5", "give PATH=VALUE"),
    "set-through-a-value": setting("question.x=1", "question holds a value, not settings"),
    "set-half-a-list": setting("modules.spec.rank=[1", "not YAML"),
    "set-deep": setting("modules.spec.rank=" + "[" * 5000, "nested too deeply"),
    "set-a-tag": setting("modules.spec.rank=!!python/name:os.system", "not YAML"),
    "set-a-bad-date": setting("seeds=2001-99-99", "seeds", "'2001-99-99'"),
    "set-5000-digits": setting("seeds=" + "9" * 5000, "digits"),
    "set-an-unknown-key": setting("modules.spec.rnk=1", "Did you mean 'rank'?"),
    "set-a-value-of-100-kilobytes": setting("seeds=" + "x" * 100_000, "seeds"),
    "set-a-path-of-100-kilobytes": setting("y" * 100_000 + "=1", "unknown key"),
    "set-many-things": Case("study run quick " + " ".join(f"--set key{n}=1" for n in range(300)), ("unknown key", "more"), about=("--set",)),
    "set-two-documents": setting("seeds=1\n---\n2", "not YAML"),
    "set-for-all-that-none-has": Case("study run all --set sources.phonebok.seed=1", ("no study has sources.phonebok.seed", "Did you mean"), about=("--set",)),
}  # fmt: skip

STUDIES: Cases = {**FILES, **WRONG, **EXTENDS, **SETTINGS}
