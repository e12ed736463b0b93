"""SQuAD: passages of Wikipedia and the questions whose answers stand in them (Rajpurkar et al., 2016 and 2018).

Forms: the official JSON of version 1.1 or 2.0, the hub's flat rows (`squad`, `squad_v2`: parquet or JSON lines), and a list
of passages with `questions`. Here it is real reading material for document memory: the answer's place is known, so every
probe names the record that holds it.

Questions without an answer (version 2.0) ask for abstention, another thing than memory: they are counted and left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loramem.core.errors import InputError
from loramem.sources.published import raise_faults
from loramem.sources.remote import PublishedConfig, assemble, choose, lacking, locate, row_files, rows
from loramem.sources.text import document, record_at
from loramem.sources.types import Probe, Source


class SquadConfig(PublishedConfig):
    """Passages and questions on them."""

    name: Literal["squad"] = "squad"
    unit: Literal["passage", "article"] = "passage"
    """What a document is: one passage, or all passages of one article."""


@dataclass(frozen=True)
class Question:
    """A question, its gold answers (the same words once), and where in the passage the first one stands; -1: nowhere."""

    id: str
    text: str
    answers: tuple[str, ...]
    start: int


@dataclass
class Passage:
    """A passage of an article and what is asked about it."""

    title: str
    text: str
    questions: list[Question] = field(default_factory=list)


def slug(title: str) -> str:
    """A title as part of an id.

    >>> slug("Super Bowl 50"), slug("")
    ('Super_Bowl_50', 'untitled')
    """
    return re.sub(r"[^\w.-]+", "_", title).strip("_") or "untitled"


def _answers(item: dict) -> list[tuple[str, int]] | None:
    """(text, start or -1) of every gold answer in any form; None if malformed."""
    given: Any = item.get("answers", item.get("answer"))
    if isinstance(given, str):
        given = [{"text": given}]
    if isinstance(given, dict):  # the hub's columns
        texts, starts = given.get("text"), given.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            return None
        given = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(given, list):
        return None
    found = []
    for answer in given:
        answer = {"text": answer} if isinstance(answer, str) else answer
        if not isinstance(answer, dict) or lacking(answer, text=str):
            return None
        start = answer.get("answer_start")
        found.append((answer["text"].strip(), start if isinstance(start, int) else -1))
    return found


class _Reader:
    """Collects passages and their questions from rows of every form."""

    def __init__(self) -> None:
        self.passages: dict[tuple[str, str], Passage] = {}
        self.ids: dict[str, str] = {}
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()

    def passage(self, title: str, context: str) -> Passage:
        return self.passages.setdefault((title, context), Passage(title, context))

    def row(self, where: str, row: dict) -> None:
        """A file of the official form, an article of it, a passage, or a flat row."""
        if isinstance(row.get("data"), list):
            for number, article in enumerate(row["data"], start=1):
                self._nested(f"{where}: article {number}", article)
        elif "paragraphs" in row:
            self._nested(where, row)
        elif "context" in row:
            self._passage(where, row, str(row.get("title") or ""), row.get("questions", row.get("qas")))
        else:
            self.faults.append(
                f"{where}: needs data (the official form), context and questions, or context, question and answers"
            )

    def _nested(self, where: str, article: Any) -> None:
        if not isinstance(article, dict) or lacking(article, paragraphs=list):
            self.faults.append(f"{where}: needs title (text) and paragraphs (list)")
            return
        for number, item in enumerate(article["paragraphs"], start=1):
            if not isinstance(item, dict):
                self.faults.append(f"{where}: paragraph {number}: not an object")
                continue
            self._passage(
                f"{where}: paragraph {number}", item, str(article.get("title") or ""), item.get("qas")
            )

    def _passage(self, where: str, row: dict, title: str, asked: Any) -> None:
        if wrong := lacking(row, context=str):
            self.faults.append(f"{where}: {wrong}")
            return
        passage = self.passage(title, row["context"])
        if asked is None:
            self._question(where, passage, row)
            return
        if not isinstance(asked, list):
            self.faults.append(f"{where}: needs qas or questions (list)")
            return
        for number, item in enumerate(asked, start=1):
            self._question(f"{where}: question {number}", passage, item)

    def _question(self, where: str, passage: Passage, item: Any) -> None:
        wrong = lacking(item, question=str) if isinstance(item, dict) else "not an object"
        answers = _answers(item) if not wrong else None
        if not wrong and answers is None:
            wrong = "needs answers: texts, or {text, answer_start}"
        if wrong or answers is None:
            self.faults.append(f"{where}: {wrong}")
            return
        id = str(item.get("id") or "")
        if id and id in self.ids:
            self.faults.append(f"{where}: question {id} stands already at {self.ids[id]}")
            return
        self.ids[id] = where
        if item.get("is_impossible") or not answers:
            self.counts["questions without an answer left out: they ask for abstention"] += 1
            return
        text, start = answers[0]
        if start < 0 or passage.text[start : start + len(text)] != text:
            start = passage.text.find(text)
        self.counts["answers do not stand word for word in their passage"] += start < 0
        unique = tuple(dict.fromkeys(answer for answer, _ in answers))
        passage.questions.append(Question(id, item["question"].strip(), unique, start))


def read_passages(where: Path) -> tuple[list[Passage], Counter[str]]:
    """(passages, counts worth a note). Raises `Faults` naming every malformed passage and question."""
    reader = _Reader()
    for path in row_files(where):
        for place, row in rows(path, reader.faults):
            reader.row(place, row)
    raise_faults(reader.faults)
    if not reader.passages:
        raise InputError(f"{where}: no passages")
    return list(reader.passages.values()), reader.counts


def _units(passages: list[Passage], unit: str) -> Iterator[tuple[str, list[Passage]]]:
    """(document id, its passages): `TITLE-NUMBER` for a passage, `TITLE` for an article."""
    articles: dict[str, list[Passage]] = {}
    for passage in passages:
        articles.setdefault(slug(passage.title), []).append(passage)
    for name, members in articles.items():
        if unit == "article":
            yield name, members
        else:
            for number, passage in enumerate(members):
                yield f"{name}-{number}", [passage]


def build(config: SquadConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source. Raises `InputError`/`Faults` for bad files, ids and counts."""
    passages, counts = read_passages(locate(config))
    units = dict(_units(passages, config.unit))
    documents, probes = [], []
    for id in choose(config, list(units)):
        text = "\n\n".join(passage.text for passage in units[id])
        made = document(id, text, units[id][0].title, count_tokens)
        documents.append(made)
        begin = number = 0
        for passage in units[id]:
            for question in passage.questions:
                probes.append(
                    Probe(
                        id=question.id or f"{id}-q{number}",
                        fact=question.id or f"{id}-q{number}",
                        case=record_at(made, begin + max(0, question.start)).id,
                        document=id,
                        kind="generate",
                        phrasing="heldout",
                        prompt=question.text,
                        answers=question.answers,
                    )
                )
                number += 1
            begin += len(passage.text) + 2
    notes = [f"{count} {what} (in the whole file)" for what, count in counts.items() if count]
    return assemble(config, documents, probes, count_tokens, notes)
