"""PaperQA in its published forms, the published training pairs, and introductions taken out of LaTeX and PDF text."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.latex import latex_introduction
from loramem.sources.paperqa import (
    PaperQAConfig,
    build,
    introduction_of_text,
    own_papers,
    published_pairs,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
PAPERS = str(FIXTURES / "paperqa")


def words(text: str) -> int:
    return len(text.split())


def load(path: str | Path = PAPERS, **settings):
    (source,) = build(parse(PaperQAConfig, {"path": str(path), **settings}), words)
    return source


def test_papers_questions_and_levels():
    source = load()
    assert [(d.id, d.title) for d in source.documents] == [
        ("paper-0", "Lamps That Light Themselves"),
        ("paper-1", "Counting Stones"),
    ]
    assert Counter((p.document, p.level) for p in source.probes) == {
        (f"paper-{n}", level): 1 for n in (0, 1) for level in ("recall", "comprehension", "structure")
    }
    assert source.size_tokens is None and source.settings == {}
    assert source.notes == (f"2 documents, {sum(words(r.text) for r in source.records)} tokens, 6 questions",)
    assert {p.case for p in source.probes} <= {r.id for r in source.records}
    assert len({p.id for p in source.probes}) == 6
    assert "🪨" in source.documents[1].text


@pytest.mark.parametrize(
    ("style", "question", "first"),
    [
        ("natural", "In the Paper ID 0, What is the lamp called?", "This paper 0 discusses:"),
        ("bracket", "[Paper ID: 0] What is the lamp called?", "This paper 0 discusses:"),
        (
            "none",
            "What is the lamp called?",
            "Lamps have long been lit by hand (Quill et al., 1901). This is slow.",
        ),
    ],
)
def test_styles_name_paper_0_like_any_other(style, question, first):
    source = load(style=style)
    assert source.probes[0].prompt == question and source.documents[0].records[0].text == first
    pairs = published_pairs(PaperQAConfig(path=PAPERS, style=style))
    assert {id: len(found) for id, found in pairs.items()} == {"paper-0": 2, "paper-1": 1}
    assert pairs["paper-0"][1] == (
        question.replace("What is the lamp called?", "How long does Lumo burn?"),
        "Nine hours.",
    )


def test_spans_are_of_the_text_with_its_first_line():
    source = load(documents=1)
    text = (
        "This paper 0 discusses:\n\n"
        + json.loads((FIXTURES / "paperqa/paperQA_0-1.json").read_text())[0]["introduction"]
    )
    assert all(text[slice(*record.span)] == record.text for record in source.records)


def test_selection_by_id_count_and_level():
    assert (
        [d.id for d in load(ids=["1"]).documents]
        == [d.id for d in load(ids=["paper-1"]).documents]
        == ["paper-1"]
    )
    assert {p.level for p in load(levels=["recall"]).probes} == {"recall"}
    assert len(load(documents=1).documents) == 1
    with pytest.raises(Faults, match="no document '7'; allowed: 0, 1"):
        load(ids=["7"])
    with pytest.raises(Faults, match="3 asked for, 2 there"):
        load(documents=3)


def test_introductions_alone_have_no_questions(tmp_path):
    for path in Path(PAPERS).glob("*_introduction.jsonl"):
        shutil.copy(path, tmp_path)
    source = load(tmp_path)
    assert [d.text for d in source.documents] == [d.text for d in load().documents]
    assert not source.probes and "2 papers have no questions of their own" in source.notes


def test_an_introduction_that_differs_is_noted(tmp_path):
    shutil.copytree(PAPERS, tmp_path / "p")
    (tmp_path / "p/paper_1_introduction.jsonl").write_text('{"text": "This paper 1 discusses:\\n\\nother"}')
    assert "paper_1_introduction.jsonl differs" in load(tmp_path / "p").notes[1]


GOOD = {"level": 1, "question": "Q?", "answer": "A"}
PAPER = {"id": 0, "title": "T", "introduction": "I.", "QA": [GOOD]}
BAD = {
    "empty file": ("", "empty file"),
    "no JSON": ('[\n{"id": 0,\n]', ":3: not JSON"),
    "no objects": ("[1]", "item 1: expected an object, found int"),
    "wrong keys": ([{"id": 0, "abstract": "x"}], "item 1: needs title (text), introduction (text), QA (list)"),
    "empty introduction": ([{**PAPER, "introduction": " "}], "needs introduction (text)"),
    "bad level": ([{**PAPER, "QA": [{**GOOD, "level": "recal"}]}], "Did you mean 'recall'?"),
    "question without answer": ([{**PAPER, "QA": [{"level": 1, "question": "Q?"}]}], "question 1: needs answer"),
    "question no object": ([{**PAPER, "QA": ["Q?"]}], "question 1: not an object"),
    "two answers": ([{**PAPER, "QA": [GOOD, {**GOOD, "answer": "B"}]}], "one question, two answers"),
    "duplicate ids": ([PAPER, {**PAPER, "id": "0"}], "item 2: paper 0 stands already"),
    "empty list": ("[]", "no papers"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_files_are_named(case, tmp_path):
    content, pattern = BAD[case]
    path = tmp_path / "papers.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(InputError) as caught:
        load(path)
    assert pattern in str(caught.value) and "papers.json" in str(caught.value)


def test_all_faults_come_at_once(tmp_path):
    (tmp_path / "papers.json").write_text(json.dumps([{"id": 0}, {**PAPER, "QA": [1]}, 5]))
    with pytest.raises(Faults) as caught:
        load(tmp_path / "papers.json")
    assert len(caught.value.faults) == 3


def test_bad_pairs_are_named(tmp_path):
    shutil.copytree(PAPERS, tmp_path / "p")
    (tmp_path / "p/paper_0_qa.jsonl").write_text('{"question": "Q?", "answer": "A"}\n{"question": 1}\nno\n')
    (tmp_path / "p/paper_1_qa.jsonl").unlink()
    with pytest.raises(Faults) as caught:
        published_pairs(PaperQAConfig(path=str(tmp_path / "p")))
    text = str(caught.value)
    assert ":2: needs question (text), answer (text)" in text and ":3: not JSON" in text
    assert "paper 1: no paper_1_qa.jsonl" in text


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({"stlye": "none"}, "Did you mean 'style'"),
        ({"style": "loud"}, "'natural', 'bracket' or 'none'"),
        ({"levels": []}, "levels"),
        ({"documents": 0}, "greater than 0"),
        ({"path": "nowhere"}, "no such file"),
    ],
)
def test_impossible_settings(settings, pattern):
    with pytest.raises(InputError, match=pattern):
        load(**{"path": PAPERS, **settings})


# -- LaTeX and PDF text ----------------------------------------------------------------------------------------
def test_the_introduction_of_a_latex_source():
    text, title = latex_introduction(FIXTURES / "latex/lamps")
    assert title == "Lamps That Light Themselves"
    assert text == (
        "Lamps have long been lit by hand. This is slow: it takes 5% of a day. [ado] found “$x_{1} > 3$” in Gödel's café.\n\n"
        "We propose Lumo, a lamp that lights itself in Rast; see Section.\n"
        "- It needs no oil.\n- It burns for nine hours.\n\n"
        "Outline The rest is dark — but not long."
    )


def test_a_folder_of_sources_becomes_papers():
    source = load(FIXTURES / "latex")
    assert [(d.id, d.title) for d in source.documents] == [("paper-lamps", "Lamps That Light Themselves")]
    assert source.documents[0].records[0].text == "This paper lamps discusses:"


def tex(folder: Path, body: str, **others: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "main.tex").write_text(
        f"\\documentclass{{article}}\n\\begin{{document}}\n{body}\n\\end{{document}}"
    )
    for name, text in others.items():
        (folder / f"{name}.tex").write_text(text)
    return folder


@pytest.mark.parametrize(
    ("body", "others", "expected"),
    [
        ("\\section*{1. INTRODUCTION}A.\\appendix B", {}, "A."),
        ("\\section[x]{\\bf Introduction}\nA \\input a \\section{B}", {"a": "of a file"}, "A of a file"),
        ("\\section{Introduction}\n100\\% \\% of it % \\input{../secret}\nis.\\bibliography{x}", {}, "100% % of it is."),
        ("\\section{Introduction and Motivation}A\\textbf{b {c} d}e \\unknown{f} {\\em g} \\foo h", {}, "Ab c de f g h"),
        ("\\section{Introduction}A $a \\cite{b}$ and \\cite{c}, \\[ d \\textbf{e} \\] end", {}, "A $a \\cite{b}$ and, \\[ d \\textbf{e} \\] end"),
        ("\\newcommand{\\a}{\\b}\\newcommand{\\b}{\\a}\\section{Introduction}A circle", {}, "A circle"),
        ("\\section{Introduction}A {never \\textbf{closed", {}, "A never closed"),
        ("\\section{Introduction}A \\href{http://x.y}{link} \\url{http://x.y/z} (\\cite{q}) B", {}, "A link http://x.y/z B"),
        ("\\section{Introduction}A \\input{missing} B", {}, "A B"),
    ],
)  # fmt: skip
def test_latex(body, others, expected, tmp_path):
    text, _ = latex_introduction(tex(tmp_path, body, **others))
    assert " ".join(text.split()) == expected


@pytest.mark.parametrize(
    ("body", "others", "pattern"),
    [
        ("\\section{Methods}A", {}, "no .section.Introduction"),
        ("\\section{Introduction}\\section{B}", {}, "no .section.Introduction"),
        ("\\input{../secret}", {}, "leaves its folder"),
        ("\\input{/etc/hostname}", {}, "leaves its folder"),
        ("\\input{a}", {"a": "\\input{main}"}, "inputs itself"),
        ("A", {"other": "\\documentclass{x}", "third": "\\documentclass{x}"}, None),
    ],
)
def test_bad_latex_is_refused(body, others, pattern, tmp_path):
    (tmp_path / "secret.tex").write_text("\\section{Introduction}secret")
    folder = tex(tmp_path / "p", body, **others)
    with pytest.raises(InputError, match=pattern or "no .section.Introduction"):
        latex_introduction(folder)
    with pytest.raises(Faults):
        own_papers(tmp_path / ".." / tmp_path.name)


def test_several_main_files_are_named(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.tex").write_text("\\documentclass{x}")
    with pytest.raises(InputError, match="found one.tex, two.tex"):
        latex_introduction(tmp_path)


def test_a_link_out_of_the_folder_is_not_read(tmp_path):
    (tmp_path / "secret.tex").write_text("secret")
    folder = tex(tmp_path / "p", "\\section{Introduction}A \\input{link}")
    (folder / "link.tex").symlink_to(tmp_path / "secret.tex")
    with pytest.raises(InputError, match="leaves its folder"):
        latex_introduction(folder)


def test_the_introduction_in_the_text_of_a_pdf():
    text = "Title\nAbstract\nShort.\n1 Introduction\nLamps are light-\ning up. In 2 Rounds\nwe show it.\n\nMore.\n2 Related Work\nNo."
    assert introduction_of_text(text) == "Lamps are lighting up. In 2 Rounds we show it.\n\nMore."
    assert introduction_of_text("INTRODUCTION\nA b.\nReferences\nC") == "A b."
    with pytest.raises(InputError, match="heading of an introduction"):
        introduction_of_text("An introduction to lamps")


def test_the_real_files(shared_data):
    source = load(shared_data / "paperqa")
    assert Counter(p.document for p in source.probes) == {f"paper-{n}": 30 for n in range(10)}
    assert Counter(p.level for p in source.probes) == {"recall": 100, "comprehension": 100, "structure": 100}
    pairs = published_pairs(PaperQAConfig(path=str(shared_data / "paperqa")))
    assert {id: len(found) for id, found in pairs.items()} == {f"paper-{n}": 40 for n in range(10)}
    assert not {q for found in pairs.values() for q, _ in found} & {p.prompt for p in source.probes}
    assert source.notes == (
        "10 documents, 6727 tokens, 300 questions",
    )  # every introduction agrees with the JSON's
    one = load(shared_data / "paperqa/paperQA_0-9.json", ids=["0"])
    assert one.documents[0] == source.documents[0] and len(one.probes) == 30
