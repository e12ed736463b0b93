"""Fuzz targets: study files, settings, names and recipes."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from loramem.answering.asking_settings import Asking
from loramem.answering.routers import Routing
from loramem.cli.app import _decimals, _numbers
from loramem.cli.synthesis import _shares
from loramem.core.config import Config, parse
from loramem.core.errors import LoramemError
from loramem.modules.merged import Merging
from loramem.modules.recipe import ModuleConfig
from loramem.retrieval import Retrieval
from loramem.sources.catalogue import source_config
from loramem.sources.chunking import Chunking, check_partition
from loramem.studies import grid, spec
from loramem.studies.reading_choice import readings_of
from loramem.synthesis.endpoint import EndpointConfig
from loramem.synthesis.generators import SupervisionChoice
from loramem.synthesis.recipes import parse_recipe
from reliability.targeting import put, target, text_of, value_of
from tinystudy import BODY


@target(
    "study-file",
    [
        yaml.safe_dump({**BODY, "scales": {"laptop": {"seeds": 3}}}),
        "extends: quick\nseeds: 1\nscales: {laptop: &x {modules.spec.rank: [1, 2]}}\n",
    ],
)
def _(data: bytes, where: Path) -> None:
    path = put(where, "s.yaml", data)
    for scale in ("quick", "laptop"):
        spec.load(str(path), scale=scale)


@target("study-body", [BODY, {**BODY, "scales": {"laptop": {"seeds": 2, "sources.phonebook.sizes": [9]}}, "contrasts": [{"sources": ["phonebook"], "sizes": [60], "partitions": ["corpus"], "supervisions": ["raw"], "modules.spec.rank": [2]}], "skip": [{"source": "phonebook", "rank": [1]}], "capacity": {"phonebook": {"metric": "exact_match", "thresholds": [0.9]}}, "expect": [{"claim": "c", "metric": "exact_match", "compare": ["largest", "smallest"]}], "judge": {"model": "m", "url": "http://h/v1", "endpoint": {"timeout": 3}}, "retrieval": {"method": ["bm25", "embedding"]}, "harm": {"facts": 3}, "latency": {"repeats": 1}}], "json")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    body = value_of(data)
    if isinstance(body, dict):
        for scale in ("quick", "laptop"):
            try:
                spec.validate(grid.resolve(body, scale, ()), scale)
            except LoramemError as error:
                str(error)


@target(
    "assignment",
    [
        "modules.spec.rank=[2,8]",
        "seeds=3",
        "modules.optimizer.lr={1: 0.1, 4: 0.2}",
        "readings=[closed, {reading: module, module_on: answer}]",
    ],
)
def _(data: bytes, where: Path) -> None:
    body = json.loads(json.dumps(BODY))
    grid.set_path(body, *grid.parse_assignment(text_of(data)))
    spec.validate(body, "quick")


@target("readings", [["closed", {"reading": "merged", "router": ["bm25", "embedding"], "rule": "cat", "top_k": [2], "weights": [[0.5, 0.5]], "none_below": 0.5, "abstain": True}]], "json")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    entries = value_of(data)
    if isinstance(entries, list):
        for one in readings_of([entry for entry in entries if isinstance(entry, str | dict)]):
            _ = one.label


_CONFIGS: dict[str, tuple[type[Config], object]] = {
    "routing": (Routing, {"router": "lag", "shortlist": 3, "key": "document", "top_k": 2, "temperature": 0.5}),
    "merging": (Merging, {"rule": "dare-ties-delta", "density": 0.5, "seed": 3, "weights": [0.5, 0.5], "rank": 4}),
    "retrieval": (Retrieval, {"method": "embedding", "passages_k": 3, "embedder": "minilm"}),
    "asking": (Asking, {"reading": "merged+rag", "routing": {"router": "bm25"}, "merging": {"rule": "cat"}, "retrieval": {"passages_k": 2}, "always": True}),
    "module-config": (ModuleConfig, {
        "spec": {"rank": 2, "alpha": "rank", "targets": ["q_proj"], "layers": [0, 1], "variant": "dora"}, "objective": {"name": "dcd", "hidden": "all"},
        "budget": {"plateau": {"max_exposures": 9}, "snapshots": [1]}, "optimizer": {"lr": 0.1, "batch": 4}, "distractors": {"modules": ["a" * 64]},
    }),
    "supervision-choice": (SupervisionChoice, {"recipe": "raw+qa:3", "generator": "http://h/v1", "model": "m", "endpoint": {"timeout": 3, "omit": ["seed"]}}),
    "endpoint": (EndpointConfig, {"url": "http://localhost:8000/v1", "model": "m", "price_in": 1, "price_out": 2, "cost_limit": 3}),
}  # fmt: skip
for _name, (_kind, _seed) in _CONFIGS.items():

    @target(f"config-{_name}", [_seed], "json")
    def _(data: bytes, where: Path, kind: type[Config] = _kind) -> None:
        value = value_of(data)
        if isinstance(value, dict):
            made = parse(kind, value, "given")
            _ = (
                made.identity(),
                getattr(made, "label", None),
                getattr(getattr(made, "budget", None), "label", None),
            )


@target(
    "source-config",
    [
        {"name": "folder", "path": "d", "ids": ["a"]},
        {"name": "babilong", "path": "d", "tasks": ["qa1"], "length": "4k"},
    ],
    "json",
)
def _(data: bytes, where: Path) -> None:
    value = value_of(data)
    if isinstance(value, dict):
        source_config(value)


@target(
    "names",
    [
        "qa:40+summary:8",
        "raw + QA:3",
        "structure:512",
        "2048/200",
        "tokens:8000",
        "0.5,0.5",
        "1,2,3",
        "0,0.2,0.8",
    ],
)
def _(data: bytes, where: Path) -> None:
    text = text_of(data)
    for read in (
        parse_recipe, Chunking.parse, check_partition, lambda t: _numbers("--sizes", t), lambda t: _decimals("--weights", t), _shares,
        spec.find, lambda t: source_config({"name": t}), lambda t: readings_of([t]),
    ):  # fmt: skip
        try:
            read(text)  # type: ignore[operator]
        except LoramemError as error:
            str(error)
