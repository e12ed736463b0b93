"""PhoneBook: names and phone numbers (arXiv 2603.01097, section 3). Generated at any size, or published slices.

Where we differ: every fact is asked (the published evaluation files cover a part), in the trained question
and in a held-out one; slices are cut in the tokens of the base at hand unless the published cut is asked for.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.core.paths import user_path
from loramem.sources.almanac.phrasing import PHONE_HELDOUT, PHONE_NEGATED, PHONE_REVERSE
from loramem.sources.almanac.render import phone_number
from loramem.sources.published import choose_slices, raise_faults, read_column, read_list, slice_files
from loramem.sources.slicing import Size, nested_slices, spread
from loramem.sources.types import Document, Phrasing, Probe, Record, Source

BITS = 10 * math.log2(10)
PATTERN = "phonebook_qa_{K}K.csv"
_LINE = re.compile(
    r"Question: What is the phone number of (?P<name>.+?)\? Answer: (?P<number>\d{3}-\d{3}-\d{4})"
)
_NAMES = json.loads((resources.files("loramem.sources") / "english_names.json").read_text(encoding="utf-8"))
_FIRST, _LAST = _NAMES["first"].split(), _NAMES["last"].split()


class PhoneBookConfig(Config):
    """A phonebook in nested slices."""

    name: Literal["phonebook"] = "phonebook"
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    """Slice sizes, in tokens of the base (published slices: in the tokens of the tokenizer that cut them)."""
    seed: int = 11
    """Of names, numbers and held-out wording; a training seed is another thing."""
    beyond: Annotated[int, Field(ge=0)] | None = None
    """Facts asked in other ways than the trained question, N spread over a slice; None: all."""
    path: str | None = None
    """Folder (or one CSV file) of published slices; None generates."""
    slices: Literal["recut", "published"] = "recut"
    """`recut`: cut the largest file in the base's own tokens; `published`: take the files as they are."""


@dataclass(frozen=True)
class Entry:
    """One line of a phonebook."""

    name: str
    number: str

    @property
    def question(self) -> str:
        return f"What is the phone number of {self.name}?"

    @property
    def line(self) -> str:
        return f"Question: {self.question} Answer: {self.number}"


def generate(seed: int):
    """Endless entries in one seeded order: distinct names, uniform numbers."""
    rng = random.Random(seed_from("phonebook", seed))
    taken: set[str] = set()
    while True:
        first, last = rng.choice(_FIRST), rng.choice(_LAST)
        name = f"{first} {last}"
        while name in taken:  # past some ten thousand names middle initials keep them apart
            name = f"{first} {''.join(rng.choice('ABCDEFGHIJKLMNOPRSTVW') + ' ' for _ in range(rng.randint(1, 3)))}{last}"
        taken.add(name)
        yield Entry(name, phone_number(rng))


def read_entries(path: Path) -> list[Entry]:
    """Entries of a published CSV. A repeated line is kept once; a name with two numbers is a fault, both lines named."""
    entries: dict[str, tuple[int, Entry]] = {}
    faults = []
    for line, text in read_column(path):
        match = _LINE.fullmatch(text)
        if not match:
            faults.append(
                f"{path}:{line}: not 'Question: What is the phone number of NAME? Answer: DDD-DDD-DDDD': {text[:80]!r}"
            )
            continue
        entry = Entry(match["name"], match["number"])
        known = entries.setdefault(entry.name, (line, entry))
        if known[1] != entry:
            faults.append(
                f"{path}:{line}: {entry.name!r} has another number in line {known[0]}: one question, two answers"
            )
    raise_faults(faults)
    return [entry for _, entry in entries.values()]


def check_evaluation(path: Path, entries: Sequence[Entry]) -> str:
    """Compare a published evaluation JSON with the facts; says how many facts it covers.

    Raises:
        Faults: rows without question and answer, or answers that contradict the facts.
    """
    known = {entry.question.rstrip("?"): entry.number for entry in entries}
    faults, covered, foreign = [], set(), 0
    for number, row in enumerate(read_list(path), start=1):
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("question"), str)
            or not isinstance(row.get("answer"), str)
        ):
            faults.append(f"{path}: item {number}: needs a question and an answer")
            continue
        question = row["question"].rstrip("?")
        if question not in known:
            foreign += 1
        elif known[question] != row["answer"]:
            faults.append(
                f"{path}: item {number}: {question!r} is answered {row['answer']!r}, the slice says {known[question]!r}"
            )
        else:
            covered.add(question)
    raise_faults(faults)
    return f"{path.name} asks {len(covered)} of {len(known)} facts ({foreign} questions are not in the slice); here every fact is asked"


