"""A store behind a URL: machines see each other's finished things, never a part; what a fault leaves, the next command mends."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections import Counter
from pathlib import Path

import fsspec
import pytest
import torch
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

import tinystudy
from loramem.core import remote
from loramem.core.errors import Corrupt, InputError, LoramemError, RunFailed, UnknownName
from loramem.core.places import checked_url, is_url, local_root
from loramem.modules.bank import Bank
from loramem.modules.peft_format import adapter_config
from loramem.modules.spec import LoraSpec
from loramem.modules.store import Store
from loramem.sources.remote import downloads

SPEC = LoraSpec(rank=2, alpha=4, targets="attention")
ONE, TWO, THREE = "ab" * 32, "cd" * 32, "ef" * 32
TEXT = "Zoë wohnt in Łódź 🏠\u2028line"
URL = "watched://box/a präfix"


class Killed(BaseException):
    """The process is gone."""


class Watched(MemoryFileSystem):
    """A service in memory that counts its requests, and does to them what a test says."""

    protocol = "watched"
    store: dict = {}
    pseudo_dirs = [""]
    asked: Counter = Counter()
    sent: list[str] = []
    meddle = staticmethod(lambda what, path: None)

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).replace("watched://", "memory://"))

    def _meet(self, what: str, path: str) -> None:
        type(self).asked[what] += 1
        self.meddle(what, path)

    def find(self, path, **options):
        self._meet("find", path)
        return super().find(path, **options)

    def exists(self, path, **options):
        self._meet("exists", path)
        return super().exists(path, **options)

    def cat_file(self, path, **options):
        self._meet("read", path)
        return super().cat_file(path, **options)

    def put_file(self, lpath, rpath, **options):
        self._meet("put", rpath)
        super().put_file(lpath, rpath, **options)
        type(self).sent.append(rpath)

    def get_file(self, rpath, lpath, **options):
        self._meet("get", rpath)
        super().get_file(rpath, lpath, **options)

    def rm_file(self, path):
        self._meet("rm", path)
        super().rm_file(path)


fsspec.register_implementation("watched", Watched, clobber=True)


@pytest.fixture(autouse=True)
def service(monkeypatch):
    """An empty service, and no waiting."""
    monkeypatch.setattr(Watched, "store", {})
    monkeypatch.setattr(Watched, "pseudo_dirs", [""])
    monkeypatch.setattr(Watched, "asked", Counter())
    monkeypatch.setattr(Watched, "sent", [])
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    waits: list[float] = []
    monkeypatch.setattr(remote.time, "sleep", waits.append)
    return waits


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Opens a URL on a machine of that name."""

    def opened(name: str, url: str = URL, **options) -> Store:
        monkeypatch.setenv("LORAMEM_CACHE", str(tmp_path / name))
        return Store(url, **options)

    return opened


@pytest.fixture(params=["memory", "file", "watched"])
def url(request, tmp_path) -> str:
    return f"file://{tmp_path}/a präfix" if request.param == "file" else f"{request.param}://box/a präfix"


def weights(base, seed: int) -> dict[str, torch.Tensor]:
    bank = Bank(base.model, [SPEC], seeds=[seed])
    try:
        return {name: tensor + 0.1 * seed for name, tensor in bank.tensors(0).items()}
    finally:
        bank.detach()


def put(store: Store, base, identity: str = ONE, *, seed: int = 1, **more) -> dict[str, torch.Tensor]:
    tensors = weights(base, seed)
    config = adapter_config(SPEC, model=base.model, base_name="x")
    store.put_module(
        identity,
        {"seed": seed},
        SPEC,
        tensors,
        config=config,
        log=[{"step": 1}],
        ledger={"seconds": 1.0},
        text=TEXT,
        **more,
    )
    return tensors


def raising(error: BaseException, *, at: str):
    """What a service does that fails so, at requests of a kind or at paths that hold a word."""

    def meddle(what: str, path: str) -> None:
        if what == at or at in path:
            raise error

    return meddle


