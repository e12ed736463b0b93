"""PhoneBook: names and phone numbers (arXiv 2603.01097, section 3). Generated at any size, or published slices.

Where we differ: every fact is asked (the published evaluation files cover a part), in the trained question
and in a held-out one; slices are cut in the tokens of the base at hand unless the published cut is asked for.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import PHONE_HELDOUT
from loramem.sources.almanac.render import phone_number
from loramem.sources.published import choose_slices, raise_faults, read_column, read_list, slice_files
from loramem.sources.slicing import nested_slices
from loramem.sources.types import Document, Probe, Record, Source

BITS = 10 * math.log2(10)
PATTERN = "phonebook_qa_{K}K.csv"
_LINE = re.compile(r"Question: What is the phone number of (?P<name>.+?)\? Answer: (?P<number>\d{3}-\d{3}-\d{4})")
_FIRST = (
    "Ada Adam Agnes Alan Albert Alice Amos Amy Andrew Angela Anita Ann Arnold Arthur Audrey Barbara Basil Beatrice Ben "
    "Bernard Bertha Betty Boris Brenda Brian Bruno Carla Carol Cecil Celia Charles Clara Claude Colin Conrad Cora Cyril "
    "Daisy Daniel Daphne David Deborah Derek Diana Donald Dora Doris Duncan Edgar Edith Edward Eileen Elaine Eleanor Elias "
    "Ella Ellen Elsa Emil Emma Enid Eric Ernest Esther Ethel Eugene Eva Evelyn Felix Fiona Flora Florence Francis Frank "
    "Freda Frederick Gareth Gemma George Gerald Gilbert Gladys Glenda Gordon Grace Greta Gwen Hannah Harold Harriet Harry "
    "Harvey Hazel Helen Henry Herbert Hilda Horace Howard Hugh Hugo Ida Igor Ingrid Irene Iris Isaac Ivan Ivy Jack Jacob "
    "James Jane Janet Jasper Jean Jenny Jerome Jessie Joan Joel John Jonas Joseph Joyce Judith Julia Julius Karen Karl "
    "Kate Keith Kenneth Klara Lars Laura Lawrence Leah Leila Lena Leo Leonard Leslie Lewis Lily Linda Lionel Lois Louis "
    "Lucas Lucy Luther Lydia Mabel Magnus Marcus Margaret Maria Marion Mark Martha Martin Mary Maud Maurice Max Melvin "
    "Mildred Millie Miriam Mona Morris Muriel Myra Nadia Nancy Naomi Neil Nellie Nigel Nina Noah Nora Norman Oliver Olive "
    "Oscar Otto Pamela Patrick Paul Paula Pauline Percy Peter Philip Phoebe Phyllis Rachel Ralph Raymond Rebecca Reginald "
    "Rhoda Richard Rita Robert Robin Roger Roland Rosa Rose Rufus Rupert Ruth Sadie Sally Samuel Sarah Selma Sheila Sidney "
    "Silas Simon Sonia Stella Stephen Susan Sylvia Theodore Thomas Tilda Timothy Tobias Una Ursula Vera Vernon Victor Viola "
    "Violet Vivian Walter Wanda Wilfred William Winifred Yvonne Zelda"
).split()
_LAST = (
    "Abbot Acres Adler Ainsworth Albright Allgood Amberley Appleton Archer Ashby Ashdown Atwater Ayers Babcock Bagley Balfour "
    "Bancroft Barlow Barnaby Bassett Baxter Beckett Bellamy Benbow Bickford Birch Blackwood Blythe Bolton Bonner Boswell "
    "Bowman Bradley Bramwell Brandt Brewster Bridger Briggs Bristow Brook Buckley Bullock Burgess Burton Butterworth Caldwell "
    "Calloway Camden Cardwell Carlisle Carver Castle Chadwick Chandler Chapman Chester Clayton Clifford Coburn Colby Conway "
    "Cooper Corbett Cotter Cranston Crawley Crockett Cromwell Crosby Culver Dalton Danvers Darby Dawson Deacon Delaney Denham "
    "Derby Dexter Dillard Dobson Draper Drummond Dudley Dunmore Durham Eastman Eaton Eckhart Edgerton Eldridge Ellwood Emerson "
    "Enfield Everett Fairfax Falkner Farnham Farrow Fenton Fielding Finch Fisher Fletcher Forrest Foster Fowler Frost Fulton "
    "Gallagher Garland Garner Gatsby Gibbons Gilmore Glover Goddard Goodwin Grafton Granger Greenwood Gresham Griffin Hadley "
    "Hallam Halsey Hammond Harding Hargrove Harlow Harper Hartley Hastings Hatcher Hawkins Hayward Heathcote Hendricks Hewitt "
    "Hobart Hodges Holbrook Holloway Hooper Hopkins Horton Howell Hubbard Huntley Hurst Hutton Ingram Irving Jarvis Jefferson "
    "Jennings Keaton Kellogg Kendall Kenyon Keswick Kingsley Kirkland Knight Lambert Lancaster Langdon Latham Lawson Leighton "
    "Lindsay Linton Lockwood Lowell Ludlow Lyndon Maddox Mallory Manning Marlowe Marsden Marsh Mayfield Mercer Merrick "
    "Middleton Milton Monroe Montague Morland Mortimer Moseley Mulford Nash Newell Newton Norwood Oakley Ogden Osborne Overton "
    "Palmer Parrish Paxton Pelham Pemberton Penrose Perkins Pickford Pierce Porter Potter Prescott Preston Quimby Quincy "
    "Radcliff Ramsey Randall Ransom Redding Redford Ridley Ripley Rockwell Rowland Rutledge Sawyer Sedgwick Selby Sewell "
    "Shelby Sheldon Sheridan Sherwood Shipley Sinclair Slater Somerset Southey Spalding Spencer Stafford Standish Stanton "
    "Sterling Stockton Stratton Sumner Sutton Swift Talbot Tanner Tarleton Tennyson Thatcher Thornton Thurston Tilden Tolbert "
    "Townsend Trent Tucker Turner Underwood Upton Vance Vaughn Wadsworth Wainwright Wakefield Walcott Waldron Walton Warwick "
    "Waverly Webster Weldon Wentworth Weston Wexford Wheeler Whitaker Whitfield Wickham Wilder Willard Winslow Winthrop "
    "Woodward Worthington Wycliffe Yardley Yates Yorke"
).split()


class PhoneBookConfig(Config):
    """A phonebook in nested slices."""

    name: Literal["phonebook"] = "phonebook"
    sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
    """Slice sizes, in tokens of the base (published slices: in the tokens of the tokenizer that cut them)."""
    seed: int = 11
    """Of names, numbers and held-out wording; a training seed is another thing."""
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
            faults.append(f"{path}:{line}: not 'Question: What is the phone number of NAME? Answer: DDD-DDD-DDDD': {text[:80]!r}")
            continue
        entry = Entry(match["name"], match["number"])
        known = entries.setdefault(entry.name, (line, entry))
        if known[1] != entry:
            faults.append(f"{path}:{line}: {entry.name!r} has another number in line {known[0]}: one question, two answers")
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
        if not isinstance(row, dict) or not isinstance(row.get("question"), str) or not isinstance(row.get("answer"), str):
            faults.append(f"{path}: item {number}: needs a question and an answer")
            continue
        question = row["question"].rstrip("?")
        if question not in known:
            foreign += 1
        elif known[question] != row["answer"]:
            faults.append(f"{path}: item {number}: {question!r} is answered {row['answer']!r}, the slice says {known[question]!r}")
        else:
            covered.add(question)
    raise_faults(faults)
    return f"{path.name} asks {len(covered)} of {len(known)} facts ({foreign} questions are not in the slice); here every fact is asked"


def phonebook_source(entries: Sequence[Entry], *, size: int, settings: dict, seed: int, notes: tuple[str, ...] = ()) -> Source:
    """One document of lines; every fact is asked as trained and in one held-out wording."""
    name = f"phonebook-{size}"
    records, probes = [], []
    for entry in entries:
        case = f"phone:{entry.name}"
        held = PHONE_HELDOUT[seed_from("phone-heldout", seed, entry.name) % len(PHONE_HELDOUT)].format(e=entry.name)
        records.append(Record(case, entry.line, "chat", entry.question, entry.number, BITS))
        probes.append(Probe(f"{case}-trained", case, name, "generate", "trained", entry.question, (entry.number,), bits=BITS))
        probes.append(Probe(f"{case}-heldout", case, name, "generate", "heldout", held, (entry.number,), bits=BITS))
    counts = f"{len(entries)} facts, each asked in the trained and in a held-out wording"
    return Source("phonebook", (Document(name, tuple(records)),), tuple(probes), settings, size, (counts, *notes))


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
        where = Path(config.path).expanduser()
        if not where.exists():
            raise InputError(f"path {config.path!r}: no such file or folder")
        if config.slices == "published":
            files = choose_slices(where if where.is_dir() else where.parent, PATTERN, config.sizes)
            slices = {size: read_entries(path) for size, path in files.items()}
        else:
            found = list(slice_files(where, PATTERN).values()) if where.is_dir() else [where]
            if not found:
                raise InputError(f"path {config.path!r}: no file named like {PATTERN.format(K='8')} in that folder")
            entries = read_entries(found[-1])
            cut = nested_slices([entry.line for entry in entries], config.sizes, count_tokens, what=f"lines of {found[-1].name}")
            slices = {size: entries[:count] for size, count in cut.items()}
        folder = where if where.is_dir() else where.parent
        for size, path in slice_files(folder, "phonebook_eval_qa_{K}K.json").items():
            if size in slices and config.slices == "published":
                notes[size] = (check_evaluation(path, slices[size]),)
    return [
        phonebook_source(entries, size=size, settings=settings, seed=config.seed, notes=notes.get(size, ()))
        for size, entries in sorted(slices.items())
    ]
