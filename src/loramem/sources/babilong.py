"""BABILong: a few facts scattered in a long text, and a question on them (Kuratov et al., NeurIPS 2024, arXiv 2406.10149).

Forms: rows of `input`, `question`, `target` (the hub's `data/qa1/4k.json`, or JSON lines, CSV, parquet), task and length told by
the file's name or folder; and bAbI's own task files (`qa1_single-supporting-fact_test.txt`, Weston et al., arXiv
1502.05698), whose facts are laid among the sentences of a background text until a context has `context_tokens` tokens.

Its metric is `exact_match`. Reference: github.com/booydar/babilong at eeec607, babilong/metrics.py. Where we differ: a label
counts as a whole word ("know" holds no "no", "none" no "one"); what follows "question" is cut after lower-casing, which the
reference means to do and does not; `qa8` may name several things.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.errors import InputError, nearest
from loramem.core.files import read_text
from loramem.core.identity import digest, seed_from
from loramem.core.paths import user_path
from loramem.sources.published import raise_faults
from loramem.sources.remote import SUFFIXES, PublishedConfig, assemble, choose, lacking, locate, rows
from loramem.sources.slicing import Size
from loramem.sources.text import document, sentences
from loramem.sources.types import Document, Probe, Source

_PLACES = frozenset(("bathroom", "bedroom", "garden", "hallway", "kitchen", "office"))
LABELS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), _PLACES),
    "qa5": frozenset(("bill", "fred", "jeff", "mary", "apple", "football", "milk")),
    "qa6": frozenset(("no", "yes")),
    "qa7": frozenset(("none", "one", "two", "three")),
    "qa8": frozenset(("apple", "football", "milk", "nothing")),
    "qa9": frozenset(("no", "yes")),
    "qa10": frozenset(("maybe", "no", "yes")),
}
"""The possible answers of each task, in lower case."""
_TASK = re.compile(r"(?<![A-Za-z0-9])(qa\d{1,2})(?![0-9])")
_LENGTH = re.compile(r"(?<![A-Za-z0-9])(\d+[kM])(?![A-Za-z0-9])")


class BabilongConfig(PublishedConfig):
    """Facts in long texts. One document a story, one question each."""

    name: Literal["babilong"] = "babilong"
    tasks: (
        Annotated[tuple[Annotated[str, Field(pattern=r"^qa\d{1,2}$")], ...], Field(min_length=1)] | None
    ) = None
    """Tasks to take, e.g. [qa1, qa2]; None: all that are there."""
    length: Annotated[str, Field(pattern=r"^\d+[kM]$")] | None = None
    """Published length to take, e.g. 4k; None: all that are there."""
    background: str | None = None
    """A text file or a folder of them, in which the facts of bAbI's task files are hidden; None: facts alone."""
    context_tokens: Size | None = None
    """Tokens of the base of a context made from bAbI's task files and the background."""
    seed: int = 0
    """Of where the background begins and where the facts lie."""


@dataclass(frozen=True)
class Story:
    """A text with facts in it, and the one question asked."""

    task: str
    length: str
    facts: tuple[str, ...]
    text: str
    question: str
    target: str


# -- the metric ------------------------------------------------------------------------------------------------
def _named(labels: frozenset[str], text: str) -> set[str]:
    """The labels that stand in a text as words."""
    words = set(re.findall(r"\w+", text.lower()))
    return {label for label in labels if label in words}


def exact_match(prediction: str, target: str, question: str, task: str) -> bool:
    """Whether an answer names the target, and no other label of its task.

    Lower case; of the prediction only the first sentence, and nothing after an invented example (`<context>`, `<example>`, "question").
    Labels that the question mentions are never the answer and do not count. `qa8` may have several targets (`milk,apple`):
    all of them, and no more. An empty prediction is wrong.

    Raises:
        InputError: a task without a list of labels.

    >>> exact_match("Mary is in the kitchen. The garden is empty.", "kitchen", "Where is Mary?", "qa1")
    True
    >>> exact_match("In the kitchen or the garden.", "kitchen", "Where is Mary?", "qa1")
    False
    >>> exact_match("From the garden to the office", "office", "Where was Mary after the garden?", "qa3")
    True
    """
    if task not in LABELS:
        raise InputError(f"babilong task {task!r} has no list of labels; {nearest(task, LABELS)}")
    said = prediction.lower().split(".")[0]
    for mark in ("<context>", "<example>", "question"):
        said = said.split(mark)[0]
    found = _named(LABELS[task], said) - _named(LABELS[task], question)
    return found == {part.strip() for part in target.lower().split(",")}


# -- reading ---------------------------------------------------------------------------------------------------
def parse_babi(path: Path, faults: list[str]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """(facts so far, question, answer) of each question in a bAbI task file: `1 Mary went ...`, `3 Where ...?\\tkitchen\\t1`."""
    facts: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"(\d+) ([^\t]+?) *(?:\t([^\t]*?)(?:\t[\d ]*)?)?", line)
        if not match or (match[3] is not None and not match[3].strip()):
            faults.append(
                f"{path}:{number}: not 'NUMBER FACT' or 'NUMBER QUESTION<tab>ANSWER<tab>FACTS': {line[:60]!r}"
            )
            continue
        if match[1] == "1":
            facts = []
        if match[3] is None:
            facts.append(match[2])
        elif not facts:
            faults.append(f"{path}:{number}: a question before any fact")
        else:
            yield tuple(facts), match[2], match[3].strip()