def answer(store: Store, identity: str = ONE, said: str = TEXT) -> None:
    store.put_reading(
        identity, {"seed": 1}, [{"probe": "a", "prediction": said}], {"probes": 1}, merges=[{"module": said}]
    )


def said(store: Store, identity: str = ONE) -> str:
    return store.predictions(identity)[0]["prediction"]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def meddling(monkeypatch, does) -> None:
    monkeypatch.setattr(Watched, "meddle", staticmethod(does))


# -- what machines see of each other -----------------------------------------------------------------------------
def test_what_one_machine_finished_another_has(machine, url, bases):
    a, b = machine("a", url), machine("b", url)
    assert a.root != b.root and a.place == b.place == url
    assert b.lacking("modules", [ONE, TWO]) == [ONE, TWO] and b.modules() == []
    tensors = put(a, bases["llama"], snapshots={3: weights(bases["llama"], 5)})
    answer(a, TWO)
    a.put_supervision(THREE, [{"answer": TEXT}])
    assert b.lacking("modules", [TWO, ONE]) == [TWO] and b.has_module(ONE) and not b.has_module(TWO)
    assert b.has_reading(TWO) and not b.has_reading(ONE)
    module = b.module(ONE[:6])
    assert module.id == ONE and module.recipe == {"seed": 1} and module.text == TEXT
    spec, got = module.load()
    assert spec == SPEC and all(torch.equal(got[name], tensors[name]) for name in tensors)
    snapshots = [store.module(f"{ONE}@3").load()[1] for store in (a, b)]
    assert all(torch.equal(snapshots[0][name], snapshots[1][name]) for name in tensors)
    assert files_of(module.home) == files_of(a.root / "modules" / ONE) and len(files_of(module.home)) == 8
    assert said(b, TWO) == TEXT and files_of(b.reading_folder(TWO)) == files_of(a.reading_folder(TWO))
    assert b.mirror.ids("supervision") == {THREE}
    assert not list((a.root / "unsent").glob("*/*")), "nothing is left to send"


def test_listing_modules_fetches_recipes_and_no_weights(machine, bases):
    a, b = machine("a"), machine("b")
    put(a, bases["llama"])
    put(b, bases["llama"], TWO, seed=2)
    Watched.asked.clear()
    found = b.modules()
    assert [(module.id, module.recipe) for module in found] == [(ONE, {"seed": 1}), (TWO, {"seed": 2})]
    assert Watched.asked == {"find": 1, "read": 1} and not (b.root / "modules" / ONE).exists()
    assert found == [b.module(ONE), b.module(TWO)] and found[0].text == TEXT


def test_a_record_says_what_a_module_took_without_its_weights(machine, bases):
    a, b = machine("a"), machine("b")
    put(a, bases["llama"])
    b.fetch("modules", [ONE, TWO])
    record = b.module_record(ONE)
    assert set(files_of(record)) == {"recipe.json", "ledger.json", "training.jsonl", "adapter_config.json"}
    assert not (b.root / "modules" / ONE).exists() and a.module_record(ONE) == a.module_folder(ONE)


def test_many_readings_are_fetched_before_they_are_asked_for(machine):
    a, b = machine("a"), machine("b")
    ids = [f"{number:02x}" * 32 for number in range(20)]
    for identity in ids:
        answer(a, identity, identity)
    b.fetch("readings", [*ids, "ff" * 32])
    Watched.asked.clear()
    assert [said(b, identity) for identity in ids] == ids and not Watched.asked


def test_a_plan_of_ten_thousand_modules_is_one_listing(machine):
    a = machine("a")
    ids = [f"{number:064x}" for number in range(10_000)]
    for identity in ids[:9_000]:
        Watched.store[f"/box/a präfix/modules/{identity}/recipe.json"] = MemoryFile(data=b"{}")
    Watched.asked.clear()
    assert a.lacking("modules", ids) == ids[9_000:]
    assert Watched.asked == {"find": 1}
    assert all(a.has_module(identity) for identity in ids[:9_000]) and Watched.asked == {"find": 1}
    assert not a.has_module(ids[-1]) and Watched.asked == {"find": 1, "exists": 1}, (
        "one that was not there is asked for alone"
    )


