"""A base that writes: prompts of one call are decoded together, and JSON is held to its schema token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loramem.base.model import Base
from loramem.base.prompts import PROMPT_VERSION
from loramem.core.identity import seed_from
from loramem.inference.constrained import Grammar
from loramem.inference.generate import Generation, Ids, Request, generate
from loramem.inference.sampling import Draw
from loramem.synthesis.completing import Answer, Ask, Failure, OnReply, Reply, Sampling
from loramem.synthesis.replies import Teller, check_schema, parse_json

_line = Teller("")


class Local:
    """A completer that decodes with a base; see `Completer`.

    Both turns stand in the user's turn, the system's text first: not every chat template has a system turn. Every ask
    has random numbers of its own, from the sampling's seed, the prompt and the sample's number, so what is answered does
    not depend on what is asked beside it. `complete` tells every reply to `on_reply` as soon as its row has ended;
    `seconds` of a reply are its share of the steps that it took part in.

    Args:
        rows: Rows that are decoded at once.
        structured: Hold answers to their schemas. Else the prompt shows the schema and the answer is checked against it.

    Raises:
        InputError: a temperature below 0, or a top_p outside (0, 1].

    Raises (`complete`):
        InputError: the schema of an ask says what no grammar can hold, or the base's tokenizer cannot be held to any;
            nothing was asked.
        jsonschema.SchemaError: the schema of an ask is none; nothing was asked.
    """

    def __init__(self, base: Base, sampling: Sampling, rows: int = 32, structured: bool = True):
        self.base, self.sampling, self.rows, self.structured = base, sampling, rows, structured
        self.name = f"local:{base.name}"
        self._grammars: dict[str, Grammar] = {}
        self._draw(Ask(""))

    @property
    def longest(self) -> int:
        """Most tokens of an answer that leave as many for the prompt."""
        return self.base.context_length // 2

    def identity(self) -> dict:
        return {
            "model": self.base.fingerprint,
            "dtype": self.base.precision,
            "sampling": self.sampling.identity(),
            "structured": self.structured,
            "prompt_version": PROMPT_VERSION,
        }

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        replies: dict[int, Reply] = {}

        def take(index: int, reply: Reply) -> None:
            replies[index] = reply
            if on_reply:
                on_reply(index, reply)

        for schema in {id(ask.schema): ask.schema for ask in asks if ask.schema is not None}.values():
            check_schema(schema)
        found = [self._request(ask) for ask in asks]
        requests = {index: one for index, one in enumerate(found) if isinstance(one, Request)}
        for index, one in enumerate(found):
            if isinstance(one, Failure):
                take(index, one)
        order = list(requests)

        def done(place: int, said: Generation) -> None:
            take(order[place], self._reply(asks[order[place]], said))

        if requests:
            generate(self.base, list(requests.values()), rows=self.rows, on_done=done)
        return [replies[index] for index in range(len(asks))]

    def _request(self, ask: Ask) -> Request | Failure:
        """What is decoded for an ask, or why nothing is."""
        try:
            (ask.system + ask.user).encode()
        except UnicodeEncodeError:
            return Failure("error", "the prompt holds half a character (a lone surrogate)")
        prompt, most = self._prompt(ask), self.base.context_length
        if len(prompt) + ask.max_tokens > most:
            return Failure(
                "too-long",
                f"a prompt of {len(prompt)} tokens and an answer of up to {ask.max_tokens} do not fit the base's context of {most}",
                len(prompt),
            )
        grammar = None if ask.schema is None or not self.structured else self._grammar(ask.schema)
        return Request(prompt, None, ask.max_tokens, grammar=grammar, draw=self._draw(ask))

    def _prompt(self, ask: Ask) -> Ids:
        user = ask.user
        if ask.schema is not None and not self.structured:
            shown = json.dumps(ask.schema, ensure_ascii=False)
            user += f"\n\nAnswer with JSON of this schema and nothing else:\n{shown}"
        return tuple(self.base.prompts.chat(user, ask.system or None))

    def _draw(self, ask: Ask) -> Draw:
        sampling = self.sampling
        return Draw(
            sampling.temperature, sampling.top_p, seed_from(sampling.seed, ask.prompt_hash, ask.sample)
        )

    def _grammar(self, schema: Mapping[str, Any]) -> Grammar:
        """The grammar of a schema, made once. The order of its properties counts: they are written in it."""
        key = json.dumps(schema)
        if key not in self._grammars:
            self._grammars[key] = Grammar(self.base, schema)
        return self._grammars[key]

    def _reply(self, ask: Ask, said: Generation) -> Reply:
        spent = said.prompt_tokens, len(said.ids), said.seconds
        if said.truncated:
            return Failure("cut", f"longer than {ask.max_tokens} tokens", *spent)
        try:
            return Answer(said.text, _value(said.text, ask.schema), *spent)
        except (ValueError, RecursionError) as error:
            return Failure("invalid", _line(error), *spent)


def _value(text: str, schema: Mapping[str, Any] | None) -> Any:
    """What an answer says: its JSON, checked, or the text. Raises `ValueError` where it says nothing that can be kept."""
    if not text.strip():
        raise ValueError("the answer is empty")
    value = text if schema is None else parse_json(text, schema)
    try:  # it will be written like that
        json.dumps([text, value], ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        raise ValueError("the answer holds half a character (a lone surrogate)") from None
    return value
