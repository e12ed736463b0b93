"""A folder of one's own: Markdown, text, HTML and PDF files become documents. Questions about them
stand in a file of their own (`probes`); `loramem data probe` writes one.

A document's id is its path below the folder, with `/`; its title the first heading, HTML's `<title>`, or the file's name.
The order is that of the ids. Nothing outside the folder is read: a link that leads elsewhere is skipped and counted,
as are hidden files, other kinds of file, and empty ones. What cannot be read as it should is an error, all such files at once.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.parsing import OTHER_MARKS, decoded
from loramem.core.paths import user_path
from loramem.core.shown import blank
from loramem.sources.probe_file import Split, read_probes
from loramem.sources.published import raise_faults
from loramem.sources.remote import PublishedConfig, assemble, choose
from loramem.sources.text import blocks, document, html_text, unwrapped
from loramem.sources.types import Document, Source

MARKDOWN, HTML, TEXT, PDF = (
    (".md", ".markdown"),
    (".html", ".htm", ".xhtml"),
    (".txt", ".text", ".rst"),
    (".pdf",),
)
KINDS = (*MARKDOWN, *HTML, *TEXT, *PDF)
_FRONT = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


class FolderConfig(Config):
    """A folder of documents."""

    name: Literal["folder"] = "folder"
    path: str
    """The folder, or one file."""
    documents: Annotated[int, Field(gt=0)] | None = None
    """How many documents, in the order of their ids; None: all."""
    ids: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Ids (paths below the folder) of the documents to take; None: all."""
    max_bytes: Annotated[int, Field(gt=0)] = 50_000_000
    """Largest file that is read; a larger one is an error, for it is seldom meant."""
    probes: str | None = None
    """A file of questions about the documents (`loramem data probe` writes one); None: nothing is asked."""
    split: Split = "test"
    """Which of its questions are asked: train, dev, test or all; those about documents that are not taken never are."""


# -- one file --------------------------------------------------------------------------------------------------
def heading(text: str) -> str:
    """The first heading, without its marks; "" if there is none.

    >>> heading("words\\n\\n## The *end* ##\\n"), heading("Title\\n====="), heading("none")
    ('The *end*', 'Title', '')
    """
    for (start, end), is_heading in blocks(text):
        if is_heading:
            line = text[start:end].split("\n")[0].strip()
            return re.sub(r"\s#+$", "", re.sub(r"^#{1,6}\s*", "", line)).strip()
    return ""


def markdown_text(text: str) -> tuple[str, str]:
    """(text, title) of a Markdown file; its front matter is taken off, but its title is used."""
    front = _FRONT.match(text)
    title = ""
    if front:
        named = re.search(r"^title:[ \t]*(.+?)[ \t]*$", front[1], re.MULTILINE)
        title = named[1].strip("\"'") if named else ""
        text = text[front.end() :]
    return text, title or heading(text)


def pdf_text(path: Path) -> str:
    """The text of a PDF, a blank line between its pages; "" for a scan without text.

    Raises:
        InputError: pypdf is not installed, or the file is broken or locked.
    """
    try:
        import pypdf  # imported here: nobody without PDFs needs it
    except ImportError:
        raise InputError(f"{path}: reading PDF needs pypdf; pip install pypdf") from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every oddity of a file on stderr
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError(f"{path}: locked by a password")
        pages = [page.extract_text() or "" for page in reader.pages]
    except InputError:
        raise
    except Exception as error:  # a broken PDF raises what it likes: KeyError, RecursionError, zlib.error, ...
        raise InputError(
            f"{path}: not a PDF that can be read ({type(error).__name__}: {str(error)[:80]})"
        ) from None
    text = "\n\n".join(page.strip() for page in pages if page.strip())
    return unwrapped(re.sub(r"([^\W\d_])-\n(?=[a-z])", r"\1", text.replace("\0", "")))


def read_file(path: Path) -> tuple[str, str]:
    """(text, title) of a file of any kind. Raises `InputError` as its kind does, or where it cannot be opened."""
    suffix = path.suffix.lower()
    try:
        if suffix in PDF:
            return pdf_text(path), ""
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if b"\0" in data and not data.startswith(tuple(OTHER_MARKS)):
        raise InputError(f"{path}: binary, though it is called {path.suffix}")
    text = decoded(data, path)
    if suffix in HTML:
        plain, title = html_text(text)
        first = re.search(r"<h1\b[^>]*>(.*?)</h1>", text, re.DOTALL | re.IGNORECASE)
        return plain, title or (html_text(first[1])[0] if first else "")
    return markdown_text(text) if suffix in MARKDOWN else (text, heading(text))


