"""The plan of the fifteen studies at scale `paper`: which modules and readings, and how many tokens each.

Every study is planned by the real planner, on the shapes of its bases (`shapes.planned`). Sources that need a download are stood for
by generated twins with as many documents, tokens and questions (`TWINS`), supervision that a model writes by Almanac's own; then
rows of modules get the lengths of the published data (`LENGTHS`). What studies share is planned once, as the store has it.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shapes import planned

from loramem.answering.readings import STEMS
from loramem.studies import spec
from loramem.studies.grid import resolve
from loramem.studies.learning import Synthesis
from loramem.studies.plan import make_plan
from loramem.studies.series import members
from loramem.studies.tuning import plan_sweeps
from loramem.studies.work import in_order
from loramem.studies.workload import Tokens, reading_kind, tokens_of
from loramem.training import TrainJob

LENGTHS = {"qa": 96, "published": 96, "iterative": 96, "summary": 256, "raw": 1472, "rewrite": 1472}
"""Padded row of each recipe, in tokens, at four characters a token and 16 for the template. Pairs and introductions: the longest of
the ten published PaperQA papers (79.5 and 1,456 tokens). Summaries: the paper's mean tokens come to about 200 each.
Rewrites: as long as what they rewrite. A module's rows are as long as its longest example."""
TWINS: dict[str, dict[str, dict]] = {
    "paperqa": {"": {"name": "almanac-chronicles", "sizes": [1200], "documents": 15, "questions": 5}},
    "narrativeqa": {"": {"name": "almanac-chronicles", "sizes": [14000], "documents": 40, "questions": 5}},
    "quality": {
        "": {"name": "almanac-chronicles", "sizes": [5700], "documents": 60, "questions": 3, "seed": 71},
        "-rest": {"name": "almanac-chronicles", "sizes": [5700], "documents": 55, "questions": 3, "seed": 72},
    },
    "counterfact": {"": {"name": "counterfact"}},
}
"""What stands for a published source: as many documents and questions (30 each, of QuALITY 18), and their mean tokens in the
published files. (A twin has at most 100 documents, so QuALITY's 115 are two.)"""
EXAMPLES = {"iterative": "qa", "published": "qa"}
"""Recipes that need a model or files, and what Almanac writes in their place."""


@dataclass(frozen=True)
class Work:
    """Modules or readings that cost the same.

    Attributes:
        stage: `sweep-train`, `sweep-read`, `train` or `read`: one after the other, each on all workers.
        what: For people: `r=16` or a reading.
        shape: Of modules rank, length, batch, steps and percent of dropout; of readings tokens read and written and rows that
            write.
    """

    study: str
    base: str
    stage: str
    what: str
    shape: tuple[int, ...]
    count: int

    def line(self) -> str:
        numbers = " ".join(map(str, self.shape))
        return f"{self.study} | {self.base} | {self.stage} | {self.what} | {numbers} | {self.count}"

    @classmethod
    def of(cls, line: str) -> Work:
        study, base, stage, what, shape, count = line.split(" | ")
        return cls(study, base, stage, what, tuple(map(int, shape.split())), int(count))


STAGES = ("sweep-train", "sweep-read", "train", "read")


def twin(body: dict) -> dict:
    """A study's body with sources and supervision that need no download and no other model."""
    body = dict(body)
    body["sources"] = {
        key + suffix: stands
        for key, source in body["sources"].items()
        for suffix, stands in _stands_for(source)
    }
    own = body.get("supervision", {"recipe": "raw"})
    body["supervision"] = [
        _exact(one, number) for number, one in enumerate(own if isinstance(own, list) else [own])
    ]
    for name in ("judge", "latency"):
        body.pop(name, None)
    body["metrics"] = [metric for metric in body["metrics"] if metric not in ("judge",)]
    body["retrieval"] = _without(body.get("retrieval") or {}, "embedder")
    body["readings"] = [
        one if isinstance(one, str) else _without(one, "embedder") for one in body["readings"]
    ]
    body["contrasts"] = [
        {**one, "sources": [k for k in body["sources"] if k.partition("-")[0] in one["sources"]]} if "sources" in one else one
        for one in body.get("contrasts") or []
    ]  # fmt: skip
    return body


def _stands_for(source: dict) -> Iterator[tuple[str, dict]]:
    for suffix, stands in TWINS.get(source["name"], {"": {}}).items():
        kept = source if source["name"] == stands.get("name", source["name"]) else {}
        yield suffix, {**_without(kept, "path"), **stands}


