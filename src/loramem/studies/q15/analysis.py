"""Q15, does memory in modules save time? Seconds per question of every reading, and after how many questions a module has paid."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loramem.metrics.breakeven import spread
from loramem.studies.findings import Findings

PUBLISHED = (
    "Paper (seconds for 30 questions, FlashAttention on/off; training and synthesis not counted): base 35.6/32.5, single 40.0/56.7, RAG "
    "43.5/86.1, multi preloaded 65.9/109.3, ICL 75.0/318.4, multi loaded for each question 77.6/120.5."
)
Row = dict
Find = Callable[..., Row | None]


def analyse(summary: dict) -> Findings:
    """Sentences from the ranges of the rounds: two readings are told apart only if no round of one reaches those of the other."""
    answer: list[str] = []
    figures: list[tuple[str, str]] = []
    for latency in summary.get("latency", ()):
        if latency["rows"]:
            answer += _sentences(latency)
            figures += [("latency_parts", latency["source"]), ("break_even", latency["source"])]
    return Findings(tuple(answer), PUBLISHED, tuple(dict.fromkeys(figures)))


def _sentences(latency: dict) -> list[str]:
    rows, machine = latency["rows"], latency["machine"]

    def find(reading: str, asked: str = "one", partition: str | None = None) -> Row | None:
        return next(
            (r for r in rows if r["reading"] == reading and r["asked"] == asked and partition in (None, r["partition"])), None
        )  # fmt: skip

    single = find("module", partition="document") or find("module")
    icl = find("icl", partition="document") or find("icl")
    rag, closed = find("rag"), find("closed")
    found = [
        text
        for name, other in (("reading the document in the context", icl), ("retrieval", rag), ("the base alone", closed))
        if single is not None and other is not None and (text := compared("one module for the document", single, name, other))
    ]  # fmt: skip
    for reading, name in (
        ("routed", "routing among the chunks' modules"),
        ("merged", "merging chosen modules"),
    ):
        own = find(reading, partition="chunk") or find(reading)
        if own is not None and single is not None:
            found.append(compared(name, own, "one module for the document", single))
        loaded = find(reading, "loaded", "chunk") or find(reading, "loaded")
        if own is not None and loaded is not None:
            found.append(
                compared(f"{name} with weights loaded for each question", loaded, "with them held", own)
            )
    if single is not None:
        for name, other in (("reading the document", icl), ("retrieval", rag)):
            if other is not None:
                found += paid(latency["break_even"], single, name, other)
    if icl is not None and icl["cut_tokens"]:
        found.append(
            f"The document does not fit the context: {icl['cut_tokens']:,.0f} of its tokens are cut away, so that the whole would take longer"
        )
    found.append(
        f"Measured on {machine['device']} with {machine['threads']} threads, {rows[0]['questions']} questions, {latency['settings']['repeats']} "
        "rounds; the order of readings may differ on another machine and with a larger base"
    )
    return [f"{text[0].upper()}{text[1:]}." for text in found]


def compared(name: str, own: Row, other_name: str, other: Row) -> str:
    """One reading's time against another's, round by round; a factor is claimed only where all rounds agree on its direction.

    >>> row = lambda *seconds: {"seconds": {"repeats": list(seconds), "median": seconds[0]}, "new_tokens": 4.0}
    >>> compared("a", row(0.1, 0.1, 0.2), "b", row(0.4, 0.2, 0.4))
    'a takes 100 ms for a question, 0.50 [0.25, 0.50] times as long as b (400 ms); answers of 4.0 and 4.0 tokens'
    >>> compared("a", row(0.1, 0.3), "b", row(0.2, 0.2))[:64]
    'a (100 ms for a question) and b (200 ms) are not told apart: 1.0'
    """
    ratio = spread(
        [a / b for a, b in zip(own["seconds"]["repeats"], other["seconds"]["repeats"], strict=True)]
    )
    mine, theirs = (f"{1000 * row['seconds']['median']:.3g} ms" for row in (own, other))
    times = f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
    if ratio["low"] <= 1 <= ratio["high"]:
        return f"{name} ({mine} for a question) and {other_name} ({theirs}) are not told apart: {times} times as long"
    return (
        f"{name} takes {mine} for a question, {times} times as long as {other_name} ({theirs}); answers of {own['new_tokens']:.1f} and "
        f"{other['new_tokens']:.1f} tokens"
    )


def paid(points: Sequence[dict], own: Row, name: str, other: Row) -> list[str]:
    """After how many questions on the whole source the modules have cost less than another reading, in seconds and in tokens.

    >>> point = {"cell": "m", "against": "icl", "asked": "one", "of": "source", "unit": "seconds"}
    >>> paid([point | {"questions": {"high": 515, "low": 444, "median": 461}}], {"cell": "m"}, "reading", {"cell": "icl"})
    ['counted in seconds, modules have cost less than reading after 461 [444, 515] questions']
    """
    found = []
    for one in points:
        if (one["cell"], one["against"], one["asked"], one["of"]) == (
            own["cell"],
            other["cell"],
            "one",
            "source",
        ):
            count = one["questions"]
            median, low, high = (
                "never" if count[key] is None else f"{count[key]:,}" for key in ("median", "low", "high")
            )
            bracket = "" if low == high else f" [{low}, {high}]"
            when = f"after {median}{bracket} questions" if count["median"] is not None else f"never{bracket}"
            found.append(f"counted in {one['unit']}, modules have cost less than {name} {when}")
    return found
