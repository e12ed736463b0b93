"""Which recipe, written by whom: the settings a study or a command gives, and the writer they build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from loramem.base.model import Base
from loramem.core.config import Config, parse
from loramem.core.errors import InputError, nearest
from loramem.sources.types import Source
from loramem.synthesis.completing import Cached, Completer, OnReply, Sampling, Unasked
from loramem.synthesis.exact import Exact, Reader
from loramem.synthesis.making import Writer
from loramem.synthesis.recipes import canonical, needs_writer
from loramem.synthesis.writing import ModelWriter

if TYPE_CHECKING:
    from loramem.synthesis.endpoint import EndpointConfig

GENERATORS = {
    "exact": "from the known facts of a generated (almanac) source; error_rate makes it worse",
    "reader": "exact questions, answered by a base (model) that has the document in its context",
    "local": "a base (model: its name; default the study's) writes JSON under a schema",
    "URL": "an endpoint that speaks the OpenAI protocol (model: its name there)",
}


class SupervisionChoice(Config):
    """How documents become training examples."""

    recipe: str = "raw"
    """`raw`, `qa:40`, `summary:8`, ... or a sum such as `raw+qa:40`; numbers are per document (per chunk with
    partition `chunk`)."""
    per: Literal["part", "chunk"] = "part"
    """`chunk`: numbers are per chunk of a document whatever the partition, so that one module of a document and one for each of
    its chunks learn the same examples."""
    generator: str = "exact"
    """Who writes what `raw` and `published` do not give: `exact`, `reader`, `local`, or an endpoint's URL."""
    model: str | None = None
    """The model at the endpoint, or the base that writes or reads in place of the study's own."""
    error_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    """For `exact`: share of stated values that are wrong."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Another seed gives other wordings and choices."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    check: bool = True
    """Leave out what the text does not bear out (models that write; counted)."""
    max_tokens: Annotated[int, Field(ge=16)] = 2048
    """Longest answer to one prompt; of a local base at most half its context."""
    endpoint: dict[str, Any] = {}
    """Further settings of an endpoint: concurrency, timeout, retries, price_in, price_out, cost_limit, key_env, ..."""
    same_examiner: bool = False
    """Allow that whoever wrote the probes writes the supervision as well."""
    allow_overlap: Annotated[int, Field(ge=0)] = 0
    """So many probes may stand word for word in the supervision before it is refused."""

    @field_validator("recipe")
    @classmethod
    def _recipe(cls, value: str) -> str:
        return canonical(value)

    @model_validator(mode="before")
    @classmethod
    def _only_what_applies(cls, value: Any) -> Any:
        """A recipe that no generator writes is the same one whatever the generator: its settings do not count."""
        if isinstance(value, dict):
            try:
                written = needs_writer(str(value.get("recipe", "raw")))
            except InputError:
                return value
            if not written:
                return {key: given for key, given in value.items() if key not in _WRITERS}
        return value

    @model_validator(mode="after")
    def _clashes(self) -> SupervisionChoice:
        known = self.generator in ("exact", "reader", "local")
        if not known and not self.is_endpoint:
            raise ValueError(
                f"unknown generator {self.generator!r}; {nearest(self.generator, GENERATORS)} "
                "A URL begins with http:// or https://"
            )
        if self.is_endpoint and not self.model:
            raise ValueError("an endpoint needs model, the name it has there (--generator-model)")
        if self.error_rate and self.generator != "exact":
            raise ValueError("error_rate belongs to generator exact; a model makes its own errors")
        if self.model and self.generator == "exact":
            raise ValueError("generator exact takes no model")
        if self.endpoint and not self.is_endpoint:
            raise ValueError("endpoint settings without an endpoint's URL as generator")
        if self.is_endpoint:
            self.endpoint_config()  # refused before anything is spent
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    def endpoint_config(self) -> EndpointConfig:
        """The endpoint behind the generator's URL. Raises `InputError` for settings it does not have."""
        from loramem.synthesis.endpoint import EndpointConfig

        own = {"url": self.generator, "model": self.model, "sampling": self.sampling}
        if twice := sorted(own.keys() & self.endpoint.keys()):
            raise InputError(
                f"endpoint: {', '.join(twice)}: give generator, model, temperature, top_p and seed beside it, not in it"
            )
        return parse(EndpointConfig, {**self.endpoint, **own}, "endpoint")

    @property
    def is_endpoint(self) -> bool:
        return self.generator.startswith(("http://", "https://"))

    @property
    def who(self) -> str:
        """The generator's short name, for cells and figures."""
        if not needs_writer(self.recipe):
            return "source"
        if self.is_endpoint:
            return str(self.model)
        if self.generator == "exact":
            return f"exact:{self.error_rate:g}" if self.error_rate else "exact"
        return self.generator + (f":{Path(self.model).name}" if self.model else "")


_WRITERS = frozenset(SupervisionChoice.model_fields) - {"recipe", "allow_overlap"}


def make_writer(
    choice: SupervisionChoice,
    source: Source,
    base: Base,
    cache: Path | None,
    *,
    load: Callable[[str], Base],
    on_reply: OnReply | None = None,
    dry: bool = False,
) -> Writer | None:
    """The writer of a choice; None where the recipe needs none.

    Args:
        source: The whole source, for exact supervision.
        base: The study's base.
        cache: Folder of kept completions; None: nothing is kept.
        load: Loads another base by name.
        dry: Ask no model: what is not kept counts as not made, and a reader's answers are taken to be right.

    Raises:
        InputError: the source's facts are not known, the model cannot be loaded, the endpoint's settings are wrong.
    """
    if not needs_writer(choice.recipe):
        return None
    if choice.generator == "exact":
        return Exact(source, error_rate=choice.error_rate, seed=choice.seed)
    if choice.generator == "reader" and dry:
        return Exact(source, seed=choice.seed)
    if choice.generator == "reader":
        return Reader(Exact(source, seed=choice.seed), _model(choice, base, load))
    completer = make_completer(choice, base, load=load)
    most = min(choice.max_tokens, getattr(completer, "longest", choice.max_tokens))
    completer = Unasked(completer) if dry else completer
    completer = completer if cache is None else Cached(completer, cache)
    kept = None if cache is None or dry else cache.parent / "written"
    return ModelWriter(completer, most_tokens=most, check=choice.check, on_reply=on_reply, kept=kept)


def make_completer(choice: SupervisionChoice, base: Base, *, load: Callable[[str], Base]) -> Completer:
    """The model that writes, local or at an endpoint."""
    if choice.is_endpoint:
        from loramem.synthesis.endpoint import Endpoint

        return Endpoint(choice.endpoint_config())
    from loramem.synthesis.local import Local

    return Local(_model(choice, base, load), choice.sampling)


def _model(choice: SupervisionChoice, base: Base, load: Callable[[str], Base]) -> Base:
    """The base that writes or reads; one that was only planned with is loaded for it."""
    return base if choice.model is None and base.computes else load(choice.model or base.name)
