"""Published files from a local HTTP server, verified and cached; rows of every kind, each fault with its place."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loramem.core.errors import Faults, InputError
from loramem.sources import remote
from loramem.sources.paperqa import PaperQAConfig, build
from loramem.sources.remote import choose, download, from_hub, locate, rows
from loramem.sources.squad import SquadConfig

BODY = b'[{"context": "Rast is a town.", "questions": [{"question": "What?", "answer": "a town"}]}]'
SUM = hashlib.sha256(BODY).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves BODY, or misbehaves as the path says."""

    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY[:20] if self.path.startswith("/cut") else BODY)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("LORAMEM_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Handler.asked.clear()


def files_of_the_cache() -> list[str]:
    return [path.name for path in remote.downloads().rglob("*") if path.is_file()]


def test_a_download_is_verified_and_kept(server, monkeypatch):
    path = download(f"{server}/a%20b.json?x=1", SUM.upper())
    assert path.read_bytes() == BODY and path.name == "a_b.json" and path.parent.name == SUM
    assert path.parent.parent == remote.downloads()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download(f"{server}/a%20b.json?x=1", SUM) == path and len(Handler.asked) == 1
    with pytest.raises(InputError, match="not downloaded yet, and offline"):
        download(f"{server}/other.json", SUM)


@pytest.mark.parametrize(
    ("path", "checksum", "pattern"),
    [
        ("/a.json", None, "sha256: HEX is needed"),
        ("/a.json", "0" * 64, f"sha256 is {SUM}, expected 000"),
        ("/missing.json", SUM, "cannot be downloaded .HTTP Error 404"),
        ("/cut.json", SUM, "cannot be downloaded|sha256 is"),
    ],
)
def test_bad_downloads_are_refused_and_leave_nothing(path, checksum, pattern, server):
    with pytest.raises(InputError, match=pattern):
        download(server + path, checksum)
    assert files_of_the_cache() == []


@pytest.mark.parametrize("url", ["ftp://example.org/a", "file:///etc/hostname", "gopher://x/y"])
def test_other_schemes_are_refused(url):
    with pytest.raises(InputError, match="allowed: http, https"):
        download(url, SUM)


def test_a_server_that_is_not_there():
    with pytest.raises(InputError, match="cannot be downloaded"):
        download("http://127.0.0.1:9/x.json", SUM)


def test_a_url_is_a_path_of_a_source(server):
    from loramem.sources.squad import build as squad

    (source,) = squad(SquadConfig(path=f"{server}/s.json", sha256=SUM), len)
    assert len(source.documents) == 1 and source.settings == {}


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({}, "source 'paperqa' needs path: FILE, FOLDER or URL, or hub: OWNER/NAME"),
        ({"path": "a", "hub": "b/c"}, "both are given"),
        ({"path": "nowhere"}, "no such file or folder"),
        ({"path": ".", "sha256": SUM}, "sha256 goes with a URL"),
    ],
)
def test_places_that_cannot_be(settings, pattern):
    with pytest.raises(InputError, match=pattern):
        build(PaperQAConfig(**settings), len)


def test_the_hub_offline(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="hub 'nobody/nothing-of-ours': offline, and not in the hub's cache"):
        locate(PaperQAConfig(hub="nobody/nothing-of-ours"))
    with pytest.raises(InputError, match="not a hub id"):
        from_hub("a/b/c", None, ["*"])


# -- rows ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text", "expected", "faults"),
    [
        ("a.jsonl", '{"a": 1}\n\n{"a": 2}\n', [{"a": 1}, {"a": 2}], []),
        ("a.jsonl", '{"a": 1}\n{\n[1]\n', [{"a": 1}], [":2: not JSON", ":3: expected an object, found list"]),
        ("a.json", '[{"a": 1}, 2]', [{"a": 1}], ["item 2: expected an object, found int"]),
        ("a.json", '{"x": {"a": 1}, "y": {"a": 2}}', [{"a": 1}, {"a": 2}], []),
        ("a.json", '{"a": 1, "b": {}}', [{"a": 1, "b": {}}], []),
        ("a.json", '{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}], []),
        ("a.json", "{\n\n]", [], [":3: not JSON"]),
        ("a.json", "3", [], ["expected an object"]),
        ("a", '{"a": 1}\n{"a": 2}', [{"a": 1}, {"a": 2}], []),
        ("a.json", "[" * 100_000, [], ["nested too deeply"]),
        ("a.csv", 'a,b\n1,"x\ny"\n2\n3,z\n', [{"a": "1", "b": "x\ny"}, {"a": "3", "b": "z"}], [":4: 1 fields, expected 2"]),
        ("a.csv", 'a\n"x\n', [], ["not CSV"]),
        ("a.csv", "a\nx\0\n", [], [":2: holds a NUL byte"]),
        ("a.tsv", 'a\tb\n"x\ty\n', [{"a": '"x', "b": "y"}], []),
        ("a.csv", " \n", [], ["empty file"]),
        ("a.parquet", "", [], ["not parquet"]),
        ("a.jsonl", '\ufeff{"a": "é🪨"}', [{"a": "é🪨"}], []),
    ],
)  # fmt: skip
def test_rows(name, text, expected, faults, tmp_path):
    (tmp_path / name).write_text(text, newline="")
    found: list[str] = []
    assert [row for _, row in rows(tmp_path / name, found)] == expected
    assert len(found) == len(faults)
    for message, part in zip(found, faults, strict=True):
        assert part in message and name in message


def test_places_of_rows(tmp_path):
    (tmp_path / "a.csv").write_text('a\n"x\ny"\nz\n')
    assert [where for where, _ in rows(tmp_path / "a.csv", [])] == [
        f"{tmp_path}/a.csv:3",
        f"{tmp_path}/a.csv:4",
    ]


def test_choosing_among_many_names_the_nearest_only():
    many = [f"document-{n}" for n in range(500)]
    with pytest.raises(Faults) as caught:
        choose(PaperQAConfig(ids=("document-5000", "document-4")), many)
    text = str(caught.value)
    assert text.startswith(
        "ids: no document 'document-5000'; 500 documents are there, e.g. 'document-0'. Did you mean"
    )
    assert len(text) < 200
    assert choose(PaperQAConfig(ids=("document-4", "document-2"), documents=1), many) == ["document-2"]