def _label(path: Path, root: Path, pattern: re.Pattern) -> str:
    """The task or length that a file's name, or else the nearest folder below `root`, says."""
    inner = path.relative_to(root) if root.is_dir() else Path(*path.parts[-3:])
    for part in (inner.stem, *reversed(inner.parts[:-1])):
        if match := pattern.search(part):
            return match[1]
    return ""


def read_tasks(config: BabilongConfig) -> list[Story]:
    """The stories of all wanted files. Raises `Faults` naming every malformed row."""
    ending = f"{config.length}[.-]*" if config.length else "*"  # 4k.json, not 64k.json
    where = locate(config, [f"*{task}/{ending}" for task in config.tasks or ("qa*",)])
    found = (
        sorted(p for p in where.rglob("*") if p.suffix in (*SUFFIXES, ".txt") and p.is_file())
        if where.is_dir()
        else [where]
    )
    faults: list[str] = []
    stories: list[Story] = []
    for path in found:
        task, length = _label(path, where, _TASK), _label(path, where, _LENGTH)
        if (config.tasks and task not in config.tasks) or (config.length and length != config.length):
            continue
        if not task:
            faults.append(f"{path}: neither its name nor its folder says the task (qa1, qa2, ...)")
        elif path.suffix == ".txt":
            stories += [
                Story(task, "", facts, "\n".join(facts), q, a) for facts, q, a in parse_babi(path, faults)
            ]
        else:
            for place, row in rows(path, faults):
                if wrong := lacking(row, input=str, question=str, target=str):
                    faults.append(f"{place}: {wrong}")
                else:
                    target = row["target"].strip()
                    stories.append(Story(task, length, (), row["input"], row["question"].strip(), target))
    raise_faults(faults)
    if not stories:
        raise InputError(
            f"{where}: no file of the tasks {config.tasks or 'qa1, ...'} at length {config.length or 'any'} holds a story"
        )
    return stories


def background_sentences(path: str) -> list[str]:
    """Sentences of a text file or of all .txt files of a folder. Raises `InputError` where there are none."""
    where = user_path(path)
    if not where.exists():
        raise InputError(f"background {path!r}: no such file or folder")
    texts = [read_text(p) for p in (sorted(where.rglob("*.txt")) if where.is_dir() else [where])]
    found = [" ".join(text[a:b].split()) for text in texts for a, b in sentences(text)]
    if not found:
        raise InputError(f"background {path!r}: holds no text")
    return found


def scattered(
    facts: Sequence[str],
    noise: Sequence[str],
    tokens: int,
    count_tokens: Callable[[str], int],
    rng: random.Random,
) -> str:
    """The facts, in their order, at random places between consecutive sentences of `noise`, up to `tokens` tokens.

    No sentence is cut: the context is at most one sentence short of its length. More facts than fit stand alone.
    """
    room = tokens - sum(count_tokens(fact) for fact in facts)
    start = rng.randrange(len(noise))
    taken: list[str] = []
    while True:
        sentence = noise[(start + len(taken)) % len(noise)]
        room -= max(1, count_tokens(sentence))
        if room < 0:
            break
        taken.append(sentence)
    places = sorted(rng.randrange(len(taken) + 1) for _ in facts)
    for place, fact in reversed(list(zip(places, facts, strict=True))):
        taken.insert(place, fact)
    return "\n".join(taken)


def build(config: BabilongConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source. Raises `InputError`/`Faults` for bad files and settings that need each other."""
    if (config.background is None) != (config.context_tokens is None):
        raise InputError("background: TEXT and context_tokens: N go together")
    stories = read_tasks(config)
    noise = background_sentences(config.background) if config.background else []
    if noise and not any(story.facts for story in stories):
        raise InputError(
            "background: only bAbI's task files (.txt) take one; published rows have theirs already"
        )
    numbers: Counter[str] = Counter()
    named: dict[str, Story] = {}
    for story in stories:
        kind = "-".join(filter(None, (story.task, story.length)))
        named[f"{kind}-{numbers[kind]}"] = story
        numbers[kind] += 1
    documents: list[Document] = []
    probes: list[Probe] = []
    for id in choose(config, list(named)):
        story = named[id]
        text = story.text
        if noise and story.facts:
            rng = random.Random(seed_from("babilong", config.seed, id, digest(story.facts)))
            text = scattered(story.facts, noise, int(config.context_tokens or 0), count_tokens, rng)
        made = document(id, text, "", count_tokens)
        documents.append(made)
        probes.append(
            Probe(
                id=f"{id}-q",
                fact=f"{id}-q",
                case=made.records[0].id,
                document=id,
                kind="generate",
                phrasing="heldout",
                prompt=story.question,
                answers=(story.target,),
                level=story.task,
            )
        )
    unknown = sorted({story.task for story in stories if story.task not in LABELS})
    notes = (
        [f"no list of labels for {', '.join(unknown)}: exact_match does not apply there"] if unknown else []
    )
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(numbers.items()))
    return assemble(config, documents, probes, count_tokens, [f"in the files: {kinds}", *notes])
