"""What can be asked (`asking`): which modules are meant, and what is wrong with modules or questions before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence

from loramem.answering.readings import Stem
from loramem.base.model import Base
from loramem.core.errors import Corrupt, InputError
from loramem.core.files import read_json
from loramem.inference.limits import MAX_NEW_TOKENS
from loramem.modules.peft_format import CONFIG
from loramem.modules.store import Store, StoredModule

ALL = "all"
"""In place of ids: every module of the store but random controls."""
SHOWN = 5
"""Candidates of a route that are reported, beside all that are used."""
WORDS = 72
"""Characters of what a module learnt, or of a passage, that are shown."""


def choose_modules(store: Store, names: Sequence[str]) -> list[StoredModule]:
    """The modules that ids, unique prefixes, `ID@STEP` or `all` name, each once, all of one base.

    Raises:
        InputError: an empty store, an unknown id, modules of several bases, a module whose recipe is damaged.
    """
    if not names:
        return []
    if not store.ids("modules"):
        raise InputError(f"no modules in {store.place}; train some: loramem modules train --supervision FILE")
    if ALL in names and len(names) > 1:
        raise InputError("modules: give ids, or all, not both")
    try:
        if ALL in names:
            found = [one for one in store.modules() if one.recipe.get("type") != "random"]
        else:
            found = [store.module(name) for name in names]
        bases = [str(one.recipe.get("base", "")) for one in found]
    except Corrupt as error:
        raise InputError(
            f"a module of {store.place} is damaged: {error}; delete it and train it again"
        ) from None
    except (AttributeError, TypeError, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"a module of {store.place} is damaged: its recipe.json is none") from None
    if not found:
        raise InputError(f"only random controls in {store.place}; they know nothing")
    if len(set(bases)) > 1:
        named = ", ".join(f"{m.id[:12]} on {b[:8] or '(unknown)'}" for m, b in zip(found, bases, strict=True))
        raise InputError(f"only modules of one base are asked together; given {named}")
    return list({one.id: one for one in found}.values())


def check_questions(questions: Sequence[str]) -> None:
    """Raises `InputError` for no question, an empty one, and one that is no text."""
    if not questions:
        raise InputError("no question was given")
    for number, question in enumerate(questions, start=1):
        if not question.strip():
            raise InputError(f"{_which(number, questions)} is empty")
        try:
            question.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(f"{_which(number, questions)} is not UTF-8 text") from None


def check_lengths(base: Base, questions: Sequence[str], *, in_context: bool) -> None:
    """Raises `InputError` for a question that does not fit the base's context."""
    for number, question in enumerate(questions, start=1):
        try:
            if in_context:
                base.prompts.fit_context("", [question], reserve=MAX_NEW_TOKENS)
            elif (length := len(base.prompts.chat(question))) >= base.context_length:
                raise InputError(
                    f"its prompt of {length} tokens leaves no room for an answer in the base's context of {base.context_length}"
                )
        except InputError as error:
            raise InputError(
                f"{_which(number, questions)} ({begins(question)!r}) is too long: {error}"
            ) from None


def _which(number: int, questions: Sequence[str]) -> str:
    return f"question {number}" if len(questions) > 1 else "the question"


def lacking(modules: Sequence[StoredModule], texts: Sequence[str], what: str, instead: str) -> None:
    """Raises `InputError` naming the modules that kept no text."""
    if lost := [m.id[:12] for m, text in zip(modules, texts, strict=True) if not text.strip()]:
        more = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
        raise InputError(
            f"{what} reads what modules learnt, but {', '.join(lost[:SHOWN])}{more} kept no text (merged, imported, or of an older version); "
            f"train again, leave out, or {instead}"
        )


def begins(text: str, most: int = WORDS) -> str:
    """The first words of a text on one line.

    >>> begins("a\\n b"), begins("one two three", 9)
    ('a b', 'one two …')
    """
    line = " ".join(text[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1].rsplit(" ", 1)[0] + " …"


def check_documents(stem: Stem, *, given: bool) -> None:
    """Raises `InputError` for documents that the reading would not look at."""
    if given and not stem.in_context:
        raise InputError(f"documents are read by +icl and +rag, not by {stem.name}")


def check_modules(base: Base, modules: Sequence[StoredModule], stem: Stem) -> None:
    """Raises `InputError` for a reading without its module, or with too many, and for a module of another base or a damaged one."""
    if stem.uses_module and not modules:
        raise InputError(f"reading {stem.name} needs modules: give ids, or all")
    if stem.which == "own" and len(modules) > 1:
        raise InputError(
            f"reading {stem.name} uses one module, {len(modules)} were given; use routed or merged"
        )
    for one in modules if stem.uses_module else ():
        if (own := one.recipe.get("base")) != base.fingerprint:
            named = read_json(one.folder / CONFIG).get("base_model_name_or_path")
            raise InputError(
                f"module {one.id[:12]} was made on base {named or '(unknown)'} ({str(own)[:8]}), not on {base.name} ({base.fingerprint[:8]}); "
                "give the base it was made on"
            )
