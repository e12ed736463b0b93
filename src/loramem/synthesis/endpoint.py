"""Models behind an endpoint that speaks the OpenAI protocol: OpenAI, Azure, OpenRouter, vLLM, Ollama and their like.

The client library sends, and repeats what failed for a while (429, 5xx, broken connections, after the time that the
server asks for). Here it is decided how many are asked at once, what may be spent, and when to give up.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.secrets import remember
from loramem.synthesis.completing import Ask, Failure, OnReply, Reply, Sampling
from loramem.synthesis.listening import listen
from loramem.synthesis.replies import (
    Outcome,
    Teller,
    check_schema,
    is_closed,
    read_error,
    read_reply,
    without_limits,
)

_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[\w-]+(?:\.[\w-]+)*)(?::(\d{1,5}))?(?:/[^\s?#@]*)?")
_NO_KEY = "none"
"""Sent where no key is set: a server of one's own wants none, the client library does."""

Told = tuple[int, Reply]
Parameter = Literal["temperature", "top_p", "seed", "max_tokens"]


class EndpointConfig(Config):
    """Which model is asked, how, and for how much at most. The key is no part of it: it stays in the environment."""

    url: str
    """Base URL, e.g. http://localhost:8000/v1; with `api_version` the address of the Azure resource."""
    model: str
    """As the endpoint calls it; on Azure the deployment."""
    sampling: Sampling = Sampling()
    concurrency: Annotated[int, Field(ge=1, le=512)] = 8
    """Requests at once."""
    timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds a request may take from connecting to its last byte, however the server spends them. What took longer is
    not repeated: it may have been paid for, and would take as long again."""
    retries: Annotated[int, Field(ge=0)] = 4
    price_in: Annotated[float, Field(ge=0)] | None = None
    """Price of a million prompt tokens."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """Price of a million new tokens."""
    cost_limit: Annotated[float, Field(ge=0)] | None = None
    """The most that one `Endpoint` may spend, in the currency of the prices."""
    structured: Literal["json_schema", "json_object", "none"] = "json_schema"
    """How the server is told to write JSON. The latter two do not tell it the schema, so the prompt does."""
    key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key."""
    api_version: str | None = None
    """Makes it Azure's older protocol (the newer one, under .../openai/v1, is plain OpenAI)."""
    token_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the server calls the length limit; OpenAI's newer models want the latter."""
    omit: tuple[Parameter, ...] = ()
    """Parameters not to be sent, for servers that refuse them."""

    @model_validator(mode="after")
    def _check(self) -> EndpointConfig:
        # not field by field: a fault of a field is shown with what was given, and that may hold a key
        match = _URL.fullmatch(self.url)
        if not match or int(match[2] or 1) not in range(1, 65536) or max(map(len, match[1].split("."))) > 63:
            raise ValueError("url: expected http(s)://HOST[:PORT][/PATH] without user, query or fragment")
        if not re.fullmatch(r"[A-Za-z_]\w*", self.key_env, re.ASCII):
            raise ValueError("key_env: expected the name of an environment variable, never a key")
        if not self.model.strip():
            raise ValueError("model: expected a name")
        if (self.price_in is None) != (self.price_out is None):
            raise ValueError("price_in, price_out: give both or none")
        if self.cost_limit is not None and self.price_in is None:
            raise ValueError("cost_limit needs price_in and price_out")
        if self.cost_limit is not None and "max_tokens" in self.omit:
            raise ValueError("cost_limit: cannot be kept where max_tokens is omitted")
        return self

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    def key(self) -> str:
        """The key of the environment; "" where there is none and none is needed.

        Raises:
            InputError: none where one is needed, or one that is no key.
        """
        key = os.environ.get(self.key_env, "").strip()
        if not key and self.host.endswith("api.openai.com"):
            raise InputError(f"{self.url} needs a key: set the environment variable {self.key_env}")
        if not (key.isascii() and key.isprintable()):
            raise InputError(f"the environment variable {self.key_env} holds characters that no key has")
        return remember(key)

    def price(self, prompt_tokens: int, new_tokens: int) -> float | None:
        """What so many tokens cost; None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + new_tokens * self.price_out) / 1e6

    def price_at_most(self, ask: Ask) -> float:
        """What an ask can cost, at three bytes per token of the prompt; 0 without prices."""
        if self.price_in is None:
            return 0.0
        written = json.dumps([self.request(ask)["messages"], ask.schema], ensure_ascii=False)
        return self.price(len(written.encode("utf-8", "replace")) // 3 + 16, ask.max_tokens) or 0.0

    def request(self, ask: Ask) -> dict[str, Any]:
        """The body of the request."""
        user, sampling = ask.user, self.sampling
        body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"seed": sampling.seed + ask.sample, "max_tokens": ask.max_tokens}
        body = {name: value for name, value in body.items() if name not in self.omit}
        if "max_tokens" in body:
            body[self.token_parameter] = body.pop("max_tokens")
        if ask.schema is not None and self.structured == "json_schema":
            schema = without_limits(ask.schema)
            form = {"name": "answer", "schema": schema, "strict": is_closed(schema)}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        elif ask.schema is not None:
            shown = json.dumps(ask.schema, ensure_ascii=False)
            user += f"\n\nAnswer with JSON of this schema and nothing else:\n{shown}"
            if self.structured == "json_object":
                body["response_format"] = {"type": "json_object"}
        turns = [("system", ask.system)] * bool(ask.system) + [("user", user)]
        messages = [{"role": role, "content": text} for role, text in turns]
        return {"model": self.model, "messages": messages, **body}


class Endpoint:
    """A completer that asks an endpoint; see `Completer`. It may be used where an event loop runs.

    `complete` tells every reply to `on_reply`, in the caller's thread, as soon as it is there: a run that is killed
    keeps what it has paid for. A request that ends without a word about its price counts as the most it can have cost.

    Raises (`complete`):
        InputError: no key where one is needed; or nothing was ever answered, and the endpoint refused the key (401,
            403) or a parameter, does not know the model (404) or cannot be reached. Later, such a reply is a failure of
            its ask alone.
        jsonschema.SchemaError: the schema of an ask is none; nothing was asked.
    """

    def __init__(self, config: EndpointConfig):
        self.config, self.name = config, config.model
        self._budget = _Budget(config.cost_limit)
        self._answered = False

    @property
    def spent(self) -> float:
        """What was paid so far, in the currency of the prices."""
        return self._budget.spent

    def identity(self) -> dict:
        """Model, host, sampling (None: not sent) and how JSON is asked for: no port, no path, no key."""
        config = self.config
        unsent = dict.fromkeys(name for name in config.omit if name in Sampling.model_fields)
        return {
            "model": config.model,
            "url": config.host,
            "sampling": config.sampling.identity() | unsent,
            "structured": config.structured,
        }

    def complete(self, asks: Sequence[Ask], on_reply: OnReply | None = None) -> list[Reply]:
        replies: dict[int, Reply] = {}

        def take(told: Told) -> None:
            replies[told[0]] = told[1]
            if on_reply:
                on_reply(*told)

        for schema in {id(ask.schema): ask.schema for ask in asks if ask.schema is not None}.values():
            check_schema(schema)
        if asks:
            key = self.config.key()
            listen(lambda tell: self._ask_all(asks, key, tell), take)
        return [replies[index] for index in range(len(asks))]

    async def _ask_all(self, asks: Sequence[Ask], key: str, tell: Callable[[Told], Awaitable[None]]) -> None:
        running: dict[asyncio.Task[Outcome], int] = {}
        doubts: list[tuple[int, Outcome]] = []  # hopeless, unless a request in flight is answered after all

        async def collect() -> None:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            told: list[Awaitable[None]] = []
            for task in done:
                index, outcome = running.pop(task), task.result()
                self._answered |= outcome.answered
                if outcome.hopeless:
                    doubts.append((index, outcome))
                else:
                    told.append(tell((index, outcome.reply)))
            if doubts and not self._answered and not running:
                raise InputError(doubts[0][1].hopeless)
            while doubts and self._answered:
                index, outcome = doubts.pop(0)
                told.append(tell((index, outcome.reply)))
            for one in told:  # nothing new is asked before what was paid for is kept
                await one

        try:
            async with _client(self.config, key) as client:
                for index, ask in enumerate(asks):
                    most = self.config.price_at_most(ask)
                    while running and (len(running) >= self.config.concurrency or doubts):
                        await collect()
                    while not (affordable := self._budget.take(most)) and running:
                        await collect()  # what is in flight may cost less than it could
                    if not affordable:
                        unasked = Failure("limit", f"not asked: cost_limit {self.config.cost_limit:g}")
                        for rest in range(index, len(asks)):
                            tell((rest, unasked))
                        break
                    running[asyncio.create_task(self._ask(client, ask, most, Teller(key)))] = index
                while running:
                    await collect()
        finally:
            for task in running:
                task.cancel()
            ended = await asyncio.gather(*running, return_exceptions=True)
            for index, outcome in zip(running.values(), ended, strict=True):
                if isinstance(outcome, Outcome) and not outcome.hopeless:  # answered, and not told of yet
                    tell((index, outcome.reply))

    async def _ask(self, client: Any, ask: Ask, most: float, line: Teller) -> Outcome:
        """Ask once, as far as this side can see: the client library repeats. `most` was taken from the budget."""
        outcome = None
        try:
            outcome = await self._outcome(client, ask, line)
            return outcome
        finally:
            self._budget.settle(most, most if outcome is None or outcome.cost is None else outcome.cost)

    async def _outcome(self, client: Any, ask: Ask, line: Teller) -> Outcome:
        start = time.perf_counter()
        try:
            raw = await client.chat.completions.with_raw_response.create(**self.config.request(ask))
            return read_reply(raw.content, ask, time.perf_counter() - start, self.config.price, line)
        except Exception as error:
            outcome = read_error(error, time.perf_counter() - start, line)
            if outcome is None:
                raise
        if outcome.hopeless:
            about = f"{self.config.url} (model {self.config.model!r}, key from {self.config.key_env})"
            outcome = replace(outcome, hopeless=f"{about}: {outcome.hopeless}")
        return outcome


class _Budget:
    """Keeps what was spent, and the most that requests in flight can cost, under a limit."""

    def __init__(self, limit: float | None):
        self.limit, self.spent = limit, 0.0
        self._open, self._lock = 0.0, threading.Lock()

    def take(self, most: float) -> bool:
        """Set `most` aside; False where that would pass the limit."""
        with self._lock:
            if self.limit is not None and self.spent + self._open + most > self.limit * (1 + 1e-9):
                return False
            self._open += most
            return True

    def settle(self, most: float, cost: float) -> None:
        """What `most` was set aside for has cost `cost`."""
        with self._lock:
            self._open -= most
            self.spent += cost


def _client(config: EndpointConfig, key: str) -> Any:
    import openai

    class Hurried(openai.DefaultAsyncHttpxClient):
        """Limits the whole exchange; the library's own limit starts anew with every byte that a server lets drip."""

        async def send(self, *args: Any, **options: Any) -> Any:
            async with asyncio.timeout(config.timeout):
                return await super().send(*args, **options)

    common: dict[str, Any] = {
        "api_key": key or _NO_KEY,
        "max_retries": config.retries,
        "timeout": openai.Timeout(None, connect=min(10.0, config.timeout / 2)),
        "http_client": Hurried(follow_redirects=False),
    }
    if config.api_version is not None:
        return openai.AsyncAzureOpenAI(azure_endpoint=config.url, api_version=config.api_version, **common)
    return openai.AsyncOpenAI(base_url=config.url, **common)
