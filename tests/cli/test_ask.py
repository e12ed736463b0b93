"""`loramem ask` on modules trained in the test: what it prints, what it pipes, and all that goes wrong."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from loramem.cli import main
from loramem.modules.store import Store
from loramem.synthesis.supervision import load

UNICODE = ["Où est né Köln-Müller?", "北京在哪里?", "Где река Флио?", "what 🦉 is ﷽?"]


@pytest.fixture(scope="module")
def papers(tmp_path_factory) -> Path:
    """A folder with supervision of three reports and a store with their modules, made by the commands of the README."""
    where = tmp_path_factory.mktemp("papers")
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            "synth almanac-papers --set documents=3 --set seed=5 --recipe raw+qa:8 --out s.jsonl",
            "modules train --supervision s.jsonl --rank 8 --lr 0.01 --exposures 16 --each document --store store",
        ):
            patch.chdir(where)
            patch.setattr(sys, "argv", ["loramem", *words.split()])
            try:
                main()
            except SystemExit as stop:
                assert not stop.code, words
    return where


@pytest.fixture(scope="module")
def pairs(papers) -> list[tuple[str, str, str]]:
    """(question, answer, document) as they were learnt."""
    return [(e.prompt, e.answer, e.document) for e in load(papers / "s.jsonl").examples if e.form == "chat"]


@pytest.fixture(scope="module")
def ids(papers, pairs) -> dict[str, str]:
    """Module of each document."""
    texts = {one.id: one.text for one in Store(papers / "store", look=True).modules()}
    return {name: next(id for id, text in texts.items() if question in text) for question, _, name in pairs}


@pytest.fixture
def ask(loramem, papers):
    def run(*words, store=papers / "store", stdin: bytes | None = None) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            if stdin is not None:
                patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
            return loramem("ask", *words, "--store", store)

    return run


def objects(said: str) -> list[dict]:
    return [json.loads(line) for line in said.splitlines()]


# -- what is said ------------------------------------------------------------------------------------
def test_the_answer_comes_first_then_the_route(ask, pairs, ids):
    question, answer, document = pairs[0]
    code, said, error = ask(question, "--modules", "all")
    assert (code, error) == (0, "")
    lines = said.splitlines()
    assert lines[0] == answer, "what was learnt is given back"
    assert lines[1].startswith("reading: routed; router embedding: confidence 0.") and lines[1].endswith("threshold 0.32, 3 modules")  # fmt: skip
    assert lines[2].startswith(f"  *  {ids[document][:12]}  ") and "%  Report " in lines[2]
    assert [line[:5] for line in lines[3:5]] == ["     ", "     "], "the others, not used"
    assert lines[5].startswith("prompt ") and lines[6].startswith("seconds: load ") and len(lines) == 7
    assert "\x1b" not in said, "plain where nobody looks"


def test_one_module_answers_by_itself(ask, pairs, ids):
    question, answer, document = pairs[-1]
    code, said, _ = ask(question, "--modules", ids[document][:6])
    assert code == 0 and said.splitlines()[:2] == [answer, "reading: module"]


def test_merged_and_passages_say_how(ask, pairs, ids):
    question, _, document = pairs[0]
    code, said, error = ask(
        question,
        "--modules",
        "all",
        "--reading",
        "merged+rag",
        "--rule",
        "linear-delta",
        "--router",
        "bm25",
        "--top-k",
        2,
        "--passages-k",
        1,
    )
    assert code == 0, error
    assert "merged by linear-delta: " in said and said.count(" x 0.5") == 2 and "norm ratio" in said
    assert "threshold above 0" in said and "passages out of the texts that the modules learnt:\n" in said
    assert f"\n  {ids[document][:12]}#" in said and said.count("#") == 1


def test_documents_of_a_folder_or_a_file_are_read(ask, papers, pairs, tmp_path):
    question, answer, document = pairs[0]
    raw = [one.answer for one in load(papers / "s.jsonl").examples if one.form == "text" and one.document == document]  # fmt: skip
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "köln.md").write_text("\n\n".join(raw))
    (tmp_path / "docs" / "other.txt").write_text("Bread is baked at dawn in Ostrel.\n")
    code, said, error = ask(question, "--reading", "rag", "--documents", tmp_path / "docs", "--json", "--passages-k", 2)  # fmt: skip
    assert code == 0, error
    [row] = objects(said)
    assert row["answer"] == answer and row["passages"][0]["id"].startswith("köln.md#")
    assert " ".join(raw).startswith(row["passages"][0]["begins"].removesuffix(" …"))
    assert row["read_from"] == str(tmp_path / "docs") and row["candidates"] == []
    code, said, _ = ask(question, "--reading", "icl", "--documents", tmp_path / "docs" / "köln.md")
    assert code == 0 and said.startswith(f"{answer}\n") and "documents read: köln.md (" in said


def test_not_in_memory(ask, pairs):
    code, said, _ = ask("How do I boil an egg?", "--modules", "all")
    assert code == 0 and said.startswith("not in memory\n")
    assert "no module fits: best is " in said and "threshold 0.32 (--none-below X, or --always" in said
    code, said, _ = ask("How do I boil an egg?", "--modules", "all", "--json")
    [row] = objects(said)
    assert code == 0 and row["answer"] is None and row["not_in_memory"] is True
    assert len(row["candidates"]) == 3 and 0 < row["confidence"] < row["none_below"] == 0.32
    for word, answered in ((("--always",), True), (("--none-below", "-1"), True), (("--none-below", "0.999"), False)):  # fmt: skip
        [row] = objects(ask(pairs[0][0] if not answered else "Boil?", "--modules", "all", "--json", *word)[1])
        assert row["not_in_memory"] is not answered and (row["answer"] is not None) is answered


def test_several_questions_are_told_apart(ask, pairs):
    asked = [pairs[0][0], UNICODE[0]]
    code, said, _ = ask(*asked, "--modules", "all", "--router", "perplexity")
    assert code == 0 and all(f"{question}\n" in said for question in asked)
    assert said.count("seconds: ") == 1 and "(2 questions together)" in said


def test_a_terminal_gets_a_table(ask, pairs, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    code, said, _ = ask(pairs[0][0], "--modules", "all")
    assert code == 0 and "\x1b[" in said and "learnt" in said and pairs[0][1] in said.splitlines()[0]


# -- pipes -------------------------------------------------------------------------------------------
def test_two_hundred_questions_go_through_together(ask, pairs, ids, monkeypatch):
    from loramem.answering import ask as engine

    calls = []
    monkeypatch.setattr(
        engine,
        "generate",
        lambda base, requests, own=engine.generate, **how: (
            calls.append(len(requests)) or own(base, requests, **how)
        ),
    )
    asked = [pairs[n % len(pairs)] for n in range(200 - len(UNICODE))]
    text = (
        "\ufeff"
        + "\r\n\n".join(question for question, _, _ in asked)
        + "\n   \n"
        + "\n".join(UNICODE)
        + "\n\n"
    )
    code, said, error = ask("-", "--modules", "all", "--router", "bm25", "--always", stdin=text.encode())
    assert (code, error) == (0, "")
    rows = objects(said)
    assert calls == [200], "one batch"
    assert [row["question"] for row in rows] == [question for question, _, _ in asked] + UNICODE
    found = list(zip(asked, rows, strict=False))
    routed = [row["candidates"][0]["module"] == ids[document] for (_, _, document), row in found]
    right = [row["answer"] == answer for (_, answer, _), row in found]
    assert sum(routed) >= 0.95 * len(routed) and sum(right) >= 0.8 * len(right)


def test_json_holds_every_part(ask, pairs):
    [row] = objects(ask(pairs[0][0], "--modules", "all", "--json", "--reading", "merged+icl")[1])
    assert set(row) == {
        "question", "answer", "not_in_memory", "reading", "base", "truncated", "candidates", "pool_size", "router", "confidence", "none_below",
        "passages", "documents", "read_from", "merge", "seconds", "prompt_tokens", "new_tokens", "cut_tokens",
    }  # fmt: skip
    assert set(row["candidates"][0]) == {"module", "learnt", "score", "share", "used"}
    assert set(row["seconds"]) == {"load", "route", "answer", "questions"} and row["cut_tokens"] > 0
    assert len(row["merge"]["parents"]) == 3 and row["merge"]["measures"]["norm"] > 0


# -- what goes wrong ---------------------------------------------------------------------------------
def tree(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["", "--modules", "all"], "the question is empty"), (["a?", " ", "--modules", "all"], "question 2 is empty"),
        (["a?", "--modules", "zzzz"], "no module 'zzzz' in .*allowed: "), (["a?", "--modules", "all", "--modules", "a"], "not both"),
        (["a?"], "reading module needs modules"), (["why " * 2000, "--modules", "all"], "too long.*1024"),
        (["a?", "--modules", "all", "--router", "bm52"], "unknown router 'bm52'.*Did you mean 'bm25'"),
        (["a?", "--modules", "all", "--router", "oracle"], "nobody knows the right module"),
        (["a?", "--modules", "all", "--reading", "merged", "--rule", "tiesdelta"], "unknown merge rule 'tiesdelta'.*Did you mean 'ties-delta'"),
        (["a?", "--modules", "all", "--reading", "route"], "unknown reading; .*Did you mean 'routed'"),
        (["a?", "--modules", "all", "--key", "title"], "key.*'title'"), (["a?", "--modules", "all", "--top-k", "0"], "top_k"),
        (["a?", "--modules", "all", "--top-k", "2"], "belongs to merged"), (["a?", "--modules", "all", "--passages-k", "2"], r"add \+rag"),
        (["a?", "--modules", "all", "--always", "--none-below", "1"], "contradict"), (["a?", "--modules", "all", "--base", "no-such"], "no-such"),
        (["a?", "--modules", "all", "--base", "embedded-small"], "made on base embedded .*not on embedded-small"),
        (["a?", "--modules", "all", "--reading", "routed+rag", "--documents", "/no/such"], "no such folder"),
        (["a?", "--modules", "all", "--documents", "."], "not by routed"), (["-", "a?", "--modules", "all"], "give no others"),
    ],
)  # fmt: skip
def test_bad_input_exits_2_with_one_message_and_writes_nothing(ask, papers, words, message):
    import re

    before = tree(papers)
    code, said, error = ask(*words)
    assert code == 2 and said == "" and "Traceback" not in error
    assert error.startswith("error: ") and re.search(message, error, re.DOTALL), error
    assert tree(papers) == before


def test_empty_pipes_and_stores(ask, tmp_path):
    for stdin, message in ((b"\n \n", "holds no question"), (b"\xff\xfe?", "not UTF-8")):
        code, _, error = ask("-", "--modules", "all", stdin=stdin)
        assert code == 2 and message in error
    code, _, error = ask("a?", "--modules", "all", store=tmp_path / "nothing")
    assert code == 2 and "no modules in" in error and not (tmp_path / "nothing").exists()


def test_damaged_modules_are_named(ask, papers, ids, pairs, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(papers / "store", copy)
    question, _, document = pairs[0]
    folder = copy / "modules" / ids[document]
    (folder / "adapter_model.safetensors").write_bytes(b"\0" * 50)
    code, _, error = ask(question, "--modules", "all", store=copy)
    assert code == 2 and f"module {ids[document][:12]}" in error and "doctor --repair" in error
    (folder / "routing.txt").unlink()
    code, _, error = ask(question, "--modules", "all", store=copy)
    assert code == 2 and f"but {ids[document][:12]} kept no text" in error and "perplexity" in error
    for content in ("{", "[]", "{}", '{"recipe": 3}'):
        (folder / "recipe.json").write_text(content)
        code, _, error = ask(question, "--modules", "all", store=copy)
        assert code == 2 and "is damaged" in error and "Traceback" not in error, content


def test_modules_of_two_bases_are_not_asked_together(ask, papers, ids, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(papers / "store", copy)
    marker = copy / "modules" / next(iter(ids.values())) / "recipe.json"
    recipe = json.loads(marker.read_text())
    recipe["recipe"]["base"] = "f" * 64
    marker.write_text(json.dumps(recipe))
    code, _, error = ask("a?", "--modules", "all", store=copy)
    assert code == 2 and "only modules of one base" in error and "on ffffffff" in error
    assert all(id[:12] in error for id in ids.values())
