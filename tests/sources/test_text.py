"""Text becomes records without losing a character: headings, paragraphs, sentences; HTML becomes text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loramem.sources.text import blocks, document, html_text, pack, pieces, record_at, sentences


def words(text: str) -> int:
    return len(text.split())


def characters(text: str) -> int:
    return len(text)


PIECES = [
    "# Head", "## Two", "Title\n=====", "A word.", "Dr. Quill met J. R. Rast.", "```\ncode\n\n# no\n```", "\n", "\n\n", "\r\n\r\n", " ", "\t",
    "你好。世界！再见", "emoji 👩‍🚀 here.", "x" * 40, "one two three four five six seven. Eight nine!", "“Why?” he asked.", "\u2028", "\x0c", "- item", "~~~",
]  # fmt: skip
texts = st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=20).map("".join))


def assert_nothing_is_lost(text: str, spans) -> None:
    place = 0
    for start, end in spans:
        assert place <= start < end <= len(text)
        assert not text[place:start].strip() and text[start:end] == text[start:end].strip()
        place = end
    assert not text[place:].strip()


@given(texts, st.integers(1, 30), st.sampled_from([words, characters]))
@example("```\n\n\n", 3, words)
@example("a.\u3000b。。c", 1, characters)
def test_the_gaps_between_records_are_white_space(text, most, count):
    made = document("d", text, "", count, most=most)
    assert_nothing_is_lost(text, [record.span for record in made.records])
    for record in made.records:
        assert text[slice(*record.span)] == record.text
        assert count(record.text) <= most or len(record.text.split()) == 1
    assert [r.id for r in made.records] == [f"d:{n}" for n in range(len(made.records))]


@given(texts)
def test_sentences_and_blocks_lose_nothing(text):
    assert_nothing_is_lost(text, sentences(text))
    assert_nothing_is_lost(text, [span for span, _ in blocks(text)])


@given(texts, st.integers(1, 20))
def test_with_break_words_every_piece_keeps_the_limit(text, most):
    for span, _ in blocks(text):
        cut = pieces(text, span, characters, most, break_words=True)
        inside = [(start - span[0], end - span[0]) for start, end in cut]
        assert_nothing_is_lost(text[slice(*span)], inside)
        assert all(end - start <= most for start, end in cut)


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 30))
def test_packing_is_greedy(lengths, most):
    """Equal to the plain loop, whatever jumps the search makes."""
    spans, start = [], 0
    for length in lengths:
        spans.append((start, start + length))
        start += length
    expected: list[tuple[int, int]] = []
    for a, b in spans:
        if expected and b - expected[-1][0] <= most:
            expected[-1] = (expected[-1][0], b)
        else:
            expected.append((a, b))
    assert list(pack(spans, lambda a, b: b - a <= most)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Mr. Ado met Mrs. Rast, Ph.D. holder, in St. Ives. They left.", ["Mr. Ado met Mrs. Rast, Ph.D. holder, in St. Ives.", "They left."]),
        ("J. R. R. Quill wrote it. K. Ado read.", ["J. R. R. Quill wrote it.", "K. Ado read."]),
        ("It is, e.g. here, i.e. there (cf. Fig. 2). See Sec. 3. No. 5 lives.", ["It is, e.g. here, i.e. there (cf. Fig. 2).", "See Sec. 3.", "No. 5 lives."]),
        ("Smith et al. (2020) say so. We do not.", ["Smith et al. (2020) say so.", "We do not."]),
        ("At 5 p.m. they met. It cost 3.5 dollars. Fine.", ["At 5 p.m. they met.", "It cost 3.5 dollars.", "Fine."]),
        ('"Stop!" he cried. "No." She left.', ['"Stop!" he cried.', '"No."', "She left."]),
        ("“Is it?” asked Ada. “Yes.” (It was.) Good.", ["“Is it?” asked Ada.", "“Yes.”", "(It was.)", "Good."]),
        ("Wait ... what? Yes… and so on.", ["Wait ... what?", "Yes… and so on."]),
        ("So did I. They left.", ["So did I.", "They left."]),
        ("1. First thing. 2 more.", ["1. First thing.", "2 more."]),
        ("Version 2.0 of example.org is out. Get it.", ["Version 2.0 of example.org is out.", "Get it."]),
        ("你好。世界！「是吗？」对。", ["你好。", "世界！", "「是吗？」", "对。"]),
        ("Vitamin D. It helps.", ["Vitamin D. It helps."]),  # the price: an initial never ends a sentence
        ("no end", ["no end"]),
        ("", []),
        ("  \n ", []),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert [text[a:b] for a, b in sentences(text)] == expected


def test_structure():
    text = (
        "Top\n===\n\nFirst\nparagraph.\n## Sub\nSecond.\n\n```\n# code\n\nmore\n```\nThird.\n\n#notaheading\n"
    )
    found = [(text[a:b], heading) for (a, b), heading in blocks(text)]
    assert found == [
        ("Top\n===", True),
        ("First\nparagraph.", False),
        ("## Sub", True),
        ("Second.", False),
        ("```\n# code\n\nmore\n```", False),
        ("Third.", False),
        ("#notaheading", False),
    ]


def test_a_long_paragraph_is_cut_by_sentence_and_a_long_sentence_by_word():
    text = "One two three. Four five. Six " + "six " * 6 + "seven.\n\nShort."
    made = document("d", text, "T", words, most=5)
    assert [r.text for r in made.records] == [
        "One two three. Four five.",
        "Six six six six six",
        "six six seven.",
        "Short.",
    ]
    assert made.title == "T" and record_at(made, text.index("Four")).id == "d:0"
    assert record_at(made, len(text)).id == "d:3" and record_at(made, 0).id == "d:0"
    assert document("d", " \n", "", words).records == ()


@pytest.mark.parametrize(
    ("html", "text", "title"),
    [
        ("<p>a <b>b</b>\n c</p><p>d</p>", "a b c\n\nd", ""),
        ("<html><head><title>A\n B</title><style>x{}</style></head><body><h1>H</h1>t</body></html>", "H\n\nt", "A B"),
        ("x<br>y<br/><br/>z", "x\ny\n\nz", ""),
        ("<ul><li>a<li>b</ul>c", "- a\n- b\n\nc", ""),
        ("<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>", "1 2\n3", ""),
        ("<pre>a\n  b</pre>", "a\n  b", ""),
        ("&lt;p&gt; &eacute; &#128640; &amp;amp;", "<p> é 🚀 &amp;", ""),
        ("<script>if (a<b) {}</script>kept<!-- gone -->", "kept", ""),
        ("no tags", "no tags", ""),
        ("<title>never closed<body><p>kept</p>", "kept", None),
        ("a\x00b\x02c", "abc", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_html(html, text, title):
    found = html_text(html)
    assert found[0] == text and title in (None, found[1])


@given(st.text(max_size=200))
def test_html_never_fails(html):
    html_text(html)
    html_text(f"<p>{html}</p><div")
