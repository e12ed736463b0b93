"""What is exported is what its readers take: PEFT computes the bank's logits; vLLM's documented rules accept it and find the same update."""

from __future__ import annotations

import copy
import json
import math
import shlex
from pathlib import Path

import peft
import pytest
import torch
from safetensors import safe_open

from loramem import api
from loramem.core.errors import Corrupt, InputError
from loramem.modules import vllm
from loramem.modules.merged import Merging
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.modules.targets import linears, resolve_targets
from loramem.modules.transfer import export
from loramem.modules.variants import weight_of
from modules.keeping import ids_of, keep, logits_of, read

SPECS = {
    "lora": LoraSpec(rank=3, alpha=6),
    "pissa": LoraSpec(rank=2, alpha=3, variant="pissa"),
    "dora": LoraSpec(rank=2, alpha=3, variant="dora"),
    "rslora": LoraSpec(rank=5, alpha=7, scaling="rslora"),
    "attention": LoraSpec(rank=2, targets="attention"),
    "mlp": LoraSpec(rank=2, targets="mlp"),
    "first half": LoraSpec(rank=2, layers="first-half"),
    "second half": LoraSpec(rank=2, layers="second-half"),
    "attention of a layer": LoraSpec(rank=2, targets="attention", layers=(1,)),
}
PACKED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"], "o_proj": [], "down_proj": []}  # fmt: skip
"""The linear layers of vLLM's models of the Llama kind: some hold several of the checkpoint's."""


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def off(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    return (mine - theirs).abs().max().item()


def in_peft(base, folder: Path, ids: torch.Tensor) -> torch.Tensor:
    return logits_of(peft.PeftModel.from_pretrained(copy.deepcopy(base.model), folder).eval(), ids)


# -- PEFT --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
@pytest.mark.parametrize("kind", SPECS)
def test_peft_computes_the_banks_logits(bases, store, tmp_path, family, kind):
    """GPT-2's `c_proj` is in attention and in the MLP, and its weights are transposed."""
    base, ids = bases[family], ids_of(bases[family])
    module = keep(store, base, SPECS[kind])
    [folder] = export([module], tmp_path / "out").folders.values()
    mine = read(base, *module.load(), ids)
    assert off(mine, in_peft(base, folder, ids)) < 1e-5
    assert off(mine, logits_of(base.model, ids)) > 1e-2, "the module says something"


def test_peft_computes_the_logits_of_snapshots_and_merged_modules(bases, store, tmp_path):
    base, ids = bases["llama"], ids_of(bases["llama"])
    one = keep(store, base, SPECS["lora"], steps=(0, 20))
    other = keep(store, base, LoraSpec(rank=4), seed=1)
    merged = api.merge([one.id, other.id], Merging(rule="ties-delta", rank=5), store=store.root)
    found = []
    for name in (one.id, f"{one.id[:8]}@20", f"{one.id}@0", merged.id):
        module = store.module(name)
        [folder] = export([module], tmp_path / str(len(found))).folders.values()
        found.append(read(base, *module.load(), ids))
        assert off(found[-1], in_peft(base, folder, ids)) < 1e-5, name
        assert {path.name for path in folder.iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
            "recipe.json",
        }
    assert all(off(a, b) > 1e-2 for n, a in enumerate(found) for b in found[:n]), "four modules, four folders"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("how", [{"use_rslora": True}, {"use_dora": True}, {"layers_to_transform": [1]}, {}], ids=str)  # fmt: skip
def test_an_adapter_of_peft_goes_in_and_out_and_stays_the_same_function(bases, store, tmp_path, family, how):
    base, ids = bases[family], ids_of(bases[family])
    names = ["c_attn", "c_proj"] if family == "gpt2" else ["q_proj", "v_proj", "down_proj"]
    config = peft.LoraConfig(r=3, lora_alpha=5, target_modules=names, init_lora_weights=False, **how)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(copy.deepcopy(base.model), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    expected = logits_of(theirs, ids)
    module = api.import_module(tmp_path / "theirs", base=base.name, store=store.root)
    assert off(read(base, *module.load(), ids), expected) < 1e-5
    [folder] = export([module], tmp_path / "out").folders.values()
    assert off(in_peft(base, folder, ids), expected) < 1e-5
    again = api.import_module(folder, base=base.name, store=tmp_path / "other")
    assert again.id == module.id, "what comes back is the same content"


# -- vLLM --------------------------------------------------------------------------------------------
class Refused(Exception):
    """vLLM would not load it."""


def vllm_loads(folder: Path, limit: int) -> dict[str, tuple[torch.Tensor, torch.Tensor, float]]:
    """A, B and scale of each layer, read by the rules of vLLM's LoRA loader (its documentation and source, 0.6 to 0.28)."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if missing := {"r", "lora_alpha", "target_modules"} - set(config):
        raise Refused(f"missing {missing}")
    if config.get("modules_to_save") or config.get("use_dora") or config.get("bias", "none") != "none":
        raise Refused("modules_to_save, DoRA or bias")
    if limit not in (8, 16, 32, 64, 128, 256, 320, 512) or config["r"] > limit:
        raise Refused(f"rank {config['r']} at limit {limit}")
    rank = config["r"]
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    expected = [name for packed, parts in PACKED.items() for name in (parts or [packed])]
    found: dict[str, dict[str, torch.Tensor]] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - not a mapping
            *layer, which, last = name.removeprefix("base_model.model.").split(".")
            if last != "weight" or which not in ("lora_A", "lora_B"):
                raise Refused(f"{name} is unsupported LoRA weight")
            if layer[-1] not in expected:
                raise Refused(f"expected target modules in {expected}, received {layer[-1]}")
            found.setdefault(".".join(layer), {})[which] = file.get_tensor(name)
    for layer, pair in found.items():
        a, b = pair["lora_A"], pair["lora_B"]
        if a.shape[0] > limit or b.shape[1] != a.shape[0]:
            raise Refused(f"shapes of {layer}")
    return {layer: (pair["lora_A"], pair["lora_B"], scale) for layer, pair in found.items()}


def vllm_parses(line: str) -> tuple[str, int, dict[str, Path]]:
    """Base, limit and folders of a `vllm serve` line, by the rules of its command line: NAME=PATH without a comma, else JSON."""
    words = shlex.split(line)
    assert words[:2] == ["vllm", "serve"] and words[3] == "--enable-lora" and words[4] == "--max-lora-rank" and words[6] == "--lora-modules"  # fmt: skip
    folders = {}
    for item in words[7:]:
        if "=" in item and "," not in item:
            name, path = item.split("=")
        else:
            said = json.loads(item)
            name, path = said["name"], said["path"]
        assert name not in folders
        folders[name] = Path(path)
    return words[2], int(words[5]), folders


PLAIN = [kind for kind in SPECS if kind != "dora"]


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "mistral"])
def test_vllms_rules_accept_every_plain_module_and_find_its_update(bases, store, tmp_path, family):
    """The reader's A, B and scale are the module's, to the bit; added to the base's weights they give the bank's logits."""
    base, ids = bases[family], ids_of(bases[family])
    modules = [keep(store, base, SPECS[kind], seed=n) for n, kind in enumerate(PLAIN)]
    made = export(modules, tmp_path / "out", reader="vllm")
    where, limit, folders = vllm_parses(made.serve)
    assert where == str(Path(base.name).resolve()) and limit == 8 and folders == made.folders
    for kind, module, folder in zip(PLAIN, modules, folders.values(), strict=True):
        spec, tensors = module.load()
        found = vllm_loads(folder, limit)
        assert set(found) == set(resolve_targets(base.model, SPECS[kind])), kind
        changed = copy.deepcopy(base.model).double()
        layers = linears(changed)
        for layer, (a, b, scale) in found.items():
            assert torch.equal(a, tensors[f"base_model.model.{layer}.lora_A.weight"])
            assert torch.equal(b, tensors[f"base_model.model.{layer}.lora_B.weight"])
            assert scale == pytest.approx(spec.scale, rel=1e-12)
            with torch.no_grad():
                weight_of(layers[layer]).add_(scale * (b.double() @ a.double()))
        assert off(logits_of(changed, ids), read(base, spec, tensors, ids).double()) < 1e-4, kind


def test_the_reader_refuses_what_vllm_refuses(bases, store, tmp_path):
    """Else the test above would say nothing."""
    for number, (family, spec, limit, why) in enumerate(
        [
            ("llama", SPECS["dora"], 16, "DoRA"),
            ("llama", LoraSpec(rank=12), 8, "rank 12"),
            ("gpt2", SPECS["lora"], 16, "expected target"),
        ]
    ):
        module = keep(store, bases[family], spec)
        [folder] = export([module], tmp_path / str(number)).folders.values()
        with pytest.raises(Refused, match=why):
            vllm_loads(folder, limit)


@pytest.mark.parametrize(
    ("rank", "limit", "says"),
    [
        (8, None, None),
        (12, None, "rank 12 by 16"),
        (17, None, "above vLLM's default limit of 16: without --max-lora-rank 32"),
        (3, 64, "rank 3 by 8"),
    ],
)
def test_the_line_gives_the_limit_that_serves(bases, store, tmp_path, rank, limit, says):
    module = keep(store, bases["llama"], LoraSpec(rank=rank))
    made = export([module], tmp_path / "out", reader="vllm", max_lora_rank=limit)
    assert vllm_parses(made.serve)[1] == (limit or vllm.limit_for(rank))
    assert says in " ".join(made.notes) if says else not made.notes
    assert made.folders == {module.id[:12]: (tmp_path / "out").resolve()}


@pytest.mark.parametrize(
    ("family", "spec", "options", "says"),
    [
        ("llama", SPECS["dora"], {}, "is DoRA, which vLLM does not load"),
        ("gpt2", SPECS["lora"], {}, "for which vLLM has no LoRA"),
        ("llama", LoraSpec(rank=20), {"max_lora_rank": 16}, "give --max-lora-rank 32 here and to vllm serve, or cut it: loramem modules merge {id} --rule svd-delta --rank 16"),
        ("llama", LoraSpec(rank=513), {}, "above the limit of 512: cut it: loramem modules merge {id} --rule svd-delta --rank 512"),
        ("llama", SPECS["lora"], {"max_lora_rank": 12}, "vLLM takes 8, 16, 32, 64, 128, 256, 320, 512; 16 serves ranks up to 12"),
        ("llama", SPECS["lora"], {"max_lora_rank": 0}, "vLLM takes 8"),
        ("llama", SPECS["lora"], {"max_lora_rank": 1000}, "vLLM takes 8"),
        ("llama", SPECS["lora"], {"reader": "peft", "max_lora_rank": 16}, "give --for vllm"),
        ("llama", SPECS["lora"], {"reader": "vlm"}, "Did you mean 'vllm'"),
        ("llama", SPECS["lora"], {"base_name": " "}, "give a hub id"),
        ("llama", SPECS["lora"], {"base_name": "a\nb"}, "give a hub id"),
    ],
)  # fmt: skip
def test_what_a_reader_does_not_take_is_refused_with_the_way_out(
    bases, store, tmp_path, family, spec, options, says
):
    module = keep(store, bases[family], spec)
    with pytest.raises(InputError) as caught:
        export([module], tmp_path / "out", **{"reader": "vllm"} | options)
    assert says.replace("{id}", module.id[:12]) in str(caught.value)
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_the_way_out_of_a_rank_works(bases, store, tmp_path):
    module = keep(store, bases["llama"], LoraSpec(rank=20))
    cut = api.merge([module.id], Merging(rule="svd-delta", rank=8), store=store.root)
    made = export([cut], tmp_path / "out", reader="vllm", max_lora_rank=8)
    assert len(vllm_loads(tmp_path / "out", 8)) == 14 and vllm_parses(made.serve)[1] == 8


def test_every_module_that_a_server_cannot_have_is_named_and_none_is_written(bases, store, tmp_path):
    good, wide, other = (keep(store, bases["llama"], SPECS[kind]) for kind in ("lora", "dora", "mlp"))
    with pytest.raises(InputError, match="is DoRA") as caught:
        export([good, wide, other], tmp_path / "out", reader="vllm")
    assert wide.id[:12] in str(caught.value) and good.id[:12] not in str(caught.value)
    foreign = keep(store, bases["mistral"], SPECS["lora"])
    with pytest.raises(InputError, match="one vLLM server has one base"):
        export([good, foreign], tmp_path / "out", reader="vllm")
    assert not (tmp_path / "out").exists()
    assert len(export([good, foreign], tmp_path / "out").folders) == 2, "PEFT reads each on its own base"


def test_names_are_safe_and_unique_and_odd_folders_survive_the_shell(bases, store, tmp_path):
    base = bases["llama"]
    one = keep(store, base, SPECS["lora"], steps=(5,))
    twice = [one, store.module(f"{one.id}@5"), one]
    for name in ("plain", "a space", "a,comma", "an=equals", 'quo\'te "$HOME"', "Ünïcödé"):
        made = export(twice, tmp_path / name, reader="vllm", base_name="org/base")
        where, _, folders = vllm_parses(made.serve)
        assert where == "org/base" and folders == made.folders
        assert list(folders) == [one.id[:12], f"{one.id[:12]}-step5"], "the same module once"
        for folder in folders.values():
            config = json.loads((folder / "adapter_config.json").read_text())
            assert config["base_model_name_or_path"] == "org/base" and vllm_loads(folder, 8)
    assert vllm.safe_names(["abc1" * 16, "abc1" * 15 + "abc2"]) == ["abc1" * 16, "abc1" * 15 + "abc2"]


def test_a_damaged_module_is_found_before_anything_is_written(bases, store, tmp_path):
    good, bad = keep(store, bases["llama"], SPECS["lora"]), keep(store, bases["llama"], SPECS["mlp"])
    (bad.folder / "adapter_model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    with pytest.raises(Corrupt, match=bad.id[:12]):
        export([good, bad], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_set_that_cannot_be_finished_is_taken_back(bases, store, tmp_path, monkeypatch):
    from loramem.modules import transfer

    modules = [keep(store, bases["llama"], SPECS[kind]) for kind in ("lora", "mlp")]
    done = []

    def fails(source, target):
        done.append(target)
        if len(done) == 3:
            raise OSError(28, "No space left on device")
        return Path(target).write_bytes(Path(source).read_bytes())

    monkeypatch.setattr(transfer.shutil, "copyfile", fails)
    with pytest.raises(OSError, match="No space"):
        export(modules, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