def test_a_listing_shows_what_came_since(machine):
    a, b = machine("a"), machine("b")
    assert b.lacking("readings", [ONE]) == [ONE]
    answer(a)
    assert b.has_reading(ONE) and b.lacking("readings", [ONE]) == []


def test_names_that_are_no_ids_are_not_seen(machine):
    a = machine("a")
    for name in ("..", ".tmp-1", "a/b", "x y"):
        Watched.store[f"/box/a präfix/modules/{name}/recipe.json"] = MemoryFile(data=b"{}")
    assert a.modules() == [] and not a.has_module("..")
    with pytest.raises(UnknownName):
        a.module("..")


def test_a_store_is_opened_again_where_it_is_sent(machine):
    a = machine("a")
    answer(a)
    again = pickle.loads(pickle.dumps(a))
    assert (again.place, again.root) == (a.place, a.root) and again.mirror.ids("readings") == {ONE}


# -- faults ------------------------------------------------------------------------------------------------------
def test_killed_between_any_two_files_nothing_is_seen_and_the_next_command_sends_it(
    machine, monkeypatch, bases
):
    a, b = machine("a"), machine("b")
    for number in range(100):
        identity, left = f"{number:02x}" * 32, [number]

        def meddle(what, path, left=left):
            if what == "put":
                left[0] -= 1
                if left[0] < 0:
                    raise Killed

        meddling(monkeypatch, meddle)
        try:
            put(a, bases["llama"], identity, seed=number)
        except Killed:
            pass
        else:
            break
        meddling(monkeypatch, lambda what, path: None)
        assert not b.has_module(identity) and b.lacking("modules", [identity]) == [identity]
        assert not b.mirror.pull("modules", identity, b.root / "x")
        a = machine("a")
        assert b.has_module(identity) and files_of(b.module(identity).home) == files_of(
            a.root / "modules" / identity
        )
    assert number == 6, "files of a module: each was the last once"
    assert Watched.sent[-1].endswith("/recipe.json"), "the marker is sent last"


def test_killed_before_it_was_complete_here_nothing_is_sent(machine, monkeypatch):
    a = machine("a")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("loramem.modules.store.write_jsonl", lambda *_: raising(Killed(), at="")("", ""))
        answer(a)
    Watched.sent.clear()
    assert (a.root / "unsent" / "readings" / ONE).exists()
    again = machine("a")
    assert not [name for name in Watched.sent if "readings" in name] and not again.has_reading(ONE)


def test_the_first_of_two_writers_stays_and_the_others_copy_goes(machine, monkeypatch):
    a, b, c = (machine(name) for name in "abc")

    def meddle(what, path):
        if what == "put" and path.endswith("merges.jsonl") and not b._here("readings", ONE):
            answer(b, said="b")

    meddling(monkeypatch, meddle)
    answer(a, said="a")
    assert said(a) == "a" and said(b) == said(c) == "b"
    copies = {name.split("/")[2] for name in c.mirror.remote.names("readings")} - {"reading.json"}
    assert len(copies) == 1, "the loser's files are removed"


def test_writers_that_are_at_one_in_the_same_moment_do_not_mix(machine, monkeypatch):
    """Both saw no marker: the later one stands, with its own files."""
    a, b, c = (machine(name) for name in "abc")

    def meddle(what, path):
        if what == "put" and path.endswith("reading.json") and not b._here("readings", ONE):
            answer(b, said="b")

    meddling(monkeypatch, meddle)
    answer(a, said="a")
    assert said(c) == "a" and files_of(c.reading_folder(ONE)) == files_of(a.reading_folder(ONE))


@pytest.mark.parametrize("times", [1, 4])
def test_a_fault_of_the_network_is_tried_again(machine, monkeypatch, service, times):
    a = machine("a")
    left = [times]

    def meddle(what, path):
        if what == "put" and left[0]:
            left[0] -= 1
            raise TimeoutError("no answer")

    meddling(monkeypatch, meddle)
    service.clear()
    answer(a)
    assert machine("b").has_reading(ONE) and [wait for wait in service if wait] == list(
        remote.WAITS_SECONDS[:times]
    )


