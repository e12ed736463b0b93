"""A page as two parsers see it: which elements and attributes it has, and which text."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import lxml.html

VOID = {"meta", "br", "img", "link", "input", "hr", "source", "area", "base", "col", "embed", "track", "wbr"}


@dataclass
class Page:
    """What a parser found.

    Attributes:
        elements: (tag, attributes, whether it stands in a drawing) of each element.
        text: All text, also that of `<style>`.
    """

    elements: list[tuple[str, dict[str, str], bool]] = field(default_factory=list)
    text: str = ""


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.elements.append((tag, {name: value or "" for name, value in attrs}, "svg" in self.open))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.elements.append((tag, {name: value or "" for name, value in attrs}, "svg" in self.open))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.page.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data[:80]}")


def parsed(html: str) -> Page:
    """By the standard library; every element must be closed where it was opened."""
    parser = _Parser()
    parser.feed(html)
    parser.close()
    assert parser.open == [], parser.open
    return parser.page


def parsed_again(html: str) -> Page:
    """By libxml2, which mends what is broken as browsers do."""
    page = Page()
    for element in lxml.html.document_fromstring(html).iter():
        assert isinstance(element.tag, str), "a comment or an instruction"
        above = any(one.tag == "svg" for one in element.iterancestors())
        page.elements.append((element.tag, {str(k): str(v) for k, v in element.attrib.items()}, above))
        page.text += (element.text or "") + (element.tail or "")
    return page
