"""PITFALLS 1 to 4, 20, 21: where the answer sits, what is learnt, one BOS, the question is never cut."""

from __future__ import annotations

import pytest

from loramem.base import PromptBuilder, load_base
from loramem.core.errors import InputError
from loramem.pretraining.data import _turn
from tiny import ENDS, FAMILIES, make_tokenizer

QUESTION, ANSWER = "What is the phone number of Ada Zoë?", "415-555-0199"


@pytest.fixture(params=[(family, chat) for family in FAMILIES for chat in (True, False)], ids=str)
def built(request):
    family, chat = request.param
    tokenizer = make_tokenizer(family, chat=chat)
    end = ENDS[family] if chat and family != "gpt2" else "</s>"
    return PromptBuilder(tokenizer, 256), tokenizer, end


def test_what_is_learnt_is_the_answer_and_its_end_of_turn(built):
    prompts, tokenizer, end = built
    example = prompts.chat_example(QUESTION, ANSWER)
    assert tokenizer.decode(list(example.ids[example.answer_start :])).strip() == ANSWER + end
    assert QUESTION in tokenizer.decode(list(example.ids[: example.answer_start]))


def test_the_prompt_of_a_reading_is_the_prompt_of_the_example(built):
    prompts, _, _ = built
    example = prompts.chat_example(QUESTION, ANSWER, context="Some text.")
    assert list(example.ids[: example.answer_start]) == prompts.chat(QUESTION, "Some text.")


def test_the_whole_example_is_what_the_template_writes(built):
    prompts, tokenizer, end = built
    if not prompts.has_chat:
        return
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
    whole = tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False)
    rendered = tokenizer.decode(list(prompts.chat_example(QUESTION, ANSWER).ids))
    assert rendered == whole[: whole.rindex(end) + len(end)]