def test_what_cannot_be_sent_is_kept_said_and_sent_later(machine, monkeypatch, tmp_path):
    a, b = machine("a"), machine("b")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0123456789abcdef")

    fault = OSError("PUT https://host/x?X-Amz-Signature=5ec2e7 with 0123456789abcdef failed")
    meddling(monkeypatch, raising(fault, at="predictions"))
    with pytest.raises(RunFailed) as caught:
        answer(a)
    text = str(caught.value)
    assert (
        URL in text
        and "failed 5 times" in text
        and str(a.root / "readings" / ONE) in text
        and "next command" in text
    )
    assert "0123456789abcdef" not in text and "5ec2e7" not in text
    assert said(a) == TEXT and not b.has_reading(ONE)
    with pytest.raises(RunFailed, match="failed 5 times"):
        machine("a")
    meddling(monkeypatch, lambda what, path: None)
    machine("a", look=True)
    assert not b.has_reading(ONE), "who only looks sends nothing"
    machine("a")
    assert b.has_reading(ONE) and said(b) == TEXT


def test_what_is_forbidden_is_not_tried_again(machine, monkeypatch, service):
    a = machine("a")
    meddling(monkeypatch, raising(PermissionError("Forbidden"), at="get"))
    answer(machine("b"))
    service.clear()
    with pytest.raises(RunFailed, match=r"failed \(PermissionError: Forbidden\)"):
        a.reading_folder(ONE)
    assert not any(service)


def test_opening_a_place_that_is_not_reached_does_not_wait_long(machine, monkeypatch, service):
    with monkeypatch.context() as patch:
        meddling(patch, raising(TimeoutError("no answer"), at="read"))
        with pytest.raises(
            InputError, match=r"reading store.json failed 2 times \(TimeoutError: no answer\)"
        ):
            machine("a")
    assert [wait for wait in service if wait] == [remote.WAITS_SECONDS[0]]
    assert machine("a").mirror.remote.waits == remote.WAITS_SECONDS


@pytest.mark.parametrize("what", ["read", "put"])
def test_a_place_that_cannot_be_used_is_told_when_the_store_is_opened(machine, monkeypatch, what):
    meddling(monkeypatch, raising(PermissionError("Access Denied"), at=what))
    with pytest.raises(InputError, match="Access Denied"):
        machine("a")
    assert machine("a", look=True).root, "who only looks asks nothing"


def test_a_place_of_another_version_is_left_alone(machine):
    machine("a")
    Watched.store["/box/a präfix/store.json"] = MemoryFile(data=b'{"layout": 2}')
    with pytest.raises(InputError, match="version"):
        machine("b")
    assert bytes(Watched.store["/box/a präfix/store.json"].getvalue()) == b'{"layout": 2}'


def spoilt(name: str, data: bytes | None) -> None:
    [path] = [path for path in Watched.store if path.endswith(f"/{name}")]
    if data is None:
        del Watched.store[path]
    else:
        Watched.store[path] = MemoryFile(data=data)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("predictions.jsonl", b"x"),
        ("merges.jsonl", json.dumps({"module": TEXT[::-1]}, ensure_ascii=False).encode() + b"\n"),
        ("merges.jsonl", None),
        ("reading.json", b""),
        ("reading.json", b"[]"),
        ("reading.json", b'{"reading": {}}'),
        ("reading.json", b'{"reading": {}, "files": {"predictions.jsonl": 3}}'),
    ],
    ids=["short", "other", "missing", "empty", "list", "no-files", "odd-files"],
)
def test_what_is_damaged_there_is_never_taken(machine, name, data):
    a, b = machine("a"), machine("b")
    answer(a)
    spoilt(name, data)
    with pytest.raises(Corrupt, match=f"readings/{ONE}/reading.json is damaged"):
        b.predictions(ONE)
    assert not list((b.root / "readings").iterdir())


