"""Checkpoints, modules and run folders that are damaged or do not fit."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliability.case import B2, A, Case, Cases, as_it_is

Spoil = Callable[[Path], None]


def edited(name: str, **changes: Any) -> Spoil:
    """Keys of a JSON file set; None takes one away."""

    def spoil(folder: Path) -> None:
        path = folder / name
        value = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({key: held for key, held in value.items() if held is not None}))

    return spoil


def written(name: str, content: str | bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return spoil


def gone(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return spoil


def torn(name: str) -> Spoil:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def renamed(name: str, to: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).rename(folder / to)

    return spoil


def tensors(name: str, change: Callable[[dict], dict]) -> Spoil:
    """The tensors of a safetensors file changed."""

    def spoil(folder: Path) -> None:
        from safetensors import safe_open
        from safetensors.torch import load_file, save_file

        with safe_open(folder / name, framework="pt") as file:
            metadata = file.metadata()
        save_file(change(load_file(folder / name)), folder / name, metadata=metadata)

    return spoil


def both(*spoils: Spoil) -> Spoil:
    def spoil(folder: Path) -> None:
        for one in spoils:
            one(folder)

    return spoil


def other_architecture(kind: str) -> Spoil:
    """A checkpoint of another family in the same folder, with the same tokenizer."""

    def spoil(folder: Path) -> None:
        import torch
        import transformers

        torch.manual_seed(0)
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
        if kind == "bert":
            model = transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=vocabulary, **small))
        elif kind == "t5":
            config = transformers.T5Config(
                vocab_size=vocabulary, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
            )
            model = transformers.T5ForConditionalGeneration(config)
        else:
            model = transformers.ViTForImageClassification(
                transformers.ViTConfig(image_size=8, patch_size=4, **small)
            )
        (folder / "model.safetensors").unlink()
        model.save_pretrained(folder)

    return spoil


def sharded(folder: Path) -> None:
    """Two shards by the index, one of them missing."""
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    from safetensors import safe_open

    with safe_open(folder / "model-00001-of-00002.safetensors", framework="pt") as file:
        names = list(file.keys())
    shards = {name: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))


def pickled(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def model(spoil: Spoil, *says: str) -> Case:
    return Case("base info model", says, spoil={"model": spoil}, about=("base",))


def fewer_embeddings(found: dict) -> dict:
    return {name: held[:-5].contiguous() if held.shape[:1] == found["model.embed_tokens.weight"].shape[:1] else held for name, held in found.items()}  # fmt: skip


CHECKPOINTS: Cases = {
    "model-folder-without-a-config": model(gone("config.json"), "base 'model': no config.json in that folder"),
    "model-config-no-json": model(written("config.json", "{"), "config.json"),
    "model-config-a-list": model(written("config.json", "[1]"), "config.json"),
    "model-config-empty": model(written("config.json", "{}"), "base 'model' does not load"),
    "model-config-utf-16": model(written("config.json", "{}".encode("utf-16")), "config.json"),
    "model-config-deep": model(written("config.json", "[" * 100_000), "config.json"),
    "model-of-an-unknown-type": model(edited("config.json", model_type="llamma"), "base 'model' does not load", "llamma"),
    "model-with-code-of-its-own": model(
        both(edited("config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}), written("evil.py", "open('pwned', 'w')")),
        "base 'model' does not load",
    ),
    "model-of-no-layers": model(edited("config.json", num_hidden_layers=0), "base 'model': its config makes no layer"),
    "model-wider-than-its-weights": model(edited("config.json", hidden_size=64), "base 'model' does not load"),
    "model-of-more-layers-than-weights": model(edited("config.json", num_hidden_layers=3), "base 'model'", "lack", "model.layers.2"),
    "model-context-is-a-word": model(edited("config.json", max_position_embeddings="many"), "base 'model'"),
    "model-context-is-zero": model(edited("config.json", max_position_embeddings=0), "base 'model'", "context"),
    "model-without-weights": model(gone("model.safetensors"), "model: no *.safetensors weights"),
    "model-of-pickles-alone": model(pickled, "pytorch_model.bin: pickled weights can run code and are refused"),
    "model-weights-empty": model(written("model.safetensors", b""), "base 'model'"),
    "model-weights-half": model(torn("model.safetensors"), "base 'model'"),
    "model-weights-header-of-a-terabyte": model(written("model.safetensors", struct.pack("<Q", 2**40) + b"{}"), "base 'model'"),
    "model-weights-header-no-json": model(written("model.safetensors", struct.pack("<Q", 8) + b"{nothing"), "base 'model'"),
    "model-weights-are-text": model(written("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "base 'model'"),
    "model-a-shard-missing": model(sharded, "model-00002-of-00002.safetensors"),
    "model-index-no-json": model(both(sharded, written("model.safetensors.index.json", "{")), "model.safetensors.index.json"),
    "model-a-tensor-missing": model(
        tensors("model.safetensors", lambda found: {n: t for n, t in found.items() if n != "model.norm.weight"}), "base 'model'", "lack", "model.norm.weight"
    ),
    "model-tensors-of-other-names": model(tensors("model.safetensors", lambda found: {f"x.{n}": t for n, t in found.items()}), "base 'model'", "lack"),
    "model-weights-not-finite": model(
        tensors("model.safetensors", lambda found: {n: t * float("nan") if n == "model.norm.weight" else t for n, t in found.items()}), "base 'model'", "not finite"
    ),
    "model-without-a-tokenizer": model(gone("tokenizer.json", "tokenizer_config.json"), "base 'model'", "tokenizer"),
    "model-tokenizer-no-json": model(written("tokenizer.json", "{"), "base 'model'"),
    "model-tokenizer-a-list": model(written("tokenizer.json", "[]"), "base 'model'"),
    "model-tokenizer-of-another-form": model(written("tokenizer.json", '{"model": {"type": "Soup"}}'), "base 'model'"),
    "model-tokenizer-settings-a-list": model(written("tokenizer_config.json", "[]"), "base 'model'"),
    "model-vocabulary-larger-than-the-embedding": model(
        both(tensors("model.safetensors", fewer_embeddings), lambda folder: edited("config.json", vocab_size=json.loads((folder / "config.json").read_text())["vocab_size"] - 5)(folder)),
        "the tokenizer has", "embeddings",
    ),
    "model-that-reads-both-ways": model(other_architecture("bert"), "base 'model'", "causal"),
    "model-with-an-encoder": model(other_architecture("t5"), "base 'model' does not load"),
    "model-of-pictures": model(other_architecture("vit"), "base 'model' does not load"),
    "model-card-no-json": model(written("card.json", "{"), "card.json:1: not JSON"),
    "model-card-of-nan": model(written("card.json", '{"a": NaN}'), "card.json", "NaN"),
    "model-is-a-file": Case("base info model", ("base 'model' is a file",), {"model": "x"}, about=("base",)),
    "model-link-to-itself": Case("base info model", ("model",), {"model": lambda path: path.symlink_to("model")}, about=("base",)),
    "model-template-broken": Case("ask Who? --reading closed --base model", ("chat template",), spoil={"model": written("chat_template.jinja", "{% for m in %}")}, about=("--base",)),
    "model-template-that-refuses": Case(
        "ask Who? --reading closed --base model", ("chat template", "no users here"),
        spoil={"model": written("chat_template.jinja", "{{ raise_exception('no users here') }}")}, about=("--base",),
    ),
    "model-template-that-hides-the-question": Case("ask Who? --reading closed --base model", ("chat template",), spoil={"model": written("chat_template.jinja", "hello")}, about=("--base",)),
    "model-template-that-never-ends": Case(
        "ask Who? --reading closed --base model", ("chat template",), spoil={"model": written("chat_template.jinja", "{% for i in range(10**9) %}x{% endfor %}")}, about=("--base",)
    ),
}  # fmt: skip


# -- modules -----------------------------------------------------------------------------------------------------
def adapter(spoil: Spoil) -> dict[str, Spoil]:
    """The store with module A's folder spoilt."""
    return {"store": lambda folder: spoil(folder / "modules" / A)}


CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
USES = {
    "export": "modules export a1 --to out --store store",
    "merge": "modules merge a1 b1 --rule cat --store store",
    "ask": "ask Who? --modules a1 --store store --base {base}",
}


def module(use: str, spoil: Spoil, *says: str, code: int = 2) -> Case:
    return Case(USES[use], says, spoil=adapter(spoil), about=("module", "modules", "--modules"), code=code)


MODULES: Cases = {
    "module-weights-half": module("export", torn(WEIGHTS), "module a1a1a1a1a1a1", "not a readable safetensors file", code=1),
    "module-weights-gone": module("export", gone(WEIGHTS), f"no {WEIGHTS}", code=1),
    "module-weights-pickled": module("export", renamed(WEIGHTS, "adapter_model.bin"), "pickled weights can run code and are refused", code=1),
    "module-config-gone": module("export", gone(CONFIG), CONFIG, code=1),
    "module-config-a-list": module("export", written(CONFIG, "[]"), "not a LoRA adapter", code=1),
    "module-config-of-another-kind": module("export", edited(CONFIG, peft_type="LOHA"), "not a LoRA adapter", code=1),
    "module-config-of-another-rank": module("export", edited(CONFIG, r=7), "does not fit rank 7", code=1),
    "module-config-with-a-rank-pattern": module("export", edited(CONFIG, rank_pattern={"x": 3}), "rank_pattern", code=1),
    "module-config-of-another-alpha": module("export", edited(CONFIG, lora_alpha=99), "contradict each other", code=1),
    "module-config-of-a-start-nobody-knows": module("export", edited(CONFIG, init_lora_weights=["pissa"]), "init_lora_weights", code=1),
    "module-recipe-no-json": Case("modules show a1 --store store", ("recipe.json",), spoil=adapter(written("recipe.json", "{")), about=("module",), code=1),
    "module-recipe-a-list": Case("modules show a1 --store store", ("recipe.json",), spoil=adapter(written("recipe.json", "[]")), about=("module",), code=1),
    "module-recipe-without-a-recipe": Case("modules export a1 --to out --store store", ("recipe.json",), spoil=adapter(written("recipe.json", "{}")), about=("module",), code=1),
    "modules-one-of-them-torn": Case("modules list --store store", ("recipe.json",), spoil=adapter(written("recipe.json", '{"id": 5, "recipe": 5}')), about=("--store",), code=1),
    "modules-one-without-a-rank": Case("modules list --store store", ("damaged", A[:12]), spoil=adapter(both(written("recipe.json", '{"id": "a", "recipe": {"type": "imported", "base": "x"}}'), written(CONFIG, "{}"))), about=("--store",), code=1),
    "modules-merged-one-of-them-torn": module("merge", torn(WEIGHTS), "module a1a1a1a1a1a1", "not a readable safetensors file", code=1),
    "module-asked-that-is-torn": module("ask", torn(WEIGHTS), "module a1a1a1a1a1a1", "not a readable safetensors file"),
    "module-asked-whose-recipe-is-none": module("ask", written("recipe.json", "{}"), "is damaged"),
    "module-asked-of-another-base": Case("ask Who? --modules c1 --store store --base {base}", ("was made on base", "give the base it was made on"), spoil={"store": as_it_is}, about=("--modules", "--base")),
    "modules-asked-of-two-bases": Case("ask Who? --modules a1 --modules c1 --store store --base {base}", ("only modules of one base are asked together",), spoil={"store": as_it_is}, about=("--modules",)),
    "module-asked-that-does-not-fit": module("ask", tensors(WEIGHTS, lambda found: {n: t[..., :-1].contiguous() if ".lora_A." in n else t for n, t in found.items()}), "does not match this base"),
    "module-asked-of-unknown-layers": module("ask", tensors(WEIGHTS, lambda found: {n.replace("layers.1", "layers.9"): t for n, t in found.items()}), "does not match this base"),
    "module-asked-that-is-not-finite": module("ask", tensors(WEIGHTS, lambda found: {n: t * float("inf") for n, t in found.items()}), "module a1a1a1a1a1a1", "not finite"),
    "module-unknown": Case("modules show zz --store store", ("no module 'zz'", "allowed:"), spoil={"store": as_it_is}, about=("module",)),
    "module-not-unique": Case("modules show b --store store", ("module 'b' is not unique",), spoil={"store": as_it_is}, about=("module",)),
    "module-without-a-name": Case("modules show --store store", ("no module ''",), spoil={"store": as_it_is}, more=("",), about=("module",)),
    "module-a-path": Case("modules show ../../etc --store store", ("no module '../../etc'",), spoil={"store": as_it_is}, about=("module",)),
    "module-without-that-snapshot": Case("modules show a1@7 --store store", ("has no snapshot '7'",), spoil={"store": as_it_is}, about=("module",)),
    "module-a-snapshot-of-5000-digits": Case(f"modules export a1@{'9' * 5000} --to out --store store", ("has no snapshot '999",), spoil={"store": as_it_is}, about=("module",)),
    "module-a-snapshot-that-is-a-path": Case("modules export a1@../../x --to out --store store", ("has no snapshot '../../x'",), spoil={"store": as_it_is}, about=("module",)),
    "module-of-100-kilobytes": Case(f"modules show {'z' * 100_000} --store store", ("no module 'zzz",), spoil={"store": as_it_is}, about=("module",)),
    "export-for-an-unknown-reader": Case("modules export a1 --to out --for tgi --store store", ("--for 'tgi'; allowed: peft, vllm",), spoil={"store": as_it_is}, about=("--for",)),
    "export-with-a-limit-of-nobody": Case("modules export a1 --to out --max-lora-rank 8 --store store", ("--max-lora-rank is vLLM's",), spoil={"store": as_it_is}, about=("--max-lora-rank",)),
    "export-with-a-limit-that-vllm-has-not": Case("modules export a1 --to out --for vllm --max-lora-rank 7 --store store", ("7",), spoil={"store": as_it_is}, about=("--max-lora-rank",)),
    "export-with-a-blank-base": Case("modules export a1 --to out --store store --base-name", ("--base-name",), more=(" ",), spoil={"store": as_it_is}, about=("--base-name",)),
    "delete-unknown": Case("modules delete zz --store store", ("no module 'zz'",), spoil={"store": as_it_is}, about=("module",)),
    "delete-all-that-begin-alike": Case("modules delete b --store store", ("is not unique",), spoil={"store": as_it_is}, about=("module",)),
    "delete-a-snapshot": Case("modules delete a1@3 --store store", ("a snapshot", "goes with its module"), spoil={"store": as_it_is}, about=("module",)),
    "export-into-a-full-folder": Case("modules export a1 --to out --store store", ("out exists and is not an empty folder",), {"out/x": "mine"}, spoil={"store": as_it_is}, about=("--to",)),
    "export-over-a-file": Case("modules export a1 --to out --store store", ("out exists and is not an empty folder",), {"out": "mine"}, spoil={"store": as_it_is}, about=("--to",)),
    "export-below-a-file": Case("modules export a1 --to f/out --store store", ("f/out",), {"f": "mine"}, spoil={"store": as_it_is}, about=("--to",)),
    "merge-of-unknown": Case("modules merge a1 zz --store store", ("no module 'zz'",), spoil={"store": as_it_is}, about=("modules",)),
    "merge-of-two-bases": Case("modules merge a1 c1 --store store", ("only modules of one known base are merged",), spoil={"store": as_it_is}, about=("modules",)),
    "merge-of-other-ranks": Case(f"modules merge a1 {B2} --rule linear-factors --store store", ("need one rank",), spoil={"store": as_it_is}, about=("modules", "--rule")),
    "merge-by-an-unknown-rule": Case("modules merge a1 c1 --rule tie-delta --store store", ("Did you mean 'ties-delta'?",), spoil={"store": as_it_is}, about=("--rule",)),
    "merge-with-too-few-weights": Case("modules merge a1 b1 --weights 0.5 --store store", ("1 weights for 2 modules",), spoil={"store": as_it_is}, about=("--weights",)),
    "merge-with-weights-of-words": Case("modules merge a1 b1 --weights a,b --store store", ("--weights 'a,b': give numbers",), spoil={"store": as_it_is}, about=("--weights",)),
    "merge-with-weights-of-nan": Case("modules merge a1 b1 --weights nan,1 --store store", ("weights",), spoil={"store": as_it_is}, about=("--weights",)),
    "merge-with-weights-of-zero": Case("modules merge a1 b1 --weights 0,0 --store store", ("one of them above 0",), spoil={"store": as_it_is}, about=("--weights",)),
    "merge-with-negative-weights": Case("modules merge a1 b1 --weights=-1,2 --store store", ("weights",), spoil={"store": as_it_is}, about=("--weights",)),
    "merge-with-infinite-weights": Case("modules merge a1 b1 --weights 1e999,1 --store store", ("weights",), spoil={"store": as_it_is}, about=("--weights",)),
    "merge-of-density-0": Case("modules merge a1 b1 --density 0 --store store", ("density",), spoil={"store": as_it_is}, about=("--density",)),
    "merge-of-density-nan": Case("modules merge a1 b1 --density nan --store store", ("density",), spoil={"store": as_it_is}, about=("--density",)),
    "merge-of-density-for-a-sum": Case("modules merge a1 b1 --rule cat --density 0.5 --store store", ("cat prunes nothing",), spoil={"store": as_it_is}, about=("--density",)),
    "merge-of-rank-0": Case("modules merge a1 b1 --rank 0 --store store", ("rank",), spoil={"store": as_it_is}, about=("--rank",)),
    "merge-of-seed-for-nothing-drawn": Case("modules merge a1 b1 --seed 3 --store store", ("ties-delta draws nothing",), spoil={"store": as_it_is}, about=("--seed",)),
    "merge-of-a-seed-of-words": Case("modules merge a1 b1 --rule dare-ties-delta --seed x --store store", ("--seed", "given 'x'"), spoil={"store": as_it_is}, about=("--seed",)),
    "merge-of-nothing": Case("modules merge --store store", ("Missing argument",), spoil={"store": as_it_is}, about=("modules",)),
}  # fmt: skip


