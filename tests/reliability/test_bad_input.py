"""Bad input of every kind: the right exit code, one readable message that says what is wrong, and nothing half-written."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import loramem.api  # noqa: F401 - so that the clock of no case counts the import
from loramem.base import load_base
from loramem.cli import main
from loramem.cli.app import app
from loramem.modules.bank import Bank
from loramem.modules.peft_format import adapter_config
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from madeup import whole_study
from reliability.case import B2, A, B, C, Case, Content
from reliability.corpus import CASES
from reliability.limits import Hangs, soon
from tiny import make_checkpoint

MOST_CHARACTERS = 2000
MOST_SECONDS = 20
"""Of CPU: a case that takes longer hangs; most take milliseconds."""


# -- what cases stand on ---------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def shelf(tmp_path_factory) -> Path:
    """What cases are given copies of: a tiny checkpoint, a store of modules, the run folder of a study."""
    root = tmp_path_factory.mktemp("shelf")
    make_checkpoint("llama", root / "model")
    base = load_base(str(root / "model"), device="cpu", offline=True)
    store = Store(root / "store")
    for seed, (identity, rank, owner) in enumerate(
        ((A, 2, base.fingerprint), (B, 2, base.fingerprint), (B2, 3, base.fingerprint), (C, 2, "0" * 64))
    ):
        spec = LoraSpec(rank=rank, targets="attention")
        bank = Bank(base.model, [spec], seeds=[seed])
        tensors = {name: tensor + 0.01 for name, tensor in bank.tensors(0).items()}
        bank.detach()
        recipe = {"type": "trained", "base": owner, "spec": spec.identity(), "seed": seed, "steps": 1}
        config = adapter_config(spec, model=base.model, base_name="model")
        store.put_module(
            identity, recipe, spec, tensors, config=config, log=[], ledger={}, text=f"Text {seed}."
        )
    summary, items = whole_study()
    (root / "run").mkdir()
    write_run(root / "run", summary, items)
    return root


def write_run(folder: Path, summary: dict, items) -> None:
    from loramem.core.files import write_json
    from loramem.studies.results import ITEM_COLUMNS

    write_json(folder / "summary.json", {"verdicts": [], **summary})
    items.reindex(columns=list(ITEM_COLUMNS)).to_parquet(folder / "items.parquet", index=False)


def make(path: Path, content: Content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if callable(content):
        content(path)
    else:
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def lay_out(case: Case, shelf: Path, here: Path) -> list[str]:
    """Make a case's files in `here`; gives the words of its command."""
    for name, content in case.files.items():
        make(here / name, content)
    for name, spoil in case.spoil.items():
        shutil.copytree(shelf / name, here / name)
        spoil(here / name)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    given = {"{base}": str(shelf / "model"), "{port}": str(port)}
    words = case.words
    for name, value in given.items():
        words = [word.replace(name, value) for word in words]
    return words