def test_a_download_that_came_wrong_is_fetched_again(machine, monkeypatch):
    a, b = machine("a"), machine("b")
    answer(a)
    get, spoils = Watched.get_file, [True]

    def once(self, rpath, lpath, **options):
        get(self, rpath, lpath, **options)
        if spoils:
            spoils.pop()
            Path(lpath).write_bytes(Path(lpath).read_bytes()[:-1])

    monkeypatch.setattr(Watched, "get_file", once)
    assert said(b) == TEXT and not spoils


def test_a_marker_cannot_write_outside_of_its_folder(machine):
    a, b = machine("a"), machine("b")
    answer(a)
    told = {"bytes": 1, "sha256": "0"}
    spoilt("reading.json", json.dumps({"reading": {}, "files": {"../../../evil": told}}).encode())
    with pytest.raises(LoramemError, match="leaves its folder"):
        b.predictions(ONE)
    assert not list(b.root.parents[1].rglob("evil"))


def test_a_folder_store_that_was_copied_there_is_a_shared_store(machine, tmp_path):
    answer(Store(tmp_path / "plain"))
    shutil.copytree(tmp_path / "plain", tmp_path / "far")
    b = machine("b", f"file://{tmp_path}/far")
    assert b.lacking("readings", [ONE]) == [] and said(b) == TEXT


# -- deleting ----------------------------------------------------------------------------------------------------
def test_a_module_is_deleted_for_all_its_marker_first(machine, monkeypatch, bases):
    a, b = machine("a"), machine("b")
    put(a, bases["llama"])
    assert b.has_module(ONE)
    removed = []
    meddling(monkeypatch, lambda what, path: removed.append(path) if what == "rm" else None)
    assert a.delete_module(ONE[:8]) == ONE
    assert removed[0] == f"/box/a präfix/modules/{ONE}/recipe.json"
    assert (
        a.mirror.remote.names("modules") == []
        and a.modules() == []
        and not (a.root / "modules" / ONE).exists()
    )
    with pytest.raises(UnknownName, match="was deleted"):
        b.module(ONE)
    assert not b.has_module(ONE) and b.modules() == []
    put(a, bases["llama"])
    assert b.module(ONE).text == TEXT


def test_killed_while_deleting_leaves_no_module(machine, monkeypatch, bases):
    a, b = machine("a"), machine("b")
    put(a, bases["llama"])
    meddling(monkeypatch, raising(Killed(), at="adapter"))
    with pytest.raises(Killed):
        a.mirror.delete("modules", ONE)
    meddling(monkeypatch, lambda what, path: None)
    assert b.lacking("modules", [ONE]) == [ONE]


def test_what_cannot_be_deleted_there_stays_here(machine, monkeypatch, bases):
    a = machine("a")
    put(a, bases["llama"])
    meddling(monkeypatch, raising(OSError("down"), at="rm"))
    with pytest.raises(RunFailed, match="deleting"):
        a.delete_module(ONE)
    a.module(ONE).load()


