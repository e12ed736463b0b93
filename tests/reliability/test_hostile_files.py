"""Files that want more than to be read: code in weights, configs and templates, paths that leave their folder, claims larger than life.

Each test that says "never run" has a twin, or a first half, that shows the same bait would run if it were taken.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import loramem as package
from loramem.base import load_base
from loramem.core.errors import Corrupt, InputError, UnknownName
from loramem.core.files import clear_temporary
from loramem.modules import peft_format
from loramem.modules.importing import read_adapter
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.modules.transfer import export
from modules.keeping import keep, weights

SPEC = LoraSpec(rank=2)
ODD = ["../x", "../../etc/passwd", "/etc/passwd", "..", ".", "", "~", "a\0b", "\0", "@", "@0", "a@", "@@", "a@../..", "a@/etc", "%2e%2e", "*", "?", "[a-f]", "\n", "-", "é" * 500, ".tmp-x"]  # fmt: skip


class Bait:
    """A pickle that writes a file as soon as it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.fixture
def marker(tmp_path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def model(checkpoints, tmp_path) -> Path:
    """A checkpoint folder that a test may spoil."""
    return shutil.copytree(checkpoints["llama"], tmp_path / "model")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(call, *says: str) -> str:
    with pytest.raises(InputError) as caught:
        call()
    for word in says:
        assert word in str(caught.value), str(caught.value)
    return str(caught.value)


# -- pickles -----------------------------------------------------------------------------------------
def test_the_bait_would_run(marker):
    pickle.loads(pickle.dumps(Bait(marker)))
    assert marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "pytorch_model-00001-of-00001.bin"])  # fmt: skip
def test_pickled_weights_of_a_base_are_never_loaded(model, marker, name):
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Bait(marker)))
    torch.save({"x": Bait(marker)}, model / f"zip-{name}")
    refused(lambda: load_base(str(model)), "no *.safetensors weights")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt", "weights.pkl"])
def test_pickled_weights_of_an_adapter_are_never_loaded(bases, tmp_path, marker, name):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / name).write_bytes(pickle.dumps(Bait(marker)))
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for read in (peft_format.load, lambda folder: read_adapter(folder, bases["llama"])):
        said = refused(lambda read=read: read(tmp_path / "adapter"), name, "pickled weights can run code and are refused")  # fmt: skip
        assert "safetensors" in said
    assert not marker.exists()


@pytest.mark.parametrize("lead", ["index", "name in the config", "adapter beside it", "safetensors in name only"])  # fmt: skip
def test_nothing_beside_safetensors_leads_to_a_pickle(model, marker, lead):
    """An index, a key of config.json, or an adapter's config in the folder name the file that is to be loaded."""
    bait = pickle.dumps(Bait(marker))
    names = list(load_file(model / "model.safetensors"))
    if lead == "index":
        (model / "model.safetensors").rename(model / "decoy.safetensors")
        (model / "weights.bin").write_bytes(bait)
        (model / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "weights.bin")})
        )
    elif lead == "name in the config":
        edit(model / "config.json", transformers_weights="adapter_model.bin")
        (model / "adapter_model.bin").write_bytes(bait)
    elif lead == "adapter beside it":
        (model / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "."}')
        (model / "adapter_model.bin").write_bytes(bait)
    else:
        (model / "model.safetensors").write_bytes(bait)
    refused(lambda: load_base(str(model)))
    assert not marker.exists()


def test_an_index_that_leaves_the_folder_is_refused(model, tmp_path):
    names = list(load_file(model / "model.safetensors"))
    (model / "model.safetensors").rename(tmp_path / "other.safetensors")
    save_file({"x": torch.ones(1)}, model / "decoy.safetensors")
    index = model / "model.safetensors.index.json"
    for where in ("../other.safetensors", str(tmp_path / "other.safetensors"), "gone.safetensors", 7, ["decoy.safetensors"]):  # fmt: skip
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, where)}))
        refused(lambda: load_base(str(model)), "is no *.safetensors file of this folder")
    index.write_text("[]")
    refused(lambda: load_base(str(model)), "no weight_map")
    (tmp_path / "other.safetensors").rename(model / "part.safetensors")
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, "part.safetensors")}))
    assert load_base(str(model)).parameters > 0, "one that stays within it is followed"


# -- code of model folders ---------------------------------------------------------------------------
CODE = """
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
open({marker!r}, "w").close()
class OwnConfig(LlamaConfig):
    model_type = {kind!r}
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def with_code(model: Path, marker: Path, kind: str, *, of: str = "model") -> Path:
    """A checkpoint whose config, or whose tokenizer's, names Python files beside it."""
    (model / "own.py").write_text(CODE.format(marker=str(marker), kind=kind))
    if of == "tokenizer":
        edit(model / "tokenizer_config.json", tokenizer_class=kind, auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]})  # fmt: skip
    else:
        edit(model / "config.json", model_type=kind, auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})  # fmt: skip
    return model