# -- run folders -------------------------------------------------------------------------------------------------
def run(
    command: str, spoil: Spoil, *says: str, about: tuple[str, ...] = ("run",), files: dict | None = None
) -> Case:
    return Case(command, says, files or {}, spoil={"run": spoil}, about=about)


RUNS: Cases = {
    "report-of-nothing": Case("study report nowhere", ("nowhere", "no summary.json of a run there"), about=("run",)),
    "report-of-a-file": Case("study report f", ("f", "no summary.json of a run there"), {"f": "x"}, about=("run",)),
    "report-of-half-a-summary": run("study report run", torn("summary.json"), "summary.json", "not JSON"),
    "report-of-another-summary": run("study report run", written("summary.json", '{"cells": 5, "capacity": 5, "sweeps": 5, "run": 5}'), "summary.json", "damaged"),
    "report-of-cells-of-numbers": run("study report run", edited("summary.json", cells=[5]), "summary.json", "damaged"),
    "report-of-cells-without-scores": run("study report run", edited("summary.json", cells=[{"cell": "a"}]), "summary.json", "damaged"),
    "report-of-a-list": run("study report run", written("summary.json", "[]"), "no summary.json of a run there"),
    "report-of-nan": run("study report run", written("summary.json", '{"cells": NaN}'), "summary.json", "NaN"),
    "report-into-a-full-folder": run("study report run --to out", as_it_is, "out", "not an empty folder", about=("--to",), files={"out/x": "mine"}),
    "report-over-a-file": run("study report run --to out", as_it_is, "out", about=("--to",), files={"out": "mine"}),
    "report-of-a-torn-series": Case("study report all", ("series.json", "not JSON"), {"all/series.json": "{"}, about=("run",)),
    "report-of-a-series-of-numbers": Case("study report all", ("series.json", "damaged"), {"all/series.json": '{"studies": [5], "scale": 3, "command": 1}'}, about=("run",)),
    "compare-with-nothing": run("study compare run nowhere", as_it_is, "nowhere: no such run folder", about=("b",)),
    "compare-nothing": run("study compare nowhere run", as_it_is, "nowhere: no such run folder", about=("a",)),
    "compare-items-that-are-text": run("study compare run run", written("items.parquet", "hello"), "items.parquet: not readable", about=("a",)),
    "compare-items-half": run("study compare run run", torn("items.parquet"), "items.parquet: not readable", about=("a",)),
    "compare-items-gone": run("study compare run run", gone("items.parquet"), "no items.parquet", about=("b",)),
    "compare-a-metric-nobody-knows": run("study compare run run --metric exact", as_it_is, "unknown metric 'exact'", "Did you mean", about=("--metric",)),
    "compare-a-metric-that-neither-has": run("study compare run run --metric rouge_l", as_it_is, "have no cell, metric and fact in common", about=("--metric",)),
    "compare-over-a-folder": run("study compare run run --out run", as_it_is, "--out run: is a folder", about=("--out",)),
    "compare-below-a-file": run("study compare run run --out f/x.csv", as_it_is, "f/x.csv", about=("--out",), files={"f": "x"}),
    "plan-of-nothing": Case("study plan-capacity nowhere --facts 9", ("no summary.json of a run there",), about=("run",)),
    "plan-of-no-facts": run("study plan-capacity run --facts 0", as_it_is, "--facts 0: give at least 1", about=("--facts",)),
    "plan-of-words": run("study plan-capacity run --facts many", as_it_is, "--facts", "given 'many'", about=("--facts",)),
    "plan-of-a-threshold-not-measured": run("study plan-capacity run --facts 9 --threshold 0.8", as_it_is, "--threshold 0.8: not measured in run; allowed: 0.9, 1", about=("--threshold",)),
    "plan-of-threshold-nan": run("study plan-capacity run --facts 9 --threshold nan", as_it_is, "--threshold nan: not measured", about=("--threshold",)),
    "plan-of-another-source": run("study plan-capacity run --facts 9 --threshold 0.9 --source phonebok", as_it_is, "--source phonebok: not measured", "Did you mean 'phonebook'?", about=("--source",)),
    "plan-of-a-run-without-limits": run("study plan-capacity run --facts 9", edited("summary.json", capacity={"cells": [], "limits": [], "laws": []}), "that study measured no limits", about=("run",)),
    "plan-of-limits-of-numbers": run("study plan-capacity run --facts 9", edited("summary.json", capacity={"limits": [5]}), "summary.json", "damaged", about=("run",)),
    "plan-without-capacity": run("study plan-capacity run --facts 9", edited("summary.json", capacity=[]), "summary.json", "damaged", about=("run",)),
}  # fmt: skip

MODELS: Cases = {**CHECKPOINTS, **MODULES, **RUNS}
