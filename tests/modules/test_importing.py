"""An adapter folder becomes a module only if all of it fits the base; equal content is the same module, whatever words describe it."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from loramem import api
from loramem.core.errors import InputError
from loramem.modules import peft_format
from loramem.modules.importing import read_adapter
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.modules.targets import linears, resolve_targets, spelled
from loramem.modules.transfer import export
from modules.keeping import ids_of, keep, logits_of, read, weights

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SPEC = LoraSpec(rank=3, alpha=6, targets="attention")
LAYER = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(bases):
    return bases["llama"]


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    """An adapter folder as another program writes it: no word of ours in its weights."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = peft_format.adapter_config(SPEC, model=base.model, base_name="org/base")
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(weights(base, SPEC), folder / WEIGHTS)
    return folder


def configure(folder: Path, **changes) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({k: v for k, v in (config | changes).items() if v != "gone"}))


def rewrite(folder: Path, change) -> None:
    """Replace the tensors by what `change` makes of them."""
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in change(tensors).items()}, folder / WEIGHTS
    )


# -- what it becomes -------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma", "mistral", "gpt2"])
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        LoraSpec(rank=2, variant="dora"),
        LoraSpec(rank=2, variant="pissa"),
        LoraSpec(rank=2, alpha=5, scaling="rslora"),
        LoraSpec(rank=2, layers="first-half"),
        LoraSpec(rank=2, layers=(1,), targets="mlp"),
    ],
    ids=str,
)
def test_out_and_in_again_is_the_same_function_and_the_same_id(bases, family, spec, tmp_path):
    base, ids, store = bases[family], ids_of(bases[family]), Store(tmp_path / "store")
    module = keep(store, base, spec)
    mine = read(base, *module.load(), ids)
    ended = []
    for number in range(2):
        export([module], tmp_path / str(number))
        found = read_adapter(tmp_path / str(number), base)
        assert set(resolve_targets(base.model, found.spec)) == set(resolve_targets(base.model, spec))
        assert torch.allclose(read(base, found.spec, found.tensors, ids), mine, atol=1e-5) and not found.notes
        store.put_module(found.id, found.recipe, found.spec, found.tensors, config=found.config, log=[], ledger={})  # fmt: skip
        module = store.module(found.id)
        ended.append(found.id)
    assert ended[0] == ended[1] and module.recipe["type"] == "imported"


def test_importing_twice_and_in_other_words_gives_the_same_module(base, adapter, tmp_path):
    first = read_adapter(adapter, base)
    assert first.recipe == {
        "type": "imported", "recipe_version": 1, "base": base.fingerprint, "content": first.recipe["content"],
    }  # fmt: skip
    assert any("names the base 'org/base'" in note for note in first.notes)
    names = resolve_targets(base.model, SPEC)
    for change in (
        {"target_modules": names},
        {"lora_dropout": 0.3},
        {"base_model_name_or_path": None, "task_type": "SEQ_2_SEQ_LM", "peft_version": "9.9"},
        {"target_modules": r".*\.self_attn\.(q|k|v|o)_proj", "auto_mapping": {"parent_library": "os"}},
        {"use_rslora": True, "lora_alpha": 6 / 3**0.5},
        {"layers_to_transform": [0, 1], "layers_pattern": "layers"},
    ):
        configure(adapter, **change)
        assert read_adapter(adapter, base).id == first.id, change
    assert "auto_mapping" not in read_adapter(adapter, base).config, "nothing of a foreign config is kept"
    configure(adapter, use_rslora=False, lora_alpha=7)
    assert read_adapter(adapter, base).id != first.id, "another scale is another module"
    configure(adapter, lora_alpha=6)
    rewrite(adapter, lambda all_: all_ | {f"{LAYER}.lora_B.weight": all_[f"{LAYER}.lora_B.weight"] + 1e-6})
    assert read_adapter(adapter, base).id != first.id, "so are other weights"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_kinds_of_float_are_read_as_the_floats_they_are(base, adapter, dtype):
    rewrite(adapter, lambda all_: {name: tensor.to(dtype) for name, tensor in all_.items()})
    found = read_adapter(adapter, base)
    raw = load_file(adapter / WEIGHTS)
    assert all(tensor.dtype == torch.float32 for tensor in found.tensors.values())
    assert all(torch.equal(found.tensors[name], raw[name].float()) for name in raw)
    rewrite(adapter, lambda all_: {name: tensor.float() for name, tensor in all_.items()})
    assert read_adapter(adapter, base).id == found.id


