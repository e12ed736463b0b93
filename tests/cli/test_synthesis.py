"""The commands that write, end to end on a folder of Markdown: supervision, a module, questions, a study; and all that goes wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import openai  # noqa: F401 - so that the clock of no test counts it
import pandas as pd
import pytest
import yaml

from loramem.sources.folder import FolderConfig, build
from loramem.synthesis.prompts import AGAIN
from loramem.synthesis.supervision import load
from synthesis.scripts import as_value, facts, hall, lamps, pair, told
from synthesis.server import Server, cut, hang, raw, says, status

NAMES = ("ada", "bela", "cid")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def docs(tmp_path) -> Path:
    """Three documents, one below a folder with a name that is not plain."""
    root = tmp_path / "my docs"
    (root / "ü").mkdir(parents=True)
    for name in NAMES:
        where = root / "ü" / f"{name}.md" if name == "cid" else root / f"{name}.md"
        where.write_text(f"# House {name}\n\n{facts(name, 5).text}\n")
    return root


def respond(body: dict) -> str:
    """What the models write: `m` on the lamps in order, from the last one where it is told to look elsewhere; `other` one
    question of `m` at first, then in words of its own."""
    prompt = body["messages"][-1]["content"]
    most = told(prompt)
    items = lamps(prompt)[:: -1 if AGAIN in prompt else 1]
    if body["model"] == "other":
        text, _, rest = prompt.partition("</text>")
        known = set(re.findall(r"lamp (\S+-\d+) of the", rest))
        hung = [tuple(one.rsplit("-", 1)) for one in re.findall(r"Lamp (\S+-\d+) hangs", text)]
        own = [(f"In which hall is lamp {name}-{n} of the house?", f"Hall {hall(int(n))}") for name, n in hung if f"{name}-{n}" not in known]  # fmt: skip
        level = re.search(r"outright|belong together|how the text is built", prompt)
        own = [(f"{question} ({level[0] if level else ''})", said) for question, said in own]
        items = own if "Already written" in prompt else [*items[:1], *own]
    return json.dumps(as_value(items[:most]))


@pytest.fixture
def command(loramem, checkpoints):
    """Run a command on the tiny base."""

    def run(*arguments) -> tuple[int, str, str]:
        return loramem(*arguments, "--base", checkpoints["llama"])

    return run


def synth(command, docs, server, out, *more, recipe="raw+qa:3", model="m"):
    return command("synth", docs, "--recipe", recipe, "--generator", server.url, "--generator-model", model, "--out", out, *more)  # fmt: skip


def probe(command, docs, server, out, *more, model="other"):
    return command("data", "probe", docs, "--generator", server.url, "--generator-model", model, "--questions", 4, "--out", out, *more)  # fmt: skip


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def left(folder: Path) -> set[str]:
    """What lies in a folder beside the documents and the store."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not {"my docs", "store"} & set(p.parts)}  # fmt: skip


