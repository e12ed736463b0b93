"""`loramem ask`: questions to modules of the store, with what answered them and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loramem.cli.options import BaseOption, DeviceOption, DtypeOption, OfflineOption, StoreOption
from loramem.cli.terminal import cell, show_json
from loramem.cli.terminal import console as new_console
from loramem.core.errors import InputError

if TYPE_CHECKING:
    from loramem.answering.asking import Answered

STDIN = "-"
NOT_IN_MEMORY = "not in memory"


def ask(
    questions: Annotated[
        list[str], typer.Argument(help="questions; - reads one per line from standard input")
    ],
    modules: Annotated[
        list[str] | None,
        typer.Option("--modules", help="id or unique prefix, repeatable; all: every module of the store"),
    ] = None,
    reading: Annotated[
        str | None,
        typer.Option(
            help="closed, module, routed or merged, with +icl or +rag (default: module for one, routed for several)"
        ),
    ] = None,
    router: Annotated[
        str | None, typer.Option(help="embedding, bm25, hybrid, perplexity, ... (default: embedding)")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(help="what stands for a module: document or introduction (default: document)"),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="modules that are merged, at most (default: 3)")
    ] = None,
    rule: Annotated[str | None, typer.Option(help="merge rule (default: ties-delta)")] = None,
    none_below: Annotated[
        float | None,
        typer.Option(
            "--none-below",
            help="confidence under which a question is not in memory (default: the router's own)",
        ),
    ] = None,
    always: Annotated[bool, typer.Option("--always", help="answer, however little any module fits")] = False,
    documents: Annotated[
        Path | None,
        typer.Option(help="folder or file that +icl and +rag read (default: what the modules learnt)"),
    ] = None,
    passages_k: Annotated[int | None, typer.Option("--passages-k", help="passages read (default: 3)")] = None,
    retriever: Annotated[
        str | None, typer.Option(help="how passages are found: bm25 or embedding (default: bm25)")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object per question")] = False,
    base: BaseOption = "embedded",
    store: StoreOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    offline: OfflineOption = False,
) -> None:
    """Ask modules of the store; 'not in memory' where none of them fits. Questions of standard input are answered together, as JSON lines."""
    from loramem.answering.asking_settings import Asking
    from loramem.api import ask as asked_of
    from loramem.core.config import parse

    if STDIN in questions:
        if len(questions) > 1:
            raise InputError("- reads the questions from standard input; give no others beside it")
        questions, as_json = _lines(), True
    routing = _given(router=router, key=key, top_k=top_k, none_below=none_below)
    settings: dict[str, Any] = {
        "reading": reading,
        "routing": routing,
        "merging": _given(rule=rule),
        "retrieval": _given(method=retriever, passages_k=passages_k),
    }
    asking = parse(
        Asking, {name: value for name, value in settings.items() if value} | {"always": always}, "ask"
    )
    found = asked_of(
        questions, modules or (), asking, documents=documents, base=base, store=store, device=device, dtype=dtype, offline=offline,
    )  # fmt: skip
    if as_json:
        for one in found:
            show_json(one.row(), indent=None)
    else:
        _show(found)


def _given(**settings: Any) -> dict[str, Any] | None:
    return {name: value for name, value in settings.items() if value is not None} or None


def _lines() -> list[str]:
    """The lines of standard input that are not blank."""
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not UTF-8 text (byte {error.start})") from None
    lines = [line.strip() for line in text.split("\n")]
    if not any(lines):
        raise InputError("standard input holds no question")
    return [line for line in lines if line]


# -- for people ------------------------------------------------------------------------------------------------
def _show(found: Sequence[Answered]) -> None:
    """Answers with their routes: with colours and a table on a terminal, else plain lines that are never broken."""
    from rich.table import Table

    console = new_console(soft_wrap=True)
    for number, one in enumerate(found):
        if number:
            console.print()
        if len(found) > 1:
            console.print(cell(one.question, style="dim"))
        console.print(cell(one.answer if one.answer is not None else NOT_IN_MEMORY, style="yellow" if one.answer is None else "bold green"))  # fmt: skip
        rows = list(_candidates(one))
        if console.is_terminal and rows:
            console.print(cell(_route(one)))
            table = Table(box=None, pad_edge=False)
            for name in ("", "module", "score", "share", "learnt"):
                right = name in ("score", "share")
                table.add_column(name, justify="right" if right else "left", no_wrap=True)
            for row in rows:
                table.add_row(*map(cell, row))
            new_console().print(table)
        else:
            lines = [_route(one), *("  " + "  ".join(row) for row in rows)] if rows else []
            for line in lines:
                console.print(cell(line))
        for line in _further(one):
            console.print(cell(line))
    console.print(cell(_seconds(found[0].seconds), style="dim"))


def _route(one: Answered) -> str:
    if one.confidence is None:
        return f"reading: {one.reading}"
    none = "no threshold" if one.none_below is None else f"threshold {_threshold(one.none_below)}"
    return f"reading: {one.reading}; router {one.router}: confidence {one.confidence:.4g}, {none}, {one.pool_size} modules"


def _threshold(none_below: float) -> str:
    """A threshold in words; the smallest number above 0 stands for "more than nothing"."""
    return "above 0" if 0 < none_below <= 1e-9 else f"{none_below:.3g}"


def _candidates(one: Answered) -> Iterator[tuple[str, str, str, str, str]]:
    """(used, module, score, share, what it learnt) of each candidate."""
    for choice in one.candidates:
        score = "" if choice.score is None else f"{choice.score:8.4f}"
        share = "" if choice.share is None else f"{100 * choice.share:5.1f} %"
        id, at, step = choice.module.partition("@")
        yield (
            "*" if choice.used else " ",
            id[:12] + at + step,
            score,
            share,
            choice.learnt or "(text not kept)",
        )


def _further(one: Answered) -> Iterator[str]:
    if one.not_in_memory and one.confidence is not None and one.none_below is not None:
        best = one.candidates[0].module[:12]
        yield f"no module fits: best is {best}, but confidence {one.confidence:.4g} is too low, threshold {_threshold(one.none_below)} (--none-below X, or --always, to ask it all the same)"
    if not one.candidates:
        yield f"reading: {one.reading}"
    if one.merge is not None:
        parents = ", ".join(
            f"{parent['module'][:12]} x {parent['weight']:.3g}" for parent in one.merge["parents"]
        )
        measures = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}"
            for name, value in one.merge["measures"].items()
            if isinstance(value, int | float)
        )
        yield f"merged by {one.merge['rule']}: {parents}; {measures}"
    if one.passages:
        yield f"passages out of {one.read_from}:"
        for passage in one.passages:
            yield f"  {passage['id']}  {passage['begins']}"
    if one.documents:
        more = f" and {len(one.documents) - 5} more" if len(one.documents) > 5 else ""
        yield f"documents read: {', '.join(one.documents[:5])}{more} ({one.read_from})"
    if not one.not_in_memory:
        cut = f", {one.cut_tokens:,} tokens of the context cut" if one.cut_tokens else ""
        ended = ", answer cut at its limit" if one.truncated else ""
        yield f"prompt {one.prompt_tokens:,} tokens{cut}{ended}"


def _seconds(seconds: dict[str, float]) -> str:
    count = int(seconds["questions"])
    of = "" if count == 1 else f" ({count} questions together)"
    return f"seconds: load {seconds['load']:.2f}, route {seconds['route']:.2f}, answer {seconds['answer']:.2f}{of}"
