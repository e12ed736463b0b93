"""From documents to supervision: the own words with their places, the order, nothing twice, and what is kept of it in a file."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import Faults, InputError, RunFailed
from loramem.sources.catalogue import load_source
from loramem.sources.chunking import Part, part_of, partition
from loramem.sources.types import Document, Record, Source
from loramem.synthesis.making import raw, synthesize
from loramem.synthesis.supervision import Example, Made, Supervision, load, save
from loramem.synthesis.units import as_units, units_of
from synthesis.scripts import Scribe, document, facts


def words(text: str) -> int:
    return len(text.split())


class Notes:
    """A writer: of every unit the given (prompt, answer) pairs, the document's id put in for `{}`."""

    name = "notes"

    def __init__(self, **items: list[tuple[str, str]]):
        self.items = items
        self.excluded: list[set[str]] = []

    def write(self, units, portion, exclude):
        self.excluded.append(set(exclude))
        form, name = portion.kind.form, portion.kind.name
        found = []
        for unit in units:
            examples = [
                Example(form, q.format(unit.id), a.format(unit.id), unit.document.id, unit.id, self.name, span=unit.span, recipe=name)
                for q, a in self.items[name.replace("-", "_")][: portion.n]
            ]  # fmt: skip
            account = Made(unit.id, unit.document.id, name, asked=portion.n, written=len(examples))
            found.append((examples, account))
        return found


# -- raw -------------------------------------------------------------------------------------------------------
def test_raw_keeps_every_word_and_its_place():
    mixed = Document(
        "mixed",
        (
            Record("a", "Zoë 🪨 came.\nShe  left."),
            Record("q", "Question: Who? Answer: Zoë", "chat", "Who?", "Zoë"),
            Record("c", "Zoë came to Rellin", "cloze", "Zoë came to", "Rellin"),
            Record("b", "  The end. "),
        ),
    )
    plain = document("plain", "One.", "Two.")
    made = synthesize([mixed, plain])
    assert made.recipe == "raw" and [one.written for one in made.made] == [4, 2]
    assert [(e.form, e.prompt, e.answer) for e in made.examples] == [
        ("text", "", "Zoë 🪨 came.\nShe  left."),
        ("chat", "Who?", "Zoë"),
        ("cloze", "Zoë came to", "Rellin"),
        ("text", "", "  The end. "),
        ("text", "", "One."),
        ("text", "", "Two."),
    ]
    for example in made.examples:
        own = mixed if example.document == "mixed" else plain
        record = next(r for r in own.records if r.id == example.record)
        assert example.span is not None
        assert own.text[slice(*example.span)] == record.text
        assert (example.generator, example.recipe, example.prompt_hash, example.tokens_spent) == ("source", "raw", "", 0)  # fmt: skip
    assert "\n".join(e.answer for e in made.examples if e.document == "plain") == plain.text


records = st.lists(
    st.tuples(st.text("ab \n", min_size=1, max_size=6), st.sampled_from(["text", "chat"])),
    min_size=1,
    max_size=6,
)


@given(records, st.lists(st.integers(0, 40), max_size=4))
def test_pieces_keep_their_places_wherever_they_are_cut(parts, cuts):
    """A cut may fall between two records or into one; what is a question is never cut."""
    whole = Document("d", tuple(Record(f"r{n}", text, form, "q", "a") for n, (text, form) in enumerate(parts)))  # type: ignore[arg-type]  # fmt: skip
    text = whole.text
    ends = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    spans = list(zip(ends, ends[1:], strict=False))
    pieces = [
        (part_of(whole, span), span) if len(spans) > 1 else (whole, span)
        for span in spans
        if span[0] < span[1]
    ]
    part = Part("p", tuple(d for d, _ in pieces if d.records), tuple(span for d, span in pieces if d.records))
    units = units_of(part, {"d": whole})
    for unit in units:
        for example in raw(unit)[0]:
            assert example.span is not None
            said = text[slice(*example.span)]
            assert said == example.answer if example.form == "text" else said in {t for t, _ in parts}
    found = [
        (record, place)
        for unit in units
        for record, place in zip(unit.document.records, unit.places, strict=True)
    ]
    for record, (start, end) in found:
        assert text[start:end] == record.text
    covered = {place for _, span in found for place in range(*span)}
    gaps, at = set(), -1
    for record in whole.records[:-1]:
        at += len(record.text) + 1
        gaps.add(at)
    assert covered == set(range(len(text))) - gaps, "every word stands in some piece"


