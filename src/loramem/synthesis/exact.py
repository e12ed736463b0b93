"""Perfect supervision of Almanac documents, with errors where they are asked for, and a base's own answers to perfect questions.

The facts of a generated document are known, so what an ideal writer makes of it can be written down
(`sources.almanac.supervision`), and the quality of a generator becomes a variable whose truth is known (question 7):
`error_rate` replaces values; `Reader` keeps the questions and lets a base answer them with the document before it, as a
small model that generates its own supervision does.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.core.identity import digest
from loramem.inference.generate import Request, generate
from loramem.metrics.text import exact_match
from loramem.sources.almanac.phrasing import statements
from loramem.sources.almanac.recovering import facts_of
from loramem.sources.almanac.supervision import Item, render
from loramem.sources.almanac.telling import fact_id
from loramem.sources.almanac.world import Fact
from loramem.sources.types import Source
from loramem.synthesis.recipes import Portion
from loramem.synthesis.supervision import Example, Made
from loramem.synthesis.units import Unit

ROUNDS = 2
"""Rounds of `iterative` for facts that no question covers."""
ANSWER_TOKENS = 32
"""Longest answer a reader gives."""


class Exact:
    """Writes from the facts of an Almanac source.

    Args:
        source: The whole source, whose settings give its facts.
        error_rate: Chance that a stated value is replaced by another one of its set.
        seed: Another seed words and chooses otherwise.

    Raises:
        InputError: the source is not generated, so its facts are not known.
    """

    def __init__(self, source: Source, *, error_rate: float = 0.0, seed: int = 0):
        try:
            self.facts = facts_of(source)
        except InputError as error:
            raise InputError(f"generator exact: {error}; use generator local or a URL") from None
        self.among = [fact for facts in self.facts.values() for fact in facts]
        self.error_rate, self.seed = error_rate, seed
        self.name = f"exact:{error_rate:g}" if error_rate else "exact"

    def facts_in(self, unit: Unit) -> list[Fact]:
        """The facts a unit states: all of its document's, or those whose whole sentence stands in the piece."""
        facts = list(self.facts[unit.document.id])
        if unit.id == unit.document.id:
            return facts
        return [
            fact
            for fact in facts
            if any(fact.say(one) in unit.text for one in statements(fact.relation, held=False))
        ]

    def write(
        self, units: Sequence[Unit], portion: Portion, exclude: Collection[str]
    ) -> list[tuple[list[Example], Made]]:
        return [self._unit(unit, portion, exclude) for unit in units]

    def _unit(self, unit: Unit, portion: Portion, exclude: Collection[str]) -> tuple[list[Example], Made]:
        facts, name = self.facts_in(unit), portion.kind.name
        rounds = ROUNDS if name == "iterative" else 0
        items = self._render(unit, "qa" if rounds else name, facts, portion.n, exclude)
        for _ in range(rounds):
            covered = {fact for item in items for fact in item.facts}
            left = [fact for fact in facts if fact_id(fact) not in covered]
            if not left:
                break
            asked = {item.prompt for item in items}
            items += self._render(unit, "qa", left, min(portion.n, len(left)), {*exclude, *asked})
        covered = {fact for item in items for fact in item.facts}
        examples = [
            Example(
                item.form, item.prompt, item.answer, unit.document.id, unit.id, self.name, span=unit.span, recipe=name
            )
            for item in items
        ]  # fmt: skip
        return examples, Made(
            unit.id, unit.document.id, name, asked=portion.n, written=len(examples), facts=len(facts),
            covered=sum(fact_id(fact) in covered for fact in facts), values=sum(item.values for item in items),
            wrong=sum(item.errors for item in items),
        )  # fmt: skip

    def _render(
        self, unit: Unit, recipe: str, facts: Sequence[Fact], n: int, exclude: Collection[str]
    ) -> list[Item]:
        if not facts:  # a piece of a document that states none
            return []
        made = render(
            facts, recipe, n, seed=self.seed, error_rate=self.error_rate, among=self.among, original=unit.text,
            exclude=exclude, prefix=unit.lead,
        )  # fmt: skip
        return list(made.items)


class Reader:
    """Perfect questions, answered by a base that has the unit's text in its context.

    Answers that are not the document's are kept and counted (`Made.wrong`): they are what the base would have taught
    itself. Only questions can be answered, so other parts of a recipe are refused.
    """

    def __init__(self, exact: Exact, base: Base, *, rows: int = 64):
        self.exact, self.base, self.rows = exact, base, rows
        self.name = f"reader:{base.name}"

    def write(
        self, units: Sequence[Unit], portion: Portion, exclude: Collection[str]
    ) -> list[tuple[list[Example], Made]]:
        if portion.kind.form != "chat":
            raise InputError(f"generator reader answers questions; it cannot write {portion.label}")
        done = self.exact.write(units, portion, exclude)
        prompts, began = self.base.prompts, time.perf_counter()
        asks: list[Request] = []
        for unit, (examples, account) in zip(units, done, strict=True):
            questions = [e.prompt for e in examples]
            prefix, account.cut_tokens = prompts.fit_context(unit.text, questions, reserve=ANSWER_TOKENS)
            asks += [
                Request(tuple(prompts.suffix(e.prompt)), None, ANSWER_TOKENS, prefix=tuple(prefix))
                for e in examples
            ]
        said = iter(generate(self.base, asks, rows=self.rows))
        seconds = time.perf_counter() - began
        found = []
        for unit, (examples, account) in zip(units, done, strict=True):
            hashed = digest([unit.text, self.base.fingerprint])
            answered = []
            for example in examples:
                out = next(said)
                account.calls += 1
                account.prompt_tokens += out.prompt_tokens
                account.new_tokens += len(out.ids)
                text = out.text.strip()
                if not text or out.truncated:
                    kind = "cut" if out.truncated else "invalid"
                    account.failures[kind] = account.failures.get(kind, 0) + 1
                    continue
                account.wrong = (account.wrong or 0) + (not exact_match(text, example.answer))
                answered.append(
                    replace(
                        example,
                        answer=text,
                        generator=self.name,
                        prompt_hash=hashed,
                        tokens_spent=len(out.ids),
                    )
                )
            account.values = account.written = len(answered)
            account.seconds = seconds * len(examples) / max(1, len(asks))
            found.append((answered, account))
        return found
