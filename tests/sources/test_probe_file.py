"""A file of questions beside a folder of documents: what is read, every fault at once, and the source they make."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.folder import FolderConfig, build
from loramem.sources.probe_file import read_probes
from loramem.sources.types import Document, Record


def words(text: str) -> int:
    return len(text.split())


def doc(id: str, *texts: str) -> Document:
    return Document(id, tuple(Record(f"{id}:{n}", text) for n, text in enumerate(texts or ("Text.",))))


def write(path: Path, *rows: object) -> Path:
    path.write_text(
        "\n".join(row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    )
    return path


def row(**changes) -> dict:
    return {"document": "a.md", "question": "Who?", "answers": ["Ada"], **changes}


# -- what is read ----------------------------------------------------------------------------------------------
def test_what_a_row_says(tmp_path):
    documents = [doc("a.md", "Bela met Adam.", "ADA came.", "Ada stayed."), doc("ü/東京 🪨.md")]
    path = write(
        tmp_path / "p.jsonl",
        row(question=" Who? ", answers=[" Ada ", "Ada Lorn"], level="recall", split="test", generator="m", id="one", more=1),
        "",
        {"document": "ü/東京 🪨.md", "question": "何？", "answer": "石"},
        row(answers=["nowhere to be found"], level=None, generator=None),
        row(split="dev"),
        row(split="train"),
    )  # fmt: skip
    found, writers = read_probes(path, documents)
    assert [(p.id, p.case, p.document, p.prompt, p.answers, p.level) for p in found] == [
        ("one", "a.md:1", "a.md", "Who?", ("Ada", "Ada Lorn"), "recall"),
        ("ü/東京 🪨.md-p2", "ü/東京 🪨.md:0", "ü/東京 🪨.md", "何？", ("石",), ""),
        ("a.md-p3", "a.md:0", "a.md", "Who?", ("nowhere to be found",), ""),
    ]
    assert {(p.kind, p.phrasing) for p in found} == {("generate", "heldout")} and writers == ["m", "unknown"]
    for split, count in (("dev", 1), ("train", 1), ("test", 3), ("all", 5)):
        assert len(read_probes(path, documents, split)[0]) == count  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.json", json.dumps([row(), row(question="When?")])),
        ("p.csv", 'document,question,answer\na.md,Who?,Ada\na.md,"When, and why?",so\n'),
        ("p.tsv", "document\tquestion\tanswer\na.md\tWho?\tAda\na.md\tWhen?\tnow\n"),
    ],
)
def test_other_files_of_rows(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    found, _ = read_probes(tmp_path / name, [doc("a.md")])
    assert len(found) == 2 and found[0].prompt == "Who?" and found[0].answers == ("Ada",)


# -- what is wrong ---------------------------------------------------------------------------------------------
def test_all_faults_come_at_once_with_their_lines(tmp_path):
    bad: dict[object, str] = {
        '{"document": "a.md"': "not JSON",
        "[1]": "expected an object, found list",
        "null": "expected an object, found NoneType",
    }
    rows: list[tuple[object, str]] = [
        *bad.items(),
        (row(question=None), "needs question (text)"),
        (row(question="  "), "needs question (text)"),
        (row(question=["Who?"]), "needs question (text)"),
        (row(answers=[]), "needs answers (a list of text) or answer (text)"),
        (row(answers="Ada"), "needs answers"),
        (row(answers=["Ada", " "]), "needs answers"),
        (row(answers=[1923]), "needs answers"),
        ({"document": "a.md", "question": "Who?"}, "needs answers"),
        ({"document": "a.md", "question": "Who?", "answer": None}, "needs answers"),
        (row(document="b.md"), "document 'b.md' is not among the documents; allowed: a.md, sub/c.md. Did you mean 'a.md'?"),
        (row(document=None), "document None is not among the documents"),
        (row(document=["a.md"]), "document ['a.md'] is not among the documents"),
        (row(split="tets"), "split 'tets'; allowed: dev, test, train. Did you mean 'test'?"),
        (row(split=None), "split None; allowed"),
        (row(split=["test"]), "split ['test']; allowed"),
    ]  # fmt: skip
    path = write(tmp_path / "p.jsonl", row(), *(given for given, _ in rows), row(id=7), row(id="7"))
    with pytest.raises(Faults) as caught:
        read_probes(path, [doc("a.md"), doc("sub/c.md")])
    # a file that is no JSON is told first, as it is read
    found = sorted(caught.value.faults, key=lambda fault: int(fault.split(":")[1]))
    for number, (fault, (_, said)) in enumerate(zip(found, rows, strict=False), start=2):
        assert fault.startswith(f"{path}:{number}: {said}"), fault
    assert found[-1] == f"{path}:{len(rows) + 3}: id '7' stands in the file twice" and len(found) == len(rows) + 1  # fmt: skip


def test_a_long_list_of_faults_is_cut(tmp_path):
    with pytest.raises(Faults) as caught:
        read_probes(write(tmp_path / "p.jsonl", *(row(document="x") for _ in range(50))), [doc("a.md")])
    assert len(caught.value.faults) == 21 and caught.value.faults[-1] == "... and 30 more faults"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file(content, tmp_path):
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(InputError, match="p.jsonl: empty file"):
        read_probes(tmp_path / "p.jsonl", [doc("a.md")])


def test_a_split_without_questions_says_what_is_there(tmp_path):
    path = write(tmp_path / "p.jsonl", row(split="dev"), row(split="dev"), row())
    with pytest.raises(Faults, match="no question of split 'train' about these documents; there are: dev 2, test 1"):  # fmt: skip
        read_probes(path, [doc("a.md")], "train")


def test_places_that_hold_no_file(tmp_path):
    for path, said in (
        (tmp_path / "no.jsonl", "no such file"),
        (tmp_path, "cannot be read"),
        (tmp_path / "p.jsonl", "not UTF-8"),
    ):
        (tmp_path / "p.jsonl").write_bytes(b"\xff\xfe{")
        with pytest.raises(InputError, match=said):
            read_probes(path, [doc("a.md")])


# -- a folder with questions -----------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "docs"
    (root / "sub").mkdir(parents=True)
    (root / "a.md").write_text("# A\n\nBela left.\n\nAda came.")
    (root / "sub" / "ü.md").write_text("# U\n\nÜnal stayed.")
    write(
        tmp_path / "p.jsonl",
        row(generator="m"),
        row(question="What?", split="dev"),
        row(document="sub/ü.md", question="Who stayed?", answers=["Ünal"], generator="n"),
    )
    return root


def load(folder: Path, **settings):
    config = {"path": str(folder), "probes": str(folder.parent / "p.jsonl"), **settings}
    (source,) = build(parse(FolderConfig, config), words)
    return source


def test_a_folder_with_questions(folder):
    source = load(folder)
    assert [(p.document, p.prompt, p.answers) for p in source.probes] == [
        ("a.md", "Who?", ("Ada",)),
        ("sub/ü.md", "Who stayed?", ("Ünal",)),
    ]
    assert {p.case for p in source.probes} <= {record.id for record in source.records}
    assert next(r.text for r in source.records if r.id == source.probes[0].case) == "Ada came."
    assert source.settings == {"probe_generators": ["m", "n"]}
    assert source.notes[0].endswith("2 questions") and "questions by m, n" in source.notes
    dev = load(folder, split="dev")
    assert [p.prompt for p in dev.probes] == ["What?"] and dev.settings["split"] == "dev"
    assert dev.documents_hash == source.documents_hash and dev.hash != source.hash
    assert len(load(folder, split="all").probes) == 3
    plain = load(folder, probes=None)
    assert not plain.probes and "probe_generators" not in plain.settings
    assert plain.documents_hash == source.documents_hash


def test_questions_about_documents_that_are_not_taken_are_not_asked(folder):
    assert [p.document for p in load(folder, ids=["sub/ü.md"]).probes] == ["sub/ü.md"]
    assert [p.document for p in load(folder, documents=1).probes] == ["a.md"]
    write(folder.parent / "p.jsonl", row(document="gone.md"))
    with pytest.raises(Faults, match="'gone.md' is not among"):
        load(folder, ids=["a.md"])
    write(folder.parent / "p.jsonl", row())
    with pytest.raises(Faults, match="no question of split 'test' about these documents; there are: none"):
        load(folder, ids=["sub/ü.md"])


def test_a_question_about_a_document_without_text_is_a_fault(folder):
    (folder / "blank.md").write_text(" ")
    write(folder.parent / "p.jsonl", row(), row(document="blank.md"))
    with pytest.raises(Faults, match=r"p.jsonl:2: document 'blank.md' is not among"):
        load(folder)


def test_one_file_with_questions(folder):
    source = load(folder / "a.md", probes=str(write(folder.parent / "q.jsonl", row())))
    assert [p.document for p in source.probes] == ["a.md"]


def test_impossible_settings(folder):
    with pytest.raises(Faults, match="split: Input should be 'train', 'dev', 'test' or 'all'"):
        load(folder, split="tests")
    with pytest.raises(InputError, match="no such file"):
        load(folder, probes=str(folder / "none.jsonl"))
