"""Training examples for the embedded base: induction, phonebook lookups, articles, common facts.

A batch is a function of (seed, step, kind, level) alone, so a killed run resumes on the same data.
Every example is a list of segments (text, learn): loss falls only on tokens that the context (or, for
common facts, the weights) determines. Special tokens are written in the text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from loramem.core.identity import seed_from
from loramem.pretraining.tokenizer import ASSISTANT, BOS, END, PAD, SPECIALS, USER
from loramem.sources.almanac import names, phrasing
from loramem.sources.almanac.render import STYLES, article, phone_number
from loramem.sources.almanac.world import Fact, common_names, common_world, make_world

Segments = list[tuple[str, bool]]


@dataclass(frozen=True)
class Batch:
    """`ids_BT` int64, right-padded; `learn_BT` bool marks the tokens that are predicted (never position 0)."""

    ids_BT: Tensor
    learn_BT: Tensor


def induction(rng: random.Random, vocab: int, *, length: int, rows: int) -> Batch:
    """Random tokens, cut in 4-token segments, repeated in another order; loss on the repetition.

    The first token of a repeated segment is not determined by the context and bears no loss.
    """
    generator = torch.Generator().manual_seed(rng.randrange(2**62))
    first_BT = torch.randint(len(SPECIALS), vocab, (rows, length), generator=generator)
    order_BS = torch.rand(rows, length // 4, generator=generator).argsort(dim=1)
    again_BT = (
        first_BT.view(rows, -1, 4).gather(1, order_BS[:, :, None].expand(-1, -1, 4)).reshape(rows, length)
    )
    learn = torch.ones(rows, 2 * length, dtype=torch.bool)
    learn[:, :length] = False
    learn[:, length::4] = False
    return Batch(torch.cat([first_BT, again_BT], dim=1), learn)


def _person(rng: random.Random) -> str:
    """A name of any sort: invented syllables, letter noise, with or without title and middle initial."""
    draw = rng.random()
    if draw < 0.4:
        name = names.person(rng)
    elif draw < 0.8:
        name = f"{names.noise_word(rng)} {names.noise_word(rng)}"
    else:
        name = f"{names.word(rng, rng.randint(1, 3))} {names.noise_word(rng)}"
    if rng.random() < 0.1:
        first, last = name.split(" ", 1)
        name = f"{first} {rng.choice('ABCDEFGHIJKLMNOPRSTW')} {last}"
    return f"{rng.choice(('Mr', 'Mrs', 'Dr', 'Ms'))} {name}" if rng.random() < 0.1 else name


def _turn(question: str, answer: str) -> Segments:
    return [(f"{USER} {question}{END}{ASSISTANT}", False), (f" {answer}{END}", True)]


def lookup(rng: random.Random, *, entries: int, forms: int, questions: int) -> Segments:
    """A phonebook of `entries` lines in one of the first `forms` forms, then questions about it."""
    people: dict[str, str] = {}
    firsts: list[str] = []
    while len(people) < entries:
        name = _person(rng)
        if firsts and rng.random() < 0.15:  # people who share a first name must still be told apart
            name = f"{rng.choice(firsts)} {name.split(' ')[-1]}"
        if name not in people and name not in common_names():
            people[name] = phone_number(rng)
            firsts.append(name.split(" ")[0])
    line = phrasing.PHONE_LINES[rng.randrange(forms)]
    book = "\n".join(line.format(e=name, v=number) for name, number in people.items())
    asked = rng.sample(sorted(people), min(questions, entries))
    wordings = phrasing.PHONE_QUESTIONS if forms > 1 else phrasing.PHONE_QUESTIONS[:1]
    segments: Segments = [(BOS, False)]
    for index, name in enumerate(asked):
        question = rng.choice(wordings).format(e=name)
        segments += _turn(f"{book}\n\n{question}" if index == 0 else question, people[name])
    return segments


def _fact_turn(fact: Fact, rng: random.Random) -> tuple[str, str]:
    return fact.say(rng.choice(phrasing.questions(fact.relation, held=False))), fact.value


def article_facts(rng: random.Random, count: int) -> list[Fact]:
    """Facts of a fresh world about a few entities, shuffled."""
    world = make_world(
        rng.randrange(2**40, 2**41),
        {"person": 5, "town": 4, "firm": 3, "river": 2, "book": 3, "expedition": 2},
        avoid=common_names(),
    )
    entities = [name for kind in world.entities.values() for name in kind]
    rng.shuffle(entities)
    facts: list[Fact] = []
    for entity in entities:
        facts += world.about(entity)
        if len(facts) >= count:
            break
    facts = facts[:count]
    rng.shuffle(facts)
    return facts


def reading(rng: random.Random, *, facts: int, questions: int) -> Segments:
    """An article and questions about it. Half of the time the article's own tokens are learnt as well."""
    told = article_facts(rng, facts)
    text = article(told, rng, style=rng.choice(STYLES), distractors=rng.randint(0, max(1, facts // 3)))
    segments: Segments = [(BOS, False)]
    for index, fact in enumerate(rng.sample(told, min(questions, len(told)))):
        question, answer = _fact_turn(fact, rng)
        segments += _turn(f"{text}\n\n{question}" if index == 0 else question, answer)
    return segments


def common(rng: random.Random, *, count: int) -> Segments:
    """Common facts, closed book: each row asks or states `count` unrelated ones."""
    segments: Segments = []
    facts = rng.sample(common_world().facts, count)
    if rng.random() < 0.5:
        segments = [(BOS, False)]
        for fact in facts:
            segments += _turn(*_fact_turn(fact, rng))
    else:
        segments = [(BOS, False)]
        for index, fact in enumerate(facts):
            template = rng.choice(phrasing.statements(fact.relation, held=False))
            segments += [
                (("" if index == 0 else " ") + phrasing.cloze(template).format(e=fact.entity), False),
                (f" {fact.value}.", True),
            ]
    return segments


def plain_article(rng: random.Random, *, facts: int) -> Segments:
    """An article as plain text, every token learnt: the base stays a language model of what it reads."""
    told = article_facts(rng, facts)
    return [(BOS, False), (article(told, rng, style=rng.choice(STYLES), distractors=facts // 3) + END, True)]


def encode(tokenizer: Tokenizer, rows: Sequence[Segments], *, limit: int) -> Batch:
    """Tokenise segment by segment (as the prompt builder does) and pad on the right to the longest row."""
    texts = [text for row in rows for text, _ in row]
    pieces = iter(tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    ids, learn = [], []
    for row in rows:
        row_ids: list[int] = []
        row_learn: list[bool] = []
        for _, learnt in row:
            piece = next(pieces).ids
            row_ids += piece
            row_learn += [learnt] * len(piece)
        ids.append(row_ids[:limit])
        learn.append(row_learn[:limit])
    length = max(map(len, ids))
    pad = tokenizer.token_to_id(PAD)
    ids_BT = torch.tensor([row + [pad] * (length - len(row)) for row in ids])
    learn_BT = torch.tensor([row + [False] * (length - len(row)) for row in learn])
    learn_BT[:, 0] = False
    return Batch(ids_BT, learn_BT)


def batch(
    tokenizer: Tokenizer,
    make: Callable[[random.Random], Segments],
    *,
    seed: int,
    step: int,
    tag: str,
    rows: int,
    limit: int,
) -> Batch:
    """`rows` examples of `make`, seeded by (seed, step, tag)."""
    rng = random.Random(seed_from("pretraining", seed, step, tag))
    return encode(tokenizer, [make(rng) for _ in range(rows)], limit=limit)
