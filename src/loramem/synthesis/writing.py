"""Supervision written by a model: rounds of prompts over all units at once, until each has what was asked for.

A round asks every unit that still lacks items for more, showing what it has, and keeps what is new and borne out by the
text. So a prompt is never repeated word for word (PITFALLS 37, 39), a short answer is topped up in the next round, what is
lacking after the last one is reported (`Made.shortfall`), and a failed call is counted and asked again by the next run,
because only answers are kept in the cache (PITFALLS 35). What was written for a unit is kept once it is complete, so that a
later run, which may get other answers for what failed, changes nothing that was finished.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json
from loramem.core.identity import digest
from loramem.metrics.text import same
from loramem.synthesis.completing import Answer, Ask, Completer, OnReply, Reply
from loramem.synthesis.grounding import grounded
from loramem.synthesis.overlap import bare
from loramem.synthesis.prompts import PER_CALL, ask, items_of, items_per_call
from loramem.synthesis.recipes import Portion
from loramem.synthesis.supervision import Example, Made
from loramem.synthesis.units import Unit

WRITER_VERSION = 1
"""Raised when the same answers give other examples: what was kept is then written again."""
ROUNDS = 6
"""Rounds a counted part may take at most."""
UNCOVERED_ROUNDS = 2
"""Rounds of `iterative` after its first count is full."""
BARREN = 2
"""Rounds in a row without anything new after which a unit is left."""


@dataclass
class _State:
    """How far one unit is."""

    unit: Unit
    account: Made
    examples: list[Example] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    barren: int = 0

    def wants(self, portion: Portion, most_tokens: int, extra: int) -> int:
        """Items to ask for in this round; 0: none."""
        if self.barren >= BARREN:
            return 0
        fit = items_per_call(portion, self.unit.text, most_tokens)
        return fit if extra else min(fit, portion.n - len(self.examples))


class _Banned:
    """Questions that must not be asked, however they are spelt and however they name their document: what
    `synthesis.overlap` would find word for word."""

    def __init__(self, questions: Collection[str]):
        self.leads: dict[str, set[str]] = {}
        for question in questions:
            text, lead = bare(question)
            self.leads.setdefault(same(text), set()).add(lead)

    def __contains__(self, question: str) -> bool:
        text, lead = bare(question)
        found = self.leads.get(same(text), set())
        return bool(found) and (not lead or "" in found or lead in found)


class ModelWriter:
    """Writes with any `Completer`.

    Args:
        most_tokens: Longest answer to one prompt.
        check: Whether items that the text does not bear out are left out (and counted); texts that rewrite the whole are
            held to the same measure.
        on_reply: Called after every reply, for progress.
        kept: Folder of what was written for complete units; None: nothing is kept.
    """

    def __init__(
        self,
        completer: Completer,
        *,
        most_tokens: int = 2048,
        check: bool = True,
        on_reply: OnReply | None = None,
        kept: Path | None = None,
    ):
        self.completer, self.most_tokens, self.check, self.on_reply = completer, most_tokens, check, on_reply
        self.name, self.kept = completer.name, kept

    def write(
        self, units: Sequence[Unit], portion: Portion, exclude: Collection[str]
    ) -> list[tuple[list[Example], Made]]:
        banned = _Banned(exclude)
        paths = [self._path(unit, portion, exclude) for unit in units]
        found = [self._finished(unit, path) for unit, path in zip(units, paths, strict=True)]
        states = [
            _State(unit, Made(unit.id, unit.document.id, portion.kind.name, asked=portion.n))
            for unit, done in zip(units, found, strict=True)
            if done is None
        ]
        fewest = min(
            (items_per_call(portion, unit.text, self.most_tokens) for unit in units), default=PER_CALL
        )
        last = 0
        for round_ in range(max(ROUNDS, -(-2 * portion.n // fewest))):
            last = round_
            if not self._round(states, portion, round_, 0, banned):
                break
        if portion.kind.name == "iterative":
            for extra in range(1, UNCOVERED_ROUNDS + 1):
                self._round(states, portion, last + extra, extra, banned)
        rest = iter(states)
        for place, path in enumerate(paths):
            if found[place] is None:
                state = next(rest)
                state.account.written = len(state.examples)
                found[place] = (state.examples, state.account)
                whole = not state.account.failures or not state.account.shortfall
                if (
                    path is not None
                    and whole
                    and not (portion.kind.name == "iterative" and state.account.failures)
                ):
                    write_json(
                        path, {"examples": [asdict(e) for e in state.examples], "made": asdict(state.account)}
                    )
        return [done for done in found if done is not None]

    def _path(self, unit: Unit, portion: Portion, exclude: Collection[str]) -> Path | None:
        """Where what is written for a unit is kept: by the model, what it is asked, and what it may not ask."""
        if self.kept is None:
            return None
        key = digest([
            WRITER_VERSION, self.completer.identity(), portion.label, portion.kind.instruction, unit.id, unit.text, unit.lead,
            self.most_tokens, self.check, sorted(exclude),
        ])  # fmt: skip
        return self.kept / key[:2] / f"{key}.json"

    def _finished(self, unit: Unit, path: Path | None) -> tuple[list[Example], Made] | None:
        """What an earlier run wrote for a unit; None where it is not there, or not readable."""
        if path is None or not path.exists():
            return None
        try:
            row = read_json(path)
            examples = [Example(**{**example, "span": unit.span}) for example in row["examples"]]
            return examples, Made(**{**row["made"], "cached": row["made"]["calls"]})
        except (InputError, KeyError, TypeError):
            return None

    def _round(
        self, states: Sequence[_State], portion: Portion, round_: int, extra: int, banned: _Banned
    ) -> bool:
        """Ask once for every unit that wants more. Returns whether any did."""
        open_ = [(state, n) for state in states if (n := state.wants(portion, self.most_tokens, extra)) > 0]
        asks = [
            ask(
                state.unit.text, portion, n, [_line(example) for example in state.examples], round_=round_,
                most_tokens=self.most_tokens, again=state.barren > 0,
            )
            for state, n in open_
        ]  # fmt: skip
        replies = self.completer.complete(asks, self.on_reply) if asks else []
        for (state, n), one, reply in zip(open_, asks, replies, strict=True):
            self._take(state, portion, n, one, reply, banned)
        return bool(asks)

    def _take(self, state: _State, portion: Portion, n: int, one: Ask, reply: Reply, banned: _Banned) -> None:
        account = state.account
        account.calls += 1
        account.prompt_tokens += reply.prompt_tokens
        account.new_tokens += reply.new_tokens
        account.seconds += reply.seconds
        if not isinstance(reply, Answer):
            account.failures[reply.kind] = account.failures.get(reply.kind, 0) + 1
            account.reason = reply.reason
            state.barren += 1
            return
        account.cached += reply.cached
        if reply.cost is not None:
            account.cost = (account.cost or 0.0) + reply.cost
        items = items_of(reply.value, portion.kind.form, state.unit.lead)[:n]
        spent = reply.new_tokens // max(1, len(items))
        new = 0
        for prompt, answer in items:
            mark = same(prompt or answer)
            if mark in state.seen or (prompt and prompt in banned):
                account.duplicates += 1
                continue
            state.seen.add(mark)
            if self.check and not grounded(prompt, answer, state.unit.text).ok:
                account.ungrounded += 1
                continue
            new += 1
            state.examples.append(
                Example(
                    portion.kind.form, prompt, answer, state.unit.document.id, state.unit.id, self.name, one.prompt_hash,
                    spent, span=state.unit.span, recipe=portion.kind.name,
                )
            )  # fmt: skip
        state.barren = 0 if new else state.barren + 1


def _line(example: Example) -> str:
    """An item as a further round is shown it."""
    text = f"{example.prompt} {example.answer}".strip()
    return text if len(text) <= 200 else text[:200] + "..."