def _exact(choice: dict, number: int) -> dict:
    """The same recipes, written by Almanac itself. A second writer of one recipe is told apart by its errors."""
    found = _without(choice, "generator", "model")
    recipes = choice["recipe"] if isinstance(choice["recipe"], list) else [choice["recipe"]]
    found["recipe"] = [_exact_recipe(one) for one in recipes]
    if number > 1 and "generator" in choice:
        found["error_rate"] = 0.5
    return found


def _exact_recipe(recipe: str) -> str:
    parts = [part.partition(":") for part in recipe.split("+")]
    return "+".join(
        f"{EXAMPLES.get(name, name)}:{number or 40}" if name in EXAMPLES else f"{name}{colon}{number}"
        for name, colon, number in parts
    )


def _without(settings: dict, *names: str) -> dict:
    return {key: value for key, value in settings.items() if key not in names}


def length_of(job: TrainJob, recipe: str, key: str) -> int:
    """Padded length of a module's rows at that of the published data; of phonebooks and edits the plan's own."""
    if key in ("phonebook", "counterfact"):
        return job.length
    return max(LENGTHS[part.partition(":")[0]] for part in recipe.split("+"))


QUESTIONS = tuple(name for name in members() if re.fullmatch(r"q\d\d", name))


def expand(names: Sequence[str] = QUESTIONS, say: Callable[[str], None] = print) -> list[Work]:
    """Every module and reading of studies, in the order in which a series runs them: what they share once."""
    found: Counter[Work] = Counter()
    seen: set[str] = set()
    for name in names:
        began = time.perf_counter()
        study = spec.validate(twin(resolve(spec.read_document(name), "paper", ())), "paper")
        before = len(seen)
        for base_name in study.bases:
            base = planned(base_name)
            synthesis = Synthesis(base, pieces=study.file.chunking, dry=True)
            sweeps = [one for group in plan_sweeps(study, base, synthesis).values() for one in group]
            plan = make_plan(study, base, synthesis)
            assert not plan.lost, plan.lost[:3]
            swept = {module.id: module for one in sweeps for module in one.modules}
            for stage, modules in (("sweep-train", swept), ("train", plan.modules)):
                for identity, module in modules.items():
                    if identity not in seen:
                        seen.add(identity)
                        found[_training(name, base_name, stage, module)] += 1
            tried = {task.identity(base): task for one in sweeps for task in one.tasks}
            asked = {task.identity(base): task for cell in plan.cells for task in cell.tasks}
            assert len(in_order([module.job for module in plan.modules.values()])) <= 1, (
                "one round of training"
            )
            for stage, tasks in (("sweep-read", tried), ("read", asked)):
                for identity, task in tasks.items():
                    if identity in seen or (
                        STEMS.get(task.stem).which in ("own", "wrong", "random") and task.module is None
                    ):
                        continue
                    seen.add(identity)
                    found[_reading(name, base_name, stage, task)] += 1
        say(
            f"{name}: {len(seen) - before:,} modules and readings of its own, planned in {time.perf_counter() - began:.0f} s"
        )
    return [replace(work, count=count) for work, count in found.items()]


def _training(study: str, base: str, stage: str, module: Any) -> Work:
    job, length = module.job, length_of(module.job, module.learnt.choice.recipe, module.source_key)
    shape = (job.spec.rank, length, job.optimizer.batch, job.steps, round(100 * job.spec.dropout))
    return Work(study, base, stage, f"r={job.spec.rank}", shape, 0)


_known: dict[tuple, Tokens] = {}


def _reading(study: str, base: str, stage: str, task: Any) -> Work:
    kind = reading_kind(task)
    mark = (
        task.source.hash,
        *kind,
        task.own_document,
        len(task.readable),
        len(task.pool.candidates) if task.pool else 0,
    )
    if mark not in _known:
        _known[mark] = tokens_of(task)
    tokens = _known[mark]
    shape = tuple(_rounded(one) for one in (tokens.read, tokens.written, tokens.writers))
    return Work(study, base, stage, " ".join(str(part) for part in kind[1:6] if part), shape, 0)


def _rounded(number: int) -> int:
    """To two digits, so that readings of nearly the same size are one kind of work."""
    scale = 10 ** max(0, len(str(number)) - 2)
    return round(number / scale) * scale
