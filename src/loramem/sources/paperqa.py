"""PaperQA: introductions of papers, thirty questions on each at three levels (arXiv 2603.01097, section 4).

Forms: the published JSON (`paperQA_0-9.json`), the per-paper JSON lines beside it (`paper_3_introduction.jsonl`, and
`paper_3_qa.jsonl` with forty training pairs: `published_pairs`), and papers of one's own: a folder of arXiv LaTeX
sources or PDFs, whose introductions are taken out of them (they have no questions).

Where we differ: paper 0 is a paper like any other (the published code takes it for "none", PITFALLS 18), and the paper's id
stands in a question only because the question names it (`style`), never because a router was right (PITFALLS 19).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.errors import Faults, InputError, nearest
from loramem.core.shown import quoted
from loramem.sources.latex import latex_introduction
from loramem.sources.published import raise_faults
from loramem.sources.remote import PublishedConfig, assemble, choose, lacking, locate, rows
from loramem.sources.text import document
from loramem.sources.types import Document, Probe, Source

Level = Literal["recall", "comprehension", "structure"]
LEVELS: dict[str, Level] = {"1": "recall", "2": "comprehension", "3": "structure"}
Style = Literal["natural", "bracket", "none"]
STYLES: dict[Style, str] = {
    "natural": "In the Paper ID {id}, {question}",
    "bracket": "[Paper ID: {id}] {question}",
    "none": "{question}",
}
_STYLED = re.compile(r"\s*(?:In the Paper ID (\S+?), |\[Paper ID: ?(\S+?)\] ?)", re.IGNORECASE)
_HEAD = re.compile(r"\s*This paper (\S+) discusses:\s*")


class PaperQAConfig(PublishedConfig):
    """Introductions of papers and questions on them."""

    name: Literal["paperqa"] = "paperqa"
    style: Style = "natural"
    """How a question names its paper; with `none` nothing does, neither in the question nor above the introduction."""
    levels: Annotated[tuple[Level, ...], Field(min_length=1)] = ("recall", "comprehension", "structure")
    """Levels of the questions asked."""


@dataclass(frozen=True)
class Paper:
    """One paper: its number, title, introduction, and (level, question, answer)."""

    id: str
    title: str
    introduction: str
    questions: tuple[tuple[Level, str, str], ...] = ()


def styled(question: str, id: str, style: Style) -> str:
    """A question that names its paper in one style, whatever style it had.

    >>> styled("In the Paper ID 0, What is it?", "0", "bracket")
    '[Paper ID: 0] What is it?'
    """
    return STYLES[style].format(id=id, question=_STYLED.sub("", question, count=1).strip())


def _paper(row: dict, where: str, faults: list[str]) -> Paper | None:
    """A paper of the published JSON; what is wrong with it goes into `faults`."""
    wrong = lacking(row, id=(int, str), title=str, introduction=str, QA=list)
    if wrong:
        faults.append(f"{where}: {wrong}")
        return None
    asked: dict[str, tuple[Level, str, str]] = {}
    for number, item in enumerate(row["QA"], start=1):
        wrong = (
            lacking(item, level=(int, str), question=str, answer=str)
            if isinstance(item, dict)
            else "not an object"
        )
        level = str(item.get("level")).lower() if not wrong else ""
        known = LEVELS.get(level) or next((name for name in LEVELS.values() if name == level), None)
        if not wrong and known is None:
            wrong = f"level {quoted(item['level'])}; {nearest(level, [*LEVELS, *LEVELS.values()])}"
        if wrong or known is None:
            faults.append(f"{where}: question {number}: {wrong}")
            continue
        question = _STYLED.sub("", item["question"], count=1).strip()
        entry = (known, question, item["answer"].strip())
        if asked.setdefault(question, entry)[2] != entry[2]:
            faults.append(
                f"{where}: question {number}: {question[:60]!r} has another answer before: one question, two answers"
            )
    return Paper(str(row["id"]), row["title"].strip(), row["introduction"].strip(), tuple(asked.values()))


def _numbered(folder: Path, kind: str) -> dict[str, Path]:
    """Files such as paper_3_qa.jsonl by the paper's number, in the order of the numbers."""
    found = {}
    for path in folder.glob(f"paper_*_{kind}.jsonl"):
        found[path.name.removeprefix("paper_").removesuffix(f"_{kind}.jsonl")] = path
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))


def read_papers(where: Path) -> tuple[list[Paper], list[str]]:
    """(papers, notes) of a JSON file or a folder in any of the forms.

    Raises:
        Faults: every malformed paper and question, ids given twice.
        InputError: nothing in the folder is one of the forms.
    """
    faults: list[str] = []
    papers: dict[str, Paper] = {}
    notes = []
    files = sorted(p for p in where.glob("*.json") if p.is_file()) if where.is_dir() else [where]
    for path in files:
        for place, row in rows(path, faults):
            paper = _paper(row, place, faults)
            if paper and papers.setdefault(paper.id, paper) is not paper:
                faults.append(f"{place}: paper {paper.id} stands already in this file or another one")
    if where.is_dir():
        for id, path in _numbered(where, "introduction").items():
            for place, row in rows(path, faults):
                if wrong := lacking(row, text=str):
                    faults.append(f"{place}: {wrong}")
                    continue
                text = _HEAD.sub("", row["text"], count=1).strip()
                paper = papers.setdefault(id, Paper(id, "", text))
                if paper.introduction != text:
                    notes.append(f"{path.name} differs from the introduction in the JSON, which is used")
    raise_faults(faults)
    if not papers and where.is_dir():
        papers = {paper.id: paper for paper in own_papers(where)}
    if not papers:
        raise InputError(
            f"{where}: no papers; expected paperQA_*.json, paper_N_introduction.jsonl, or LaTeX sources or PDFs, one file or folder a paper"
        )
    return list(papers.values()), notes


