"""The base of all configs: frozen, comparable, strict about unknown keys, cheap to import."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from loramem.core.errors import Faults, nearest
from loramem.core.secrets import ADVICE, is_secret
from loramem.core.shown import quoted, shortened


class Config(BaseModel):
    """Frozen pydantic model that refuses unknown keys, NaN and infinity.

    `identity()` is what enters a hash: JSON with defaults left out, so that a new field with a default
    changes no existing identity.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    def identity(self) -> dict:
        return self.model_dump(mode="json", exclude_defaults=True)


C = TypeVar("C", bound=Config)


def _fields_at(kind: type[BaseModel], path: tuple[int | str, ...]) -> Iterable[str]:
    """Names of the fields allowed at `path` inside a config type."""
    for part in path:
        field = kind.model_fields.get(str(part))
        inner = getattr(field, "annotation", None)
        if isinstance(part, int) or not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            inner = next(
                (k for k in get_args(inner) if isinstance(k, type) and issubclass(k, BaseModel)), None
            )
        if inner is not None:
            kind = inner
    return kind.model_fields


def faults_of(kind: type[Config], error: ValidationError, prefix: str = "") -> list[str]:
    """One readable line per fault of a failed validation: where, what was given, what is allowed."""
    lines = []
    for fault in error.errors(include_url=False):
        parts = [shortened(str(part), 80) for part in fault["loc"]]
        where = ".".join([prefix, *parts] if prefix else parts)
        given = fault.get("input")
        if (
            fault["type"] == "too_short"
            and isinstance(given, list | tuple)
            and len(given) >= fault["ctx"]["min_length"]
        ):
            continue  # it is short of what is wrong in it, which is told by itself
        if fault["type"] == "extra_forbidden" and is_secret(fault["loc"][-1]):
            lines.append(f"{where} is not to be given: {ADVICE}")
        elif fault["type"] == "extra_forbidden":
            lines.append(
                f"{where}: unknown key; {nearest(str(fault['loc'][-1]), _fields_at(kind, fault['loc'][:-1]))}"
            )
        else:
            raised = fault.get("ctx", {}).get("error")
            messages = raised.faults if isinstance(raised, Faults) else [fault["msg"]]
            plain = not isinstance(given, dict | list | tuple) and not isinstance(raised, Faults)
            shown = f" (given {quoted(given)})" if plain else ""
            lines += [
                f"{where or kind.__name__}: {message.removeprefix('Value error, ')}{shown}"
                for message in messages
            ]
    return lines


def parse(kind: type[C], value: Mapping[str, Any], prefix: str = "") -> C:
    """Validate `value` as `kind`. Raises `Faults` with every fault of it at once."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise Faults(faults_of(kind, error, prefix)) from None
