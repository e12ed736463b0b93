"""Secrets stay in the environment: the one place that knows them, and hides them in whatever is kept or shown.

Two strengths, for two kinds of text:

- `hidden` takes out secrets that are known: the values of environment variables that are named like secrets, and the keys
  that were read (`remember`). It is for data, such as the answers of an endpoint that echoes its requests.
- `masked` takes out what looks like a secret besides: user and password of a URL, its keys and signatures, `api_key=...`,
  tokens of well-known services. It is for messages, commands and settings, where a word too many may be lost.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

MASK = "***"
SHORTEST = 8
"""Characters of a secret that is looked for everywhere: a shorter one (`EMPTY`, `none`) would be found in plain words."""
ADVICE = (
    "keys and passwords belong in the environment, never in a file or a command: set OPENAI_API_KEY, or name another "
    "variable with key_env"
)

T = TypeVar("T")

# -- what is known -------------------------------------------------------------------------------------------------
_VARIABLE = re.compile(
    r"(?:API_?KEY|(?:^|_)KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|CONNECTION_STRING|SIGNATURE)S?(?![A-Z])",
    re.I,
)
_PLACE = re.compile(r"_(?:FILE|PATH|DIR|SOCK|HOME)$", re.I)
_remembered: set[str] = set()


def remember(secret: str) -> str:
    """Hide `secret` from now on, whatever the variable was called that held it. Returns it."""
    if len(secret) >= SHORTEST:
        _remembered.add(secret)
    return secret


def known() -> set[str]:
    """Every secret of this process: those remembered, and the values of variables that are named like one."""
    found = {
        value.strip() for name, value in os.environ.items() if _VARIABLE.search(name) and not _PLACE.search(name)
    }  # fmt: skip
    return _remembered | {value for value in found if len(value) >= SHORTEST}


@lru_cache(maxsize=256)
def forms(secret: str) -> tuple[str, ...]:
    """How a secret may be written: as it is, percent-encoded, in hexadecimal, in base64 at any place of a longer text.

    >>> "c2stMDEyMzQ1Njc4O" in forms("sk-0123456789")
    True
    """
    raw = secret.encode("utf-8", "surrogatepass")
    found = {secret, raw.hex(), raw.hex().upper()}
    for coded in (quote(secret, safe="", errors="replace"), quote_plus(secret, errors="replace")):
        found |= {coded, re.sub(r"%..", lambda match: match[0].lower(), coded)}
    for before in range(3):
        coded = base64.b64encode(bytes(before) + raw).decode()
        # characters at its ends depend on what stands beside it
        part = coded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        found |= {part, part.translate(str.maketrans("+/", "-_"))}
    return tuple(sorted(found, key=lambda form: (-len(form), form)))


def hidden(value: T, *secrets: str) -> T:
    """`value` without any known secret, nor `secrets`, in any of their forms; texts in lists and mappings too."""
    return each_text(value, lambda text: _without(text, known().union(filter(None, secrets))))


def _without(text: str, secrets: set[str]) -> str:
    for secret in sorted(secrets, key=lambda one: (-len(one), one)):
        for form in forms(secret) if len(secret) >= SHORTEST else (secret,):
            if form in text:
                text = text.replace(form, MASK)
    return text


# -- what looks like one -------------------------------------------------------------------------------------------
_WORDS = (
    r"api[_-]?key|apikey|password|passwd|secret(?:[_-]?(?:access[_-]?)?key)?|"
    r"(?:access|auth|api|bearer|hf|hub|refresh|session)[_-]?token|credentials?"
)
_PATTERNS = (  # runs before a mark are bounded: else a long word costs the square of its length
    # https://USER:PASSWORD@host; of what was taken for a path one slash is left, of what was cut at @ the first half; a
    # password may hold a slash of its own
    (re.compile(r"([A-Za-z][\w+.-]{1,30}:/{1,2})[^\s/?#]*@"), rf"\1{MASK}@"),
    (re.compile(r"([A-Za-z][\w+.-]{1,30}:/{1,2})[^\s:@/?#\[\]]+:(?!\d{1,5}(?:[/?#\s'\",;)]|$))[^\s@'\"]+@?"), rf"\1{MASK}@"),
    # ?api_key=..., &X-Amz-Signature=...
    (re.compile(r"([?&;][\w.~-]{0,60}(?:key|token|secret|sig|passw|pwd|auth|credential)[\w.~-]{0,60}=)[^&#\s'\"<>]+", re.I), rf"\1{MASK}"),
    # Authorization: Basic ...
    (re.compile(r"(\bauthorization['\"]?\s*[:=]\s*['\"]?(?:[A-Za-z]+\s+)?)[^\s'\",}]+", re.I), rf"\1{MASK}"),
    (re.compile(r"(\bbearer\s+)[\w.~+/=-]{8,}", re.I), rf"\1{MASK}"),
    # --set supervision.endpoint.api_key=..., {api_key: ...}
    (re.compile(rf"((?<![A-Za-z])(?:{_WORDS})['\"]?\s*[=:]\s*['\"]?)[^\s'\",;&}}\])]+", re.I), rf"\1{MASK}"),
    (re.compile(r"((?<![A-Za-z])token=['\"]?)[^\s'\",;&}\])]+", re.I), rf"\1{MASK}"),
    # tokens of services that mark theirs
    (re.compile(r"\b(?:sk-|hf_|gh[pousr]_|glpat-|xox[abprs]-|AIza)[\w-]{16,}"), MASK),
)  # fmt: skip


def masked(value: T) -> T:
    """`value` without what is known to be a secret, or looks like one; texts in lists and mappings too.

    >>> masked("cannot reach https://me:pass@host/v1?api_key=abc&n=2")
    'cannot reach https://***@host/v1?api_key=***&n=2'
    >>> masked("loramem synth docs --generator-set endpoint.api_key=abc --set dev_tokens=80")
    'loramem synth docs --generator-set endpoint.api_key=*** --set dev_tokens=80'
    """
    return each_text(hidden(value), _patterned)


def _patterned(text: str) -> str:
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def each_text(value: Any, change: Callable[[str], str]) -> Any:
    """`value` with every text in it changed, in lists and mappings too (their keys as well)."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {each_text(key, change): each_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each_text(inner, change) for inner in value)
    return value


# -- settings ------------------------------------------------------------------------------------------------------
_SETTING = re.compile(rf"(?:.*[_-])?(?:{_WORDS}|token|authorization)", re.I)


def is_secret(name: object) -> bool:
    """Whether a setting of this name would hold a secret.

    >>> is_secret("api_key"), is_secret("HF_TOKEN"), is_secret("key_env"), is_secret("token_parameter"), is_secret("key")
    (True, True, False, False, False)
    """
    return bool(_SETTING.fullmatch(str(name)))


def named(settings: Any, before: str = "") -> Iterator[str]:
    """Paths of the settings that are named like secrets and hold a value, wherever they stand.

    >>> list(named({"judge": {"model": "m", "endpoint": {"api_key": "abc"}}, "supervision": [{"password": 1}]}))
    ['judge.endpoint.api_key', 'supervision[0].password']
    """
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            path = f"{before}.{name}" if before else str(name)
            if is_secret(name) and isinstance(value, str | int | float):
                yield path
            yield from named(value, path)
    elif isinstance(settings, list | tuple):
        for number, value in enumerate(settings):
            yield from named(value, f"{before}[{number}]")
