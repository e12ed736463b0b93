"""Routing by likelihood: which module finds the question least surprising?

The score of a module is its *gain*: the mean log-likelihood of the question's own tokens under the base with the module
less that under the base alone, in nats per token. The base's part is the same for every module, so the order is that of the
plain log-likelihood (of perplexity, upwards); taking it away makes the best gain comparable over questions, of which some are
plainer English than others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from loramem.base.model import Base
from loramem.core.errors import InputError
from loramem.inference.loglik import ScoreRequest, loglikelihood
from loramem.modules.bank import Bank
from loramem.modules.spec import LoraSpec

Load = Callable[[str], tuple[LoraSpec, dict[str, Tensor]]]
Ids = tuple[int, ...]
MODULES_AT_ONCE = 16


@dataclass(frozen=True)
class Question:
    """What a router is told of a probe.

    Attributes:
        prompt: Its words.
        plain: It is asked as plain text (a statement to be completed), not in a user turn.
        id: Of the probe, for routers that draw; empty for all others.
        gold: Positions of the right modules, for the oracle; None for all others.
    """

    prompt: str
    plain: bool = False
    id: str = ""
    gold: frozenset[int] | None = None


def question_ids(base: Base, question: Question) -> tuple[Ids, Ids]:
    """(what stands before the question, the question's own tokens) as the base would be asked.

    The end of the template is left out: it is the same for all questions.
    """
    if question.plain:
        bos = base.prompts.bos
        return tuple(bos), tuple(base.prompts.cloze(question.prompt)[len(bos) :])
    head, tail = base.prompts.chat_parts(question.prompt)
    after = len(
        base.prompts.suffix("")
    )  # pieces are tokenised apart, so what follows a question is always as long
    return tuple(head), tuple(tail[: len(tail) - after])


def gains(
    base: Base, questions: Sequence[Question], modules: Sequence[str], load: Load, *, rows: int
) -> NDArray[np.float64]:
    """Gain of each module on each question in nats per token, `[Q, M]`; at most `MODULES_AT_ONCE` are on at once.

    Args:
        modules: Ids, each once.

    Raises:
        InputError: a question without a token that can be scored, or longer than the base takes.
    """
    asked = []
    for question in questions:
        before, own = question_ids(base, question)
        if not before:  # without a first token the first of the question has nothing that it could follow
            before, own = own[:1], own[1:]
        if not own:
            raise InputError(f"question {question.prompt!r} has no token whose likelihood could be taken")
        asked.append((before, own))

    def means(slots: Sequence[int | None], bank: Bank | None) -> NDArray[np.float64]:
        requests = [ScoreRequest(before, own, slot) for slot in slots for before, own in asked]
        scores = loglikelihood(base, requests, bank=bank, rows=rows)
        return np.array([score.sum_nats / score.tokens for score in scores]).reshape(len(slots), -1).T

    alone_Q1 = means([None], None)
    found = []
    for start in range(0, len(modules), MODULES_AT_ONCE):
        loaded = [load(module) for module in modules[start : start + MODULES_AT_ONCE]]
        bank = Bank(base.model, [spec for spec, _ in loaded], frozen=True)
        try:
            for slot, (_, tensors) in enumerate(loaded):
                bank.load(slot, tensors)
            found.append(means(range(len(loaded)), bank))
        finally:
            bank.detach()
    return np.concatenate(found, axis=1) - alone_Q1
