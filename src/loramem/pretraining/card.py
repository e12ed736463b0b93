"""The card of the embedded base: how well it knows the common world and how well it reads, on held-out worlds.

Every share comes with n and a 95 % Wilson interval. Worlds, names and phonebooks are drawn from seeds that
training never used; held-out wordings are those of `almanac.phrasing`, never trained for that relation.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from loramem.base.model import Base, load_base
from loramem.core.files import write_json
from loramem.core.identity import seed_from
from loramem.inference.generate import Request, generate
from loramem.metrics.intervals import wilson
from loramem.metrics.text import exact_match, exact_match_digits
from loramem.pretraining import data
from loramem.sources.almanac import phrasing
from loramem.sources.almanac.render import STYLES, article, phone_number
from loramem.sources.almanac.world import common_world, make_world
from loramem.sources.phonebook import generate as generate_entries

CARD_SEED = 990_000
ROWS = 48


def _share(base: Base, prompts: Sequence[list[int]], golds: Sequence[str], match, new: int = 24) -> dict:
    """Exact matches among greedy answers, with n and interval."""
    answers = generate(base, [Request(tuple(prompt), None, new) for prompt in prompts], rows=ROWS)
    right = sum(match(answer.text, gold) for answer, gold in zip(answers, golds, strict=True))
    low, high = wilson(right, len(golds))
    return {
        "share": round(right / len(golds), 4),
        "n": len(golds),
        "ci_low": round(low, 4),
        "ci_high": round(high, 4),
    }


def closed_book(base: Base, n: int) -> dict:
    """Common facts in trained and held-out wording; facts of a new world; statements completed."""
    rng = random.Random(seed_from("card-closed", CARD_SEED))
    facts = rng.sample(common_world().facts, n)
    fresh = rng.sample(
        make_world(
            CARD_SEED, {"person": 60, "town": 20, "firm": 20, "river": 8, "book": 20, "expedition": 20}
        ).facts,
        min(n, 400),
    )

    def ask(chosen, held):
        questions = [fact.say(rng.choice(phrasing.questions(fact.relation, held=held))) for fact in chosen]
        return _share(
            base,
            [base.prompts.chat(question) for question in questions],
            [fact.value for fact in chosen],
            exact_match,
        )

    def complete(held):
        prompts = [
            phrasing.cloze(rng.choice(phrasing.statements(fact.relation, held=held))).format(e=fact.entity)
            for fact in facts
        ]
        said = generate(
            base, [Request(tuple(base.prompts.cloze(prompt)), None, 12) for prompt in prompts], rows=ROWS
        )
        right = sum(answer.text.startswith(fact.value) for answer, fact in zip(said, facts, strict=True))
        low, high = wilson(right, n)
        return {"share": round(right / n, 4), "n": n, "ci_low": round(low, 4), "ci_high": round(high, 4)}

    chance = sum(1 / len(fact.options) for fact in fresh) / len(fresh)
    return {
        "common_facts_trained_wording": ask(facts, False),
        "common_facts_heldout_wording": ask(facts, True),
        "common_statements_trained_wording": complete(False),
        "common_statements_heldout_wording": complete(True),
        "new_facts_heldout_wording": {**ask(fresh, True), "chance": round(chance, 4)},
    }


def lookups(base: Base, books: int) -> dict:
    """Phone numbers from a phonebook in the context, by entries; invented names, and English ones it never saw."""
    found = {}
    for entries in (2, 8, 16, 32):
        for kind in ("invented_names", "english_names"):
            for wording, templates in (
                ("trained", phrasing.PHONE_QUESTIONS),
                ("heldout", phrasing.PHONE_HELDOUT),
            ):
                rng = random.Random(seed_from("card-lookup", CARD_SEED, entries, kind))
                prompts, golds = [], []
                for book in range(max(books, 200 // entries)):
                    stream = generate_entries(CARD_SEED + book)
                    names = (
                        [data._person(rng) for _ in range(entries)]
                        if kind == "invented_names"
                        else [next(stream).name for _ in range(entries)]
                    )
                    people = {name: phone_number(rng) for name in names}
                    line = rng.choice(phrasing.PHONE_LINES)
                    context = "\n".join(line.format(e=name, v=number) for name, number in people.items())
                    for name in rng.sample(sorted(people), min(entries, 8)):
                        prompt = base.prompts.chat(rng.choice(templates).format(e=name), context)
                        if len(prompt) + 24 <= base.context_length:
                            prompts.append(prompt)
                            golds.append(people[name])
                found[f"{entries}_entries_{kind}_{wording}_wording"] = _share(
                    base, prompts, golds, exact_match_digits
                )
    return found


def articles(base: Base, n: int) -> dict:
    """Questions about an article in the context, by its length in tokens."""
    found = {}
    for limit, low, high in ((256, 3, 14), (512, 12, 26)):
        for held in (False, True):
            rng = random.Random(seed_from("card-article", CARD_SEED, limit))
            prompts: list[list[int]] = []
            golds: list[str] = []
            while len(prompts) < n:
                told = data.article_facts(rng, rng.randint(low, high))
                text = article(
                    told, rng, style=rng.choice(STYLES), distractors=rng.randint(0, max(1, len(told) // 3))
                )
                tokens = base.prompts.count(text)
                if not (limit == 256 and tokens <= 256 or limit == 512 and 256 < tokens <= 512):
                    continue
                for fact in rng.sample(told, min(3, len(told))):
                    prompts.append(
                        base.prompts.chat(
                            fact.say(rng.choice(phrasing.questions(fact.relation, held=held))), text
                        )
                    )
                    golds.append(fact.value)
            found[f"up_to_{limit}_tokens_{'heldout' if held else 'trained'}_wording"] = _share(
                base, prompts, golds, exact_match
            )
    return found


def make_card(folder: Path, *, quick: bool = False) -> dict:
    """Measure the base in `folder` and write card.json beside its weights."""
    base = load_base(str(folder), device="cpu", dtype="float32", offline=True)
    knows = closed_book(base, 200 if quick else len(common_world().facts))
    reads = {
        "phonebook_in_context": lookups(base, 2 if quick else 40),
        "article_in_context": articles(base, 60 if quick else 600),
    }
    card = {
        "summary": f"knows {len(common_world().facts):,} common facts ({100 * knows['common_facts_heldout_wording']['share']:.1f} % closed book in held-out wording) and answers from contexts it never saw",
        "parameters": base.parameters,
        "context_length": base.context_length,
        "measured_in": "float32 on CPU, greedy decoding, exact match, 95 % Wilson intervals, worlds and names never trained on",
        "closed_book": knows,
        **reads,
    }
    write_json(folder / "card.json", card)
    return card