def test_layers_are_spelled_in_the_shortest_words_that_mean_them(bases):
    for base in bases.values():
        model, names = base.model, list(linears(base.model))
        assert spelled(model, names) == {"targets": "all-linear", "layers": "all"}
        for spec in (
            SPEC,
            LoraSpec(rank=1, targets="mlp", layers="second-half"),
            LoraSpec(rank=1, layers=(0,)),
        ):
            wanted = resolve_targets(model, spec)
            assert resolve_targets(model, LoraSpec(rank=1, **spelled(model, wanted[::-1]))) == wanted
        some = [names[0], names[-1]]
        assert resolve_targets(model, LoraSpec(rank=1, **spelled(model, some))) == some
    with pytest.raises(InputError, match="no layer 'lm_head'"):
        spelled(bases["llama"].model, ["lm_head"])


def test_the_api_keeps_it_with_its_text_and_finds_it_again(checkpoints, base, adapter, tmp_path):
    options = {"base": str(checkpoints["llama"]), "store": tmp_path / "store"}
    text = tmp_path / "learnt.txt"
    text.write_text("Zoë is a pilot.", encoding="utf-8")
    module = api.import_module(adapter, text=text, **options)
    before = (module.folder / "recipe.json").stat().st_mtime_ns
    assert module.text == "Zoë is a pilot."
    assert api.import_module(adapter, **options).id == module.id
    assert api.import_module(adapter, text=text, **options).id == module.id
    assert (module.folder / "recipe.json").stat().st_mtime_ns == before
    text.write_text("Zoë is a cook.", encoding="utf-8")
    with pytest.raises(InputError, match=f"with another text.*modules delete {module.id[:12]}"):
        api.import_module(adapter, text=text, **options)
    text.write_text(" \n", encoding="utf-8")
    with pytest.raises(InputError, match="is empty"):
        api.import_module(adapter, text=text, **options)
    ids = ids_of(base)
    assert not torch.allclose(read(base, *module.load(), ids), logits_of(base.model, ids), atol=1e-2)