# -- all of it -------------------------------------------------------------------------------------------------
def test_from_documents_to_a_study(command, docs, tmp_path, checkpoints):
    """Supervision, a module of it, questions of another model, a study on both; what was answered is not asked again."""
    s, p = tmp_path / "new" / "s.jsonl", tmp_path / "new" / "questions" / "p.jsonl"
    with Server(respond) as server:
        code, said, error = synth(command, docs, server, s)
        assert code == 0, error
        assert "15 examples" in said and "3 calls (0 kept from before; failed: none)" in said
        assert f"modules train --supervision {s}" in said and "short by 0" in said
        learnt = rows(s)
        assert Counter((row["document"], row["recipe"], row["generator"]) for row in learnt) == Counter(
            {(name, part, who): count for name in ("ada.md", "bela.md", "ü/cid.md") for part, who, count in (("raw", "source", 2), ("qa", "m", 3))}
        )  # fmt: skip
        assert list(load(s).examples)[2].prompt == pair("ada", 0)[0]
        (report,) = json.loads((tmp_path / "new" / "s.jsonl.report.json").read_text())
        assert (report["asked"], report["written"], report["calls"]) == (9, 15, 3)

        code, said, error = command(
            "modules", "train", "--supervision", s, "--rank", 2, "--steps", 3, "--targets", "attention"
        )
        assert code == 0, error
        assert re.search(r"module [0-9a-f]{12} in", said)

        code, said, error = probe(command, docs, server, p, "--supervision", s)
        assert code == 0, error
        assert "36 questions on 3 documents, 0 fewer than asked, 0 calls failed" in said
        assert f"36 questions in {p}: train 0, dev 9, test 27" in said
        asked = rows(p)
        assert Counter((row["document"], row["level"]) for row in asked) == {
            (name, level): 4
            for name in ("ada.md", "bela.md", "ü/cid.md")
            for level in ("recall", "comprehension", "structure")
        }
        assert {row["generator"] for row in asked} == {"other"}
        assert not {row["question"] for row in asked} & {row["prompt"] for row in learnt}
        before = len(server.requests)

    body = {
        "study": "mine", "question": "Does it stick?", "seeds": 1, "readings": ["closed", "module"], "metrics": ["exact_match"],
        "sources": {"mine": {"name": "folder", "path": str(docs), "probes": str(p)}}, "partition": "document",
        "supervision": {"recipe": "raw+qa:3", "generator": server.url, "model": "m"},
        "modules": {"spec": {"rank": [2], "targets": "attention"}, "budget": {"steps": 3}, "optimizer": {"lr": 0.01, "batch": 4}},
    }  # fmt: skip
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(body, allow_unicode=True))
    with Server(respond) as server:  # its port is another one
        study.write_text(study.read_text().replace(body["supervision"]["generator"], server.url))
        code, said, error = command("study", "run", study, "--out", tmp_path / "run")
        assert code == 0, error
        assert before > 0 and not server.requests, "the answers of the first command are kept in the store"
        asked_in_study = {p["question"] for p in asked if p["split"] == "test"}
        items = pd.read_parquet(tmp_path / "run" / "items.parquet")
        assert len(items[items["metric"] == "exact_match"]) == 2 * len(asked_in_study) == 54
        results = pd.read_parquet(tmp_path / "run" / "results.parquet")
        assert set(results["n_failed"]) == {0} and set(results["supervision"].dropna()) == {"raw+qa:3"}
        seen = len(server.requests)
        code, _, error = command("study", "run", study, "--out", tmp_path / "again")
        assert code == 0 and len(server.requests) == seen, error

        study.write_text(study.read_text().replace("model: m\n", "model: other\n"))
        code, _, error = command("study", "run", study, "--out", tmp_path / "same")
        assert code == 2 and "other would write both the supervision and the questions" in error
        assert len(server.requests) == seen and not (tmp_path / "same" / "results.parquet").exists()


def test_who_taught_is_refused_as_examiner_unless_forced(command, docs, tmp_path):
    s, p = tmp_path / "s.jsonl", tmp_path / "p.jsonl"
    with Server(respond) as server:
        assert synth(command, docs, server, s)[0] == 0
        seen = len(server.requests)
        code, _, error = probe(command, docs, server, p, "--supervision", s, model="m")
        assert code == 2 and "m would write both" in error and "--force" in error
        assert len(server.requests) == seen and not p.exists()
        code, said, error = probe(
            command, docs, server, p, "--supervision", s, "--levels", "recall", "--force", model="m"
        )
        assert code == 0, error
        # five lamps, three of them are taught
        assert "6 questions on 3 documents, 6 fewer than asked" in said


def test_chunks_are_units_of_their_own(command, docs, tmp_path):
    out = tmp_path / "s.jsonl"
    with Server(respond) as server:
        code, said, error = synth(command, docs, server, out, "--partition", "chunk", "--chunking", "structure:90", recipe="qa:2")  # fmt: skip
        assert code == 0, error
        units = {row["record"] for row in rows(out)}
        assert len(units) > 3 and all(re.fullmatch(r".*\.md#\d+-\d+", unit) for unit in units)
        texts = {d.id: d.text for d in build(FolderConfig(path=str(docs)), len)[0].documents}
        for row in rows(out):
            piece = texts[row["document"]][slice(*row["span"])]
            assert row["answer"].removeprefix("In ") in piece and len(piece) <= 90
    # a chunk that holds no lamp gives nothing, and the rest is kept
    report = json.loads(Path(f"{out}.report.json").read_text())[0]
    assert report["units"] >= len(units) and report["examples"] == len(rows(out))


