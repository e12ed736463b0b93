"""Sources: documents and the probes asked of a memory of them.

A source kind is one module with a frozen config and `build(config, count_tokens) -> list[Source]` (one
per size), and one line in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from loramem.core.config import Config, parse
from loramem.core.errors import Faults, InputError, nearest
from loramem.core.registry import Registry
from loramem.sources import babilong, counterfact, folder, narrativeqa, paperqa, phonebook, quality, squad
from loramem.sources.almanac import articles, chronicles, introductions, stories
from loramem.sources.almanac.recovering import prefix_of
from loramem.sources.types import Document, Probe, Record, Source


@dataclass(frozen=True)
class SourceKind:
    """A config type and the function that builds sources from it."""

    config: type[Config]
    build: Callable[[Any, Callable[[str], int]], list[Source]]
    summary: str
    dev: Callable[[Any, int, Callable[[str], int]], Source] | None = None
    """(config, size, counter) -> a source of the same kind that shares no fact with `build`'s."""
    pairs: Callable[[Any], dict[str, tuple[tuple[str, str], ...]]] | None = None
    """config -> published training pairs by document id, for recipe `published`."""
    lead: Callable[[Source, str], str] | None = None
    """(source, document id) -> what stands before every question about the document."""


KINDS: Registry[SourceKind] = Registry("source")
KINDS.add(
    "phonebook",
    SourceKind(
        phonebook.PhoneBookConfig,
        phonebook.build,
        "names and phone numbers, generated or published slices",
        phonebook.dev,
    ),
)
KINDS.add(
    "counterfact",
    SourceKind(
        counterfact.CounterFactConfig,
        counterfact.build,
        "edited facts: Almanac's common world, ROME, EasyEdit or CSV slices",
        counterfact.dev,
    ),
)
KINDS.add(
    "almanac", SourceKind(articles.AlmanacConfig, articles.build, "generated articles with recall questions")
)
KINDS.add(
    "almanac-papers",
    SourceKind(
        introductions.IntroductionsConfig,
        introductions.build,
        "short generated reports, questions at three levels (twin of PaperQA)",
        introductions.dev,
        lead=prefix_of,
    ),
)
KINDS.add(
    "almanac-chronicles",
    SourceKind(
        chronicles.ChroniclesConfig,
        chronicles.build,
        "long generated documents, one- to three-hop questions (twin of NarrativeQA)",
        chronicles.dev,
    ),
)
KINDS.add(
    "almanac-stories",
    SourceKind(
        stories.StoriesConfig,
        stories.build,
        "generated stories with four-option questions (twin of QuALITY)",
        stories.dev,
    ),
)
KINDS.add(
    "paperqa",
    SourceKind(
        paperqa.PaperQAConfig,
        paperqa.build,
        "introductions of papers, questions at three levels",
        pairs=paperqa.published_pairs,
        lead=paperqa.lead_of,
    ),
)
for _module, _config, _summary in (
    (narrativeqa, narrativeqa.NarrativeQAConfig, "books and film scripts, two reference answers a question"),
    (quality, quality.QualityConfig, "articles with four-option questions, hard subset"),
    (squad, squad.SquadConfig, "passages with questions whose answers stand in them"),
    (babilong, babilong.BabilongConfig, "facts scattered in long texts"),
    (
        folder,
        folder.FolderConfig,
        "your own Markdown, text, HTML and PDF files; questions in a file of their own",
    ),
):
    KINDS.add(_module.__name__.rpartition(".")[2], SourceKind(_config, _module.build, _summary))


def source_config(value: Mapping[str, Any], where: str = "source") -> Config:
    """Validate one entry of a study's `sources`. Raises `Faults` naming everything wrong with it."""
    if "name" not in value:
        raise Faults(f"{where}: no name; {nearest('', KINDS.names())}")
    return parse(KINDS.get(str(value["name"])).config, value, where)


def load_source(config: Config | Mapping[str, Any], count_tokens: Callable[[str], int]) -> list[Source]:
    """Build the sources of a config, one per size, smallest first; sizes are in tokens of `count_tokens`."""
    parsed = config if isinstance(config, Config) else source_config(config)
    return KINDS.get(parsed.name).build(parsed, count_tokens)  # type: ignore[attr-defined]


def load_dev(config: Config, size: int, count_tokens: Callable[[str], int]) -> Source:
    """The dev split of a source: `size` tokens that share no fact with it, on which settings are chosen.

    Raises:
        InputError: this kind has none, or too little is left.
    """
    make = KINDS.get(config.name).dev  # type: ignore[attr-defined]
    if make is None:
        raise InputError(f"source {config.name!r} has no dev split; give lr a value in place of a sweep")  # type: ignore[attr-defined]
    return make(config, size, count_tokens)


def pairs_of(config: Config) -> dict[str, tuple[tuple[str, str], ...]]:
    """The training pairs published with a source, by document id. Raises `InputError` where its kind has none."""
    make = KINDS.get(config.name).pairs  # type: ignore[attr-defined]
    if make is None:
        raise InputError(
            f"recipe published: source {config.name!r} comes without training pairs; use qa:N with a generator"  # type: ignore[attr-defined]
        )
    return make(config)


def leads_of(source: Source) -> dict[str, str]:
    """What stands before every question about each document, where its kind writes ids into questions."""
    lead = KINDS.get(source.name).lead if source.name in KINDS else None
    return {} if lead is None else {document.id: lead(source, document.id) for document in source.documents}


__all__ = [
    "KINDS",
    "Document",
    "Probe",
    "Record",
    "Source",
    "SourceKind",
    "leads_of",
    "load_dev",
    "load_source",
    "pairs_of",
    "source_config",
]
