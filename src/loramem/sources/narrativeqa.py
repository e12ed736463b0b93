"""NarrativeQA: questions on whole books and film scripts, two reference answers each (Kočiský et al., TACL 2018, arXiv
1712.07040).

Forms: the hub's rows (`deepmind/narrativeqa`: parquet or JSON lines), the official `documents.csv`, `qaps.csv` and
`summaries.csv` with a folder of story texts, JSON lines of texts (`doc_id`, `normalized_text`: no questions of their own),
and question files: JSON lines of `question`, `answer`, `passage`, or a TSV of `Question`, `Answer1`, `Answer2`, whose
questions belong to no document at hand.

Texts are cleaned before anything is counted: Project Gutenberg's licence, HTML, the page marks of scripts, and UTF-8
that was once read as Latin-1 (`clean: false` keeps the text as it is).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.errors import InputError
from loramem.core.files import inside
from loramem.core.identity import digest
from loramem.core.paths import user_path
from loramem.sources.published import raise_faults
from loramem.sources.remote import PublishedConfig, assemble, choose, lacking, locate, row_files, rows
from loramem.sources.text import document, html_text, unwrapped
from loramem.sources.types import Document, Probe, Source

Split = Literal["train", "valid", "test"]
OFFICIAL = ("documents.csv", "qaps.csv", "summaries.csv")
STORY_SUFFIXES = (".content", ".txt", ".html", ".htm")


class NarrativeQAConfig(PublishedConfig):
    """Stories and the questions on them."""

    name: Literal["narrativeqa"] = "narrativeqa"
    split: Split | None = None
    """Only the documents of this split; None: all."""
    kind: Literal["gutenberg", "movie"] | None = None
    """Only books, or only film scripts."""
    text: Literal["story", "summary"] = "story"
    """What the documents are: the story, or its Wikipedia summary (easier, and far shorter)."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """Least tokens of a document, in tokens of the base, after cleaning; the paper takes 10K to 20K."""
    max_tokens: Annotated[int, Field(gt=0)] | None = None
    """Most tokens of a document; None: no limit."""
    stories: str | None = None
    """Folder of story texts, ID.content, .txt or .html; None: `tmp` or `stories` beside the official CSVs."""
    clean: bool = True
    """Take licence, HTML, page marks and wrongly decoded characters out of the texts."""


@dataclass
class Story:
    """A document as it is read, before it is cut into records."""

    id: str
    title: str = ""
    kind: str = ""
    split: str = ""
    story: str = ""
    summary: str = ""
    questions: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)
    """(question, references, kind of question)."""


# -- clean-up --------------------------------------------------------------------------------------------------
# fmt: off
_START = re.compile(r"\A.{0,30000}?^\W*(?:START OF TH(?:E|IS) )?(?:PROJECT )?GUTENBERG(?:'S)? E-?(?:BOOK|TEXT)\b[^\n]*(?:\n[^\n]+?){0,3}?\*\*\*[^\n]*$|\A.{0,30000}?^\*END\*\s?THE SMALL PRINT![^\n]*$", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_STOP = re.compile(r"^\W*END OF (?:TH(?:E|IS) )?PROJECT GUTENBERG\b.*|^\W*\*\*\* ?START: FULL LICENSE.*", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_CREDIT = re.compile(r"\A\s*(?:(?:Produced|E-?text prepared|Prepared|Transcribed) by|This (?:e-?text|e-?book|file) was (?:produced|prepared|scanned))\b.*?(?:\n[ \t]*\n|\Z)", re.DOTALL | re.IGNORECASE)
_SCENE = re.compile(r"^[ \t]*(?:\d+[A-Z]?[ \t]+)?(?:INT|EXT)[./ ]|^[ \t]*(?:FADE (?:IN|OUT)|CUT TO)\b", re.MULTILINE)
_PAGE = re.compile(r"^[ \t]*(?:\(?CONTINUED\)?:?(?: \(\d+\))?|\(MORE\)|(?:Page )?\d{1,3}\.?)[ \t]*$\n?", re.MULTILINE)
# fmt: on


def mended(text: str) -> str:
    """UTF-8 that was decoded as Latin-1 (or Windows' code page) is decoded again, line by line where it can be.

    >>> mended("Baha\\u00e2\\u0080\\u0099i") , mended("Zoë")
    ('Baha’i', 'Zoë')
    """

    def line(part: str) -> str:
        for wrong in ("latin-1", "cp1252"):
            try:
                return part.encode(wrong).decode("utf-8")
            except UnicodeError:
                continue
        return part

    return "\n".join(part if part.isascii() else line(part) for part in text.split("\n"))


def cleaned(text: str) -> str:
    """A story without what is not its text: see the module's head. Paragraphs stay apart by one blank line."""
    text = mended(text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\x0c", "\n\n"))
    if re.search(r"<(?:html|pre|body|p|br|b)\b[^>]*>", text[:20000], re.IGNORECASE):
        text = html_text(text)[0]
    text = _STOP.sub("", _START.sub("", text, count=1), count=1)
    while _CREDIT.match(text):
        text = _CREDIT.sub("", text, count=1)
    if (
        len(_SCENE.findall(text)) >= 3
    ):  # a script: names and speech stand in columns, every page has its number
        text = _PAGE.sub("", text)
        text = re.sub(
            r"^[ \t]+|(?<=\S)[ \t]{2,}",
            lambda m: "" if m.start() == 0 or text[m.start() - 1] == "\n" else " ",
            text,
            flags=re.MULTILINE,
        )
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return unwrapped(re.sub(r"\n{3,}", "\n\n", text).strip("\n"))


# -- reading ---------------------------------------------------------------------------------------------------
def _answers(value: object) -> tuple[str, ...]:
    """References in any of the forms: texts, or objects with a text."""
    items = value if isinstance(value, list | tuple) else [value]
    texts = (item.get("text") if isinstance(item, dict) else item for item in items)
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())


def _split_of(name: object) -> str:
    """`valid` for `validation` and `dev`; other names as they are."""
    name = str(name or "").lower()
    return "valid" if name in ("validation", "val", "dev") else name


class _Reader:
    """Collects stories and questions from rows of every form."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}
        self.loose: list[tuple[str, tuple[str, ...], str]] = []
        self.faults: list[str] = []

    def story(self, id: str) -> Story:
        return self.stories.setdefault(id, Story(id))

    def row(self, where: str, row: dict, split: str) -> None:
        """One row of a form that can be told by its columns."""
        if isinstance(row.get("document"), dict):
            self._hub(where, row, split)
        elif "doc_id" in row or "normalized_text" in row:
            self._text(where, row, split)
        elif "passage" in row:
            self._passage(where, row, split)
        elif "Question" in row:
            references = _answers([row.get("Answer1"), row.get("Answer2")])
            if wrong := lacking(row, Question=str) or ("" if references else "needs Answer1 (text)"):
                self.faults.append(f"{where}: {wrong}")
            else:
                self.loose.append((row["Question"].strip(), references, str(row.get("Question Type") or "")))
        else:
            self.faults.append(
                f"{where}: columns {', '.join(map(str, row))[:120]} are none of the forms; allowed: document, question, answers; "
                "doc_id, normalized_text; question, answer, passage; Question, Answer1, Answer2"
            )

    def _hub(self, where: str, row: dict, split: str) -> None:
        found = row["document"]
        asked = row.get("question")
        question = asked.get("text") if isinstance(asked, dict) else asked
        references = _answers(row.get("answers"))
        wrong = lacking(found, id=str)
        if not isinstance(question, str) or not question.strip() or not references:
            wrong = "; ".join(filter(None, (wrong, "needs question (text) and answers (list)")))
        if wrong or not isinstance(question, str):
            self.faults.append(f"{where}: {wrong}")
            return
        story = self.story(found["id"])
        if not story.story and not story.summary:  # every row repeats the document
            summary = found.get("summary")
            story.story, story.kind, story.split = (
                str(found.get("text") or ""),
                str(found.get("kind") or ""),
                split,
            )
            if isinstance(summary, dict):
                story.summary, story.title = str(summary.get("text") or ""), str(summary.get("title") or "")
        story.questions.append((question.strip(), references, ""))

    def _text(self, where: str, row: dict, split: str) -> None:
        if wrong := lacking(row, doc_id=str, normalized_text=str):
            self.faults.append(f"{where}: {wrong}")
        elif row["doc_id"] in self.stories:
            self.faults.append(f"{where}: document {row['doc_id']} stands already above")
        else:
            story = self.story(row["doc_id"])
            story.story, story.summary, story.split = (
                row["normalized_text"],
                str(row.get("summary") or ""),
                split,
            )

    def _passage(self, where: str, row: dict, split: str) -> None:
        references = _answers(row.get("answer"))
        if wrong := lacking(row, question=str, passage=str) or ("" if references else "needs answer (texts)"):
            self.faults.append(f"{where}: {wrong}")
            return
        story = self.story(f"passage-{digest(row['passage'])[:10]}")
        story.story = story.summary = row["passage"]
        story.split = split
        story.questions.append((row["question"].strip(), references, ""))

    def metadata(self, path: Path, *, every: bool) -> None:
        """Titles, kinds and splits of `documents.csv`, for all documents or for those that are there."""
        for where, row in rows(path, self.faults):
            if wrong := lacking(row, document_id=str, set=str, kind=str):
                self.faults.append(f"{where}: {wrong}")
            elif every or row["document_id"] in self.stories:
                story = self.story(row["document_id"])
                story.kind, story.split = row["kind"], _split_of(row["set"])
                story.title = story.title or row.get("wiki_title") or ""

    def official(self, folder: Path, stories: Path | None, split: str | None) -> Counter[str]:
        """The official CSVs and the story texts beside them; says how many documents and questions have no text."""
        found: Counter[str] = Counter()
        self.metadata(folder / "documents.csv", every=True)
        for where, row in rows(folder / "qaps.csv", self.faults):
            references = _answers([row.get("answer1"), row.get("answer2")])
            if wrong := lacking(row, document_id=str, question=str) or (
                "" if references else "needs answer1 (text)"
            ):
                self.faults.append(f"{where}: {wrong}")
            elif row["document_id"] not in self.stories:
                self.faults.append(f"{where}: document {row['document_id']} is not in documents.csv")
            else:
                self.story(row["document_id"]).questions.append((row["question"].strip(), references, ""))
        summaries = [
            p
            for p in (folder / "summaries.csv", folder / "third_party/wikipedia/summaries.csv")
            if p.exists()
        ]
        for where, row in rows(summaries[0], self.faults) if summaries else ():
            if wrong := lacking(row, document_id=str, summary=str):
                self.faults.append(f"{where}: {wrong}")
            elif row["document_id"] in self.stories:
                self.story(row["document_id"]).summary = row["summary"].strip()
        folders = [stories] if stories else [folder / "tmp", folder / "stories", folder]
        for story in self.stories.values():
            if split not in (None, story.split):
                continue
            try:
                places = [inside(place, f"{story.id}{suffix}") for place in folders for suffix in STORY_SUFFIXES]  # fmt: skip
            except InputError as error:
                self.faults.append(f"{folder / 'documents.csv'}: document {story.id!r}: {error}")
                continue
            path = next((path for path in places if path.is_file()), None)
            if path:
                data = path.read_bytes()  # as downloaded: each book in the encoding of its day
                try:
                    story.story = data.decode("utf-8-sig")
                except UnicodeDecodeError:
                    story.story = data.decode("cp1252", "replace")
                    found["texts were not UTF-8; read as Windows-1252"] += 1
        return found


def read_stories(
    config: NarrativeQAConfig,
) -> tuple[list[Story], list[tuple[str, tuple[str, ...], str]], Counter[str]]:
    """(stories, questions of no document, counts worth a note). Raises `Faults` naming every malformed row."""
    hub_split = {"valid": "validation"}.get(str(config.split), config.split)
    where = locate(config, [f"*{hub_split}*.parquet"] if config.split else ["*.parquet"])
    reader, counts = _Reader(), Counter[str]()
    if where.is_dir() and (where / "qaps.csv").exists():
        counts = reader.official(where, user_path(config.stories) if config.stories else None, config.split)
    else:
        for path in row_files(where):
            if path.name in OFFICIAL:
                continue
            named = re.search(r"(?<![a-z])(train|valid(?:ation)?|test)(?![a-z])", path.stem)
            split = _split_of(named[1]) if named else ""
            if config.split and split not in ("", config.split):
                continue
            for place, row in rows(path, reader.faults):
                reader.row(place, row, split)
        metadata = (where if where.is_dir() else where.parent) / "documents.csv"
        if metadata.exists() and reader.stories:
            reader.metadata(metadata, every=False)
    raise_faults(reader.faults)
    if not reader.stories and not reader.loose:
        raise InputError(f"{where}: no documents and no questions")
    return list(reader.stories.values()), reader.loose, counts


# -- the source ------------------------------------------------------------------------------------------------
def build(config: NarrativeQAConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source. Raises `InputError`/`Faults` for bad files, ids and counts, and where the selection leaves nothing."""
    stories, loose, counts = read_stories(config)
    if config.split and stories and not any(story.split for story in stories):
        raise InputError(f"split: {config.split}, but nothing here says which split a document is of")
    wanted: dict[str, tuple[Story, Document]] = {}
    for story in stories:
        if (config.split and story.split != config.split) or (config.kind and story.kind != config.kind):
            counts["documents of another split or kind left out"] += 1
            continue
        if config.ids is not None and story.id not in config.ids:
            wanted[story.id] = (
                story,
                Document(story.id, ()),
            )  # not taken, but a wrong id is compared with it
            continue
        text = story.story if config.text == "story" else story.summary
        text = cleaned(text) if config.clean else text
        if not text.strip():
            counts[f"documents without {config.text} text left out"] += 1
            continue
        made = replace(document(story.id, text, story.title, count_tokens), summary=_summary(story, config))
        tokens = sum(count_tokens(record.text) for record in made.records)
        if tokens < config.min_tokens or (config.max_tokens is not None and tokens > config.max_tokens):
            limits = f"{config.min_tokens} to {config.max_tokens or 'any number of'} tokens"
            counts[f"documents outside {limits} left out"] += 1
            continue
        wanted[story.id] = (story, made)
    if stories and not wanted:
        raise InputError("the selection leaves no document: " + "; ".join(_lines(counts)))
    chosen = [wanted[id] for id in choose(config, list(wanted))]
    documents = [made for _, made in chosen]
    probes = [probe for story, made in chosen for probe in _probes(made, story.questions)]
    silent = sum(not story.questions for story, _ in chosen)
    counts["documents have no questions of their own"] += silent
    if loose and not documents:
        probes = [_probe(f"question-{n}", "", "", *item) for n, item in enumerate(loose)]
        counts["questions belong to no document here: they can be read closed-book only"] += len(probes)
    else:
        counts["questions of no document left out"] += len(loose)
    return assemble(config, documents, probes, count_tokens, _lines(counts))


def _summary(story: Story, config: NarrativeQAConfig) -> str:
    """The Wikipedia summary of a story, cleaned as its text is; empty where the document is that summary itself."""
    if config.text == "summary" or story.summary == story.story:
        return ""
    return (cleaned(story.summary) if config.clean else story.summary).strip()


def _lines(counts: Counter[str]) -> Iterable[str]:
    return [f"{count} {what}" for what, count in counts.items() if count]


def _probes(made: Document, questions: list[tuple[str, tuple[str, ...], str]]) -> list[Probe]:
    """A document's probes; which passage holds the answer is published nowhere, so all belong to its first record."""
    case = made.records[0].id
    return [_probe(f"{made.id}-q{n}", case, made.id, *item) for n, item in enumerate(questions)]


def _probe(
    id: str, case: str, document: str, question: str, references: tuple[str, ...], level: str
) -> Probe:
    return Probe(id, case, document, "generate", "heldout", question, references, level=level, fact=id)
