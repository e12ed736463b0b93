"""Decoding under a JSON schema: at every step a row may choose only among tokens after which its JSON can still be closed.

A grammar is made once per schema and tokenizer; each row that is decoded under it keeps its own place in it. JSON is
written as `json.dumps` writes it, ", " between items and ": " after keys and no other white space: a model that is free
to write white space may write nothing else for ever. The same holds for strings, arrays, numbers and further properties
that the schema leaves unbounded, so a schema should give `maxLength`, `maxItems`, `minimum` and `maximum`, and
`additionalProperties: false`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask
from torch import Tensor
from torch.nn.functional import pad

from loramem.base.model import Base
from loramem.base.prompts import PromptBuilder
from loramem.core.errors import InputError

_FORM: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


class Grammar:
    """A JSON schema as a grammar over the tokens of one base.

    What it closes with is the base's end of turn, or its end of text; special tokens never stand inside.

    Args:
        schema: An object of JSON Schema, in the part of it that the grammar library knows; all else is refused rather
            than passed over.

    Raises:
        InputError: a schema that is none, cannot be met, or says what cannot be kept to; a tokenizer that is not a
            fast one.
    """

    def __init__(self, base: Base, schema: Mapping[str, Any]):
        self.tokens = _tokens(base.prompts)
        try:
            grammar = LLMatcher.grammar_from_json_schema(dict(schema), overrides=_FORM)
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"schema: {_first_line(error)}") from None
        self._start = LLMatcher(self.tokens, grammar, log_level=0)
        if self._start.is_error():
            raise InputError(f"schema: {_first_line(self._start.get_error())}")

    def start(self) -> Constraint:
        """A row that has written nothing yet."""
        return Constraint(self._start.deep_copy(), self.tokens.vocab_size)

    def decode(self, ids: Sequence[int]) -> str:
        """The very text that the grammar has read: no white space is tidied, as a tokenizer's own decoding may do."""
        return self.tokens.decode_str(list(ids))


class Constraint:
    """How far one row is in its grammar; `tokens` is the size of its tokenizer's vocabulary."""

    def __init__(self, matcher: LLMatcher, tokens: int):
        self._matcher, self.tokens = matcher, tokens

    @property
    def closed(self) -> bool:
        """Whether its JSON is whole and nothing but the end may follow.

        A bare number that one more digit could follow is not, until its end was chosen.
        """
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def take(self, token: int) -> None:
        """The row has chosen `token`. After one that is not allowed it may only end, and is never closed."""
        self._matcher.consume_token(token)

    def mark(self, packed: np.ndarray, row: int) -> None:
        """Write its allowed tokens into row `row` of a packed mask, int32 `[R, W]`, bit by bit, lowest bit first."""
        fill_next_token_bitmask(self._matcher, packed, row)


def allowed(constraints: Sequence[Constraint], width: int, device: torch.device) -> Tensor:
    """Which tokens each row may choose, bool `[R, width]`; at least one, if only the end.

    Args:
        constraints: At least one, all of one tokenizer.
        width: Size of the model's vocabulary. It may be larger than the tokenizer's (embeddings padded to a multiple):
            what is no token is never allowed.
    """
    tokens = constraints[0].tokens
    packed = allocate_token_bitmask(len(constraints), tokens)
    for row, constraint in enumerate(constraints):
        constraint.mark(packed, row)
    marks = np.unpackbits(packed.view(np.uint8), axis=1, count=tokens, bitorder="little")
    return pad(torch.from_numpy(marks.view(np.bool_)).to(device), (0, width - tokens))


def _tokens(prompts: PromptBuilder) -> LLTokenizer:
    """A tokenizer as the grammar library reads it, made once: a large vocabulary takes it a second.

    Raises:
        InputError: not a fast tokenizer.
    """
    if prompts not in _known:
        try:
            _known[prompts] = from_tokenizer(prompts.tokenizer, eos_token=sorted(prompts.stop_ids))
        except ValueError as error:
            raise InputError(
                f"this base's tokenizer cannot be held to a schema: {_first_line(error)}"
            ) from None
    return _known[prompts]


def _first_line(error: object) -> str:
    return (str(error).splitlines() or [""])[0][:200]


_known: WeakKeyDictionary[PromptBuilder, LLTokenizer] = WeakKeyDictionary()
