"""Text as records: headings, paragraphs, and sentences where a paragraph is longer than a limit.

Every piece is a span of the text it was cut from, so that a memory can be traced to the very characters it was
made of. Nothing is lost: what lies between two pieces is white space (property-tested). The sentence rule is
small and errs on one side: an abbreviation or an initial never ends a sentence, at the price of a sentence that
is sometimes two. Kiss and Strunk (2006) show how far such rules carry; a statistical splitter would be a dependency.

HTML is turned into such text here too, paragraphs kept, with the standard library's parser.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser

from loramem.sources.types import Document, Record

Span = tuple[int, int]
MOST = 256
"""Tokens of a record, unless one sentence's single word is longer."""

_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n|\Z)")
_HEADING = re.compile(r" {0,3}#{1,6}(?:[ \t]|$)")
_UNDERLINE = re.compile(r" {0,3}(?:=+|-{3,})[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")


def strip(text: str, start: int, end: int) -> Span:
    """The span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def blocks(text: str) -> list[tuple[Span, bool]]:
    """(span, is a heading) of each heading, paragraph and fenced piece of code, in order.

    Paragraphs end at blank lines and at headings (`# ...`, or a line over `===` or `---`, as in Markdown); blank lines in
    fenced code end nothing, and an unclosed fence runs to the end of the text, as Markdown says.

    >>> [("# A\\nb\\n\\nc\\nd"[start:end], heading) for (start, end), heading in blocks("# A\\nb\\n\\nc\\nd")]
    [('# A', True), ('b', False), ('c\\nd', False)]
    """
    found: list[tuple[Span, bool]] = []
    opened: int | None = None  # where the current paragraph began
    lines = 0  # and how many lines it has
    fence = ""

    def close(end: int, heading: bool = False) -> None:
        nonlocal opened, lines
        if opened is not None:
            span = strip(text, opened, end)
            if span[0] < span[1]:
                found.append((span, heading))
        opened, lines = None, 0

    for match in _LINE.finditer(text):
        line = match.group().rstrip("\r\n")
        mark = _FENCE.match(line)
        if fence:
            if mark and mark.group(1).startswith(fence):
                fence = ""
                close(match.end())
        elif mark:
            close(match.start())
            opened, fence = match.start(), mark.group(1)
        elif not line.strip():
            close(match.start())
        elif _HEADING.match(line):
            close(match.start())
            opened = match.start()
            close(match.end(), heading=True)
        elif lines == 1 and _UNDERLINE.match(line):
            close(match.end(), heading=True)
        else:
            opened = match.start() if opened is None else opened
            lines += 1
    close(len(text))
    return found


_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f"
_END = re.compile(
    r"(?:[.!?\u2026]+[\"'\u201d\u2019)\]*_]*(?=\s)|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\uff09]*)"
)
_WORD = re.compile(rf"[{_CJK}][\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u300d\u300f\uff09]*|[^\s{_CJK}]+")
_BETWEEN = re.compile(r"[\s(\[\"'\u201c\u2018\u2014/-]")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
# fmt: off
_ABBREVIATIONS = (
    "mr mrs ms messrs mme mlle dr prof sr jr st gen col capt cpt lt sgt maj adm rev hon gov sen rep pres supt vs cf al viz approx ca resp inc ltd co corp "
    "dept univ ave blvd jan feb mar apr jun jul aug sep sept oct nov dec eg ie eds"
)
_ALWAYS = frozenset(_ABBREVIATIONS.split())
_NUMBERED = "no nos fig figs eq eqs sec secs ch chap vol vols p pp art ex ref refs tab thm def lem par app ver v"
_BEFORE_NUMBER = frozenset(_NUMBERED.split())
# fmt: on


def _ends_nothing(text: str, start: int, stop: int, following: str) -> bool:
    """Whether the full stop at text[stop] belongs to an abbreviation, an initial or the number of a list item."""
    word = _BETWEEN.split(text[max(start, stop - 40) : stop])[-1]
    if len(word) == 1 and word.isalpha():  # an initial; but "I" after a plain word is somebody speaking
        earlier = text[start : stop - 1].split()
        return not (word == "I" and earlier and earlier[-1].islower())
    if _DOTTED.fullmatch(word):
        return True
    if word.isdigit() and not text[start : stop - len(word)].strip():  # "1. First"
        return True
    return word.lower() in _ALWAYS or (
        word.lower() in _BEFORE_NUMBER and (following.isdigit() or following == "(")
    )


def sentences(text: str, start: int = 0, end: int | None = None) -> list[Span]:
    """Spans of the sentences of `text[start:end]`; between them only white space (none in Chinese or Japanese).

    >>> text = 'Dr. J. R. Quill left. "Why?" asked Ms. Rast. See Fig. 3, e.g. the U.S. map!'
    >>> [text[a:b] for a, b in sentences(text)]
    ['Dr. J. R. Quill left.', '"Why?" asked Ms. Rast.', 'See Fig. 3, e.g. the U.S. map!']
    """
    end = len(text) if end is None else end
    found: list[Span] = []
    opened, _ = strip(text, start, end)
    for match in _END.finditer(text, start, end):
        if match.start() < opened:
            continue
        following, _ = strip(text, match.end(), end)
        if following == end:
            break
        if text[match.start()] == "." and (
            # a lower-case word goes on with the sentence, whatever stood before it
            text[following].islower() or _ends_nothing(text, opened, match.start(), text[following])
        ):
            continue
        if text[following].islower() and match.group()[0] in "!?\u2026":  # '"Why?" asked ...'
            continue
        found.append((opened, match.end()))
        opened = following
    last = strip(text, opened, end)
    return [*found, last] if last[0] < last[1] else found


def pack(spans: Sequence[Span], fits: Callable[[int, int], bool]) -> Iterator[Span]:
    """Join neighbouring spans greedily while `fits(start, end)`; one that does not fit by itself stays alone.

    The furthest end is sought by doubling and halving, so that `fits` (which counts tokens) is asked seldom.
    """
    first = 0
    while first < len(spans):
        start = spans[first][0]
        good, step = first, 1
        while good + step < len(spans) and fits(start, spans[good + step][1]):
            good, step = good + step, step * 2
        while step := step // 2:
            if good + step < len(spans) and fits(start, spans[good + step][1]):
                good += step
        yield start, spans[good][1]
        first = good + 1


def pieces(
    text: str, span: Span, count_tokens: Callable[[str], int], most: int, *, break_words: bool = False
) -> list[Span]:
    """`span` if it has at most `most` tokens; else its sentences, packed; else, of a sentence, its words, packed.

    A word longer than `most` stays whole, for a record is joined to the next by a newline; with `break_words` it is
    cut between characters.
    """

    def fits(start: int, end: int) -> bool:
        return count_tokens(text[start:end]) <= most

    if fits(*span):
        return [span]
    found: list[Span] = []
    for sentence in pack(sentences(text, *span), fits):
        if fits(*sentence):
            found.append(sentence)
            continue
        for word in pack([match.span() for match in _WORD.finditer(text, *sentence)], fits):
            if fits(*word) or not break_words:
                found.append(word)
            else:
                found += pack([(place, place + 1) for place in range(*word)], fits)
    return found


def document(
    id: str, text: str, title: str, count_tokens: Callable[[str], int], *, most: int = MOST
) -> Document:
    """A document whose records are the headings and paragraphs of `text`, none longer than `most` tokens.

    `Record.span` are offsets into `text` as it is given here (after a reader's clean-up): `text[slice(*span)] == record.text`.
    Record ids are `ID:NUMBER`. A text of white space has no records.
    """
    spans = [piece for span, _ in blocks(text) for piece in pieces(text, span, count_tokens, most)]
    records = (Record(f"{id}:{n}", text[a:b], span=(a, b)) for n, (a, b) in enumerate(spans))
    return Document(id, tuple(records), title)


def record_at(document: Document, offset: int) -> Record:
    """The record that holds the character at `offset` of the original text, or the last one before it."""
    starts = [record.span[0] if record.span else 0 for record in document.records]
    return document.records[max(0, bisect_right(starts, offset) - 1)]


def unwrapped(text: str) -> str:
    """Prose that was broken into lines of one width, a paragraph a line again; verse, lists and tables stay as they are.

    A paragraph is taken for prose if all its lines but the last fill 45 to 90 characters and none is indented. What was broken
    at a hyphen or a dash is joined without a space.

    >>> unwrapped("He told himself that it would be a long and well-\\nknown\\n\\nO rose\\n  red")
    'He told himself that it would be a long and well-known\\n\\nO rose\\n  red'
    """

    def join(match: re.Match) -> str:
        lines = match.group().split("\n")
        body, rest = lines[:-1], lines[1:]
        if body and all(45 <= len(x) <= 90 for x in body) and not any(x[0].isspace() for x in rest):
            return re.sub(r"(?<=\w)(-|--)\n|\n", lambda found: found[1] or " ", match.group())
        return match.group()

    return re.sub(r"[^\n]+(?:\n[^\n]+)*", join, text)


# -- HTML ------------------------------------------------------------------------------------------------------
# fmt: off
_BLOCK_TAGS = (
    "address article aside blockquote body center dd details dialog div dl dt fieldset figure figcaption footer form h1 h2 h3 h4 h5 h6 header hr html li main nav ol p pre "
    "section summary table tr ul"
)
_BLOCK = frozenset(_BLOCK_TAGS.split())
# fmt: on
_HIDDEN = frozenset(("script", "style", "noscript", "template", "title"))


class _Reader(HTMLParser):
    """Collects text: a block starts a paragraph, `<br>` a line; white space is collapsed outside `<pre>`."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title = ""
        self.hidden: str | None = None
        self.pre = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if tag == "body":  # a page's body is never part of an element somebody forgot to close
            self.hidden = None
        if self.hidden:
            return
        if tag in _HIDDEN:
            self.hidden = tag
        elif tag == "br":
            self.parts.append("\x00")
        elif tag in ("td", "th"):
            self.parts.append(" ")
        elif tag in _BLOCK:
            self.parts.append("\x01" if tag in ("li", "tr", "dt", "dd") else "\x02")
            self.pre += tag == "pre"
            if tag == "li":
                self.parts.append("- ")

    def handle_endtag(self, tag: str) -> None:
        if self.hidden:
            self.hidden = None if tag == self.hidden else self.hidden
        elif tag in _BLOCK and tag not in ("li", "tr", "dt", "dd"):
            self.parts.append("\x02")
            self.pre = max(0, self.pre - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self.hidden == "title":
            self.title += data
        elif not self.hidden:
            clean = re.sub("[\x00-\x03]", "", data)
            self.parts.append(
                clean.replace("\n", "\x03") if self.pre else re.sub(r"[ \t\r\n\f]+", " ", clean)
            )


def html_text(html: str) -> tuple[str, str]:
    """(text, title) of an HTML page or fragment: paragraphs apart by a blank line, scripts and styles left out.

    >>> html_text("<title>T</title><h1>A&amp;B</h1><p>one\\n  <i>two</i><br/>three</p><script>x()</script>")
    ('A&B\\n\\none two\\nthree', 'T')
    """
    reader = _Reader()
    reader.feed(html)
    reader.close()
    text = "".join(reader.parts)
    text = re.sub(r" *[\x00\x01\x02 ]*\x02[\x00\x01\x02 ]*", "\n\n", text)
    text = re.sub(r" *\x01[\x00\x01 ]*", "\n", text)
    text = re.sub(r" *\x00 ?", "\n", text).replace("\x03", "\n")
    return re.sub(r"\n{3,}", "\n\n", text).strip(), " ".join(reader.title.split())
