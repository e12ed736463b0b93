"""Counterfactual edits of the common world: the twin of CounterFact that the embedded base can contradict."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

from loramem.core.identity import seed_from
from loramem.sources.almanac.phrasing import cloze, statements
from loramem.sources.almanac.world import Fact, common_world
from loramem.sources.edits import Edit

NEIGHBOURS = 5


def edits(seed: int) -> Iterator[Edit]:
    """Every common fact once, in a seeded order, with a new value drawn uniformly from the other values.

    The prompt is a wording the base was pretrained on; of the two paraphrases one is such a wording and
    one was held out. Neighbours are other entities that truly have the same value for the same attribute,
    asked in the prompt's own wording (as CounterFact does, ROME section 3.4).
    """
    rng = random.Random(seed_from("edits", seed))
    facts = list(common_world().facts)
    rng.shuffle(facts)
    sharing: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        sharing[fact.relation.name, fact.value].append(fact)
    references = {
        (name, value): tuple(twin.say(statements(twin.relation, held=False)[0]) for twin in twins)
        for (name, value), twins in sharing.items()
    }
    for number, fact in enumerate(facts):
        template, other = rng.sample(statements(fact.relation, held=False), 2)
        held = rng.choice(statements(fact.relation, held=True))
        new = rng.choice([value for value in fact.options if value != fact.value])
        same = [twin for twin in sharing[fact.relation.name, fact.value] if twin.entity != fact.entity]
        near = rng.sample(same, min(NEIGHBOURS, len(same)))
        yield Edit(
            case_id=f"almanac-{seed}-{number}",
            subject=fact.entity,
            prompt=cloze(template).format(e=fact.entity),
            target_new=new,
            target_true=fact.value,
            paraphrases=tuple(cloze(t).format(e=fact.entity) for t in (other, held)),
            neighbours=tuple((cloze(template).format(e=twin.entity), twin.value) for twin in near),
            bits=fact.bits,
            generations=tuple(cloze(t).format(e=fact.entity) for t in (other, held)),
            references=references.get((fact.relation.name, new), ()),
        )