@pytest.mark.parametrize("how", ["corpus", "document", "tokens:20"])
def test_raw_of_a_generated_source_is_the_source(how):
    (source,) = load_source({"name": "almanac-papers", "documents": 3}, words)
    whole = {d.id: d for d in source.documents}
    units = [
        unit
        for part in partition(source, how, count_tokens=words)
        for unit in units_of(part, whole, {source.documents[0].id: "Report 0: "})
    ]
    made = synthesize(units)
    assert [e.answer for e in made.examples] == [r.text for r in source.records]
    assert [e.record for e in made.examples] == [r.id for r in source.records]
    assert all(whole[e.document].text[slice(*e.span)] == e.answer for e in made.examples if e.span)
    assert len({unit.id for unit in units}) == len(units)
    assert {u.id for u in units if u.span == (0, len(whole[u.document.id].text))} == {
        u.id for u in units if "#" not in u.id
    }
    assert (how != "tokens:20") == (len(units) == 3)
    assert [u.lead for u in units if u.document.id == source.documents[0].id][0] == "Report 0: "


# -- several parts ---------------------------------------------------------------------------------------------
def test_order_accounts_and_what_was_made_of_some_units():
    notes = Notes(qa=[("Who is {}?", "{}"), ("Where is {}?", "here")], summary=[("", "{} in short")])
    made = synthesize([document("x", "X."), document("y", "Y."), document("z", "Z.")], " QA:2+summary:5+raw", notes)  # fmt: skip
    assert made.recipe == "qa:2+summary:5+raw"
    assert [(e.document, e.recipe) for e in made.examples] == [
        (name, part) for name in "xyz" for part in ("qa", "qa", "summary", "raw")
    ]
    assert [(one.unit, one.recipe, one.asked, one.written, one.shortfall) for one in made.made][:3] == [
        ("x", "qa", 2, 2, 0), ("x", "summary", 5, 1, 4), ("x", "raw", 0, 1, 0),
    ]  # fmt: skip
    own = made.of({"z", "x"})
    assert own.recipe == made.recipe
    assert list(own.examples) == [e for e in made.examples if e.document != "y"]
    assert [one.unit for one in own.made] == ["x"] * 3 + ["z"] * 3
    assert made.of(set()).examples == () and made.of({"x", "y", "z"}) == made
    assert made.of({"x"}).hash != made.hash


def test_what_two_parts_say_alike_is_kept_once_and_counted():
    notes = Notes(
        qa=[("Who?", "Ada"), ("When?", "1923")],
        iterative=[("When?", "1923"), ("When?", "1924"), ("Why?", "so")],
        facts=[("", "X."), ("", "Ada left.")],
    )
    made = synthesize([document("x", "X.", "X.")], "raw+qa:9+iterative:9+facts:9", notes)
    assert [(e.recipe, e.prompt, e.answer) for e in made.examples] == [
        ("raw", "", "X."),
        ("raw", "", "X."),  # the document's own words are kept as they are
        ("qa", "Who?", "Ada"),
        ("qa", "When?", "1923"),
        ("iterative", "When?", "1924"),
        ("iterative", "Why?", "so"),
        ("facts", "", "Ada left."),
    ]
    assert [(one.recipe, one.written, one.duplicates) for one in made.made] == [
        ("raw", 2, 0), ("qa", 2, 0), ("iterative", 2, 1), ("facts", 1, 1),
    ]  # fmt: skip
    assert made.of({"x"}) == made
    made = synthesize([document("x", "X.", "Y.")], "facts:9+raw", notes)
    assert [(e.recipe, e.answer) for e in made.examples] == [
        ("facts", "X."), ("facts", "Ada left."), ("raw", "X."), ("raw", "Y."),
    ]  # fmt: skip


def test_two_documents_may_say_the_same():
    made = synthesize([document("x", "X."), document("y", "Y.")], "qa:1", Notes(qa=[("Who?", "Ada")]))
    assert [e.document for e in made.examples] == ["x", "y"]


def test_the_writer_is_told_what_not_to_ask():
    notes = Notes(qa=[("Who?", "Ada")])
    synthesize([document("x", "X.")], "raw+qa:1", notes, exclude={"Where?"})
    assert notes.excluded == [{"Where?"}]


def test_published_pairs():
    pairs = {"x": [("Who?", "Ada"), ("When?", "1923")], "y": [], "other": [("no", "no")]}
    documents = [document("x", "X."), document("y", "Y.")]
    made = synthesize(documents, "published+raw", pairs=pairs)
    assert [(e.form, e.prompt, e.answer, e.recipe, e.generator) for e in made.examples] == [
        ("chat", "Who?", "Ada", "published", "published"),
        ("chat", "When?", "1923", "published", "published"),
        ("text", "", "X.", "raw", "source"),
        ("text", "", "Y.", "raw", "source"),
    ]
    assert made.examples[0].span == (0, 2)
    with pytest.raises(InputError, match="nothing was published for document 'x'"):
        synthesize(documents, "published")
    piece = replace(as_units(documents)[0], id="x#0-1")
    with pytest.raises(InputError, match="use partition corpus or document"):
        synthesize([piece], "published", pairs=pairs)