def _document(paper: Paper, style: Style, count_tokens: Callable[[str], int]) -> Document:
    """The introduction under the published first line, without which nothing says which paper an id means."""
    head = f"This paper {paper.id} discusses:\n\n" if style != "none" else ""
    return document(f"paper-{paper.id}", head + paper.introduction, paper.title, count_tokens)


def build(config: PaperQAConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source. Raises `InputError`/`Faults` for bad files, ids and counts."""
    papers, notes = read_papers(locate(config))
    by_id = {paper.id: paper for paper in papers}
    ids = config.ids and tuple(id.removeprefix("paper-") for id in config.ids)
    papers = [by_id[id] for id in choose(config.model_copy(update={"ids": ids}), list(by_id))]
    documents, probes = [], []
    for paper in papers:
        made = _document(paper, config.style, count_tokens)
        documents.append(made)
        probes += [
            Probe(
                id=f"{made.id}-q{number}",
                fact=f"{made.id}-q{number}",
                case=made.records[0].id,  # which passage holds the answer is published nowhere
                document=made.id,
                kind="generate",
                phrasing="heldout",
                prompt=styled(question, paper.id, config.style),
                answers=(answer,),
                level=level,
            )
            for number, (level, question, answer) in enumerate(paper.questions)
            if level in config.levels
        ]
    silent = sum(not paper.questions for paper in papers)
    notes += [f"{silent} papers have no questions of their own"] if silent else []
    return assemble(config, documents, probes, count_tokens, notes)


def lead_of(source: Source, document: str) -> str:
    """What stands before every question about a paper, in the source's style."""
    style = source.settings.get("style", PaperQAConfig.model_fields["style"].default)
    return styled("", document.removeprefix("paper-"), style)


def published_pairs(config: PaperQAConfig) -> dict[str, tuple[tuple[str, str], ...]]:
    """The published training pairs (question, answer) by document id, in the config's style: `paper_N_qa.jsonl`.

    Raises:
        Faults: rows without question and answer, a chosen paper without its file.
    """
    where = locate(config)
    files = _numbered(where if where.is_dir() else where.parent, "qa")
    ids = (
        [id.removeprefix("paper-") for id in config.ids]
        if config.ids
        else [p.id for p in read_papers(where)[0]]
    )
    faults: list[str] = []
    found: dict[str, tuple[tuple[str, str], ...]] = {}
    for id in ids[: config.documents]:
        if id not in files:
            faults.append(f"paper {id}: no paper_{id}_qa.jsonl beside {where}")
            continue
        pairs = {}
        for place, row in rows(files[id], faults):
            if wrong := lacking(row, question=str, answer=str):
                faults.append(f"{place}: {wrong}")
            else:
                pairs[styled(row["question"], id, config.style)] = row["answer"].strip()
        found[f"paper-{id}"] = tuple(pairs.items())
    raise_faults(faults)
    return found


# -- introductions of one's own papers -----------------------------------------------------------------------
def own_papers(folder: Path) -> list[Paper]:
    """A paper for each PDF and each LaTeX source (a file, or a folder with a main file) in `folder`.

    Raises:
        Faults: every one that has no introduction, and why.
    """
    faults: list[str] = []
    papers: list[Paper] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not (path.is_dir() or path.suffix.lower() in (".tex", ".pdf")):
            continue
        try:
            if path.suffix.lower() == ".pdf":
                from loramem.sources.folder import pdf_text  # it needs the optional pypdf

                text, title = introduction_of_text(pdf_text(path)), ""
            elif path.is_file() or any(path.rglob("*.tex")):
                text, title = latex_introduction(path)
            else:
                continue
            papers.append(Paper(path.stem if path.is_file() else path.name, title, text))
        except Faults as error:
            faults += error.faults
        except InputError as error:
            faults.append(str(error))
    raise_faults(faults)
    return papers


def introduction_of_text(text: str) -> str:
    """The introduction in the text of a PDF: from the heading to the next numbered one.

    Raises:
        InputError: no such heading.
    """
    start = re.search(r"(?im)^[ \t]*(?:(?:1|I)[.:]?[ \t]+)?introduction[ \t]*$", text)
    if not start:
        raise InputError("no line that is the heading of an introduction")
    rest = text[start.end() :]
    stop = re.search(
        r"(?m)^[ \t]*(?:2|II)[.:]?[ \t]+[A-Z][^\n]{2,80}$|^[ \t]*(?:Related [Ww]ork|References)[ \t]*$", rest
    )
    body = rest[: stop.start()] if stop else rest
    body = re.sub(r"(\w)-\n(?=[a-z])", r"\1", body)  # a word parted at the end of a line
    return re.sub(r"(?<!\n)\n(?!\n)", " ", body).strip()
