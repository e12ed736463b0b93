"""Choosing the next token of each row: the likeliest, or one drawn at a temperature; under a grammar, of the allowed ones.

Everything a choice depends on belongs to the request, not to the row or the batch: its place in its grammar, and random
numbers of its own, one per token. So a row may move or get other neighbours, and is answered as if it were alone (as far
as the model computes the same logits there).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from loramem.core.errors import InputError
from loramem.inference.constrained import Constraint, Grammar, allowed


@dataclass(frozen=True)
class Draw:
    """How the tokens of an answer are drawn.

    Attributes:
        temperature: Logits are divided by it; 0 takes the likeliest token.
        top_p: Of the likeliest tokens, as few as have this probability together can be drawn (and those as likely as the
            last of them).
        seed: Of this answer's random numbers: equal prompts with equal seeds get equal answers.

    Raises:
        InputError: a negative temperature, or a top_p outside (0, 1].
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature {self.temperature}: expected a number from 0 on")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p {self.top_p}: expected a number above 0 and up to 1")


class Wish(Protocol):
    """What of a request says how its tokens are chosen."""

    @property
    def grammar(self) -> Grammar | None: ...
    @property
    def draw(self) -> Draw | None: ...


class Chooser:
    """Chooses tokens for requests, from their first to their last.

    Attributes:
        closed: Requests whose grammar has come to its end.
    """

    def __init__(self, wishes: Sequence[Wish]):
        self.wishes = wishes
        self.closed: set[int] = set()
        self._constraints: dict[int, Constraint] = {}
        self._numbers: dict[int, random.Random] = {}

    def __call__(self, logits_BV: Tensor, live: Mapping[int, int]) -> Tensor:
        """The next token of every row, int64 `[B]`: arg max in rows that ask for nothing else.

        Args:
            logits_BV: Of the next token. Rows under a grammar are changed: what is not allowed becomes -inf.
            live: Row -> request, of the rows whose answers go on.
        """
        held = {row: grammar for row, index in live.items() if (grammar := self.wishes[index].grammar)}
        if held:
            self._hold(logits_BV, held, live)
        next_B = logits_BV.argmax(-1)
        drawn = {row: one for row, i in live.items() if (one := self.wishes[i].draw) and one.temperature > 0}
        if drawn:
            given = [
                [one.temperature, one.top_p, self._number(live[row], one.seed)] for row, one in drawn.items()
            ]
            rows_R = torch.tensor(list(drawn), device=logits_BV.device)
            given_3R = torch.tensor(given, dtype=torch.float64, device=logits_BV.device).T
            next_B[rows_R] = draw(logits_BV[rows_R], *given_3R)
        return next_B

    def tell(self, index: int, token: int) -> bool:
        """Request `index` goes on with `token`. Returns whether its grammar has now come to its end."""
        constraint = self._constraints.get(index)
        if constraint is not None:
            constraint.take(token)
            if constraint.closed:
                self.closed.add(index)
        return index in self.closed

    def forget(self, index: int) -> None:
        """Request `index` gets no more tokens: its place in its grammar and its random numbers are not needed."""
        self._constraints.pop(index, None)
        self._numbers.pop(index, None)

    def _hold(self, logits_BV: Tensor, held: Mapping[int, Grammar], live: Mapping[int, int]) -> None:
        """Leave the rows of `held` (row -> grammar) what their grammars allow."""
        constraints = []
        for row, grammar in held.items():
            if live[row] not in self._constraints:
                self._constraints[live[row]] = grammar.start()
            constraints.append(self._constraints[live[row]])
        open_RV = allowed(constraints, logits_BV.shape[1], logits_BV.device)
        rows_R = torch.tensor(list(held), device=logits_BV.device)
        logits_BV[rows_R] = logits_BV[rows_R].masked_fill(~open_RV, -torch.inf)

    def _number(self, index: int, seed: int) -> float:
        """The next random number of a request, in [0, 1)."""
        if index not in self._numbers:
            self._numbers[index] = random.Random(seed)
        return self._numbers[index].random()


def draw(logits_RV: Tensor, temperature_R: Tensor, top_p_R: Tensor, number_R: Tensor) -> Tensor:
    """One token per row, int64 `[R]`: where `number` of its probability lies before it, in the vocabulary's order.

    Args:
        logits_RV: Of any dtype; -inf is never drawn.
        temperature_R, top_p_R, number_R: float64; above 0, in (0, 1], in [0, 1).
    """
    over_RV = logits_RV.double()
    over_RV = over_RV - over_RV.amax(-1, keepdim=True)  # so that the smallest temperature overflows nothing
    chance_RV = (over_RV / temperature_R[:, None]).softmax(-1)
    if bool((top_p_R < 1).any()):
        down_RV = chance_RV.sort(-1, descending=True).values
        before_RV = down_RV.cumsum(-1) - down_RV
        top_p_R1 = top_p_R.masked_fill(top_p_R >= 1, torch.inf)[:, None]
        least_R1 = down_RV.masked_fill(before_RV >= top_p_R1, torch.inf).amin(-1, keepdim=True)
        chance_RV = chance_RV.masked_fill(chance_RV < least_R1, 0)
    mass_RV = chance_RV.cumsum(-1)
    # strictly more than what is sought, so a token of probability 0 is never found
    return torch.searchsorted(mass_RV, number_R[:, None] * mass_RV[:, -1:], right=True).squeeze(1)