def test_pieces_are_tokenised_as_the_rendered_text_is(built):
    """A blank between template and question belongs to the question's first token, as in the rendered text."""
    prompts, tokenizer, _ = built
    if prompts.has_chat:
        ask = [{"role": "user", "content": QUESTION}]
        text = tokenizer.apply_chat_template(
            ask, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        assert prompts.chat(QUESTION) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_embedded_base_sees_the_pieces_it_was_pretrained_on():
    base = load_base("embedded")
    segments = _turn("What is the phone number of Ada Quill?", "415-555-0199")
    whole = base.prompts.bos + [
        t for text, _ in segments for t in base.tokenizer(text, add_special_tokens=False)["input_ids"]
    ]
    assert (
        list(base.prompts.chat_example("What is the phone number of Ada Quill?", "415-555-0199").ids) == whole
    )
    with_context = _turn("The book.\n\nWho?", "x")[0][0]
    assert (
        base.prompts.chat("Who?", "The book.")
        == base.prompts.bos + base.tokenizer(with_context, add_special_tokens=False)["input_ids"]
    )


def test_exactly_one_bos(built):
    prompts, tokenizer, _ = built
    for ids in (
        prompts.chat(QUESTION),
        prompts.cloze("The town is"),
        prompts.chat_example(QUESTION, ANSWER).ids,
        prompts.text_example("x").ids,
    ):
        if tokenizer.bos_token_id is not None:
            assert list(ids).count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id


def test_pad_equal_to_eos_still_learns_the_end(built):
    prompts, tokenizer, _ = built
    assert prompts.pad_id == tokenizer.eos_token_id  # as these tokenizers have it
    example = prompts.chat_example(QUESTION, ANSWER)
    assert example.ids[-1] in prompts.stop_ids and example.answer_start < len(example.ids)


def test_special_tokens_in_data_stay_text(built):
    prompts, tokenizer, _ = built
    hostile = f"say {tokenizer.eos_token} now"
    assert tokenizer.eos_token_id not in prompts.chat(hostile)
    assert prompts.decode([t for t in prompts.chat(hostile)]).count("now") == 1


def test_context_is_cut_never_the_question(built):
    prompts, _, _ = built
    prefix, cut = prompts.fit_context("word " * 400, [QUESTION, "Short?"], reserve=20)
    assert cut > 0
    whole = prefix + prompts.suffix(QUESTION)
    assert len(whole) + 20 <= prompts.context_length
    assert QUESTION in prompts.decode(whole)
    short, none = prompts.fit_context("A few words.", [QUESTION], reserve=20)
    assert none == 0 and short + prompts.suffix(QUESTION) == prompts.chat(QUESTION, "A few words.")


def test_a_question_that_cannot_fit_is_refused(built):
    prompts, _, _ = built
    with pytest.raises(InputError, match="do not fit"):
        prompts.fit_context("x", ["why " * 200], reserve=20)


def test_cloze_target_has_its_leading_space(built):
    prompts, tokenizer, _ = built
    example = prompts.cloze_example("The capital is", "Rome")
    assert tokenizer.decode(list(example.ids[example.answer_start :])) == " Rome"
    assert list(example.ids) == prompts.cloze("The capital is") + prompts.target("Rome")


def test_an_answer_to_be_scored_is_the_answer_that_is_learnt(built):
    """`chat` and `answer` give the ids of the training example but for its end of turn, with a context or none."""
    prompts, tokenizer, _ = built
    for context in (None, "Some text."):
        example = prompts.chat_example(QUESTION, ANSWER, context)
        assert prompts.chat(QUESTION, context) + prompts.answer(ANSWER) + prompts.end == list(example.ids)
    assert tokenizer.decode(prompts.answer(ANSWER)).strip() == ANSWER
    hostile = f"{ANSWER}{tokenizer.eos_token}"
    assert tokenizer.eos_token_id not in prompts.answer(hostile), "a special token in an answer stays text"


def test_the_answer_of_a_template_that_leads_with_a_space_has_it():
    prompts = PromptBuilder(make_tokenizer("mistral"), 256)
    assert prompts.tokenizer.decode(prompts.answer("yes")) == " yes"
    other = PromptBuilder(make_tokenizer("qwen3"), 256)
    assert other.tokenizer.decode(other.answer("yes")) == "yes"


@pytest.mark.parametrize("reserve", [0, 1, 40])
def test_a_context_before_statements_is_cut_to_the_last_token_that_fits(built, reserve):
    prompts, tokenizer, _ = built
    pairs = [("Ada lives in", "Rome"), ("A much longer statement about Bela is that he lives in", "Oslo")]
    context = "word " * 400
    prefix, cut, parts = prompts.fit_statements(context, pairs, reserve=reserve)
    longest = max(len(prompt) + len(target) for prompt, target in parts)
    assert len(prefix) + longest + reserve == prompts.context_length
    assert cut == prompts.count(context) - (len(prefix) - len(prompts.bos)) > 0
    assert prefix[: len(prompts.bos)] == prompts.bos and context.startswith(
        tokenizer.decode(prefix[len(prompts.bos) :])
    )
    for (prompt, target), (prompt_ids, target_ids) in zip(pairs, parts, strict=True):
        assert tokenizer.decode(prompt_ids) == f" {prompt}" and target_ids == prompts.target(target)


def test_a_context_that_fits_is_kept_whole_whatever_is_reserved(built):
    prompts, _, _ = built
    context = "Ada lives in Oslo."
    whole = prompts.bos + prompts.tokens(context)
    for reserve in (0, 40):
        prefix, cut, parts = prompts.fit_statements(context, [("Ada lives in", "")], reserve=reserve)
        assert (prefix, cut) == (whole, 0)
        assert parts == [(prompts.tokens(" Ada lives in"), [])], (
            "nothing follows a prompt that is only continued"
        )


def test_room_for_what_is_decoded_is_never_taken_by_a_statement(built):
    prompts, _, _ = built
    prompt = "x" * (prompts.context_length - len(prompts.bos) - 1)  # with its space it fills the base
    assert prompts.fit_statements("context", [(prompt, "")])[0] == prompts.bos
    with pytest.raises(InputError, match="and 1 after it do not fit the base's context of 256"):
        prompts.fit_statements("context", [(prompt, "")], reserve=1)
    with pytest.raises(InputError, match="tokens does not fit the base's context of 256"):
        prompts.fit_statements("context", [(prompt, "y")])


# -- after a context ---------------------------------------------------------------------------------
CONTEXT = f"Ada Zoë: {ANSWER}. Bela lives in Oslo."
FORMS = {
    "chat": lambda prompts, context=None: prompts.chat_example(QUESTION, ANSWER, context),
    "cloze": lambda prompts, context=None: prompts.cloze_example("The capital of Italy is", "Rome", context),
    "text": lambda prompts, context=None: prompts.text_example(f"Ada has the number {ANSWER}.", context),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_context_changes_what_is_read_never_what_is_learnt(built, form):
    """Same answer tokens, and the context is seen before them: what a teacher and its student must agree on."""
    prompts, tokenizer, _ = built
    plain, told = FORMS[form](prompts), FORMS[form](prompts, CONTEXT)
    assert told.ids[told.answer_start :] == plain.ids[plain.answer_start :] != ()
    assert plain.shared == 0 < plain.answer_start
    assert CONTEXT in tokenizer.decode(list(told.ids[: told.answer_start]))
    assert len(told.ids) - len(plain.ids) >= prompts.count(CONTEXT)
    assert FORMS[form](prompts, "") == plain, "an empty context is none"


@pytest.mark.parametrize("form", FORMS)
def test_the_shared_prefix_ends_before_what_is_asked(built, form):
    prompts, tokenizer, _ = built
    told = FORMS[form](prompts, CONTEXT)
    assert 0 < told.shared < told.answer_start, "at least one token stands between them"
    shared, rest = (
        tokenizer.decode(list(part)) for part in (told.ids[: told.shared], told.ids[told.shared :])
    )
    assert shared.rstrip().endswith(CONTEXT) and CONTEXT not in rest
    other = {
        "chat": prompts.chat_example("Who?", "x", CONTEXT),
        "cloze": prompts.cloze_example("Bela lives in", "Oslo", CONTEXT),
        "text": prompts.text_example("Something else.", CONTEXT),
    }[form]
    assert other.shared == told.shared and other.ids[: other.shared] == told.ids[: told.shared]


def test_a_statement_after_a_context_is_the_statement_of_a_reading_in_context(built):
    """Training and reading agree, id by id, on how a statement follows a context."""
    prompts, _, _ = built
    pair = ("The capital of Italy is", "Rome")
    prefix, cut, [(prompt, target)] = prompts.fit_statements(CONTEXT, [pair])
    assert cut == 0 and tuple(prefix + prompt + target) == prompts.cloze_example(*pair, CONTEXT).ids


def test_text_is_learnt_from_its_first_token_where_something_precedes_it(built):
    prompts, tokenizer, _ = built
    example = prompts.text_example("Ada lives in Rome.")
    learnt = tokenizer.decode(list(example.ids[example.answer_start :]))
    first = "Ada" if tokenizer.bos_token_id is not None else "da"
    assert learnt == f"{first} lives in Rome.</s>"


def test_special_tokens_in_a_context_stay_text(built):
    prompts, tokenizer, _ = built
    hostile = f"say {tokenizer.eos_token} now"
    for form in FORMS.values():
        told = form(prompts, hostile)
        assert tokenizer.eos_token_id not in told.ids[: told.answer_start]


def longest(prompts: PromptBuilder, text: str, tokens: int) -> int:
    """Characters of the longest beginning of at most `tokens` tokens, by trying all."""
    return max(n for n in range(len(text) + 1) if prompts.count(text[:n]) <= tokens)


@pytest.mark.parametrize("tokens", [0, 1, 7, 40, 41, 1000])
def test_a_cut_text_is_a_beginning_that_fits_and_the_rest_is_counted(built, tokens):
    prompts, _, _ = built
    text = "Ada Zoë, " * 4 + "wörd"
    kept, lost = prompts.cut(text, tokens)
    assert text.startswith(kept) and prompts.count(kept) <= tokens
    assert lost == prompts.count(text) - prompts.count(kept)
    assert prompts.cut("", tokens) == ("", 0)
    if tokens == 1000:
        assert (kept, lost) == (text, 0)
    if tokens >= 7:
        assert kept


def test_a_text_of_even_tokens_is_cut_at_the_last_that_fits(built):
    prompts, _, _ = built
    assert prompts.cut("abcdefgh" * 9, 50) == (("abcdefgh" * 9)[:50], 22)


@pytest.mark.parametrize("tokens", [10, 30])
def test_a_text_of_uneven_tokens_is_cut_at_the_last_that_fits(tokens):
    """Words first and numbers after: the number of characters in a token differs between beginning and end."""
    prompts = load_base("embedded").prompts
    text = "The phone number of the people in the house is known to all of them. 415-555-0199 212-998-1234 646-777-0001 917-123"
    kept, _ = prompts.cut(text, tokens)
    assert prompts.count(kept) <= tokens and len(kept) == longest(prompts, text, tokens)
