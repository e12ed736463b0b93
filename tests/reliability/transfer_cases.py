"""Adapters that cannot come in, and modules that cannot go out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from reliability.case import A, Case, Cases, as_it_is
from reliability.model_cases import (
    CONFIG,
    WEIGHTS,
    Spoil,
    both,
    edited,
    gone,
    renamed,
    tensors,
    torn,
    written,
)

FOLDER = f"store/modules/{A}"


def adapter(spoil: Spoil, *says: str) -> Case:
    """A module's folder, taken for an adapter of another program, of which something is wrong."""
    foreign = both(gone("recipe.json"), spoil)
    return Case(
        f"modules import {FOLDER} --base {{base}}", says, spoil={"store": lambda store: foreign(store / "modules" / A)}, about=("folder",)
    )  # fmt: skip


def importing(words: str, *says: str, about: str, **more) -> Case:
    return Case(f"modules import {FOLDER} {words}", says, spoil={"store": as_it_is}, about=(about,), **more)


def exporting(words: str, *says: str, about: str, more: tuple[str, ...] = ()) -> Case:
    return Case(f"modules export a1 --to out --store store {words}", says, spoil={"store": as_it_is}, about=(about,), more=more)  # fmt: skip


def linked(name: str) -> Spoil:
    """A file that is a link out of the folder."""

    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to("/etc/passwd")

    return spoil


def piped(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return spoil


def mapped(change: Callable[[dict], dict]) -> Spoil:
    return tensors(WEIGHTS, change)


IMPORTS: Cases = {
    "import-of-nothing": Case("modules import nowhere --base {base}", ("'nowhere': no such folder",), about=("folder",)),
    "import-of-a-file": Case("modules import f --base {base}", ("'f': is a file",), {"f": "x"}, about=("folder",)),
    "import-of-an-empty-folder": Case("modules import d --base {base}", (f"d: no {WEIGHTS}",), {"d/x": "x"}, about=("folder",)),
    "import-of-no-name": Case("modules import --base {base}", (f"no {WEIGHTS}",), more=("",), about=("folder",)),
    "import-of-a-pickle": adapter(renamed(WEIGHTS, "adapter_model.bin"), "pickled weights can run code and are refused"),
    "import-of-half-the-weights": adapter(torn(WEIGHTS), "not a readable safetensors file"),
    "import-of-weights-of-text": adapter(written(WEIGHTS, "version https://git-lfs.github.com/spec/v1\n"), "not a readable safetensors file"),
    "import-without-a-config": adapter(gone(CONFIG), CONFIG),
    "import-of-a-config-that-is-a-list": adapter(written(CONFIG, "[]"), "not a LoRA adapter"),
    "import-of-another-kind": adapter(edited(CONFIG, peft_type="VERA"), "not a LoRA adapter (peft_type 'VERA')"),
    "import-of-ranks-by-layer": adapter(edited(CONFIG, rank_pattern={"q_proj": 9}), "'rank_pattern'", "is not supported"),
    "import-of-an-unknown-key": adapter(edited(CONFIG, **{"\x1b[31m": 5}), "is not supported"),
    "import-of-rank-0": adapter(edited(CONFIG, r=0), "r = 0 is no rank"),
    "import-of-alpha-below-0": adapter(edited(CONFIG, lora_alpha=-1), "lora_alpha = -1 is no scale"),
    "import-of-a-pissa-start": adapter(edited(CONFIG, init_lora_weights="pissa"), "changes the base's own weights"),
    "import-of-other-targets": adapter(edited(CONFIG, target_modules=["q_proj"]), "its targets leave out layers that have tensors"),
    "import-of-more-targets": adapter(edited(CONFIG, target_modules="all-linear"), "have no tensors in"),
    "import-of-half-a-pair": adapter(mapped(lambda found: dict(list(found.items())[1:])), "1 tensors are missing"),
    "import-of-unknown-layers": adapter(mapped(lambda found: {n.replace("layers.1", "layers.9"): t for n, t in found.items()}), "are not linear layers of this base"),
    "import-of-other-widths": adapter(mapped(lambda found: {n: t[..., :-1].contiguous() if ".lora_A." in n else t for n, t in found.items()}), "of other widths than this base's"),
    "import-of-no-numbers": adapter(mapped(lambda found: {n: t * float("nan") for n, t in found.items()}), "not finite"),
    "import-of-whole-numbers": adapter(mapped(lambda found: {n: t.int() for n, t in found.items()}), "holds I32"),
    "import-of-a-link": adapter(linked(CONFIG), "a link that leaves the folder"),
    "import-of-a-pipe": adapter(piped(WEIGHTS), "not a regular file"),
    "import-of-our-own-for-another-base": Case(
        "modules import adapter --base {base}", ("says that it was made on base '00000000'",), about=("folder", "--base"),
        spoil={"store": lambda store: (store.parent / "adapter").symlink_to(next((store / "modules").glob("c1*")))},
    ),
    "import-onto-an-unknown-base": importing("--base nowhere", "base 'nowhere'", about="--base"),
    "import-with-a-text-that-is-missing": importing("--base {base} --text no.txt", "no such file: no.txt", about="--text"),
    "import-with-an-empty-text": importing("--base {base} --text t.txt", "t.txt is empty", about="--text", files={"t.txt": " \n"}),
    "import-with-a-text-in-latin-1": importing("--base {base} --text t.txt", "not UTF-8", about="--text", files={"t.txt": b"caf\xe9"}),
    "import-into-a-store-that-is-a-file": importing("--base {base} --store f", "store f", about="--store", files={"f": "x"}),
    "import-on-no-device": importing("--base {base} --device tpu9", "device 'tpu9' cannot be used", about="--device"),
    "import-in-no-dtype": importing("--base {base} --dtype float7", "unknown dtype 'float7'", about="--dtype"),
}  # fmt: skip
EXPORTS: Cases = {
    "export-for-nobody": exporting("--for vlm", "--for 'vlm'", "Did you mean 'vllm'?", about="--for"),
    "export-at-a-rank-that-vllm-has-not": exporting("--for vllm --max-lora-rank 12", "vLLM takes 8, 16", "16 serves ranks up to 12", about="--max-lora-rank"),
    "export-at-rank-0": exporting("--for vllm --max-lora-rank 0", "vLLM takes 8, 16", about="--max-lora-rank"),
    "export-at-a-rank-of-words": exporting("--for vllm --max-lora-rank x", "--max-lora-rank", "int", about="--max-lora-rank"),
    "export-to-peft-at-a-limit": exporting("--max-lora-rank 16", "give --for vllm with it", about="--max-lora-rank"),
    "export-for-a-base-of-no-name": exporting("--base-name", "--base-name ''", about="--base-name", more=("",)),
    "export-for-a-base-of-two-lines": exporting("--base-name", "--base-name 'a\\nb'", about="--base-name", more=("a\nb",)),
    "export-of-two-bases-to-one-server": exporting("c1 --for vllm", "one vLLM server has one base", about="modules"),
    "export-of-one-that-is-unknown": exporting("zz", "no module 'zz'", about="modules"),
}  # fmt: skip

TRANSFERS: Cases = {**IMPORTS, **EXPORTS}
