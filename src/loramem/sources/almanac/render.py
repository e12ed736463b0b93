"""Plain English from facts: phonebook lines and articles of several styles with distractor sentences."""

from __future__ import annotations

import random
from collections.abc import Sequence

from loramem.sources.almanac.phrasing import statements
from loramem.sources.almanac.world import Fact

OPENINGS = {
    "report": ("This report gathers what is known.", "Here follows a short report."),
    "letter": ("Dear reader, let me tell you some news.", "My dear friend, I write from the road."),
    "notes": ("Notes from the archive follow.", "Some notes, taken in haste."),
    "talk": ("Listen, there is much to tell.", "People talk a lot in these parts."),
}
LINKS = {
    "report": ("", "Further:", "It is also on file:", "The clerk adds:"),
    "letter": ("", "You may smile, but", "I should add:", "Also,"),
    "notes": ("", "Item:", "Also noted:", "Next:"),
    "talk": ("", "They say:", "And then,", "What is more:"),
}
CLOSINGS = {
    "report": ("The report ends here.", "No more is on file."),
    "letter": ("With warm regards.", "More in my next letter."),
    "notes": ("End of notes.", "The rest is illegible."),
    "talk": ("That is all for now.", "So much for the talk."),
}
DISTRACTORS = (
    "The weather was mild that week.",
    "Nobody remembers who first said so.",
    "The old bridge was closed for repairs.",
    "A market is held every second Friday.",
    "The coach arrived late, as it often does.",
    "Rain fell on the roofs all night.",
    "Two dogs were asleep by the gate.",
    "The clock in the square had stopped again.",
    "A lamp was burning in the upper window.",
    "Someone had left an umbrella in the hall.",
)
STYLES = tuple(OPENINGS)


def phone_number(rng: random.Random) -> str:
    """Ten uniform digits, DDD-DDD-DDDD: log2(10**10) = 33.2 bits."""
    digits = f"{rng.randrange(10**10):010d}"
    return f"{digits[:3]}-{digits[3:6]}-{digits[6:]}"


def article(facts: Sequence[Fact], rng: random.Random, *, style: str, distractors: int) -> str:
    """An article that states every fact once, in `style`, with `distractors` sentences that say nothing.

    Facts come in the order given; wording is drawn from the trained statements only, so that held-out
    wording stays unseen by whoever trains on articles.
    """
    sentences = []
    for fact in facts:
        sentence = fact.say(rng.choice(statements(fact.relation, held=False)))
        link = rng.choice(LINKS[style])
        sentences.append(f"{link} {sentence}" if link else sentence)
    for _ in range(distractors):
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(DISTRACTORS))
    return " ".join([rng.choice(OPENINGS[style]), *sentences, rng.choice(CLOSINGS[style])])
