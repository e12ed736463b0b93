"""QuALITY: four-option questions on articles of some 5,000 words (Pang et al., NAACL 2022, arXiv 2112.08608).

Forms: the official JSON lines (an article in HTML or stripped of it, with `questions`), their older flat form
(`question1`, `question1option1`, ..., the article a list of HTML lines), and L-Eval's (`instructions`, `outputs`, `input`).
Several official records share one article; here they are one document with all its questions.

`hard: true` asks the published hard subset only; its denominator is every hard question that has a gold label, whatever
a model makes of it (PITFALLS 17).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loramem.core.errors import InputError
from loramem.core.identity import digest
from loramem.core.shown import quoted
from loramem.sources.published import raise_faults
from loramem.sources.remote import PublishedConfig, assemble, choose, lacking, locate, row_files, rows
from loramem.sources.text import document, html_text, unwrapped
from loramem.sources.types import Probe, Source


class QualityConfig(PublishedConfig):
    """Articles and four-option questions."""

    name: Literal["quality"] = "quality"
    hard: bool = False
    """Only the questions of the published hard subset."""


@dataclass(frozen=True)
class Question:
    """A question and its options; `gold` is None where no label is published (the test split)."""

    id: str
    question: str
    options: tuple[str, ...]
    gold: int | None
    hard: bool


@dataclass
class Article:
    """An article with the questions of all its records."""

    id: str
    title: str
    text: str
    questions: list[Question] = field(default_factory=list)
    where: str = ""


def plain(article: str) -> str:
    """The text of an article: HTML turned into paragraphs, plain text as it is (runs of spaces, the trace of stripped
    HTML, become one)."""
    if re.search(r"<(?:html|p|br|div|h\d|pre|hr)\b[^>]*>", article[:5000], re.IGNORECASE):
        return html_text(article)[0]
    article = re.sub(r"<!--.*?-->", "", article, flags=re.DOTALL)
    lines = (re.sub(r"[ \t\xa0]+", " ", line).strip() for line in article.replace("\r\n", "\n").split("\n"))
    return unwrapped(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip())


def is_hard(record: dict, speed: Any) -> bool:
    """`difficult` as published; where it is not, its rule: fewer than half of the speed annotators were right."""
    if record.get("difficult") is not None:
        return bool(record["difficult"])
    gold = record.get("gold_label")
    if not isinstance(speed, list) or not speed or gold is None:
        return False
    return sum(answer == gold for answer in speed) * 2 < len(speed)


def _question(id: str, record: dict, faults: list[str], where: str) -> Question | None:
    """A question with options; labels count from 1, as published."""
    options = record.get("options")
    wrong = lacking(record, question=str, options=list)
    if not wrong and not (
        isinstance(options, list) and len(options) > 1 and all(isinstance(o, str) for o in options)
    ):
        wrong = "options: needs two texts or more"
    gold = record.get("gold_label")
    if not wrong and gold is not None and not (type(gold) is int and 1 <= gold <= len(options or ())):
        wrong = f"gold_label {quoted(gold)}: needs a number from 1 to {len(options or ())}"
    if wrong:
        faults.append(f"{where}: {id}: {wrong}")
        return None
    speed = record.get("speed_validation")
    if isinstance(speed, list):
        speed = [item.get("speed_answer") if isinstance(item, dict) else item for item in speed]
    return Question(
        id,
        record["question"].strip(),
        tuple(option.strip() for option in options or ()),
        gold - 1 if isinstance(gold, int) else None,
        is_hard(record, speed),
    )


def _flat(row: dict) -> list[dict]:
    """The questions of the flat form as records of the nested one."""
    found = []
    for number in range(1, 100):
        if (question := row.get(f"question{number}")) is None:
            break
        prefix = f"question{number}"
        found.append(
            {
                "question": question,
                "options": [row[key] for n in range(1, 10) if (key := f"{prefix}option{n}") in row],
                "gold_label": row.get(f"{prefix}_gold_label"),
                "speed_validation": row.get(f"{prefix}_annotator_speed_answers"),
                "difficult": row.get(f"{prefix}_difficult"),
            }
        )
    return found


_OPTION = re.compile(r"^\s*\(([A-Z])\)", re.MULTILINE)


def _leval(row: dict, where: str, faults: list[str]) -> Article | None:
    """L-Eval's form: `Question\\n (A) ...\\n (B) ...`, the answer as `(B) ...`; no hard subset, ids by content."""
    if wrong := lacking(row, input=str, instructions=list, outputs=list):
        faults.append(f"{where}: {wrong}")
        return None
    if len(row["instructions"]) != len(row["outputs"]):
        faults.append(f"{where}: {len(row['instructions'])} instructions, {len(row['outputs'])} outputs")
        return None
    text = plain(row["input"])
    article = Article(f"leval-{digest(text)[:10]}", text.split("\n", 1)[0].strip()[:120], text, where=where)
    for number, (asked, answer) in enumerate(zip(row["instructions"], row["outputs"], strict=True), start=1):
        marks = list(_OPTION.finditer(asked)) if isinstance(asked, str) else []
        letters = [mark[1] for mark in marks]
        given = _OPTION.match(str(answer))
        if len(letters) < 2 or letters != [chr(65 + n) for n in range(len(letters))]:
            faults.append(
                f"{where}: instruction {number}: needs a question and options (A), (B), ... in order"
            )
        elif not given or given[1] not in letters:
            faults.append(
                f"{where}: output {number}: needs one of the options {', '.join(letters)}, says {str(answer)[:40]!r}"
            )
        else:
            ends = [mark.start() for mark in marks[1:]] + [len(asked)]
            options = tuple(asked[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True))
            question = asked[: marks[0].start()].strip()
            article.questions.append(
                Question(f"{article.id}-q{number - 1}", question, options, letters.index(given[1]), False)
            )
    return article