def test_a_document_that_gives_nothing_is_named_and_the_others_are_kept(command, docs, tmp_path):
    (docs / "void.md").write_text("# Void\n\nNobody is here.")
    out = tmp_path / "s.jsonl"
    with Server(respond, {"Nobody is here": says('{"items": []}')}) as server:
        code, said, error = synth(command, docs, server, out, recipe="qa:2")
    assert code == 0, error
    assert "nothing was written of void.md" in said and "short by 2" in said and "failed: none" in said
    assert {row["document"] for row in rows(out)} == {"ada.md", "bela.md", "ü/cid.md"}


@pytest.mark.parametrize("behaviour", [status(500), cut, says("no JSON"), hang], ids=["500", "cut", "text", "hang"])  # fmt: skip
def test_failures_are_told_and_the_next_run_makes_up_for_them(command, docs, tmp_path, behaviour):
    out = tmp_path / "s.jsonl"
    quick = ("--generator-set", "endpoint.retries=0", "--generator-set", "endpoint.timeout=1")
    with Server(respond, {"Lamp bela-0 ": behaviour}) as server:
        code, said, error = synth(command, docs, server, out, *quick)
        assert code == 0, error
        assert "short by 3" in said and re.search(r"failed: 2 (http|cut|invalid|timeout)\)", said)
        assert Counter(row["document"] for row in rows(out) if row["recipe"] == "qa") == {
            "ada.md": 3,
            "ü/cid.md": 3,
        }
    with Server(respond) as server:
        code, said, error = synth(command, docs, server, out, *quick)
        assert code == 0 and len(server.requests) == 1, error
        assert "short by 0" in said and "2 kept from before; failed: none" in said
        assert len(rows(out)) == 15


def test_an_old_file_stays_until_the_new_one_is_there(command, docs, tmp_path):
    out = tmp_path / "s.jsonl"
    out.write_text("old")
    with Server(respond, {"Lamp": status(500, "on fire")}) as server:
        code, _, error = synth(
            command, docs, server, out, "--generator-set", "endpoint.retries=0", recipe="qa:3"
        )
        assert code == 1 and "gave no examples" in error and "500: on fire" in error and "Traceback" not in error  # fmt: skip
        code, _, error = probe(command, docs, server, out, "--generator-set", "endpoint.retries=0")
        assert code == 1 and "no question was written" in error and "500: on fire" in error
    assert out.read_text() == "old" and left(tmp_path) == {"s.jsonl"}
    with Server(respond) as server:
        assert synth(command, docs, server, out, recipe="qa:3")[0] == 0
    assert len(rows(out)) == 9 and left(tmp_path) == {"s.jsonl", "s.jsonl.report.json"}