def test_what_cannot_be_made_is_refused():
    with pytest.raises(Faults, match="Did you mean 'summary'"):
        synthesize([document("x", "X.")], "sumary:2")
    with pytest.raises(InputError, match="qa needs a generator"):
        synthesize([document("x", "X.")], "raw+qa:2")
    with pytest.raises(RunFailed, match="no documents"):
        synthesize([])
    with pytest.raises(RunFailed, match="x qa: nothing to write about"):
        synthesize([document("x", "X.")], "qa:2", Notes(qa=[]))
    with pytest.raises(RunFailed, match="nothing to write about"):
        synthesize([Document("empty", ())])
    made = synthesize([document("x", "X."), Document("empty", ())])
    assert [(one.unit, one.written) for one in made.made] == [("x", 1), ("empty", 0)]


def test_the_hash_is_of_what_is_learnt():
    made = synthesize([document("x", "X."), document("y", "Y.")])
    named = Supervision("other", tuple(replace(e, document="z", generator="g", tokens_spent=3, span=None) for e in made.examples))  # fmt: skip
    assert named.hash == made.hash
    for change in ({"answer": "Z."}, {"prompt": "Z"}, {"form": "cloze"}):
        other = Supervision("raw", (replace(made.examples[0], **change), made.examples[1]))  # type: ignore[arg-type]
        assert other.hash != made.hash
    assert Supervision("raw", made.examples[::-1]).hash != made.hash, "the order of training counts"


# -- files -----------------------------------------------------------------------------------------------------
def test_a_file_gives_back_all_of_it(tmp_path):
    examples = [
        Example("chat", "Zoë’s 🪨?", "ja\nnein", "a/ü.md", "a/ü.md#3-9", "gpt-x", "ab12", 17, "read this", (3, 9), "qa"),
        Example("cloze", "Ada is", "here", "d", "r", span=(0, 0)),
        Example("text", "", "  spaces stay \u2028", "d", "r", recipe="summary"),
    ]  # fmt: skip
    assert {f.name for f in fields(Example)} == set(json.loads(json.dumps(examples[0].__dict__)))
    path = tmp_path / "new" / "folder" / "s.jsonl"
    save(Supervision("any", tuple(examples)), path)
    assert list(load(path).examples) == examples
    assert len(path.read_text().split("\n")) == 4
    made = synthesize([facts("x", 12)], "raw", Scribe())
    save(made, path)
    assert load(path).examples == made.examples and load(path).hash == made.hash


def test_files_by_hand(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"question": "Who?", "answer": "Ada", "more": 1}\n\n{"text": "Ada left."}\n{"form": "cloze", "prompt": "Ada is", "answer": "x", "span": null}\n'
    )
    found = load(path).examples
    assert [(e.form, e.prompt, e.answer, e.document, e.record, e.span) for e in found] == [
        ("chat", "Who?", "Ada", "mine.jsonl", "1", None),
        ("text", "", "Ada left.", "mine.jsonl", "2", None),
        ("cloze", "Ada is", "x", "mine.jsonl", "3", None),
    ]


def test_every_malformed_line_is_named(tmp_path):
    path = tmp_path / "s.jsonl"
    rows: list[object] = [
        {"form": "chat", "prompt": "a", "answer": "b"},
        {"form": "chat", "prompt": "a", "answer": " "},
        {"form": "talk", "prompt": "a", "answer": "b"},
        {"prompt": 3, "answer": "b", "form": "chat"},
        [1],
        {"form": "chat", "prompt": "a", "answer": "b", "generator": ["x"]},
        {"form": "chat", "prompt": "a", "answer": "b", "document": {"x": 1}, "tokens_spent": "many"},
        {"form": ["chat"], "prompt": "a", "answer": "b"},
        {"form": "chat", "prompt": "a", "answer": "b", "span": [1]},
    ]
    path.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(Faults) as caught:
        load(path)
    lines = [int(fault.removeprefix(f"{path}:").split(":")[0]) for fault in caught.value.faults]
    assert lines == [2, 3, 4, 5, 6, 7, 8, 9]
    assert "generator: expected text" in caught.value.faults[4]
    assert "document: expected text; tokens_spent: expected a whole number" in caught.value.faults[5]
    path.write_text("")
    with pytest.raises(InputError, match="holds no examples"):
        load(path)
    path.write_text('{"form": "chat"\n')
    with pytest.raises(InputError, match=r"s.jsonl:1: not JSON"):
        load(path)


def test_of_needs_the_account_of_all():
    made = synthesize([document("x", "X.")])
    with pytest.raises(AssertionError):
        Supervision("raw", made.examples, ()).of({"x"})


def test_records_without_words_of_their_own():
    """A record that is empty holds no text, and moves no place."""
    source = Source("s", (Document("d", (Record("a", ""), Record("b", "B."))),), ())
    (unit,) = units_of(partition(source, "document")[0], {"d": source.documents[0]})
    assert unit.places == ((0, 0), (1, 3)) and unit.text == "\nB."
    made = synthesize([unit, document("blank", " \n")])
    assert [(e.answer, e.span) for e in made.examples] == [("B.", (1, 3))]
    assert [one.written for one in made.made] == [1, 0]