# -- what is refused -------------------------------------------------------------------------------------
def widen(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat([tensor, tensor[:, :1]], dim=1)


TENSORS = {
    "half a pair": (lambda t: {n: v for n, v in t.items() if n != f"{LAYER}.lora_B.weight"}, "1 tensors are missing: model.layers.0.self_attn.q_proj.lora_B.weight"),
    "a layer missing": (lambda t: {n: v for n, v in t.items() if not n.startswith(LAYER)}, "1 of them have no tensors"),
    "unknown layer": (lambda t: t | {n.replace("q_proj", "q_prj"): v for n, v in t.items() if LAYER in n}, "1 of its 9 layers are not linear layers of this base"),
    "layer beyond": (lambda t: t | {n.replace("layers.0", "layers.7"): v for n, v in t.items()}, "4 of its 12 layers"),
    "output head": (lambda t: t | {"base_model.model.lm_head.lora_A.weight": torch.ones(3, 32), "base_model.model.lm_head.lora_B.weight": torch.ones(9, 3)}, "embeddings and the output head are not"),
    "embedding": (lambda t: t | {"base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(3, 9)}, "is no part of LoRA or DoRA"),
    "wrong input": (lambda t: {n: widen(v) if n.endswith("lora_A.weight") else v for n, v in t.items()}, "8 tensors are of other widths than this base's"),
    "wrong output": (lambda t: t | {f"{LAYER}.lora_B.weight": torch.ones(5, 3)}, "q_proj.lora_B.weight is (5, 3), this base's is (32, 3)"),
    "transposed": (lambda t: t | {f"{LAYER}.lora_A.weight": t[f"{LAYER}.lora_A.weight"].T}, "does not fit rank 3"),
    "rank of one": (lambda t: t | {f"{LAYER}.lora_A.weight": torch.ones(4, 32)}, "of shape (4, 32) does not fit rank 3"),
    "three axes": (lambda t: t | {f"{LAYER}.lora_A.weight": torch.ones(3, 32, 1)}, "of shape (3, 32, 1)"),
    "a number": (lambda t: t | {f"{LAYER}.lora_A.weight": torch.tensor(1.0)}, "of shape () does not fit"),
    "nothing": (lambda t: {}, "holds no tensors"),
    "not a number": (lambda t: t | {f"{LAYER}.lora_A.weight": t[f"{LAYER}.lora_A.weight"] / 0}, "not finite"),
    "beyond fp32": (lambda t: {n: v.double() * 1e300 for n, v in t.items()}, "not finite"),
    "one infinity": (lambda t: t | {f"{LAYER}.lora_B.weight": t[f"{LAYER}.lora_B.weight"].index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(float("inf")))}, "not finite"),
    "whole numbers": (lambda t: {n: v.to(torch.int32) for n, v in t.items()}, "holds I32; F16, BF16, F32, F64 are read"),
    "8 bit": (lambda t: {n: v.to(torch.float8_e4m3fn) for n, v in t.items()}, "holds F8_E4M3"),
    "truths": (lambda t: {n: v > 0 for n, v in t.items()}, "holds BOOL"),
    "foreign prefix": (lambda t: {n.removeprefix("base_model.model."): v for n, v in t.items()}, "is no part of LoRA or DoRA"),
    "a bias": (lambda t: t | {f"{LAYER}.bias": torch.ones(32)}, "is no part of LoRA or DoRA"),
    "a magnitude": (lambda t: t | {f"{LAYER}.lora_magnitude_vector": torch.ones(32)}, "does not say use_dora"),
    "no layer": (lambda t: t | {"base_model.model..lora_A.weight": torch.ones(3, 1)}, "not linear layers"),
    "long name": (lambda t: t | {f"base_model.model.{'x' * 10**5}.lora_A.weight": torch.ones(3, 1)}, "not linear layers"),
}  # fmt: skip
CONFIGS = {
    "another kind": ({"peft_type": "IA3"}, "not a LoRA adapter (peft_type 'IA3')"),
    "a kind of no known name": ({"peft_type": ["LORA"]}, "not a LoRA adapter"),
    "no kind": ({"peft_type": "gone"}, "not a LoRA adapter (peft_type None)"),
    "bias": ({"bias": "lora_only"}, "'bias' = 'lora_only' is not supported"),
    "lora_bias": ({"lora_bias": True}, "'lora_bias' = True"),
    "whole modules": ({"modules_to_save": ["lm_head"]}, "'modules_to_save' = ['lm_head']"),
    "ranks by layer": ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"),
    "alphas by layer": ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern"),
    "new tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "layers twice": ({"layer_replication": [[0, 2]]}, "layer_replication"),
    "parameters": ({"target_parameters": ["experts"]}, "target_parameters"),
    "a key nobody knows": ({"scale_everything_by": 2}, "'scale_everything_by' = 2 is not supported"),
    "pissa": ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
    "a start that is a list": ({"init_lora_weights": ["gaussian"]}, "changes the base's own weights"),
    "another rank": ({"r": 4}, "does not fit rank 4"),
    "rank 0": ({"r": 0}, "r = 0 is no rank"),
    "huge rank": ({"r": 10**9}, "r = 1000000000 is no rank; 1 to 65,536 are"),
    "rank in words": ({"r": "3"}, "r = '3' is no rank"),
    "rank true": ({"r": True}, "r = True is no rank"),
    "rank 3.0": ({"r": 3.0}, "r = 3.0 is no rank"),
    "no rank": ({"r": "gone"}, "r = None is no rank"),
    "no alpha": ({"lora_alpha": "gone"}, "lora_alpha = None is no scale"),
    "alpha in words": ({"lora_alpha": "rank"}, "lora_alpha = 'rank' is no scale"),
    "alpha 0": ({"lora_alpha": 0}, "lora_alpha = 0 is no scale"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "NaN"),
    "alpha infinite": ({"lora_alpha": float("inf")}, "Infinity"),
    "alpha huge": ({"lora_alpha": 10**400}, "is no scale"),
    "DoRA without magnitudes": ({"use_dora": True}, "8 tensors are missing"),
    "fewer targets": ({"target_modules": ["q_proj"]}, "its targets leave out layers that have tensors"),
    "more targets": ({"target_modules": "all-linear"}, "6 of them have no tensors"),
    "fewer layers": ({"layers_to_transform": [0]}, "its targets leave out layers"),
    "targets of numbers": ({"target_modules": [1]}, "target_modules must be a list of names"),
    "targets of an object": ({"target_modules": {"q_proj": 1}}, "target_modules must be a list of names"),
    "layers in words": ({"layers_to_transform": ["0"]}, "layers_to_transform must be a list of layer numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_have_no_place_in_the_base_are_refused(base, adapter, case):
    change, says = TENSORS[case]
    rewrite(adapter, change)
    with pytest.raises(InputError) as caught:
        read_adapter(adapter, base)
    assert says in str(caught.value) and len(str(caught.value)) < 2000, str(caught.value)[:3000]


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_that_mean_something_else_are_refused(base, adapter, case):
    change, says = CONFIGS[case]
    configure(adapter, **change)
    with pytest.raises(InputError) as caught:
        read_adapter(adapter, base)
    assert says in str(caught.value), caught.value


@pytest.mark.parametrize("content", ["", "[]", "{", "null", '"x"', "[" * 10**5, '{"r": 1e999, "peft_type": "LORA"}', "\ufeff{}"])  # fmt: skip
def test_configs_that_are_none_are_refused(base, adapter, content):
    (adapter / CONFIG).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=CONFIG):
        read_adapter(adapter, base)


def test_a_config_of_a_size_that_none_has_is_not_read(base, adapter):
    with open(adapter / CONFIG, "wb") as file:
        file.truncate(2**40)  # a file of holes: a terabyte that takes no room
    with pytest.raises(InputError, match="are no adapter's config"):
        read_adapter(adapter, base)


def test_a_pattern_of_a_foreign_config_is_never_run(base, adapter):
    """This one would take longer than the universe has had."""
    configure(adapter, target_modules=r"(([a-z._0-9]+)+)+!")
    found = read_adapter(adapter, base)
    assert any("by a pattern" in note for note in found.notes)
    assert set(resolve_targets(base.model, found.spec)) == set(resolve_targets(base.model, SPEC))


def test_all_faults_of_the_tensors_come_together(base, adapter):
    def change(tensors):
        tensors = {n: v for n, v in tensors.items() if n != f"{LAYER}.lora_B.weight"}
        tensors["base_model.model.elsewhere.lora_A.weight"] = torch.ones(3, 4)
        return tensors | {"base_model.model.model.layers.1.self_attn.k_proj.lora_A.weight": torch.ones(3, 7)}

    rewrite(adapter, change)
    with pytest.raises(InputError) as caught:
        read_adapter(adapter, base)
    said = str(caught.value)
    assert said.count("\n- ") == 2 and "elsewhere" in said and "are missing" in said and "(3, 7), this base's is (3, 32)" in said  # fmt: skip


def test_a_rank_above_every_width_is_refused(base, adapter):
    save_file(weights(base, SPEC.model_copy(update={"rank": 40})), adapter / WEIGHTS)
    configure(adapter, r=40)
    with pytest.raises(InputError, match="rank 40 is above 32, the largest width of its layers"):
        read_adapter(adapter, base)


def test_an_adapter_of_another_base_is_refused_with_the_reason(bases, adapter):
    with pytest.raises(InputError, match="of other widths than this base's"):
        read_adapter(adapter, bases["gemma"])
    with pytest.raises(InputError, match="8 of its 8 layers are not linear layers of this base"):
        read_adapter(adapter, bases["gpt2"])


def test_our_own_export_for_a_base_of_the_same_shapes_is_refused(bases, tmp_path):
    """Llama and Mistral have the same layers here; only recipe.json tells them apart."""
    store = Store(tmp_path / "store")
    export([keep(store, bases["llama"], SPEC)], tmp_path / "out")
    with pytest.raises(InputError, match=f"made on base '{bases['llama'].fingerprint[:8]}', not on"):
        read_adapter(tmp_path / "out", bases["mistral"])
    (tmp_path / "out" / "recipe.json").write_text("[]")
    assert any("names the base" in note for note in read_adapter(tmp_path / "out", bases["mistral"]).notes)


def test_words_of_ours_in_the_weights_are_not_believed(base, tmp_path):
    peft_format.save(tmp_path, SPEC, weights(base, SPEC), model=base.model, base_name="x")
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        assert "loramem_spec" in file.metadata()
    for said in ("garbage", "{}", '{"rank": "' + "9" * 100 + '"}', SPEC.model_copy(update={"rank": 9}).model_dump_json()):  # fmt: skip
        save_file(weights(base, SPEC), tmp_path / WEIGHTS, metadata={"loramem_spec": said})
        with pytest.raises(InputError):
            peft_format.load(tmp_path)


# -- files -----------------------------------------------------------------------------------------------
def header(path: Path, said: object, *, length: int | None = None, more: bytes = b"") -> None:
    text = said if isinstance(said, bytes) else json.dumps(said).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + more)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(b"\x80\x02}q\x00."), id="a pickle by another name"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="cut by a byte"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes() + b"\0"), id="longer by a byte"),
        pytest.param(lambda path: header(path, {}, length=2**40), id="a header of a terabyte"),
        pytest.param(lambda path: header(path, {}, length=2**64 - 1), id="a header of 16 exabytes"),
        pytest.param(lambda path: header(path, b"\xff\xfe{}"), id="no UTF-8"),
        pytest.param(lambda path: header(path, b"[" * 10**6), id="a deep header"),
        pytest.param(lambda path: header(path, {"x": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}, more=b"\0" * 8), id="a shape that overflows"),
        pytest.param(lambda path: header(path, {"x": {"dtype": "F32", "shape": [3, 2**31], "data_offsets": [0, 3 * 2**33]}}), id="24 gigabytes that are not there"),
        pytest.param(lambda path: header(path, {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}), id="before the beginning"),
        pytest.param(lambda path: header(path, {n: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for n in "xy"}, more=b"\0" * 8), id="two in one place"),
        pytest.param(lambda path: header(path, {"x": {"dtype": "F99", "shape": [2], "data_offsets": [0, 8]}}, more=b"\0" * 8), id="a kind nobody knows"),
    ],
)  # fmt: skip
def test_weight_files_that_are_none_are_refused(base, adapter, write):
    write(adapter / WEIGHTS)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        read_adapter(adapter, base)