def test_a_run_that_is_killed_goes_on_where_it_was(command, docs, tmp_path, checkpoints):
    """SIGKILL in the middle: what was answered is not asked again, and no half of a file is left."""
    for number in range(5):
        (docs / f"more-{number}.md").write_text(f"# More\n\n{facts(f'more{number}', 5).text}\n")
    out = tmp_path / "new" / "s.jsonl"
    one_by_one = ("--generator-set", "endpoint.concurrency=1")
    with Server(respond, seconds=0.3) as server:
        child = subprocess.Popen(
            [sys.executable, "-m", "loramem", "synth", docs, "--recipe", "raw+qa:3", "--generator", server.url, "--generator-model", "m",
             "--out", out, "--base", checkpoints["llama"], *one_by_one],
            env={**os.environ, "PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "LORAMEM_STORE": str(tmp_path / "store")},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            end = time.monotonic() + 60
            while child.poll() is None and len(server.requests) < 4 and time.monotonic() < end:
                time.sleep(0.01)
            child.send_signal(signal.SIGKILL)
        finally:
            child.kill()
            child.wait()
        assert child.returncode == -signal.SIGKILL and 4 <= len(server.requests) < 8
        assert not out.parent.exists()
        before = list(server.asked)
    with Server(respond) as server:
        code, said, error = synth(command, docs, server, out, *one_by_one)
        assert code == 0, error
        again = set(server.asked) & set(before)
        assert len(again) <= 2, "the one that was in flight, and one that was answered but not yet written"
        assert len(set(server.asked) | set(before)) == 8 == len(server.asked) + len(before) - len(again)
        assert f"{len(before) - len(again)} kept from before" in said
    assert len(rows(out)) == 8 * 5


def test_generated_sources_need_no_model(command, tmp_path):
    out = tmp_path / "s.jsonl"
    code, said, error = command("synth", "almanac", "--set", "sizes=[300]", "--recipe", "qa:6+summary:1", "--generator-set", "error_rate=0.5", "--out", out)  # fmt: skip
    assert code == 0, error
    assert "facts covered 100.0 %" in said and re.search(r"wrong values [3-7]\d\.\d %", said)
    assert {row["generator"] for row in rows(out)} == {"exact:0.5"}
    # six questions of ten facts leave none uncovered because the summary is of all
    assert "questions that stand in it: 0 of" in said
    first = out.read_bytes()
    command("synth", "almanac", "--set", "sizes=[300]", "--recipe", "summary:1 + QA:6", "--generator-set", "error_rate=0.5", "--out", out)  # fmt: skip
    assert sorted(out.read_bytes().splitlines()) == sorted(first.splitlines())
    code, _, error = command("synth", "almanac", "--set", "sizes=[100,300]", "--recipe", "raw", "--out", tmp_path / "t.jsonl")  # fmt: skip
    assert code == 2 and "give one: --set sizes=[300]" in error


# -- what goes wrong -------------------------------------------------------------------------------------------
def closed_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


SYNTH = ("synth", "{docs}", "--recipe", "raw+qa:3", "--out", "{out}")
PROBE = ("data", "probe", "{docs}", "--generator", "{url}", "--generator-model", "m", "--out", "{out}")
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "no folder": (("synth", "{docs}/none", "--recipe", "raw", "--out", "{out}"), "none' is neither a folder of documents nor a source; allowed: almanac"),
    "a kind misspelt": (("synth", "almanak", "--recipe", "raw", "--out", "{out}"), "Did you mean 'almanac'?"),
    "an empty folder": (("synth", "{empty}", "--recipe", "raw", "--out", "{out}"), "file in this folder"),
    "a folder without text": (("synth", "{blank}", "--recipe", "raw", "--out", "{out}"), "no file here holds any text"),
    "a file of another kind": (("synth", "{blank}/x.png", "--recipe", "raw", "--out", "{out}"), "not one of .md"),
    "--from": ((*SYNTH, "--from", "x"), "takes no --from"),
    "a setting of the source": ((*SYNTH, "--set", "idz=[a]"), "source.idz: unknown key"),
    "no document of that name": ((*SYNTH, "--generator", "{url}", "--generator-model", "m", "--set", "ids=[ad.md]"), "Did you mean 'ada.md'?"),
    "a bad recipe": (("synth", "{docs}", "--recipe", "raw+qa", "--out", "{out}"), "give qa a number from 1 to 100,000, e.g. qa:10"),
    "published": (("synth", "{docs}", "--recipe", "published", "--out", "{out}"), "comes without training pairs; use qa:N"),
    "no facts known": (SYNTH, "use generator local or a URL"),
    "an unknown generator": ((*SYNTH, "--generator", "gpt"), "unknown generator 'gpt'; allowed: URL, exact, local, reader."),
    "no model": ((*SYNTH, "--generator", "{url}"), "an endpoint needs model, the name it has there (--generator-model)"),
    "a bad URL": ((*SYNTH, "--generator", "http://a b", "--generator-model", "m"), "url: expected http(s)://HOST[:PORT][/PATH]"),
    "nobody there": ((*SYNTH, "--generator", "http://127.0.0.1:{port}/v1", "--generator-model", "m", "--generator-set", "endpoint.retries=0"), "cannot be reached"),
    "another model": ((*SYNTH, "--generator", "{url}", "--generator-model", "unknown"), "no such model"),
    "no base URL": ((*SYNTH, "--generator", "{url}/wrong", "--generator-model", "m"), "or not the base URL of an API"),
    "no key": ((*SYNTH, "--generator", "https://api.openai.com/v1", "--generator-model", "m"), "set the environment variable OPENAI_API_KEY"),
    "half a setting": ((*SYNTH, "--generator-set", "temperature"), "--generator-set 'temperature': give PATH=VALUE, e.g. temperature=0"),
    "a setting too deep": ((*SYNTH, "--generator-set", "recipe.x=1"), "--generator-set recipe.x: recipe holds a value"),
    "an unknown setting": ((*SYNTH, "--generator-set", "temprature=1"), "Did you mean 'temperature'?"),
    "an unknown setting of the endpoint": ((*SYNTH, "--generator", "{url}", "--generator-model", "m", "--generator-set", "endpoint.timeuot=1"), "Did you mean 'timeout'?"),
    "an unknown partition": ((*SYNTH, "--partition", "chapter"), "partition 'chapter'"),
    "bad chunks": ((*SYNTH, "--chunking", "9/9"), "needs tokens >= 1, 0 <= overlap < tokens"),
    "out is a folder": (("synth", "{docs}", "--recipe", "raw", "--out", "{docs}"), "is a folder; name a file in it"),
    "out below a file": (("synth", "{docs}", "--recipe", "raw", "--out", "{docs}/ada.md/s.jsonl"), "is no folder that can be written to"),
    "an unknown level": ((*PROBE, "--levels", "recall,recal"), "--levels 'recal'; allowed: comprehension, recall, structure. Did you mean 'recall'?"),
    "no level": ((*PROBE, "--levels", ","), "nothing to ask"),
    "no question": ((*PROBE, "--questions", "0"), "nothing to ask"),
    "two shares": ((*PROBE, "--split", "0.5,0.5"), "give three shares that sum to 1"),
    "shares of more": ((*PROBE, "--split", "0.5,0.5,0.5"), "give three shares that sum to 1"),
    "shares of words": ((*PROBE, "--split", "a,b,c"), "give three shares that sum to 1"),
    "negative shares": ((*PROBE, "--split=-1,1,1"), "give three shares that sum to 1"),
    "no shares": ((*PROBE, "--split", "nan,0,1"), "give three shares that sum to 1"),
    "no supervision": ((*PROBE, "--supervision", "{docs}/none.jsonl"), "no such file"),
    "bad supervision": ((*PROBE, "--supervision", "{docs}/ada.md"), "ada.md:1: not JSON"),
    "questions below a file": (("data", "probe", "{docs}", "--generator", "{url}", "--generator-model", "m", "--out", "{docs}/ada.md/p.jsonl"), "is no folder that can be written to"),
    "exact questions": (("data", "probe", "{docs}", "--generator", "exact", "--out", "{out}"), "almanac sources have questions of their own"),
    "questions of no folder": (("data", "probe", "{docs}/none", "--generator", "{url}", "--generator-model", "m", "--out", "{out}"), "is neither a folder"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_is_said_in_a_line_and_nothing_is_left(name, command, docs, tmp_path):
    arguments, said = WRONG[name]
    (docs.parent / "my docs empty").mkdir()
    blank = docs.parent / "my docs blank"
    blank.mkdir()
    (blank / "a.md").write_text(" \n")
    (blank / "x.png").write_bytes(b"x")
    script: dict = {}
    if "unknown" in arguments:
        script[""] = status(404, "The model `unknown` does not exist")  # to every prompt
    if "{url}/wrong" in arguments:
        script[""] = raw(b"<html>Not found</html>", 404, "text/html")
    with Server(respond, script) as server:
        given = {"docs": docs, "empty": docs.parent / "my docs empty", "blank": blank, "url": server.url,
                 "out": tmp_path / "new" / "s.jsonl", "port": closed_port()}  # fmt: skip
        before = {path: path.read_bytes() for path in docs.rglob("*.md")}
        code, _, error = command(*(str(one).format(**given) for one in arguments))
        assert len(server.requests) <= 3
    assert code == 2, error
    assert said in error and error.startswith("error: ") and error.count("\n") <= 2, error
    assert "Traceback" not in error and "a bug in loramem" not in error
    assert {path: path.read_bytes() for path in docs.rglob("*.md")} == before
    assert not (tmp_path / "new").exists(), "nothing is made for a file that is not written"
    assert not [p for p in tmp_path.rglob(".tmp-*")]


def test_all_faults_of_the_settings_come_at_once(command, docs, tmp_path):
    code, _, error = command("synth", docs, "--recipe", "qa+raw:2", "--generator-set", "temperature=9", "--generator-set", "colour=red", "--out", tmp_path / "s.jsonl")  # fmt: skip
    assert code == 2 and error.startswith("error: 4 faults:\n- synth.recipe: ") and error.count("\n- ") == 4