# -- the folder ------------------------------------------------------------------------------------------------
def files(root: Path, counts: Counter[str]) -> Iterator[Path]:
    """The files of known kinds below `root`, in the order of their ids; what is passed over is counted."""
    resolved = root.resolve()
    for folder, names, entries in os.walk(root):  # os.walk follows no link to a folder
        names.sort()
        for name in list(names):
            path = Path(folder, name)
            if name.startswith("."):
                names.remove(name)
                counts["hidden files and folders skipped"] += 1
            elif path.is_symlink():
                counts[_link(path, resolved)] += 1
        for name in sorted(entries):  # the disk's order would be seen in the notes
            path = Path(folder, name)
            if name.startswith("."):
                counts["hidden files and folders skipped"] += 1
            elif path.is_symlink():
                counts[_link(path, resolved)] += 1
            elif not path.is_file():
                counts["things that are no files skipped"] += 1
            elif path.suffix.lower() not in KINDS:
                counts[f"files of another kind skipped ({path.suffix or 'no suffix'})"] += 1
            else:
                yield path


def _link(path: Path, root: Path) -> str:
    try:
        target = path.resolve(strict=True)
        inside = target == root or root in target.parents
    except (OSError, RuntimeError):  # it leads nowhere, or in a circle
        return "broken links skipped"
    return (
        "links within the folder skipped (what they name is read)"
        if inside
        else "links that leave the folder skipped"
    )


def by_id(root: Path, counts: Counter[str]) -> dict[str, Path]:
    """The files below a folder, or the one file, by their ids."""
    if not root.is_dir():
        return {root.name: root}
    return {path.relative_to(root).as_posix(): path for path in files(root, counts)}


def read_folder(
    config: FolderConfig, count_tokens: Callable[[str], int]
) -> tuple[list[Document], Counter[str]]:
    """(documents, what was passed over). Raises `Faults` naming every file that cannot be read."""
    root = user_path(config.path)
    if not root.exists():
        raise InputError(f"path {config.path!r}: no such folder")
    counts: Counter[str] = Counter()
    found = by_id(root, counts)
    if not found:
        passed = "; ".join(f"{n} {what}" for what, n in counts.items())
        raise InputError(
            f"{root}: no {', '.join(KINDS)} file in this folder" + (f" ({passed})" if passed else "")
        )
    if root.is_file() and root.suffix.lower() not in KINDS:
        raise InputError(f"{root}: not one of {', '.join(KINDS)}")
    chosen = choose(PublishedConfig(ids=config.ids), sorted(found))
    faults: list[str] = []
    documents = []
    for id in chosen:
        try:
            if found[id].stat().st_size > config.max_bytes:
                raise InputError(
                    f"{found[id]}: {found[id].stat().st_size} bytes, more than max_bytes: {config.max_bytes}"
                )
            id.encode("utf-8")
            text, title = read_file(found[id])
        except UnicodeEncodeError:
            faults.append(f"{found[id]!s}: a name that is not UTF-8".encode("utf-8", "replace").decode())
            continue
        except InputError as error:
            faults.append(str(error))
            continue
        made = document(id, "" if blank(text) else text, title or found[id].stem, count_tokens)
        if made.records:
            documents.append(made)
        else:
            counts[
                "files without text left out"
                if found[id].suffix.lower() not in PDF
                else "PDFs without text (scans?) left out"
            ] += 1
    raise_faults(faults)
    return documents, counts


def build(config: FolderConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source. Raises `InputError`/`Faults` for what cannot be read, and for nothing to read."""
    documents, counts = read_folder(config, count_tokens)
    if not documents:
        raise InputError(f"{config.path}: no file here holds any text")
    if config.documents is not None:
        documents = [
            d
            for d in documents
            if d.id in set(choose(PublishedConfig(documents=config.documents), [d.id for d in documents]))
        ]
    notes = [f"{count} {what}" for what, count in counts.items()]
    if config.probes is None:
        return assemble(config, documents, (), count_tokens, notes)
    others = by_id(user_path(config.path), Counter()).keys() - {document.id for document in documents}
    chosen = config.ids is not None or config.documents is not None
    probes, writers = read_probes(
        user_path(config.probes), documents, config.split, elsewhere=others if chosen else ()
    )
    made = assemble(config, documents, probes, count_tokens, [*notes, f"questions by {', '.join(writers)}"])
    return [replace(source, settings={**source.settings, "probe_generators": writers}) for source in made]