@pytest.fixture
def own_modules(tmp_path, monkeypatch):
    """Where transformers copies a folder's code before it imports it."""
    for module in (transformers.dynamic_module_utils, transformers.utils.hub):
        if hasattr(module, "HF_MODULES_CACHE"):
            monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "hf-modules"))


def test_code_of_a_model_folder_runs_only_where_it_was_asked_for(model, marker, own_modules):
    """The command line has no way to ask for it; the Python API has `trust_remote_code`."""
    with_code(model, marker, "own-kind")
    refused(lambda: load_base(str(model)), "custom code")
    assert not marker.exists()
    assert load_base(str(model), trust_remote_code=True).parameters > 0
    assert marker.exists(), "the bait would have run"


def test_code_of_a_tokenizer_runs_only_where_it_was_asked_for(model, marker, own_modules):
    with_code(model, marker, "OwnTokenizer", of="tokenizer")
    refused(lambda: load_base(str(model)), "custom code")
    assert not marker.exists()
    assert load_base(str(model), trust_remote_code=True).parameters > 0
    assert marker.exists(), "the bait would have run"


@pytest.mark.parametrize(("of", "kind"), [("model", "llama"), ("tokenizer", "PreTrainedTokenizerFast")])
def test_a_folder_of_a_known_kind_that_names_code_is_read_without_it(
    model, marker, own_modules, of, kind, bases
):
    loaded = load_base(str(with_code(model, marker, kind, of=of)), dtype="float32", device="cpu")
    assert not marker.exists()
    assert type(loaded.model) is transformers.LlamaForCausalLM
    ids = torch.tensor([[7, 8, 9]])
    assert torch.equal(loaded.model(ids).logits, bases["llama"].model(ids).logits)
    assert loaded.prompts.chat("Who?") == bases["llama"].prompts.chat("Who?")


def test_the_command_line_never_runs_code_of_a_folder(loramem, model, marker, own_modules):
    with_code(model, marker, "own-kind")
    for command in (("base", "info", model), ("study", "run", "quick", "--base", model), ("modules", "import", model, "--base", model)):  # fmt: skip
        code, said, error = loramem(*command)
        assert code == 2 and "Traceback" not in said + error, error
    assert not marker.exists()


@pytest.mark.parametrize("value", ["evil/kernel", "evil/kernel@main:run", "paged|evil/kernel"])
def test_a_kernel_named_by_a_config_is_not_fetched(model, value):
    edit(model / "config.json", attn_implementation=value)
    refused(lambda: load_base(str(model)), "names code that would be downloaded and run")


# -- chat templates ----------------------------------------------------------------------------------
ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__class__.__base__.__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch MARKER').read() }}",
    "{{ self.__init__.__globals__.__builtins__.__import__('os').system('touch MARKER') }}",
    "{{ raise_exception.__globals__['jinja2'].Template }}",
    "{{ (messages|attr('__class__')).__mro__ }}",
    "{% set x = '%c' % 95 %}{{ messages[x~x~'class'~x~x] }}{{ ''|attr(x~x~'class'~x~x)|attr(x~x~'mro'~x~x) }}",
    "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "{{ messages.append({'role': 'user', 'content': 'x'}) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.system('touch MARKER') }}",
    "{% for i in range(10 ** 9) %}x{% endfor %}",
]
BODY = "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"  # fmt: skip


@pytest.mark.parametrize("escape", ESCAPES)
def test_a_template_cannot_leave_its_sandbox(model, marker, escape):
    """What it asks for is refused, or comes out empty; nothing of the interpreter gets into a prompt."""
    (model / "chat_template.jinja").write_text(escape.replace("MARKER", str(marker)) + BODY)
    base = load_base(str(model))
    try:
        said = base.tokenizer.decode(base.prompts.chat("Who?"))
    except InputError as error:
        assert "chat template of this base" in str(error)
    else:
        assert "class" not in said and "root:" not in said and said.endswith("assistant: "), said
    assert not marker.exists()


def test_a_template_that_is_stopped_ends_in_one_message(loramem, model, tmp_path):
    (model / "chat_template.jinja").write_text(ESCAPES[0])
    (tmp_path / "s.jsonl").write_text('{"question": "Who?", "answer": "me"}\n')
    code, said, error = loramem("modules", "train", "--supervision", tmp_path / "s.jsonl", "--base", model)
    assert code == 2 and "cannot be rendered (SecurityError" in error and "Traceback" not in said + error, (
        error
    )


