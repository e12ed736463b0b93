"""Who writes: settings that clash, what decides their identity, and the writer they make."""

from __future__ import annotations

import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.catalogue import load_source
from loramem.sources.types import Source
from loramem.studies.study_file import product
from loramem.synthesis.completing import Ask, Cached, Unasked
from loramem.synthesis.endpoint import Endpoint
from loramem.synthesis.exact import Exact, Reader
from loramem.synthesis.generators import SupervisionChoice, make_completer, make_writer
from loramem.synthesis.local import Local
from loramem.synthesis.writing import ModelWriter
from synthesis.scripts import document
from synthesis.server import Server

URL = "http://localhost:9/v1"
SECRET = "sk-secret-0123456789"


def choice(**settings) -> SupervisionChoice:
    return parse(SupervisionChoice, {"recipe": "qa:3", **settings}, "supervision")


def faults(**settings) -> list[str]:
    with pytest.raises(Faults) as caught:
        choice(**settings)
    return caught.value.faults


@pytest.fixture
def source() -> Source:
    return load_source({"name": "almanac", "sizes": [60]}, lambda text: len(text.split()))[0]


# -- what is wrong ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"generator": "exat"}, "supervision: unknown generator 'exat'; allowed: URL, exact, local, reader. Did you mean 'exact'? A URL begins with http"),
        ({"generator": "localhost:8000/v1", "model": "m"}, "A URL begins with http:// or https://"),
        ({"generator": ""}, "unknown generator ''"),
        ({"generator": URL}, "an endpoint needs model, the name it has there (--generator-model)"),
        ({"generator": URL, "model": " "}, "model: expected a name"),
        ({"generator": "exact", "model": "m"}, "generator exact takes no model"),
        ({"generator": "local", "error_rate": 0.1}, "error_rate belongs to generator exact"),
        ({"error_rate": 1.5}, "supervision.error_rate: Input should be less than or equal to 1 (given 1.5)"),
        ({"temperature": -1}, "supervision.temperature: Input should be greater than or equal to 0 (given -1)"),
        ({"max_tokens": 3}, "supervision.max_tokens: Input should be greater than or equal to 16 (given 3)"),
        ({"generater": "exact"}, "supervision.generater: unknown key;"),
        ({"generater": "exact"}, "Did you mean 'generator'?"),
        ({"recipe": 3}, "supervision.recipe: Input should be a valid string (given 3)"),
        ({"recipe": "qa"}, "supervision.recipe: recipe 'qa': give qa a number from 1 to 100,000, e.g. qa:10"),
        ({"endpoint": {"timeout": 3}}, "endpoint settings without an endpoint's URL as generator"),
        ({"generator": URL, "model": "m", "endpoint": {"timeuot": 3}}, "supervision: endpoint.timeuot: unknown key;"),
        ({"generator": URL, "model": "m", "endpoint": {"timeuot": 3}}, "Did you mean 'timeout'?"),
        ({"generator": URL, "model": "m", "endpoint": {"timeout": -3}}, "supervision: endpoint.timeout: Input should be greater than 0 (given -3)"),
        ({"generator": URL, "model": "m", "endpoint": {"cost_limit": 1}}, "cost_limit needs price_in and price_out"),
        ({"generator": URL, "model": "m", "endpoint": {"model": "n", "url": URL}}, "endpoint: model, url: give generator, model"),
        ({"generator": "http://", "model": "m"}, "url: expected http(s)://HOST[:PORT][/PATH]"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said_at_once(settings, said):
    found = faults(**settings)
    assert len(found) == 1 and said in found[0] and "\n" not in found[0]


def test_all_faults_of_a_choice_and_of_a_grid_come_together():
    found = faults(recipe="qa+sumary:2", temperature=3, colour=1)
    assert [fault.split(":")[0] for fault in found] == ["supervision.recipe", "supervision.recipe", "supervision.temperature", "supervision.colour"]  # fmt: skip
    with pytest.raises(Faults) as caught:
        product(SupervisionChoice, {"recipe": ["raw", "qa", "summary:0"], "generator": ["exact", "locl"]}, "supervision")  # fmt: skip
    assert sum("recipe" in fault for fault in caught.value.faults) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"generator": f"https://user:{SECRET}@api.example.org/v1", "model": "m"},
        {"generator": f"https://api.example.org/v1?key={SECRET}", "model": "m"},
        {"generator": URL, "model": "m", "endpoint": {"key_env": SECRET}},
        {"generator": URL, "model": "m", "endpoint": {"api_key": SECRET}},
        {"generator": URL, "model": "m", "endpoint": {"key": SECRET}},
        {"generator": "local", "endpoint": {"key_env": SECRET}},
    ],
)
def test_a_key_has_no_place_in_settings_and_is_never_shown(settings):
    assert SECRET not in "\n".join(faults(**settings))


