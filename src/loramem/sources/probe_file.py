"""Evaluation questions in a file of their own, beside documents that have none: what `loramem data probe` writes.

One JSON object a line: `document` (its id), `question`, `answers` (a list; or `answer`), and optionally `level`, `split`
(`train`, `dev`, `test`), `generator`, `id`. People write such files by hand as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from loramem.core.errors import Faults, nearest
from loramem.core.shown import blank, quoted
from loramem.metrics.text import same
from loramem.sources.published import raise_faults
from loramem.sources.remote import rows
from loramem.sources.types import Document, Probe

Split = Literal["train", "dev", "test", "all"]
SPLITS = ("train", "dev", "test")


def read_probes(
    path: Path, documents: Collection[Document], split: Split = "test", *, elsewhere: Collection[str] = ()
) -> tuple[list[Probe], list[str]]:
    """(probes of one split in the file's order, names of the generators that wrote them).

    A probe belongs to the first record of its document in which an answer stands, else to the first one.

    Args:
        elsewhere: Ids of documents that were not chosen; questions about them are passed over.

    Raises:
        Faults: every malformed line, unknown document or id given twice; a split without questions.
    """
    known = {document.id: document for document in documents}
    there = {*known, *elsewhere}
    faults: list[str] = []
    found: dict[str, Probe] = {}
    writers: dict[str, None] = {}
    others: Counter[str] = Counter()
    for number, (place, row) in enumerate(rows(path, faults), start=1):
        answers = row.get("answers", [row["answer"]] if "answer" in row else None)
        question, document = row.get("question"), row.get("document")
        if not isinstance(question, str) or blank(question):
            faults.append(f"{place}: needs question (text)")
        elif (
            not isinstance(answers, list)
            or not answers
            or any(not isinstance(a, str) or blank(a) for a in answers)
        ):
            faults.append(f"{place}: needs answers (a list of text) or answer (text)")
        elif not isinstance(document, str) or document not in there:
            faults.append(
                f"{place}: document {quoted(document)} is not among the documents; {nearest(str(document), list(known)[:50])}"
            )
        elif row.get("split", "test") not in SPLITS:
            faults.append(f"{place}: split {quoted(row['split'])}; {nearest(str(row['split']), SPLITS)}")
        elif document not in known:
            continue
        elif split not in ("all", row.get("split", "test")):
            others[row.get("split", "test")] += 1
        else:
            id = str(row.get("id", f"{document}-p{number}"))
            if id in found:
                faults.append(f"{place}: id {id!r} stands in the file twice")
            found[id] = Probe(
                id, _case(known[document], answers), document, "generate", "heldout", question.strip(),
                tuple(a.strip() for a in answers), level=str(row.get("level") or ""),
            )  # fmt: skip
            writers.setdefault(str(row.get("generator") or "unknown"))
    raise_faults(faults)
    if not found:
        counts = ", ".join(f"{name} {others[name]}" for name in SPLITS if others[name])
        raise Faults(
            f"{path}: no question of split {split!r} about these documents; there are: {counts or 'none'}"
        )
    return list(found.values()), list(writers)


def _case(document: Document, answers: Sequence[str]) -> str:
    """The record that a question belongs to."""
    said = [f" {same(answer)} " for answer in answers]
    holds = (r.id for r in document.records if any(answer in f" {same(r.text)} " for answer in said))
    return next(holds, document.records[0].id)