# -- names -------------------------------------------------------------------------------------------
@pytest.fixture
def store(bases, tmp_path) -> Store:
    """A store with one module, and files outside of it that no name may reach."""
    store = Store(tmp_path / "store")
    keep(store, bases["llama"], SPEC, steps=(0,))
    outside = tmp_path / "x"
    outside.mkdir()
    (outside / "recipe.json").write_text('{"id": "x", "recipe": {"type": "trained", "base": "b"}}')
    return store


def everything(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ODD)
def test_no_name_reaches_what_is_no_module(store, tmp_path, name):
    before = everything(tmp_path)
    for use in (store.module, store.delete_module, lambda one: store.find("readings", one)):
        with pytest.raises(InputError):
            use(name)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("step", ["..", "0/..", "/", "0\0", "²", "00", "0@0", "٠", "-0", " 0", "0 "])
def test_no_step_reaches_what_is_no_snapshot(store, step):
    [module] = store.modules()
    with pytest.raises(UnknownName, match="has no snapshot"):
        store.module(f"{module.id}@{step}")
    assert store.module(f"{module.id}@0").load()


@pytest.mark.parametrize("name", ODD)
def test_commands_given_odd_names_end_with_2_and_change_nothing(loramem, store, tmp_path, name):
    before = everything(tmp_path)
    (tmp_path / "s.jsonl").write_text('{"question": "Who?", "answer": "me"}\n')
    for command in (
        ("modules", "show", "--", name),
        ("modules", "delete", "--", name),
        ("modules", "export", "--to", tmp_path / "out", "--", name),
        ("modules", "merge", "--", name),
        ("ask", "Who?", f"--modules={name}"),
        ("modules", "train", "--supervision", tmp_path / "s.jsonl", f"--distractors={name}"),
        ("modules", "train", "--supervision", tmp_path / "s.jsonl", "--set", f"distractors.modules={json.dumps(name)}"),
        ("modules", "train", "--supervision", tmp_path / "s.jsonl", "--set", f"distractors.modules={json.dumps([name])}"),
    ):  # fmt: skip
        code, said, error = loramem(*command)
        assert code == 2 and "Traceback" not in said + error, (command, error)
    (tmp_path / "s.jsonl").unlink()
    assert everything(tmp_path) == before


@pytest.mark.parametrize("to", ["a\0b", "x/recipe.json", "x/recipe.json/y", "x"])
def test_an_export_goes_into_new_folders_only(loramem, store, tmp_path, to):
    [module] = store.modules()
    before = everything(tmp_path)
    code, said, error = loramem("modules", "export", module.id, "--to", str(tmp_path / to))
    assert code == 2 and "Traceback" not in said + error, error
    assert everything(tmp_path) == before


def test_a_snapshot_is_not_deleted_by_itself(loramem, store):
    [module] = store.modules()
    code, _, error = loramem("modules", "delete", f"{module.id}@0")
    assert code == 2 and "goes with its module" in error
    assert store.module(f"{module.id}@0")


def test_names_inside_of_a_store_are_no_paths(store, tmp_path):
    """A recipe, a snapshot's folder and stray files may be called anything; only what was asked for is touched."""
    [module] = store.modules()
    home = store.root / "modules"
    for name in ("notes.txt", "snapshot", "..."):
        (home / name).mkdir()
    (module.folder / "snapshots" / "not-a-step").mkdir()
    (module.folder / "snapshots" / "²").mkdir()
    with pytest.raises(UnknownName, match="allowed: 0"):
        store.module(f"{module.id}@7")
    body = json.loads((module.folder / "recipe.json").read_text())
    (module.folder / "recipe.json").write_text(json.dumps(body | {"id": "../../x"}))
    assert [one.id for one in store.modules()] == [module.id], "the folder says which module it is"
    (module.folder / "recipe.json").write_text('["../../x"]')
    with pytest.raises(Corrupt):
        store.module(module.id)


def test_a_folder_in_the_making_is_no_module(store, bases):
    """A process that was killed between the marker and the renaming leaves it whole, under a temporary name."""
    [module] = store.modules()
    shutil.copytree(module.folder, store.root / "modules" / ".tmp-abc")
    assert [one.id for one in store.modules()] == [module.id]
    with pytest.raises(UnknownName):
        store.module(".tmp-abc")


# -- links -------------------------------------------------------------------------------------------
def test_a_store_may_be_a_link_and_its_modules_are_read_through_it(store, tmp_path):
    (tmp_path / "linked").symlink_to(store.root)
    linked = Store(tmp_path / "linked")
    [module] = linked.modules()
    export([module], tmp_path / "out")
    assert linked.delete_module(module.id) == module.id and not store.modules()


