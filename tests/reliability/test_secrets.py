"""No secret is ever kept or shown: not in the store, not in a run folder, not in a message, however it may be written.

The keys in the environment are sent where they belong, to a local server that gives them back in every way it can.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml

from loramem.core.config import parse
from loramem.core.errors import Corrupt, Faults, InputError, LoramemError, RunFailed, UnknownName
from loramem.core.files import read_json, read_jsonl
from loramem.core.secrets import hidden, known, masked, named
from loramem.modules.store import Store
from loramem.sources.remote import download
from loramem.studies import spec
from loramem.studies.progress import Progress
from loramem.studies.run import execute
from loramem.studies.series import run_series
from loramem.studies.work import explain
from loramem.synthesis.completing import Ask, Failure
from loramem.synthesis.endpoint import Endpoint, EndpointConfig
from reliability.secrets_in import found_in
from synthesis.scripts import as_value, facts, lamps, told
from synthesis.server import Behaviour, Exchange, Server, completion, cut, hang
from tinystudy import PHONES, body, study

SECRETS = {
    "OPENAI_API_KEY": "sk-live+0123/456789=abcdefghij",
    "MY_LLM": "plain-value-of-an-odd-variable",
    "HF_TOKEN": "hf_QwErTyUiOpAsDfGhJkLzXcVb",
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f001234567",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzKEY",
}
IN_URLS = {
    "password": "pa55word-of-a-url",
    "query": "query-key-0a1b2c3d4e",
    "signature": "signature%2Fwith%2Fslashes%3D",
}
EVERY = SECRETS | IN_URLS


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_BASE_URL", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def docs(tmp_path) -> Path:
    root = tmp_path / "docs"
    root.mkdir()
    for name in ("ada", "bela"):
        (root / f"{name}.md").write_text(f"# House {name}\n\n{facts(name, 5).text}\n")
    questions = [
        {"document": f"{name}.md", "question": f"In which hall is lamp {name}-{number}?", "answers": [f"hall {1000 + 7 * number}"]}
        for name in ("ada", "bela") for number in range(2)
    ]  # fmt: skip
    (root / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    return root


# -- a server that gives back what it is sent ------------------------------------------------------------------
def ways(exchange: Exchange) -> list[str]:
    """The key of a request as a server may give it back."""
    headers = exchange.request.headers
    key = headers.get("api-key") or headers["authorization"].removeprefix("Bearer ")
    raw = key.encode()
    spelt = [key, quote(key, safe=""), f"Authorization: Bearer {key}", raw.hex()]
    spelt += [base64.b64encode(before + raw).decode() for before in (b"", b"x", b"Bearer ", b"user:")]
    return [*spelt, base64.urlsafe_b64encode(raw).decode(), "".join(f"\\u{ord(c):04x}" for c in key)]


def echoes(number: int) -> Behaviour:
    """An error whose message, code and type hold the key in every way."""

    def behave(exchange: Exchange) -> None:
        said = " ".join(ways(exchange))
        content = json.dumps({"error": {"message": said, "type": said, "code": said, "param": said}}).encode()
        exchange.send(content, number)

    return behave


def echoes_page(exchange: Exchange) -> None:
    exchange.send(
        f"<pre>{' '.join(ways(exchange))}</pre>".encode(), 502, headers={"Content-Type": "text/html"}
    )


def echoes_refusal(exchange: Exchange) -> None:
    exchange.send(completion(exchange.request, None, refusal=" ".join(ways(exchange))))


def echoes_text(exchange: Exchange) -> None:
    exchange.send(completion(exchange.request, " ".join(ways(exchange))))


def echoes_json(exchange: Exchange) -> None:
    """What was asked for, with the key in it: items of a writer, or a verdict."""
    prompt = exchange.request.body["messages"][-1]["content"]
    said = " ".join(ways(exchange)[:-1])
    if "</text>" in prompt:
        items = [(question, f"{answer} {said}") for question, answer in lamps(prompt)[: told(prompt)]]
        text = json.dumps(as_value(items))
        escaped = ways(exchange)[-1]
        text = text.replace("In hall", f"In {escaped} hall", 1)  # JSON may spell any character so
    else:
        text = json.dumps({"reason": said, "score": 5})
    exchange.send(completion(exchange.request, text))


def redirect(to: str, number: int) -> Behaviour:
    return lambda exchange: exchange.send(b"", number, headers={"Location": to})


# -- a whole study ---------------------------------------------------------------------------------------------
def study_file(path: Path, docs: Path, server: Server, **changes) -> Path:
    endpoint = {"retries": 0, "timeout": 5.0, "concurrency": 1}
    settings = {
        "sources": {"docs": {"name": "folder", "path": str(docs), "probes": str(docs / "asked.jsonl")}},
        "supervision": {
            "recipe": "raw+qa:2", "generator": server.url, "model": "m", "check": False, "endpoint": endpoint,
        },
        "judge": {"model": "j", "url": server.url, "endpoint": {**endpoint, "key_env": "MY_LLM"}},
        "modules__spec__rank": [1], "seeds": 1, "readings": ["closed", "module", "rag"],
        "metrics": ["exact_match", "token_f1", "judge"], **changes,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(body(**settings)))
    return path


def test_a_study_with_endpoints_that_give_the_keys_back_keeps_none_of_them(
    loramem, checkpoints, docs, tmp_path
):
    script = {"Lamp bela": [echoes_json, echoes(500), echoes_text], "bela-1": echoes_refusal, "": echoes_json}
    with Server(script=script) as server:
        file = study_file(tmp_path / "s.yaml", docs, server)
        code, said, error = loramem("study", "run", file, "--base", checkpoints["llama"], "--out", tmp_path / "run")  # fmt: skip
        sent = {request.headers["authorization"] for request in server.requests}
    assert sent == {f"Bearer {SECRETS['OPENAI_API_KEY']}", f"Bearer {SECRETS['MY_LLM']}"}
    assert code == 0, error
    assert found_in(EVERY, tmp_path, said, error) == []
    written = [p.read_text() for p in (tmp_path / "store" / "supervision").rglob("*.jsonl")]
    assert any("***" in text for text in written), "the answers were learnt from, without the key"
    verdicts = [p.read_text() for p in (tmp_path / "store").rglob("judge-*.jsonl")]
    assert any("***" in text for text in verdicts) and any("refused" in text for text in verdicts)
    assert list((tmp_path / "store" / "cache" / "completions").rglob("*.json"))
    with Server(script={"": echoes(401)}) as server:  # the judge alone, and it takes no key
        file = study_file(tmp_path / "s.yaml", docs, server, supervision={"recipe": "raw"})
        code, said, error = loramem("study", "run", file, "--base", checkpoints["llama"], "--out", tmp_path / "run2")  # fmt: skip
    assert code == 1 and "the key is refused (401" in error
    assert found_in(EVERY, tmp_path, said, error) == []


def test_a_dry_run_and_asking_tell_none(loramem, checkpoints, docs, tmp_path):
    with Server(script={"": echoes_json}) as server:
        file = study_file(tmp_path / "s.yaml", docs, server)
        code, said, error = loramem("study", "run", file, "--base", checkpoints["llama"], "--dry-run")
        assert (code, server.requests) == (0, []), error
    assert found_in(EVERY, tmp_path, said, error) == []
    code, said, error = loramem("ask", f"What is {SECRETS['HF_TOKEN']}?", "--reading", "closed", "--base", "https://u:pa55word-of-a-url@h/x")  # fmt: skip
    assert code == 2 and found_in(EVERY, said, error) == []


FAILING: dict[str, Behaviour] = {
    "401": echoes(401), "403": echoes(403), "404": echoes(404), "400": echoes(400), "500": echoes(500),
    "a page": echoes_page, "a refusal": echoes_refusal, "no JSON": echoes_text, "never": hang, "half": cut,
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_endpoint_is_told_without_its_key(name, loramem, checkpoints, docs, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    out = tmp_path / "s.jsonl"
    quick = [word for setting in ("endpoint.retries=0", "endpoint.timeout=0.3") for word in ("--generator-set", setting)]  # fmt: skip
    with Server(script={"": FAILING[name]}) as server:
        code, said, error = loramem(
            "synth", docs, "--recipe", "qa:2", "--generator", server.url, "--generator-model", "m", "--out", out, *quick,
            "--base", checkpoints["llama"],
        )  # fmt: skip
        assert server.requests
    assert code in (1, 2) and not out.exists(), (code, said, error)
    assert error.startswith("error: ") and "Traceback" not in error
    assert found_in(EVERY, tmp_path, said, error, caplog.text) == []


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("azure", [False, True])
def test_no_redirect_takes_prompts_or_key_elsewhere(number, azure):
    more = {"api_version": "2024-10-21"} if azure else {}
    with Server() as other:
        script = {"": redirect(f"{other.url}/chat/completions?key={IN_URLS['query']}", number)}
        with Server(script=script) as server:
            url = server.url.removesuffix("/v1") if azure else server.url
            model = Endpoint(EndpointConfig(url=url, model="m", retries=2, **more))
            with pytest.raises(InputError) as caught:
                model.complete([Ask("a secret prompt")])
            assert len(server.requests) == 1
        assert other.requests == []
    assert f"a redirect is not followed, for prompts and key would go with it ({number}: sends to http" in str(caught.value)  # fmt: skip
    assert found_in(EVERY, str(caught.value), "".join(traceback.format_exception(caught.value))) == []


# -- secrets in commands, settings and URLs --------------------------------------------------------------------
@pytest.fixture
def files() -> Iterator[tuple[str, str, list[str]]]:
    """(address, checksum, paths asked for) of a server of one file of papers."""
    papers = [{"id": 0, "title": "T", "introduction": "Lamp a hangs in hall 7. " * 3, "QA": [{"level": 1, "question": "Where is lamp a?", "answer": "hall 7"}]}]  # fmt: skip
    content = json.dumps(papers).encode()
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", hashlib.sha256(content).hexdigest(), asked
        server.shutdown()
        thread.join()


def test_a_signed_url_is_used_and_not_kept_and_the_kept_study_runs_again(
    loramem, checkpoints, files, tmp_path, monkeypatch
):
    address, checksum, asked = files
    path = f"/papers.json?X-Amz-Signature={IN_URLS['signature']}&api_key={IN_URLS['query']}&part=1"
    source = {"name": "paperqa", "path": "given below", "sha256": checksum}
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(body(sources={"papers": source}, modules__spec__rank=[1], seeds=1, metrics=["token_f1"])))  # fmt: skip
    out, base = tmp_path / "run", checkpoints["llama"]
    code, said, error = loramem(
        "study", "run", file, "--base", base, "--out", out, "--set", f"sources.papers.path={address}{path}"
    )
    assert code == 0 and asked == [path], error
    assert found_in(EVERY, tmp_path, said, error) == []
    command = json.loads((out / "environment.json").read_text())["command"]
    assert f"{address}/papers.json?X-Amz-Signature=***&api_key=***&part=1" in command
    assert "X-Amz-Signature=***" in (out / "study.yaml").read_text()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # the file is found by its checksum
    kept = yaml.safe_load((out / "study.yaml").read_text())
    del kept["scale"]
    file.write_text(yaml.safe_dump(kept))
    code, said, error = loramem("study", "run", file, "--out", tmp_path / "again", "--base", base)
    assert (code, len(asked)) == (0, 1) and "train:" not in said, error


GIVEN = {
    "a study's generator": ("study", {"supervision": {"recipe": "qa:1", "generator": "http://localhost:9/v1", "model": "m", "endpoint": {"api_key": "KEY"}}}, "supervision.endpoint.api_key"),
    "a recipe that uses none": ("study", {"supervision": {"recipe": "raw", "endpoint": {"api_key": "KEY"}}}, "supervision.endpoint.api_key"),
    "one of a list": ("study", {"supervision": [{"recipe": "raw"}, {"recipe": "qa:1", "password": "KEY"}]}, "supervision[1].password"),
    "a study's judge": ("study", {"judge": {"model": "m", "url": "http://localhost:9/v1", "endpoint": {"api_key": "KEY"}}}, "judge.endpoint.api_key"),
    "beside the judge": ("study", {"judge": {"model": "m", "token": "KEY"}}, "judge.token"),
    "a source": ("study", {"sources__phonebook__hf_token": "KEY"}, "sources.phonebook.hf_token"),
    "headers": ("study", {"judge": {"model": "m", "url": "http://localhost:9/v1", "endpoint": {"headers": {"Authorization": "Bearer KEY"}}}}, "judge.endpoint.headers.Authorization"),
    "a setting": (("study", "run", "quick", "--set", "judge.endpoint.api_key=KEY"), None, "judge.endpoint.api_key"),
    "a generator's setting": (("synth", "almanac", "--recipe", "qa:1", "--out", "{tmp}/s.jsonl", "--generator", "http://localhost:9/v1", "--generator-model", "m", "--generator-set", "endpoint.api_key=KEY"), None, "endpoint.api_key"),
    "a prober's setting": (("data", "probe", "almanac", "--out", "{tmp}/s.jsonl", "--generator", "http://localhost:9/v1", "--generator-model", "m", "--generator-set", "api_key=KEY"), None, "probe.api_key"),
}  # fmt: skip


@pytest.mark.parametrize("name", GIVEN)
def test_a_key_in_a_file_or_command_is_refused_and_not_repeated(name, loramem, tmp_path):
    command, changes, where = GIVEN[name]
    key = "not-known-to-the-environment-1"
    if changes is not None:
        text = yaml.safe_dump(body(**PHONES | changes)).replace("KEY", key)
        (tmp_path / "s.yaml").write_text(text)
        command = ("study", "run", tmp_path / "s.yaml", "--out", tmp_path / "run")
    words = [str(word).replace("{tmp}", str(tmp_path)).replace("KEY", key) for word in command]
    code, said, error = loramem(*words)
    assert code == 2 and f"{where} is not to be given: keys and passwords belong in the environment" in error
    assert found_in({"key": key}, said, error) == [] and "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} <= {"s.yaml"}, "nothing was begun"


URLS = {
    "a user": "http://user:{password}@localhost:9/v1",
    "a slash in the password": "http://user:{password}/x@localhost:9/v1",
    "a query": "http://localhost:9/v1?api_key={query}",
    "an odd scheme": "htp://user:{password}@localhost:9/v1?token={query}",
    "a signature": "https://localhost:9/v1?sig={signature}&x=1",
}
PLACES = {
    "generator": ("synth", "almanac", "--recipe", "qa:1", "--out", "{tmp}/s.jsonl", "--generator", "{url}", "--generator-model", "m"),
    "prober": ("data", "probe", "almanac", "--out", "{tmp}/s.jsonl", "--generator", "{url}", "--generator-model", "m"),
    "judge": ("study", "run", "quick", "--set", "judge={{model: m, url: '{url}'}}"),
    "base": ("base", "info", "{url}"),
    "source": ("data", "prepare", "paperqa", "--from", "{url}", "--to", "{tmp}/data"),
    "source with its sum": ("data", "prepare", "paperqa", "--from", "{url}", "--to", "{tmp}/data", "--set", "sha256=" + "0" * 64),
    "folder": ("synth", "{url}", "--recipe", "raw", "--out", "{tmp}/s.jsonl"),
    "module": ("modules", "show", "{url}"),
    "study": ("study", "run", "{url}"),
    "assignment": ("study", "run", "quick", "--set", "{url}"),
    "run": ("study", "report", "{url}"),
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", URLS)
def test_a_url_with_a_secret_is_refused_without_repeating_it(place, kind, loramem, tmp_path):
    url = URLS[kind].format(**IN_URLS)
    code, said, error = loramem(*(word.format(url=url, tmp=tmp_path) for word in PLACES[place]))
    assert code == 2 and error.startswith("error: ") and "Traceback" not in error, error
    assert found_in(IN_URLS, said, error) == []


def test_a_download_with_user_and_password_is_refused_before_it_is_tried(files):
    address, checksum, asked = files
    url = address.replace("://", f"://me:{IN_URLS['password']}@")
    with pytest.raises(InputError, match="no user and no password in a URL") as caught:
        download(f"{url}/papers.json", checksum)
    assert asked == [] and found_in(IN_URLS, str(caught.value)) == []


# -- errors ----------------------------------------------------------------------------------------------------
def test_a_bug_is_told_and_traced_without_secrets(loramem, monkeypatch, tmp_path):
    def broken(*_, **__):
        try:
            raise KeyError(SECRETS["HF_TOKEN"])
        except KeyError as cause:
            raise RuntimeError(f"cannot reach https://u:{IN_URLS['password']}@h: {SECRETS['WANDB_API_KEY']}") from cause  # fmt: skip

    monkeypatch.setattr("loramem.base.load_base", broken)
    code, said, error = loramem("base", "info", "embedded")
    assert code == 1 and "RuntimeError: cannot reach https://***@h: ***" in error
    assert found_in(EVERY, said, error) == []
    monkeypatch.setenv("LORAMEM_DEBUG", "1")
    code, said, error = loramem("base", "info", "embedded")
    assert "Traceback" in error and "KeyError" in error and found_in(EVERY, said, error) == []


def test_a_study_that_breaks_leaves_a_trace_without_secrets(tmp_path):
    def broken(*_):
        raise RuntimeError(f"Authorization: Bearer {SECRETS['OPENAI_API_KEY']}")

    said: list[str] = []
    command = f"loramem study run all --set x.api_key={IN_URLS['query']}"
    run_series({"tiny": study(**PHONES)}, broken, tmp_path, command=command, say=said.append)
    assert (tmp_path / "tiny" / "error.txt").exists()
    assert found_in(EVERY, tmp_path, *said) == [] and "***" in (tmp_path / "series.json").read_text()


def test_every_error_of_ours_is_without_secrets_also_after_a_journey_between_processes():
    text = f"{SECRETS['HF_TOKEN']} at https://u:{IN_URLS['password']}@h"
    for error in (LoramemError(text), InputError(text), UnknownName(text), RunFailed(text), Corrupt(text), Faults([text, "b"])):  # fmt: skip
        for one in (error, pickle.loads(pickle.dumps(error))):
            assert found_in(EVERY, str(one), repr(one), str(vars(one)), str(one.args)) == []
            assert "*** at https://***@h" in str(one) and type(one) is type(error)
    assert found_in(EVERY, explain(ValueError(text))) == []


def test_the_log_of_a_run_is_without_secrets(tmp_path, capsys):
    progress = Progress(tmp_path / "log.jsonl", live=False)
    progress.say(f"asking with {SECRETS['WANDB_API_KEY']}")
    progress.note(f"https://h/?token={IN_URLS['query']} failed")
    assert found_in(EVERY, tmp_path, capsys.readouterr().out) == []
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2


def test_the_command_that_a_caller_gives_is_kept_without_secrets(bases, tmp_path):
    out = tmp_path / "run"
    command = f"mine.py --set x.api_key={IN_URLS['query']}"
    execute(study(**PHONES), bases["llama"], Store(tmp_path / "store"), out, command=command)
    kept = [read_json(out / "environment.json")["command"], read_jsonl(out / "log.jsonl")[0]["command"]]
    assert kept == ["mine.py --set x.api_key=***"] * 2 and found_in(EVERY, out) == []


def test_what_a_study_shows_of_itself_is_without_secrets():
    path = f"https://u:{IN_URLS['password']}@h/a.csv?sig={IN_URLS['signature']}"
    made = study(**PHONES, question=f"Why {SECRETS['HF_TOKEN']}?", sources__phonebook__path=path)
    assert found_in(EVERY, json.dumps(made.body)) == []
    assert made.file.sources["phonebook"]["path"] == path, "it is still used"


# -- what is hidden --------------------------------------------------------------------------------------------
def test_which_variables_hold_secrets(monkeypatch):
    for name, value in {"TOKENIZERS_PARALLELISM": "falsefalse", "MAX_TOKENS": "123", "KEY_FILE": "/home/someone/key", "PGPASSWORD": "long-enough", "SHORT_KEY": "EMPTY"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert known() >= {value for name, value in SECRETS.items() if name != "MY_LLM"} | {"long-enough"}
    assert not known() & {"falsefalse", "123", "/home/someone/key", "EMPTY"}


def test_data_keeps_everything_but_known_secrets():
    data = {"a": [f"x {SECRETS['HF_TOKEN']}", ("https://u:p@h?token=1", 5, None)], SECRETS["HF_TOKEN"]: True}
    assert hidden(data) == {"a": ["x ***", ("https://u:p@h?token=1", 5, None)], "***": True}
    assert hidden("a key of 3", "key") == "a *** of 3"


MASKED = {
    "https://me:pass@host:8000/v1": "https://***@host:8000/v1",
    "http://me:pa/ss@host": "http://***@host",
    "http://host:8000/a@b and me@example.org": "http://host:8000/a@b and me@example.org",
    "s3://key:secret@bucket/x": "s3://***@bucket/x",
    "no module 'http://me:pass' here": "no module 'http://***@' here",
    "see http://[::1]:8000/v1, http://localhost:8000, (http://h:80) 'http://h:1/x'": None,
    "no such folder: https:/me:pass@host/x": "no such folder: https:/***@host/x",
    "https://h/f?a=1&X-Amz-Credential=abc%2F1&b=2#part": "https://h/f?a=1&X-Amz-Credential=***&b=2#part",
    "Authorization: Bearer abc": "Authorization: Bearer ***",
    "{'authorization': 'Basic dXNlcjpwYXNz', 'x': 1}": "{'authorization': 'Basic ***', 'x': 1}",
    "bearer abcdefgh-123": "bearer ***",
    "--set supervision.endpoint.api_key=abc --seeds 3": "--set supervision.endpoint.api_key=*** --seeds 3",
    "judge={model: m, api_key: abc, n: 2}": "judge={model: m, api_key: ***, n: 2}",
    '{"password": "a b"}': '{"password": "*** b"}',
    "AWS_SECRET_ACCESS_KEY=abc HF_TOKEN=abc": "AWS_SECRET_ACCESS_KEY=*** HF_TOKEN=***",
    "wrong key sk-abcdefghijklmnop1234 given": "wrong key *** given",
    "dev_tokens=80 context_tokens: 9 tokens:8000 key: document token_parameter=max_tokens": None,
    "modules.spec.rank=[2,8] optimizer.lr={1: 0.01} partition=tokens:500": None,
    "task-0123456789abcdef0123456789 basic information bearer of news": None,
    "key_env=MY_LLM api_version=2024-10-21": None,
}


@pytest.mark.parametrize("text", MASKED)
def test_what_looks_like_a_secret_is_masked_and_nothing_else(text):
    expected = text if MASKED[text] is None else MASKED[text]
    assert masked(text) == expected == masked(expected)


def test_settings_that_are_shipped_are_no_secrets():
    for name in spec.shipped():
        document = spec.read_document(name)
        assert list(named(document)) == [] and masked(document) == document, name


def test_unknown_settings_are_told_as_before():
    with pytest.raises(Faults, match="keyenv: unknown key; allowed: .*Did you mean 'key_env'"):
        parse(EndpointConfig, {"url": "http://h/v1", "model": "m", "keyenv": "X"})
    assert isinstance(Failure("http", "x"), Failure)
