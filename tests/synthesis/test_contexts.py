"""What a teacher reads: the piece that holds the fact, cut where it must be and counted, before the student's own answer."""

from __future__ import annotations

import dataclasses
import json

import pytest

from loramem.base import PromptBuilder
from loramem.core.errors import Faults, InputError
from loramem.sources.types import Document, Record
from loramem.synthesis import Example, Supervision, synthesize
from loramem.synthesis.contexts import SLACK, teacher_forms
from loramem.synthesis.supervision import encode, load, save
from tiny import FAMILIES, make_tokenizer

LENGTH = 256
NAMES = ("Ada", "Bela", "Cid", "Dora", "Emil", "Fay", "Gus", "Hal", "Ida")


@pytest.fixture(params=[(family, chat) for family in FAMILIES for chat in (True, False)], ids=str)
def prompts(request) -> PromptBuilder:
    """With BOS and without (qwen3), with a chat template and without (gpt2, and every other bare)."""
    family, chat = request.param
    return PromptBuilder(make_tokenizer(family, chat=chat), LENGTH)


@pytest.fixture
def llama() -> PromptBuilder:
    return PromptBuilder(make_tokenizer("llama"), LENGTH)


def record(number: int, form: str) -> Record:
    """A fact that is like no other; its text holds its answer."""
    name, town = NAMES[number % len(NAMES)], f"Town-{number}"
    if form == "chat":
        return Record(
            f"r{number}", f"{name} {number} lives in {town}.", "chat", f"Where is {name} {number}?", town
        )
    if form == "cloze":
        return Record(
            f"r{number}", f"{name} {number} lives in {town}.", "cloze", f"{name} {number} lives in", town
        )
    return Record(f"r{number}", f"{name} {number} lives in {town}.")


def documents(form: str = "chat", count: int = 8, parts: int = 2) -> tuple[Document, ...]:
    numbers = range(count * parts)
    return tuple(
        Document(f"d{part}", tuple(record(n, form) for n in numbers if n % parts == part))
        for part in range(parts)
    )


def context_of(prompts: PromptBuilder, example) -> str:
    """The context as it stands in a teacher's prompt, among what the template puts around it."""
    return prompts.tokenizer.decode(list(example.ids[: example.shared]))


MIXED = (*documents("chat")[:1], Document("c", tuple(record(n, "cloze") for n in range(20, 26))),
         Document("t", tuple(record(n, "text") for n in range(30, 36))))  # fmt: skip


# -- which piece -------------------------------------------------------------------------------------
def test_every_example_reads_the_piece_that_holds_its_record(prompts):
    supervision = synthesize(MIXED)
    forms = teacher_forms(supervision, MIXED, prompts, context_tokens=90)
    texts = {(d.id, r.id): r.text for d in MIXED for r in d.records}
    assert len(forms.examples) == len(supervision.examples) == 20 and forms.cut_tokens == 0
    seen = set()
    for example, told in zip(supervision.examples, forms.examples, strict=True):
        read = context_of(prompts, told)
        assert texts[example.document, example.record] in read
        others = [text for (document, _), text in texts.items() if document != example.document]
        assert not any(text in read for text in others), "no piece of another document"
        seen.add(told.ids[: told.shared])
    assert len(seen) == forms.pieces > len(MIXED), "documents were cut"


def test_pieces_are_whole_records_and_fit_the_room(prompts):
    made = documents(count=20)
    supervision = synthesize(made)
    longest = max(len(encode(example, prompts).ids) for example in supervision.examples)
    texts = [r.text for d in made for r in d.records]
    for most in (None, 100, 60):
        room = min(LENGTH - longest - SLACK, most or LENGTH)
        forms = teacher_forms(supervision, made, prompts, context_tokens=most)
        assert max(len(told.ids) for told in forms.examples) <= LENGTH and forms.cut_tokens == 0
        sizes = []
        for told in forms.examples:
            read = context_of(prompts, told)
            inside = [text for text in texts if text in read]
            assert "\n".join(inside) in read, "in order, one after the other"
            sizes.append(prompts.count("\n".join(inside)))
        assert max(sizes) <= room and max(sizes) > 0.7 * room, "and it is made use of"
    assert len({told.ids[: told.shared] for told in forms.examples}) == forms.pieces


def test_a_document_that_fits_is_read_whole(llama):
    made = documents(count=2)
    forms = teacher_forms(synthesize(made), made, llama)
    assert forms.pieces == len(made) and all(
        any(document.text in context_of(llama, told) for document in made) for told in forms.examples
    )


def test_an_example_of_the_whole_document_reads_its_first_piece(llama):
    made = documents()
    whole = Supervision("x", (Example("chat", "What is it about?", "Towns", "d1", "no record"),))
    (told,) = teacher_forms(whole, made, llama, context_tokens=60).examples
    read = context_of(llama, told)
    assert made[1].records[0].text in read and made[1].records[-1].text not in read