def test_deleting_a_linked_module_removes_the_link_alone(store, bases, tmp_path):
    other = Store(tmp_path / "other")
    [module] = store.modules()
    os.rename(module.folder, tmp_path / "kept")
    (other.root / "modules" / module.id).symlink_to(tmp_path / "kept")
    assert other.module(module.id[:8]).load()
    before = everything(tmp_path / "kept")
    other.delete_module(module.id)
    assert everything(tmp_path / "kept") == before and not other.modules()


def test_clearing_up_follows_no_link(store, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    link = store.root / "modules" / ".tmp-link"
    link.symlink_to(tmp_path / "precious")
    (store.root / "modules" / ".tmp-broken").symlink_to(tmp_path / "nowhere")
    for path in (link, link.parent / ".tmp-broken"):
        os.utime(path, (0, 0), follow_symlinks=False)
    clear_temporary(store.root)
    Store(store.root)
    assert (tmp_path / "precious" / "file").read_text() == "x" and not link.is_symlink()


# -- claims ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("claimed", [2**33, 2**40, 2**63 - 1, 2**64 - 1])
def test_a_header_that_claims_gigabytes_is_not_believed(bases, model, tmp_path, claimed):
    text = struct.pack("<Q", claimed) + b'{"x": {}}'
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(text)
    (tmp_path / "adapter" / "adapter_config.json").write_text(
        json.dumps(peft_format.adapter_config(SPEC, model=bases["llama"].model, base_name="x"))
    )
    refused(lambda: read_adapter(tmp_path / "adapter", bases["llama"]), "not a readable safetensors file")
    (model / "model.safetensors").write_bytes(text)
    refused(lambda: load_base(str(model)))


def test_an_adapter_of_another_base_is_refused_with_the_reason(loramem, checkpoints, bases, tmp_path):
    peft_format.save(tmp_path / "adapter", SPEC, weights(bases["gemma"], SPEC), model=bases["gemma"].model, base_name="gemma")  # fmt: skip
    code, _, error = loramem("modules", "import", tmp_path / "adapter", "--base", checkpoints["llama"])
    assert code == 2 and "of other widths than this base's" in error and "k_proj" in error


def test_an_adapter_folder_is_no_base(loramem, bases, checkpoints, tmp_path):
    shutil.copytree(checkpoints["llama"], tmp_path / "both")
    peft_format.save(tmp_path / "both", SPEC, weights(bases["llama"], SPEC), model=bases["llama"].model, base_name="x")  # fmt: skip
    code, _, error = loramem("base", "info", tmp_path / "both")
    assert code == 2 and "modules import FOLDER" in error


def test_a_checkpoint_may_hold_files_that_nobody_reads(model):
    for name in ("README.md", "pytorch_model.bin", "own.py"):
        (model / name).write_bytes(b"\x80\x05garbage")
    assert load_base(str(model)).parameters > 0


# -- the code itself ---------------------------------------------------------------------------------
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "zipfile", "tarfile", "gzip", "lzma", "bz2"}  # fmt: skip
CALLS = {"torch.load", "torch.hub.load", "yaml.unsafe_load", "yaml.full_load", "eval", "exec"}
METHODS = {"read_pickle", "unpack_archive", "extractall"}


def unsafe(code: str) -> list[str]:
    """What in a piece of Python unpickles, unpacks archives, or runs text."""
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names if one.name.split(".")[0] in UNSAFE]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in UNSAFE:
            found.append(str(node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS or name.rpartition(".")[2] in METHODS:
                found.append(name)
            found += [key.arg for key in node.keywords if key.arg == "allow_pickle"]
    return found


def test_no_code_of_ours_unpickles_unpacks_or_evaluates():
    """Archives are never unpacked, so no path in one can escape; code that starts to must come with its own checks here."""
    files = sorted(Path(package.__file__).parent.rglob("*.py"))
    found = {path.name: odd for path in files if (odd := unsafe(path.read_text(encoding="utf-8")))}
    assert len(files) > 100 and not found


def test_the_guard_sees_what_it_looks_for():
    code = "import pickle.x, json\nfrom zipfile import ZipFile\ntorch.load(x)\npd.read_pickle(y)\nmodel.eval()\neval(z)\nnp.load(f, allow_pickle=True)"  # fmt: skip
    assert set(unsafe(code)) == {"pickle.x", "zipfile", "torch.load", "pd.read_pickle", "eval", "allow_pickle"}  # fmt: skip
