"""Fuzz targets: what models say, and how it is scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loramem.cli.study import _summary
from loramem.core import files
from loramem.metrics.choice import letters_prompt, parse_letter
from loramem.metrics.judge import score_of
from loramem.metrics.rouge import bleu, rouge
from loramem.metrics.text import exact_match, exact_match_digits, same, token_f1, words
from loramem.report.html import findings_of, text_tables
from loramem.report.overview import overview
from loramem.studies.compare import compare_runs
from loramem.studies.results import ITEM_COLUMNS
from loramem.studies.series import STATUS
from loramem.synthesis.completing import Ask
from loramem.synthesis.prompts import items_of, schema
from loramem.synthesis.replies import Teller, parse_json, read_reply
from reliability.targeting import put, target, text_of, value_of


@target("letters", ["The answer is B", "(c) red", "**A**", "B. Vitamin C"])
def _(data: bytes, where: Path) -> None:
    text = text_of(data)
    options = ["red", "Vitamin C", text, "A man"]
    parse_letter(text, 4, options)
    parse_letter(text, 2)
    letters_prompt(text, options)


@target("judge-score", [{"reason": "right", "score": 8}, {"score": "8.5"}], "json")
def _(data: bytes, where: Path) -> None:
    score = score_of(value_of(data))
    assert score is None or 0 <= score <= 10


@target(
    "generator-json",
    [
        '{"items": [{"question": "Who?", "answer": "Ada"}]}',
        '```json\n{"items": [{"question": "Who?", "answer": "Ada"}]}\n```',
    ],
)
def _(data: bytes, where: Path) -> None:
    text = data.decode("utf-8", "replace")
    try:
        value = parse_json(text, schema("chat", 3))
    except (ValueError, RecursionError):  # documented: the caller makes it a named failure
        return
    items_of(value, "chat", "")


@target("generator-items", [{"items": [{"question": "Who?", "answer": "Ada"}, {"text": "x"}]}], "json")
def _(data: bytes, where: Path) -> None:
    for form in ("chat", "text"):
        items_of(value_of(data), form, "lead ")


@target("endpoint-reply", [{"choices": [{"message": {"content": '{"items": []}'}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, {"error": {"message": "no"}}], "json")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    for ask in (Ask("q"), Ask("q", schema=schema("chat", 3))):
        read_reply(data, ask, 0.1, lambda a, b: 1e-6 * (a + b), Teller("key"))


@target("scores", ["smoked trout pie", "603-556-7631", "東京 ﬁn"])
def _(data: bytes, where: Path) -> None:
    text = data.decode("utf-8", "replace")
    for score in (exact_match, exact_match_digits, token_f1):
        assert 0 <= score(text, "the trout pie 603") <= 1
        score("x", text)
    _ = words(text), same(text)
    assert 0 <= rouge(text, ["the trout pie", text], "rougeL") <= 1
    assert 0 <= bleu(text, ["the trout pie"]) <= 1


@target(
    "endpoint-error",
    [{"error": {"message": "no", "code": "x", "metadata": {"reasons": []}}}, ["text"]],
    "json",
)
def _(data: bytes, where: Path) -> None:
    from loramem.synthesis.replies import message_of

    Teller("key")(message_of(value_of(data)))


def _run() -> tuple[dict, Any]:
    from madeup import whole_study

    return whole_study()


@target("summary", lambda: [{**_run()[0], "verdicts": []}], "json")
def _(data: bytes, where: Path) -> None:
    path = put(where, "summary.json", data)
    summary = _summary(where)
    with files.damage_in(path):
        text_tables(summary)
        findings_of(summary)


@target("series", [{"scale": "quick", "command": "c", "studies": [{"study": "q02", "question": "q", "state": "failed", "error": "e", "seconds": 1.5}]}], "json")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    path = put(where, STATUS, data)
    with files.damage_in(path):
        overview(where)


def _items() -> list[bytes]:
    import io

    held = io.BytesIO()
    _run()[1].head(8).reindex(columns=list(ITEM_COLUMNS)).to_parquet(held, index=False, compression=None)
    return [held.getvalue()]


@target("items", _items)
def _(data: bytes, where: Path) -> None:
    put(where, "items.parquet", data)
    put(where, "summary.json", b"{}")
    compare_runs(where, where)
