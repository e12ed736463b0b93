"""`loramem modules export` and `import`, end to end: many modules to vLLM, adapters of others in, and used like any module."""

from __future__ import annotations

import copy
import json
import shlex
from pathlib import Path

import peft
import pytest
import torch


@pytest.fixture
def trained(loramem, checkpoints, tmp_path) -> list[str]:
    """Two modules of ranks 2 and 12, the first with a snapshot."""
    made = []
    for number, rank in enumerate((2, 12)):
        data = tmp_path / f"{number}.jsonl"
        data.write_text(f'{{"question": "Who is Zoë?", "answer": "pilot {number}"}}\n')
        code, said, error = loramem(
            "modules", "train", "--supervision", data, "--base", checkpoints["llama"], "--rank", rank, "--steps", 2,
            *(("--snapshots", "1") if not number else ()),
        )  # fmt: skip
        assert code == 0, error
        made.append(said.split()[1])
    return made


@pytest.fixture
def foreign(bases, tmp_path) -> Path:
    """An adapter that PEFT made and saved."""
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False
    )
    model = peft.get_peft_model(copy.deepcopy(bases["llama"].model), config)
    model.save_pretrained(tmp_path / "foreign")
    return tmp_path / "foreign"


def test_several_modules_are_exported_with_the_line_that_serves_them(loramem, trained, checkpoints, tmp_path):
    one, other = trained
    out = tmp_path / "served here"
    code, said, error = loramem("modules", "export", one, other, f"{one}@1", "--to", out, "--for", "vllm")
    assert code == 0, error
    lines = said.splitlines()
    names = [one, other, f"{one}-step1"]
    assert lines[:3] == [f"exported {name} to {out.resolve() / name}" for name in names]
    assert shlex.split(lines[3]) == [
        "vllm", "serve", str(checkpoints["llama"]), "--enable-lora", "--max-lora-rank", "16", "--lora-modules",
        *(f"{name}={out.resolve() / name}" for name in names),
    ]  # fmt: skip
    assert lines[4].endswith("rank 2 by 8, rank 12 by 16 and above") and len(lines) == 5
    assert {path.name for path in out.iterdir()} == set(names)
    for name in names:
        assert {path.name for path in (out / name).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "recipe.json",
        }
    code, said, error = loramem("modules", "export", one, other, "--to", tmp_path / "few", "--for", "vllm", "--max-lora-rank", "8")  # fmt: skip
    assert code == 2 and f"module {other} has rank 12, above the limit of 8" in error
    assert not (tmp_path / "few").exists()


def test_what_was_imported_is_asked_merged_listed_exported_and_deleted(
    loramem, foreign, checkpoints, tmp_path
):
    text = tmp_path / "learnt.txt"
    text.write_text("The lighthouse keeper of Ostra is called Mirelle.")
    base = ("--base", checkpoints["llama"])
    code, said, error = loramem("modules", "import", foreign, *base, "--text", text)
    assert code == 0, error
    identity = said.split()[1]
    assert len(identity) == 12 and "\nnote: its config names the base" not in said, "PEFT wrote no other name"
    again = loramem("modules", "import", foreign, *base)
    assert again[0] == 0 and again[1].split()[1] == identity, "the same content is the same module"
    listed = next(line for line in loramem("modules", "list")[1].splitlines() if line.startswith(identity))
    assert "imported lora" in listed and "rank 4" in listed
    shown = json.loads(loramem("modules", "show", identity)[1])
    assert shown["recipe"]["type"] == "imported" and len(shown["recipe"]["content"]) == 64
    code, said, error = loramem("ask", "Who keeps the lighthouse?", "--modules", identity, *base, "--json")
    assert code == 0 and json.loads(said)["reading"] == "module", error
    code, said, error = loramem("ask", "Who keeps the lighthouse of Ostra?", "--modules", identity, *base, "--reading", "routed", "--router", "bm25", "--json")  # fmt: skip
    assert code == 0 and json.loads(said)["candidates"][0]["learnt"].startswith("The lighthouse"), error
    code, said, error = loramem("modules", "merge", identity, "--rule", "svd-delta", "--rank", "2")
    assert code == 0, error
    merged = said.split()[1]
    code, said, error = loramem("modules", "export", identity, merged, "--to", tmp_path / "out", "--for", "vllm")  # fmt: skip
    assert code == 0 and {path.name for path in (tmp_path / "out").iterdir()} == {identity, merged}, error
    assert loramem("modules", "delete", identity)[0] == 0
    assert loramem("modules", "show", identity)[0] == 2


def test_an_import_that_is_refused_leaves_no_trace(loramem, foreign, checkpoints, tmp_path):
    code, said, error = loramem("modules", "import", foreign, "--base", checkpoints["gpt2"])
    assert code == 2 and str(foreign) in error and "Traceback" not in said + error, error
    code, _, error = loramem("modules", "import", foreign, "--base", checkpoints["llama"], "--text", tmp_path / "no.txt")  # fmt: skip
    assert code == 2 and "no such file" in error
    store = tmp_path / "store"
    assert not store.exists() or not list((store / "modules").iterdir())
    assert loramem("modules", "list")[1] == "0 modules\n"


def test_dora_says_so_in_the_list_and_keeps_to_peft(loramem, bases, checkpoints, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, use_dora=True)
    peft.get_peft_model(copy.deepcopy(bases["llama"].model), config).save_pretrained(tmp_path / "dora")
    code, said, error = loramem("modules", "import", tmp_path / "dora", "--base", checkpoints["llama"])
    assert code == 0, error
    identity = said.split()[1]
    assert "imported dora" in loramem("modules", "list")[1]
    code, _, error = loramem("modules", "export", identity, "--to", tmp_path / "out", "--for", "vllm")
    assert code == 2 and "is DoRA, which vLLM does not load" in error and not (tmp_path / "out").exists()
    assert loramem("modules", "export", identity, "--to", tmp_path / "out")[0] == 0