def test_tensors_far_larger_than_the_base_are_refused_before_they_are_loaded(base, adapter):
    """A file of holes: its header is right, its six gigabytes of zeros take no room on the disk, and would in memory."""
    text = json.dumps({f"{LAYER}.lora_A.weight": {"dtype": "F32", "shape": [3, 2**29], "data_offsets": [0, 3 * 2**31]}}).encode()  # fmt: skip
    with open(adapter / WEIGHTS, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 3 * 2**31)
    with pytest.raises(InputError, match="are missing|of other widths"):
        read_adapter(adapter, base)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_links_that_leave_the_folder_are_refused(base, adapter, tmp_path, name):
    (tmp_path / "outside").mkdir()
    moved = (adapter / name).rename(tmp_path / "outside" / "x")
    (adapter / name).symlink_to(moved)
    with pytest.raises(InputError, match="a link that leaves the folder"):
        read_adapter(adapter, base)
    moved.rename(adapter / "inside")
    (adapter / name).unlink()
    (adapter / name).symlink_to("inside")
    assert read_adapter(adapter, base).id, "a link to a file of the folder itself"


def test_links_of_the_hubs_cache_are_followed(base, adapter, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for name in (CONFIG, WEIGHTS):
        (adapter / name).rename(blobs / name)
        (snapshot / name).symlink_to(Path("../../blobs") / name)
    assert read_adapter(snapshot, base).id


def test_what_is_no_file_is_refused_and_not_waited_for(base, adapter):
    for name in (CONFIG, WEIGHTS):
        kept = (adapter / name).read_bytes()
        (adapter / name).unlink()
        os.mkfifo(adapter / name)  # reading it would wait for ever
        with pytest.raises(InputError, match="not a regular file"):
            read_adapter(adapter, base)
        (adapter / name).unlink()
        (adapter / name).mkdir()
        with pytest.raises(InputError, match="not a regular file"):
            read_adapter(adapter, base)
        (adapter / name).rmdir()
        with pytest.raises(InputError, match=f"no.*{name}"):
            read_adapter(adapter, base)
        (adapter / name).write_bytes(kept)


def test_a_folder_that_is_none_is_named(base, tmp_path):
    (tmp_path / "file").write_text("x")
    for folder, says in ((tmp_path / "nowhere", "no such folder"), (tmp_path / "file", "is a file"), (tmp_path / "a\0b", "no such folder")):  # fmt: skip
        with pytest.raises(InputError, match=says):
            read_adapter(folder, base)