def test_examples_own_context_comes_first(prompts):
    made = documents()
    own = [
        dataclasses.replace(e, context="Something else." if n % 2 else "")
        for n, e in enumerate(synthesize(made).examples)
    ]
    forms = teacher_forms(Supervision("x", tuple(own)), made, prompts)
    for example, told in zip(own, forms.examples, strict=True):
        read = context_of(prompts, told)
        assert ("Something else." in read) == bool(example.context)
        assert (" lives in Town-" in read) == (not example.context)


# -- what is learnt ----------------------------------------------------------------------------------
@pytest.mark.parametrize("form", ["chat", "cloze", "text"])
def test_the_answers_tokens_are_the_students(prompts, form):
    made = documents(form)
    supervision = synthesize(made)
    forms = teacher_forms(supervision, made, prompts, context_tokens=80)
    for own, told in zip(supervision.encode(prompts), forms.examples, strict=True):
        assert told.ids[told.answer_start :] == own.ids[own.answer_start :] != ()
        assert told.answer_start > own.answer_start


@pytest.mark.parametrize("form", ["chat", "cloze", "text"])
def test_examples_on_one_piece_share_their_beginning(prompts, form):
    made = documents(form)
    forms = teacher_forms(synthesize(made), made, prompts, context_tokens=90)
    by_context: dict[str, set] = {}
    for told in forms.examples:
        assert 0 < told.shared < told.answer_start, "at least one token before the answer is not shared"
        by_context.setdefault(context_of(prompts, told), set()).add(told.ids[: told.shared])
    assert len(by_context) == forms.pieces < len(forms.examples)
    assert all(len(prefixes) == 1 for prefixes in by_context.values())


# -- what does not fit -------------------------------------------------------------------------------
def test_a_record_longer_than_the_room_is_cut_and_counted(llama):
    long = Record("r", "word " * 40, "chat", "Which?", "word")
    made = (Document("d", (long, dataclasses.replace(long, id="s"), record(1, "chat"))),)
    supervision = synthesize(made)
    forms = teacher_forms(supervision, made, llama, context_tokens=50)
    assert forms.cut_tokens == 2 * (llama.count(long.text) - 50), "for each example that misses them"
    assert forms.pieces == 2
    for told in forms.examples:
        assert llama.count("word " * 40) > 50 >= told.shared - len(llama.chat_parts("", "")[0]) - len("\n\n")
    assert "word word" in context_of(llama, forms.examples[0])


def test_the_longest_own_context_is_cut_to_what_the_base_takes(prompts):
    example = Example("chat", "Which?", "word", "d", "r", context="word " * 200)
    forms = teacher_forms(Supervision("x", (example,)), (), prompts)
    (told,) = forms.examples
    assert LENGTH - 2 * SLACK <= len(told.ids) <= LENGTH
    room = LENGTH - len(encode(example, prompts).ids) - SLACK
    assert forms.cut_tokens == prompts.count(example.context) - room


@pytest.mark.parametrize("context", ["", "  \n"])
def test_an_example_without_a_context_is_named(llama, context):
    examples = [
        Example("chat", "Who?", "Ada", "gone", "r", context="Ada."),
        Example("chat", "Who?", "Bela", "gone", "r", context=context),
    ]
    with pytest.raises(InputError, match="example 2 has no context.*'gone' is not at hand.*'context'"):
        teacher_forms(Supervision("x", tuple(examples)), documents(), llama)


def test_a_question_that_leaves_no_room_is_refused(llama):
    example = Example("chat", "why " * 60, "so", "d", "r", context="Because.")
    with pytest.raises(InputError, match=f"leaves no room for a context in the base's {LENGTH}"):
        teacher_forms(Supervision("x", (example,)), (), llama)


def test_a_context_of_which_nothing_is_left_is_refused(llama):
    """One token holds no character of this text: the teacher would read nothing, and nothing would be learnt."""
    example = Example("chat", "Who?", "Ada", "d", "r", context="ëëë")
    with pytest.raises(InputError):
        teacher_forms(Supervision("x", (example,)), (), llama, context_tokens=1)


# -- files -------------------------------------------------------------------------------------------
def test_contexts_come_from_a_file_and_go_into_one(tmp_path, llama):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"question": "Who?", "answer": "Ada", "context": "It was Ada."},
        {"form": "cloze", "prompt": "It was", "answer": "Bela", "context": "Bela did it."},
        {"text": "Cid was there.", "context": "All about Cid."},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = load(path)
    assert [example.context for example in read.examples] == [row["context"] for row in rows]
    forms = teacher_forms(read, (), llama)
    assert forms.pieces == 3
    for row, told in zip(rows, forms.examples, strict=True):
        assert row["context"] in context_of(llama, told)
    save(read, tmp_path / "again.jsonl")
    assert load(tmp_path / "again.jsonl").examples == read.examples


def test_what_is_learnt_is_the_same_whatever_is_read(tmp_path):
    """The context is no part of the supervision's identity: it enters a recipe where a teacher reads it."""
    one = Supervision("x", (Example("chat", "Who?", "Ada", "d", "r"),))
    other = Supervision("x", (Example("chat", "Who?", "Ada", "d", "r", context="It was Ada."),))
    assert one.hash == other.hash


def test_a_context_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "Who?", "answer": "Ada", "context": 3}\n')
    with pytest.raises(Faults, match="rows.jsonl:1: context"):
        load(path)
