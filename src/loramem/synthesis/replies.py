"""What a reply of an endpoint is worth: an answer, or a failure with a reason that fits a line and tells no key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from jsonschema.validators import Draft202012Validator, validator_for

from loramem.core.secrets import hidden, masked
from loramem.core.shown import plain
from loramem.synthesis.completing import Answer, Ask, Failure, FailureKind, Reply

_FENCED = re.compile(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", re.DOTALL)
_TOO_LONG = re.compile(r"context.?(length|size|window)", re.IGNORECASE)
T = TypeVar("T")
_REDIRECTS = (301, 302, 303, 307, 308)
_HOPELESS: dict[str | int, str] = {
    401: "the key is refused",
    403: "the key is refused",
    404: "no such model, or not the base URL of an API",
    **dict.fromkeys(_REDIRECTS, "a redirect is not followed, for prompts and key would go with it"),
    "insufficient_quota": "nothing is left to spend",
    "unsupported_parameter": "a parameter is refused; see token_parameter and omit",
    "unsupported_value": "a parameter is refused; see omit",
}
"""What an error says, by its status or its code, that is the same for every prompt."""

Price = Callable[[int, int], float | None]
"""Prompt tokens, new tokens -> what they cost; None where nobody said."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        cost: Its price; None: not known.
        answered: The model took part in it, so the key and the model's name are right.
        hopeless: Why no other ask will do better, unless something was answered already.
    """

    reply: Reply
    cost: float | None = None
    answered: bool = False
    hopeless: str = ""


class Teller:
    """Makes text of a server fit to be shown: one line, cut, without the key (nor anything else that looks like one)."""

    def __init__(self, key: str):
        self.key = key

    def __call__(self, text: object, length: int = 200) -> str:
        line = plain(" ".join(masked(self.without_key(str(text))).split()))
        return line if len(line) <= length else line[: length - 3] + "..."

    def without_key(self, value: T) -> T:
        """A text, or texts in lists and mappings, without the key and other known secrets: what is kept of an answer."""
        return hidden(value, self.key)


def read_reply(content: bytes, ask: Ask, seconds: float, price: Price, line: Teller) -> Outcome:
    """What the body of a reply with status 200 is worth."""
    try:
        body = _mapping(json.loads(content))
    except (ValueError, RecursionError):
        return Outcome(Failure("http", "200: the reply is not JSON", seconds=seconds))
    usage = _mapping(body.get("usage"))
    prompt_tokens, new_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    cost = None if prompt_tokens is None or new_tokens is None else price(prompt_tokens, new_tokens)
    spent = prompt_tokens or 0, new_tokens or 0, seconds

    def failed(kind: FailureKind, reason: str, answered: bool = True) -> Outcome:
        return Outcome(Failure(kind, line(reason), *spent), cost, answered)

    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        said = message_of(body.get("error")) or "no choices in the reply"
        return failed("http", f"200: {said}", answered=False)
    choice = _mapping(choices[0])
    # a server that gives back what it was sent must not bring the key into what is kept
    message, finish = line.without_key(_mapping(choice.get("message"))), choice.get("finish_reason")
    text = message.get("content")
    if message.get("refusal") or finish == "content_filter":
        return failed("refused", message.get("refusal") or "stopped by the server's filter")
    if finish == "length":
        return failed("cut", f"longer than {ask.max_tokens} tokens")
    if not isinstance(text, str) or not text.strip():
        return failed("invalid", "the answer is empty")
    try:
        value = text if ask.schema is None else parse_json(text, without_limits(ask.schema))
        value = line.without_key(value)  # JSON has ways of its own to spell characters
        # as it will be written
        json.dumps([text, value], ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return failed("invalid", "the answer holds half a character (a lone surrogate)")
    except (ValueError, RecursionError) as error:
        return failed("invalid", str(error))
    return Outcome(Answer(text, value, *spent, cost), cost, answered=True)


def read_error(error: Exception, seconds: float, line: Teller) -> Outcome | None:
    """What a request is worth that ended in an error of the client library; None for any other error.

    Nothing was paid for what the server refused. A broken connection and one that took too long may have been paid.
    """
    import openai

    def failed(kind: FailureKind, reason: str, cost: float | None = 0.0, hopeless: str = "") -> Outcome:
        return Outcome(Failure(kind, line(reason), seconds=seconds), cost, hopeless=line(hopeless))

    if isinstance(error, openai.APIStatusError):
        status, said, body = error.status_code, message_of(error.body), _mapping(error.body)
        shown = f"{status}: {said}" if said else str(status)
        # a prompt that is not wanted: Azure says 400 with a code, OpenRouter 403 with its reasons
        if body.get("code") == "content_filter" or "flagged_input" in _mapping(body.get("metadata")):
            return failed("refused", said)
        if status == 400 and _TOO_LONG.search(f"{error.code} {said}"):
            return failed("too-long", shown)
        if status in _REDIRECTS:
            shown = f"{status}: sends to {error.response.headers.get('location', 'another place')}"
        why = _HOPELESS.get(error.code or "") or _HOPELESS.get(status)
        return failed("http", shown, hopeless=f"{why} ({shown})" if why else "")
    if isinstance(error, openai.APITimeoutError):  # to connect: the one limit that is left to the library
        return failed("error", "cannot be reached", hopeless="cannot be reached (no connection in time)")
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__
        text = str(cause) or type(cause).__name__
        if type(cause).__name__ in ("ConnectError", "ProxyError"):
            return failed("error", f"cannot be reached ({text})", hopeless=f"cannot be reached ({text})")
        return failed("cut", f"the connection broke ({text})", None)
    if isinstance(error, TimeoutError):
        return failed("timeout", f"no whole reply after {seconds:.1f} s", None)
    if isinstance(error, UnicodeEncodeError):
        return failed("error", "the prompt holds half a character (a lone surrogate)")
    return None


def parse_json(text: str, schema: Mapping[str, Any]) -> Any:
    """The JSON value of an answer, bare or fenced. Raises `ValueError` saying why there is none."""
    fenced = _FENCED.fullmatch(text)
    try:
        value = json.loads(fenced[1] if fenced else text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({str(error)[:80]}): {text}") from None
    kind = validator_for(schema, default=Draft202012Validator)
    fault = next(kind(dict(schema)).iter_errors(value), None)
    if fault is not None:
        where = ".".join(map(str, fault.absolute_path)) or "the answer"
        raise ValueError(f"not of the schema: {where}: {fault.message}")
    return value


def check_schema(schema: Mapping[str, Any]) -> None:
    """Raises `jsonschema.SchemaError` where `schema` is none."""
    validator_for(schema, default=Draft202012Validator).check_schema(dict(schema))


LIMITS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum", "multipleOf"})
"""Keywords that some endpoints refuse under `strict`. A local grammar needs them, or text could run forever; whoever asks
an endpoint checks what it takes (a question too long is still a question)."""


def without_limits(schema: Any) -> Any:
    """A schema without limits on lengths and numbers: what an endpoint is sent and its answer is checked against.

    >>> without_limits({"type": "array", "maxItems": 3, "items": {"type": "string", "minLength": 1}})
    {'type': 'array', 'items': {'type': 'string'}}
    """
    if isinstance(schema, list):
        return [without_limits(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: {name: without_limits(part) for name, part in value.items()}
        if key in ("properties", "$defs") and isinstance(value, Mapping)
        else without_limits(value)
        for key, value in schema.items()
        if key not in LIMITS
    }


def is_closed(schema: Any) -> bool:
    """Whether each object in a schema requires all its properties and allows no others: what `strict` wants.

    >>> is_closed({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False})
    True
    >>> is_closed({"type": "array", "items": {"type": "object", "properties": {"a": {}}}})
    False
    """
    if isinstance(schema, list):
        return all(map(is_closed, schema))
    if not isinstance(schema, Mapping):
        return True
    if schema.get("type") == "object" and (
        schema.get("additionalProperties") is not False
        or set(schema.get("required", ())) != set(schema.get("properties", ()))
    ):
        return False
    return all(map(is_closed, schema.values()))


def message_of(body: object) -> str:
    """What the body of an error says, whatever its form."""
    if not isinstance(body, Mapping):
        return str(body or "")
    inner = body.get("error")
    if inner:
        return message_of(inner)
    return str(body.get("message") or body.get("detail") or json.dumps(body, ensure_ascii=False, default=str))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) and value >= 0 else None