def everything(folder: Path) -> dict[str, str]:
    """Every file below a folder by the hash of what it holds; folders, pipes and links by what they are."""
    found = {}
    for path in sorted(
        Path(one) for where, _, names in os.walk(os.fsencode(folder)) for one in _files(where, names)
    ):
        if path.is_symlink() or not path.is_file():
            found[str(path)] = "no file"
        else:
            with open(path, "rb") as file:
                found[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def _files(where: bytes, names: list[bytes]) -> Iterator[str]:
    yield from (os.fsdecode(os.path.join(where, name)) for name in names)


def environment(case: Case, here: Path) -> dict[str, str]:
    return {"LORAMEM_STORE": str(here / "own-store"), **case.environment}


def check(case: Case, code: int, said: str, error: str) -> None:
    flat = " ".join(error.split())
    assert code == case.code, (code, flat[:3000])
    assert "Traceback" not in said + error and "a bug in loramem" not in error, flat[:3000]
    assert error.startswith("error: ") and error.count("error: ") == 1, f"one message, not {error[:3000]!r}"
    assert len(error) <= MOST_CHARACTERS, f"{len(error)} characters: {error[:3000]}"
    assert all(mark.isprintable() or mark == "\n" for mark in error), repr(error[:3000])
    missing = [text for text in case.says if " ".join(text.split()) not in flat]
    assert not missing, f"does not say {missing}: {flat[:3000]}"


@pytest.fixture
def told(monkeypatch, capfd, tmp_path):
    """Run a case in this process: (exit code, stdout, stderr)."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # nothing here asks the network
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(case: Case, words: list[str]) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path / "here")
        for name, value in environment(case, tmp_path / "here").items():
            monkeypatch.setenv(name, value)
        if case.stdin is not None:
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(case.stdin), encoding="utf-8"))
        monkeypatch.setattr(sys, "argv", ["loramem", *words])
        capfd.readouterr()
        code: object = 0
        try:
            with soon(MOST_SECONDS):
                main()
        except SystemExit as stop:
            code = stop.code or 0
        except Hangs as error:
            pytest.fail(str(error))
        said, error = capfd.readouterr()
        assert isinstance(code, int)
        return code, said, error

    (tmp_path / "here").mkdir()
    return run


# -- the corpus ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_with_one_message_and_leaves_nothing(name, told, shelf, tmp_path):
    case, here = CASES[name], tmp_path / "here"
    words = lay_out(case, shelf, here)
    before = everything(here)
    check(case, *told(case, words))
    assert everything(here) == before, "something was written or changed"


SUBPROCESS = ("no-such-option", "study-of-a-name-that-is-not-utf-8", "ask-standard-input-latin-1", "an-unknown-command-of-100-kilobytes", "data-info-unknown")  # fmt: skip


@pytest.mark.parametrize("name", SUBPROCESS)
def test_a_process_of_its_own_says_the_same(name, shelf, tmp_path):
    case, here = CASES[name], tmp_path / "here"
    here.mkdir()
    words = lay_out(case, shelf, here)
    before = everything(here)
    own = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    own |= {
        "PYTHONPATH": str(Path(loramem.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "PYTHONIOENCODING": "ascii",
    }
    done = subprocess.run(
        [sys.executable, "-m", "loramem", *map(os.fsencode, words)], cwd=here, env=own | environment(case, here), capture_output=True,
        input=case.stdin or b"", timeout=300, check=False,
    )  # fmt: skip
    said, error = (text.decode("ascii") for text in (done.stdout, done.stderr))
    check(case, done.returncode, said, error)
    assert everything(here) == before


# -- the tree of commands --------------------------------------------------------------------------------------
def commands() -> dict[tuple[str, ...], click.Command]:
    """Every command of the tree by its path."""
    found: dict[tuple[str, ...], click.Command] = {}

    def walk(command: click.Command, path: tuple[str, ...]) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[path] = command
        for name, one in (inner or {}).items():
            walk(one, (*path, name))

    walk(typer.main.get_command(app), ())
    return found


COMMANDS = commands()


def names_of(parameter: click.Parameter) -> str:
    return parameter.opts[-1] if parameter.opts[0].startswith("-") else str(parameter.name)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_parameter_of_every_command_is_given_something_bad(path):
    own = [case for case in CASES.values() if case.path == path]
    assert own, "no case of this command"
    tried = {name for case in own for name in case.about}
    values = {
        names_of(p) for p in COMMANDS[path].params if not getattr(p, "is_flag", False) and p.name != "help"
    }
    assert not values - tried, f"nothing bad is given to {', '.join(sorted(values - tried))}"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (path, words)
        for path, command in COMMANDS.items()
        for parameter in command.params
        if parameter.opts[0].startswith("-")
        for words in ([[f"{parameter.opts[-1]}=x"]] if getattr(parameter, "is_flag", False) else [[parameter.opts[-1]]])
    ],
    ids=lambda given: "-".join(given),
)  # fmt: skip
def test_a_flag_takes_no_value_and_an_option_needs_one(path, words, told):
    """Generated from the tree, so that a new option is tried as well."""
    case = Case(" ".join([*path, *words]), (words[0].split("=")[0],))
    check(case, *told(case, case.words))


# -- odd, but right --------------------------------------------------------------------------------------------
NAMES = ("🪨.md", "مرحبا.txt", "e\u0301.md", "é.html", "a b\u200d.md", "-rf.txt", "ＦＵＬＬ.md")
ODD_TEXT = "Zoë 👩\u200d🚀 said: \u202bשלום\u202c, «Ünal» — 東京\r\nand left.\r\n"
RIGHT = {
    "one fact": Case("data prepare phonebook --sizes 1 --to out --base {base}", ("1 facts asked in the trained wording",)),
    "one fact in a study": Case("study run quick --base {base} --dry-run --set sources.phonebook.sizes=[1] --set sources.counterfact.sizes=[1]", ('"modules"', "nothing was done")),
    "names of files": Case("synth docs --recipe raw --out s.jsonl --base {base}", ("7 examples",), {f"docs/{name}": f"<p>{ODD_TEXT}" if name.endswith("l") else ODD_TEXT for name in NAMES}),
    "a byte order mark and odd ends of lines": Case(
        "modules train --supervision s.jsonl --rank 1 --steps 1 --base {base}", ("module ",),
        {"s.jsonl": "\ufeff" + '{"question": "Who is \\ud83e\\udea8?", "answer": "👩\u200d🚀\u0301"}\r\n\r\n{"text": "\u202bשלום\\u0000"}\r\n'},
    ),
    "no chat template": Case("ask Who? --reading closed --base model", ("reading: closed",), spoil={"model": lambda folder: (folder / "chat_template.jinja").unlink()}),
    "anchors in a study": Case("study run s.yaml --base {base} --dry-run", ("nothing was done",), {"s.yaml": "extends: quick\nsources: {a: &a {name: phonebook, sizes: [9]}, b: {<<: *a, seed: 3}}\nmodules: {spec: {rank: 1}, budget: {steps: 1}, optimizer: {lr: 0.1}}\nexpect: []\n"}),
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_odd_but_right_input_is_taken(name, told, shelf, tmp_path):
    case = RIGHT[name]
    code, said, error = told(case, lay_out(case, shelf, tmp_path / "here"))
    assert code == 0, error
    assert all(text in said for text in case.says), said