def phonebook_source(
    entries: Sequence[Entry],
    *,
    size: int,
    settings: dict,
    seed: int,
    notes: tuple[str, ...] = (),
    beyond: int | None = None,
) -> Source:
    """One document of lines; every fact is asked as trained, `beyond` of them (spread over the lines) also in one
    held-out wording, reversed and negated."""
    name = f"phonebook-{size}"
    records, probes = [], []
    asked_more = spread([f"phone:{entry.name}" for entry in entries], beyond)
    for entry in entries:
        case = f"phone:{entry.name}"
        held = PHONE_HELDOUT[seed_from("phone-heldout", seed, entry.name) % len(PHONE_HELDOUT)]
        records.append(Record(case, entry.line, "chat", entry.question, entry.number, BITS))
        asked: tuple[tuple[Phrasing, str, str, float | None], ...] = (
            ("trained", entry.question, entry.number, BITS),
            ("heldout", held.format(e=entry.name), entry.number, BITS),
            ("reverse", PHONE_REVERSE.format(v=entry.number), entry.name, None),
            ("negated", PHONE_NEGATED.format(e=entry.name), entry.number, None),
        )
        for phrasing, question, answer, bits in asked if case in asked_more else asked[:1]:
            identity = f"{case}-{phrasing}"
            probes.append(Probe(identity, case, name, "generate", phrasing, question, (answer,), bits=bits))
    counts = f"{len(entries)} facts asked in the trained wording, {len(asked_more)} also in a held-out one, reversed and negated"
    return Source(
        "phonebook", (Document(name, tuple(records)),), tuple(probes), settings, size, (counts, *notes)
    )


def dev(config: PhoneBookConfig, size: int, count_tokens: Callable[[str], int]) -> Source:
    """A phonebook of `size` tokens that shares no fact with `build(config)`: settings are chosen on it (PITFALLS 44).

    Generated books: entries of another seed whose names the books do not hold. Files: the lines after the
    largest slice. Raises `Faults` where too few are left.
    """
    built = build(config, count_tokens)
    taken = {record.id for source in built for record in source.records}
    settings = {**built[-1].settings, "split": "dev"}
    if config.path is None:
        stream = generate(seed_from("phonebook-dev", config.seed) % 2**31)
        entries: list[Entry] = []
        total = 0
        while total <= size:
            entry = next(stream)
            if f"phone:{entry.name}" not in taken:
                entries.append(entry)
                total += count_tokens(entry.line)
    else:
        where = user_path(config.path)
        files = list(slice_files(where, PATTERN).values()) if where.is_dir() else [where]
        rest = [entry for entry in read_entries(files[-1]) if f"phone:{entry.name}" not in taken]
        cut = nested_slices(
            [e.line for e in rest], [size], count_tokens, what="lines beyond the largest slice"
        )
        entries = rest[: cut[size]]
    return phonebook_source(entries, size=size, settings=settings, seed=config.seed)


def build(config: PhoneBookConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source per size, smallest first. Raises `InputError`/`Faults` for bad files and impossible sizes."""
    settings = {key: value for key, value in config.identity().items() if key != "path"}
    notes: dict[int, tuple[str, ...]] = {}
    slices: dict[int, list[Entry]] = {}
    if config.path is None:
        if config.slices == "published":
            raise InputError("slices: published needs path: the folder of the published files")
        stream, entries, total = generate(config.seed), [], 0
        while total <= max(config.sizes):
            entries.append(next(stream))
            total += count_tokens(entries[-1].line)
        cut = nested_slices([entry.line for entry in entries], config.sizes, count_tokens, what="lines")
        slices = {size: entries[:count] for size, count in cut.items()}
    else:
        where = user_path(config.path)
        if not where.exists():
            raise InputError(f"path {config.path!r}: no such file or folder")
        if config.slices == "published":
            files = choose_slices(where if where.is_dir() else where.parent, PATTERN, config.sizes)
            slices = {size: read_entries(path) for size, path in files.items()}
        else:
            found = list(slice_files(where, PATTERN).values()) if where.is_dir() else [where]
            if not found:
                raise InputError(
                    f"path {config.path!r}: no file named like {PATTERN.format(K='8')} in that folder"
                )
            entries = read_entries(found[-1])
            cut = nested_slices(
                [entry.line for entry in entries],
                config.sizes,
                count_tokens,
                what=f"lines of {found[-1].name}",
            )
            slices = {size: entries[:count] for size, count in cut.items()}
        folder = where if where.is_dir() else where.parent
        for size, path in slice_files(folder, "phonebook_eval_qa_{K}K.json").items():
            if size in slices and config.slices == "published":
                notes[size] = (check_evaluation(path, slices[size]),)
    return [
        phonebook_source(
            entries,
            size=size,
            settings=settings,
            seed=config.seed,
            notes=notes.get(size, ()),
            beyond=config.beyond,
        )
        for size, entries in sorted(slices.items())
    ]