# -- identity --------------------------------------------------------------------------------------------------
def test_identity_is_what_was_chosen():
    assert SupervisionChoice().identity() == {}
    assert choice(recipe=" QA:3").identity() == {"recipe": "qa:3"} == choice().identity()
    full = choice(generator=URL, model="m", temperature=0.0, endpoint={"timeout": 3})
    assert full.identity() == {"recipe": "qa:3", "generator": URL, "model": "m", "temperature": 0.0, "endpoint": {"timeout": 3}}  # fmt: skip
    assert choice(error_rate=0.1) != choice()


@pytest.mark.parametrize("recipe", ["raw", "published", "raw+published"])
def test_what_no_generator_writes_is_the_same_with_any(recipe):
    plain = choice(recipe=recipe)
    for settings in (
        {"generator": URL, "model": "m"},
        {"generator": "reader"},
        {"error_rate": 0.5, "seed": 3, "temperature": 0.1, "max_tokens": 99, "check": False},
        {"generator": "nobody", "endpoint": {"x": 1}, "same_examiner": True},
    ):
        assert choice(recipe=recipe, **settings) == plain
    assert plain.who == "source"
    assert choice(recipe=recipe, allow_overlap=3) != plain, "this one is about the probes"
    grid = product(SupervisionChoice, {"recipe": [recipe, "qa:2"], "error_rate": [0.0, 0.5]}, "supervision")
    assert [(one.recipe, one.error_rate) for one in grid] == [(recipe, 0.0), ("qa:2", 0.0), ("qa:2", 0.5)]
    with pytest.raises(Faults, match="unknown key"):
        choice(recipe=recipe, colour=1)


@pytest.mark.parametrize(
    ("settings", "who"),
    [
        ({}, "exact"),
        ({"error_rate": 0.25}, "exact:0.25"),
        ({"generator": "reader"}, "reader"),
        ({"generator": "local", "model": "some/folder/tiny"}, "local:tiny"),
        ({"generator": URL, "model": "org/model-4"}, "org/model-4"),
    ],
)
def test_short_names(settings, who):
    assert choice(**settings).who == who


# -- the writer ------------------------------------------------------------------------------------------------
def never(name: str):
    raise AssertionError(f"{name} was loaded")


def test_writers(source, bases, tmp_path):
    base, loaded = bases["llama"], []

    def load(name: str):
        loaded.append(name)
        return bases["gpt2"]

    def made(cache=None, dry=False, **settings):
        return make_writer(choice(**settings), source, base, cache, load=load, dry=dry)

    assert made(recipe="raw") is None
    exact = made(error_rate=0.25, seed=4)
    assert isinstance(exact, Exact) and (exact.error_rate, exact.seed, exact.name) == (0.25, 4, "exact:0.25")
    reader = made(generator="reader")
    assert isinstance(reader, Reader) and reader.base is base and not loaded
    other = made(generator="reader", model="other")
    assert isinstance(other, Reader) and other.base is bases["gpt2"] and loaded == ["other"]
    assert isinstance(made(generator="reader", dry=True), Exact)

    local = made(generator="local", temperature=0.0, top_p=0.5, seed=3, max_tokens=64, check=False)
    assert isinstance(local, ModelWriter) and isinstance(local.completer, Local)
    assert local.completer.base is base and (local.most_tokens, local.check) == (64, False)
    assert local.completer.sampling.model_dump() == {"temperature": 0.0, "top_p": 0.5, "seed": 3}
    far = made(tmp_path, generator=URL, model="m", endpoint={"timeout": 3, "concurrency": 2})
    assert isinstance(far, ModelWriter) and isinstance(far.completer, Cached) and far.name == "m"
    assert isinstance(far.completer.completer, Endpoint)
    assert (far.completer.completer.config.timeout, far.completer.completer.config.url) == (3.0, URL)


def test_a_dry_run_asks_nobody_but_reads_what_is_kept(source, bases, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    ask = Ask("hello")
    with Server() as server:
        given = choice(generator=server.url, model="m")
        dry = make_writer(given, source, bases["llama"], tmp_path, load=never, dry=True)
        assert isinstance(dry, ModelWriter) and isinstance(dry.completer, Cached)
        assert isinstance(dry.completer.completer, Unasked)
        (reply,) = dry.completer.complete([ask])
        assert getattr(reply, "kind", "") == "limit" and not server.requests
        live = make_writer(given, source, bases["llama"], tmp_path, load=never)
        assert isinstance(live, ModelWriter)
        live.completer.complete([ask])
        (reply,) = dry.completer.complete([ask])
        assert getattr(reply, "text", "") == "yes" and len(server.requests) == 1


def test_the_key_comes_from_the_environment_alone(bases, monkeypatch):
    monkeypatch.setenv("MY_KEY", SECRET)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    with Server() as server:
        given = choice(generator=server.url, model="m", endpoint={"key_env": "MY_KEY"})
        completer = make_completer(given, bases["llama"], load=never)
        completer.complete([Ask("hello")])
        assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr((given, given.identity(), completer.identity(), completer.__dict__))


def test_exact_needs_known_facts(bases):
    folder = Source("folder", (document("a.md", "A."),), ())
    for generator in ("exact", "reader"):
        with pytest.raises(InputError, match="its facts are not known.*use generator local or a URL"):
            make_writer(choice(generator=generator), folder, bases["llama"], None, load=never)