# -- places ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "bad",
    [
        "s3://me:hunter2secret@bucket/x", "s3://hunter2secret@bucket/x", "s3://bucket/x?key=hunter2secret", "s3://me:hunter2/secret@bucket/x",
        "abfs://c:hunter2secret@account.dfs.core.windows.net/x", "https://host/x#hunter2secret", "simplecache::s3://bucket/x", "s3:/bucket/x",
        "s3://bucket/../x", "s3://bucket/*", "s3://", "s3://b/[x", "s3://b/\n", "nosuch://bucket/x",
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_a_stores_is_told_without_its_secrets(bad, monkeypatch, tmp_path):
    monkeypatch.setenv("LORAMEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="store") as caught:
        Store(bad)
    assert "hunter2" not in str(caught.value)
    assert not any("s3" in path.name or path.name == "modules" for path in tmp_path.iterdir())


def test_a_container_of_an_account_is_no_user():
    assert (
        checked_url("abfs://box@account.dfs.core.windows.net/x/")
        == "abfs://box@account.dfs.core.windows.net/x"
    )


def test_an_unknown_protocol_is_told_the_nearest(machine):
    with pytest.raises(InputError, match="Did you mean 's3'"):
        machine("a", "s4://bucket/x")


def test_a_missing_package_is_told_with_the_extra_that_brings_it(machine, monkeypatch):
    def missing(protocol):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(remote, "get_filesystem_class", missing)
    with pytest.raises(InputError, match=r"pip install 'loramem\[s3\]'"):
        machine("a", "s3://bucket/x")


def test_a_path_made_of_a_url_is_refused_and_makes_no_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="two slashes|neither a folder nor a URL"):
        Store(Path("s3://bucket/x"))
    assert not list(tmp_path.iterdir())


def test_a_cache_inside_of_what_it_caches_is_refused(machine, tmp_path):
    with pytest.raises(InputError, match="LORAMEM_CACHE"):
        machine("far/cache", f"file://{tmp_path}/far")


def test_the_default_store_may_be_a_url_and_downloads_lie_in_its_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAMEM_STORE", URL)
    monkeypatch.setenv("LORAMEM_CACHE", str(tmp_path))
    store = Store()
    assert store.place == URL and store.root == local_root(URL) == tmp_path / "stores" / store.root.name
    assert downloads() == store.root / "downloads" and store.completions.is_relative_to(store.root)


@pytest.mark.parametrize(
    ("place", "yes"),
    [("s3://b/x", True), ("memory://x", True), ("C:/x", False), ("a/b", False), ("~/x", False)],
)
def test_places(place, yes):
    assert is_url(place) == yes


# -- all of it ---------------------------------------------------------------------------------------------------
def test_a_study_runs_on_one_machine_and_from_another_nothing_is_done_again(
    loramem, checkpoints, monkeypatch, tmp_path
):
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(tinystudy.body(**tinystudy.PHONES, modules__spec__rank=[1], seeds=1)))
    found = []
    for name in ("a", "b"):
        monkeypatch.setenv("LORAMEM_CACHE", str(tmp_path / name))
        out = tmp_path / f"run-{name}"
        code, told, error = loramem(
            "study",
            "run",
            file,
            "--base",
            checkpoints["llama"],
            "--store",
            "memory://far/store",
            "--out",
            out,
        )
        assert code == 0, error
        found.append((json.loads((out / "summary.json").read_text()), told))
    assert found[0][0] == found[1][0] and found[0][0]["cells"]
    assert "train:" in found[0][1] and "train:" not in found[1][1] and "read:" not in found[1][1]
    [cache] = (tmp_path / "b" / "stores").iterdir()
    assert not list(cache.rglob("*.safetensors")), "a report needs no weights"
    code, told, _ = loramem("modules", "list", "--store", "memory://far/store")
    assert code == 0 and told.count("rank 1") == 2 and not list(cache.rglob("*.safetensors"))


@pytest.mark.slow
def test_a_bucket_of_s3_holds_a_store(machine, monkeypatch, bases):
    for name in ("s3fs", "moto.server", "boto3"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install s3fs 'moto[server]'")
    import boto3
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-the-test")
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": endpoint})
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="box")
        with pytest.raises(InputError, match="no such place"):
            machine("a", "s3://nobox/x")
        a, b = machine("a", "s3://box/a präfix"), machine("b", "s3://box/a präfix")
        tensors = put(a, bases["llama"], snapshots={3: weights(bases["llama"], 5)})
        answer(a, TWO)
        assert b.lacking("modules", [ONE, TWO]) == [TWO] and said(b, TWO) == TEXT
        got = b.module(ONE).load()[1]
        assert all(torch.equal(got[name], tensors[name]) for name in tensors)
        assert files_of(b.module_folder(ONE)) == files_of(a.module_folder(ONE))
        b.delete_module(ONE)
        assert a.mirror.ids("modules") == set() and not [
            n for n in a.mirror.remote.names("") if "modules" in n
        ]
    finally:
        server.stop()
    a.mirror.remote.waits = (0.0,)
    with pytest.raises(RunFailed, match="2 times"):
        a.lacking("modules", [THREE])
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "of-the-test"