def _official(row: dict, where: str, faults: list[str]) -> Article | None:
    """The official record, nested or flat. Ids of questions are the published ones, or those of the record and a number."""
    body = row.get("article")
    if isinstance(body, list) and all(isinstance(line, str) for line in body):
        row = {**row, "article": "".join(body)}
    if wrong := lacking(row, article_id=(str, int), article=str):
        faults.append(f"{where}: {wrong}")
        return None
    asked = row.get("questions") if "questions" in row else _flat(row)
    if not isinstance(asked, list) or not asked:
        faults.append(f"{where}: needs questions (list) or question1, question1option1, ...")
        return None
    article = Article(
        str(row["article_id"]), str(row.get("title") or "").strip(), plain(row["article"]), where=where
    )
    record_id = row.get("set_unique_id") or row.get("unique_id") or article.id
    for number, item in enumerate(asked):
        if not isinstance(item, dict):
            faults.append(f"{where}: question {number + 1}: not an object")
            continue
        found = _question(
            str(item.get("question_unique_id") or f"{record_id}_Q{number + 1}"), item, faults, where
        )
        article.questions += [found] if found else []
    return article


def read_articles(files: Sequence[Path], faults: list[str]) -> tuple[list[Article], int]:
    """(the articles of the files, records of one article joined; how many questions were repeated word for word).

    What is wrong goes into `faults`, a question id with two meanings among it.
    """
    articles: dict[str, Article] = {}
    asked: dict[str, tuple[Question, str]] = {}
    repeated = 0
    for path in files:
        for where, row in rows(path, faults):
            found = _leval(row, where, faults) if "instructions" in row else _official(row, where, faults)
            if not found:
                continue
            known = articles.setdefault(found.id, found)
            if known.text != found.text:
                faults.append(f"{where}: article {found.id} has another text than at {known.where}")
            questions, found.questions = found.questions, []
            for question in questions:
                before = asked.setdefault(question.id, (question, where))
                if before[0] is question:
                    known.questions.append(question)
                elif before[0] == question:
                    repeated += 1
                else:
                    faults.append(f"{where}: question {question.id} is another one at {before[1]}")
            if not found.text:
                faults.append(f"{where}: article {found.id} holds no text")
    return list(articles.values()), repeated


def build(config: QualityConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source. Raises `InputError`/`Faults` for bad files, ids and counts, and for a hard subset of nothing."""
    where = locate(config)
    faults: list[str] = []
    found, repeated = read_articles(row_files(where), faults)
    articles = {article.id: article for article in found}
    raise_faults(faults)
    if not articles:
        raise InputError(f"{where}: no articles")
    chosen = [articles[id] for id in choose(config, list(articles))]
    documents = [document(a.id, a.text, a.title, count_tokens) for a in chosen]
    every = [(made, question) for made, a in zip(documents, chosen, strict=True) for question in a.questions]
    labelled = [(made, question) for made, question in every if question.gold is not None]
    hard = [(made, question) for made, question in labelled if question.hard]
    if config.hard and not hard:
        raise InputError(
            f"{where}: hard: true, but none of {len(labelled)} questions is marked hard (L-Eval's form marks none)"
        )
    probes = [
        Probe(
            id=question.id,
            fact=question.id,
            case=made.records[0].id,  # which passage holds the answer is published nowhere
            document=made.id,
            kind="choice",
            phrasing="heldout",
            prompt=question.question,
            answers=question.options,
            gold=question.gold or 0,
            hard=question.hard,
        )
        for made, question in (hard if config.hard else labelled)
    ]
    unlabelled = len(every) - len(labelled)
    notes = (
        f"{len(hard)} of {len(labelled)} questions are in the hard subset",
        f"{unlabelled} questions without a gold label left out" if unlabelled else "",
        f"{repeated} questions stood there twice, word for word; kept once" if repeated else "",
    )
    return assemble(config, documents, probes, count_tokens, notes)
