"""Every parser as a fuzz target: bytes in; out may come a value or a `LoramemError`, nothing else, and soon.

The same targets are run on made-up and mutated input (`test_fuzz_parsers.py`) and, guided by coverage, by `fuzz_guided.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from loramem.answering.asking_settings import Asking
from loramem.answering.routers import Routing
from loramem.cli.app import _decimals, _numbers
from loramem.cli.study import _summary
from loramem.cli.synthesis import _shares
from loramem.core import files
from loramem.core.config import Config, parse
from loramem.core.errors import LoramemError
from loramem.core.parsing import yaml_value
from loramem.metrics.choice import letters_prompt, parse_letter
from loramem.metrics.judge import score_of
from loramem.metrics.rouge import bleu, rouge
from loramem.metrics.text import exact_match, exact_match_digits, same, token_f1, words
from loramem.modules import peft_format
from loramem.modules.merged import Merging
from loramem.modules.recipe import ModuleConfig
from loramem.modules.store import Store
from loramem.report.html import findings_of, text_tables
from loramem.report.overview import overview
from loramem.retrieval import Retrieval
from loramem.sources import (
    babilong,
    counterfact,
    folder,
    latex,
    narrativeqa,
    paperqa,
    phonebook,
    published,
    quality,
    squad,
)
from loramem.sources.catalogue import load_source, source_config
from loramem.sources.chunking import Chunking, check_partition
from loramem.sources.probe_file import read_probes
from loramem.sources.remote import rows
from loramem.sources.types import Document, Record
from loramem.studies import grid, spec
from loramem.studies.compare import compare_runs
from loramem.studies.reading_choice import readings_of
from loramem.studies.results import ITEM_COLUMNS
from loramem.studies.series import STATUS
from loramem.synthesis.completing import Ask
from loramem.synthesis.endpoint import EndpointConfig
from loramem.synthesis.generators import SupervisionChoice
from loramem.synthesis.prompts import items_of, schema
from loramem.synthesis.recipes import parse_recipe
from loramem.synthesis.replies import Teller, parse_json, read_reply
from loramem.synthesis.supervision import load as load_supervision
from tinystudy import BODY

FIXTURES = Path(__file__).parents[1] / "fixtures"
Run = Callable[[bytes, Path], object]


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        run: Parses bytes; a folder of its own is there for files.
        given: Makes the seeds: input that is right, from which mutations start.
        form: What its input is: `json` and `jsonl` are also changed value by value.
    """

    run: Run
    given: Callable[[], tuple[bytes, ...]]
    form: str = "bytes"

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        return self.given()


TARGETS: dict[str, Target] = {}


def attempt(name: str, data: bytes, where: Path) -> None:
    """Run a target. Anything but a `LoramemError` is a finding."""
    try:
        TARGETS[name].run(data, where)
    except LoramemError as error:
        str(error).encode("utf-8", "backslashreplace")


Seeds = Iterable[bytes | str | object]


def target(name: str, seeds: Seeds | Callable[[], Seeds], form: str = "bytes") -> Callable[[Run], Run]:
    """Register a target. Seeds that take long to make are given as a function."""

    def plain(seed: object) -> bytes:
        if isinstance(seed, bytes):
            return seed
        return (seed if isinstance(seed, str) else json.dumps(seed)).encode()

    def add(run: Run) -> Run:
        assert name not in TARGETS, name
        TARGETS[name] = Target(run, lambda: tuple(map(plain, seeds() if callable(seeds) else seeds)), form)
        return run

    return add


def put(where: Path, name: str, data: bytes) -> Path:
    path = where / name
    path.write_bytes(data)
    return path


def text_of(data: bytes) -> str:
    """Any text, lone surrogates among it."""
    try:
        return data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data.decode("utf-8", "surrogateescape")


def value_of(data: bytes) -> Any:
    """Any JSON or YAML value; None where the bytes are none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def count(text: str) -> int:
    return len(text.split())


def fixture(*names: str) -> list[bytes]:
    return [(FIXTURES / name).read_bytes() for name in names]


# -- files -----------------------------------------------------------------------------------------------------
for _name, _read, _form in (
    ("text", files.read_text, "bytes"),
    ("json", files.read_json, "json"),
    ("jsonl", files.read_jsonl, "jsonl"),
):
    target(_name, ['{"a": [1, 2.5, null, "ü", "\\ud83d\\ude00"]}'], _form)(
        lambda data, where, read=_read: read(put(where, "f", data))
    )


@target("yaml", ["a: &a [1, 2.5, ~, yes]\nb: *a\nc:\n  <<: {d: 1}\n  e: |\n    text\n# more\n"])
def _(data: bytes, where: Path) -> None:
    yaml_value(text_of(data), lambda line: f"y:{line}")


for _suffix, _seeds in {
    "json": ['[{"a": 1, "b": "x"}]', '{"k": {"a": 1}}', '{"a": 1}\n{"a": 2}'],
    "jsonl": ['{"a": 1}\n\n{"a": "x"}\n'],
    "csv": ['a,b\n1,"x, y"\n2,z\n'],
    "tsv": ["a\tb\n1\t'x\n"],
    "": ['{"a": 1}\n{"a": 2}'],
}.items():
    target(f"rows-{_suffix or 'none'}", _seeds, "jsonl" if _suffix == "jsonl" else "bytes")(
        lambda data, where, suffix=_suffix: list(rows(put(where, f"f.{suffix}" if suffix else "f", data), []))
    )


def _parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    held = io.BytesIO()
    table = pa.table(
        {
            "context": ["Ada is here.", "x"],
            "question": ["Who?", "Where?"],
            "answers": [["Ada"], ["here"]],
            "n": [1, 2],
        }
    )
    pq.write_table(table, held, compression="none")
    return held.getvalue()


@target("rows-parquet", [_parquet()])
def _(data: bytes, where: Path) -> None:
    list(rows(put(where, "f.parquet", data), []))


@target("csv-column", fixture("phonebook/phonebook_qa_1K.csv"))
def _(data: bytes, where: Path) -> None:
    published.read_column(put(where, "f.csv", data))


@target("supervision", ['{"question": "Who?", "answer": "Ada", "span": [0, 3]}\n{"form": "cloze", "prompt": "p", "answer": "a", "tokens_spent": 3}\n{"text": "t"}\n'], "jsonl")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    learnt = load_supervision(put(where, "s.jsonl", data))
    _ = learnt.hash, learnt.text


for _suffix in ("jsonl", "json", "csv", "tsv"):
    _seed = {
        "csv": "document,question,answer\na.md,Who?,Ada\n",
        "tsv": "document\tquestion\tanswer\na.md\tWho?\tAda\n",
    }.get(
        _suffix,
        '{"document": "a.md", "question": "Who?", "answers": ["Ada"], "level": "recall", "split": "test", "id": 1}\n',
    )
    target(f"questions-{_suffix}", [_seed], "jsonl" if _suffix == "jsonl" else "bytes")(
        lambda data, where, suffix=_suffix: read_probes(
            put(where, f"q.{suffix}", data), [Document("a.md", (Record("a.md:0", "Ada is here."),))]
        )
    )


# -- sources ---------------------------------------------------------------------------------------------------
def _built(name: str, settings: dict[str, Any]) -> None:
    for source in load_source(source_config({"name": name, **settings}), count):
        _ = source.hash, source.text


def _source(name: str, file: str, seeds: list[bytes], form: str = "bytes", **settings: Any) -> None:
    @target(f"source-{name}-{file.rpartition('.')[2]}", seeds, form)
    def _(data: bytes, where: Path) -> None:
        _built(name, {"path": str(put(where, file, data)), **settings})


_source("phonebook", "p.csv", fixture("phonebook/phonebook_qa_1K.csv"), sizes=[5])
_source("counterfact", "c.json", fixture("counterfact/records.json"), "json", sizes=[2])
_source("squad", "s.json", fixture("squad/v2.json", "squad/passages.json"), "json")
_source("squad", "s.jsonl", fixture("squad/flat.jsonl"), "jsonl")
_source("squad", "s.parquet", [_parquet()])
_source(
    "quality",
    "q.jsonl",
    fixture("quality/official.jsonl", "quality/flat.jsonl", "quality/leval.jsonl"),
    "jsonl",
)
_source("paperqa", "p.json", fixture("paperqa/paperQA_0-1.json"), "json")
_source(
    "narrativeqa",
    "n.jsonl",
    fixture("narrativeqa/hub.jsonl", "narrativeqa/passages.jsonl", "narrativeqa/texts.jsonl"),
    "jsonl",
)
_source("narrativeqa", "n.tsv", fixture("narrativeqa/questions.tsv"))
_source("babilong", "qa1_4k.json", fixture("babilong/data/qa1/4k.json"), "json")
_source("babilong", "qa1_x.txt", fixture("babilong/babi/qa1_single-supporting-fact_test.txt"))


@target(
    "counterfact-snippets", [[{"relation_id": "P1", "target_id": "Q1", "samples": [{"text": "t"}]}]], "json"
)
def _(data: bytes, where: Path) -> None:
    counterfact.read_snippets(put(where, "s.json", data))


@target("phonebook-evaluation", fixture("phonebook/phonebook_eval_qa_2K.json"), "json")
def _(data: bytes, where: Path) -> None:
    phonebook.check_evaluation(put(where, "e.json", data), [phonebook.Entry("Ada Quill", "201-555-0101")])


@target("paperqa-pairs", fixture("paperqa/paper_0_qa.jsonl"), "jsonl")
def _(data: bytes, where: Path) -> None:
    put(where, "paper_0_qa.jsonl", data)
    put(where, "p.json", b'[{"id": 0, "title": "t", "introduction": "i", "QA": []}]')
    paperqa.published_pairs(source_config({"name": "paperqa", "path": str(where / "p.json")}))  # type: ignore[arg-type]


@target("narrativeqa-official", fixture("narrativeqa/qaps.csv"))
def _(data: bytes, where: Path) -> None:
    for name in ("documents.csv", "summaries.csv"):
        put(where, name, (FIXTURES / "narrativeqa" / name).read_bytes())
    put(where, "qaps.csv", data)
    put(where, "aaa.content", data)
    _built("narrativeqa", {"path": str(where), "text": "summary"})


def _pdf() -> bytes:
    """A page that says "Ada here"."""
    drawn = b"BT /F 9 Tf (Ada here) Tj ET"
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(drawn), drawn),
    )  # fmt: skip
    found, starts = b"%PDF-1.4\n", []
    for number, held in enumerate(objects, start=1):
        starts.append(len(found))
        found += b"%d 0 obj%s\nendobj\n" % (number, held)
    table = b"".join(b"%010d 00000 n \n" % start for start in starts)
    end = b"xref\n0 5\n0000000000 65535 f \n%strailer<</Root 1 0 R/Size 5>>\nstartxref\n%d\n%%%%EOF"
    return found + end % (table, len(found))


for _suffix, _seed in {
    "md": b"---\ntitle: T\n---\n# A\n\nAda is *here*.\n\n```\ncode\n```\n",
    "txt": b"A\n===\nAda is here. Dr. Bela left.",
    "html": b"<title>T</title><h1>A</h1><p>Ada <b>is</b><br>here</p><pre> x </pre><ul><li>y</ul><script>s</script>",
    "pdf": _pdf(),
}.items():
    target(f"document-{_suffix}", [_seed])(lambda data, where, suffix=_suffix: _folder(data, where, suffix))


def _folder(data: bytes, where: Path, suffix: str) -> None:
    (where / "docs").mkdir(exist_ok=True)
    put(where / "docs", f"d.{suffix}", data)
    for source in folder.build(parse(folder.FolderConfig, {"path": str(where / "docs")}), count):
        _ = source.hash


LATEX = r"""\newcommand{\lamp}{Lumo}
\title{Lamps}\begin{document}\begin{abstract}x\end{abstract}
\section{Introduction}\label{a} \lamp{} burns~\cite{b}, see \ref{a}: $a<b$ \emph{nine \textbf{hours}}. % not this
\begin{itemize}\item Z\"oe \'e\end{itemize}\footnote{x} \href{u}{it}
\section{Two}\input{main2}\end{document}"""


@target("latex", [LATEX])
def _(data: bytes, where: Path) -> None:
    latex.latex_introduction(put(where, "main.tex", b"\\documentclass{article}\n" + data))


@target(
    "cleaning",
    [b"Produced by X\n\nTHE PROJECT GUTENBERG EBOOK\n*** START ***\n\n<p>one</p> INT. A\nEXT. B\nCUT TO\n"],
)
def _(data: bytes, where: Path) -> None:
    text = text_of(data)
    narrativeqa.cleaned(text)
    quality.plain(text)
    paperqa.styled(text, "0", "natural")
    squad.slug(text)
    babilong.exact_match(text, "kitchen", "Where?", "qa1")
    paperqa.introduction_of_text("Introduction\n" + text)


# -- settings --------------------------------------------------------------------------------------------------
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


# -- adapters and runs -----------------------------------------------------------------------------------------
def _adapter() -> tuple[bytes, bytes]:
    """(config, weights) of a small adapter as PEFT writes it."""
    import torch
    from safetensors.torch import save

    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = save(
        {name.format("A"): torch.zeros(2, 4), name.format("B"): torch.zeros(4, 2)}, metadata={"format": "pt"}
    )
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "target_modules": ["q_proj"],
        "bias": "none",
        "layers_to_transform": [0],
        "use_dora": False,
    }
    return json.dumps(config).encode(), weights


@target("adapter-config", [_adapter()[0]], "json")
def _(data: bytes, where: Path) -> None:
    put(where, peft_format.CONFIG, data)
    put(where, peft_format.WEIGHTS, _adapter()[1])
    peft_format.load(where)


@target("adapter-weights", [_adapter()[1]])
def _(data: bytes, where: Path) -> None:
    put(where, peft_format.CONFIG, _adapter()[0])
    put(where, peft_format.WEIGHTS, data)
    peft_format.load(where)


@target(
    "module-recipe",
    [{"id": "a", "recipe": {"type": "trained", "base": "x", "spec": {"rank": 1}, "seed": 0}}],
    "json",
)
def _(data: bytes, where: Path) -> None:
    home = where / "modules" / ("a" * 64)
    home.mkdir(parents=True, exist_ok=True)
    put(home, "recipe.json", data)
    store = Store(where, look=True)
    for one in (*store.modules(), store.module("a")):
        _ = one.recipe.get("base"), one.text


@target("module-name", ["a", "aaaa"])
def _(data: bytes, where: Path) -> None:
    home = where / "modules" / ("a" * 64)
    home.mkdir(parents=True, exist_ok=True)
    put(home, "recipe.json", b'{"recipe": {}}')
    Store(where, look=True).module(text_of(data))


# -- what models say -------------------------------------------------------------------------------------------
@target("letters", ["The answer is B", "(c) red", "**A**", "B. Vitamin C"])
def _(data: bytes, where: Path) -> None:
    text = text_of(data)
    options = ["red", "Vitamin C", text, "A man"]
    parse_letter(text, 4, options)
    parse_letter(text, 2)
    letters_prompt(text, options)


@target("judge-score", [{"reason": "right", "score": 8}, {"score": "8.5"}], "json")
def _(data: bytes, where: Path) -> None:
    score = score_of(value_of(data))
    assert score is None or 0 <= score <= 10


@target(
    "generator-json",
    [
        '{"items": [{"question": "Who?", "answer": "Ada"}]}',
        '```json\n{"items": [{"question": "Who?", "answer": "Ada"}]}\n```',
    ],
)
def _(data: bytes, where: Path) -> None:
    text = data.decode("utf-8", "replace")
    try:
        value = parse_json(text, schema("chat", 3))
    except (ValueError, RecursionError):  # documented: the caller makes it a named failure
        return
    items_of(value, "chat", "")


@target("generator-items", [{"items": [{"question": "Who?", "answer": "Ada"}, {"text": "x"}]}], "json")
def _(data: bytes, where: Path) -> None:
    for form in ("chat", "text"):
        items_of(value_of(data), form, "lead ")


@target("endpoint-reply", [{"choices": [{"message": {"content": '{"items": []}'}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}, {"error": {"message": "no"}}], "json")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    for ask in (Ask("q"), Ask("q", schema=schema("chat", 3))):
        read_reply(data, ask, 0.1, lambda a, b: 1e-6 * (a + b), Teller("key"))


@target("scores", ["smoked trout pie", "603-556-7631", "東京 ﬁn"])
def _(data: bytes, where: Path) -> None:
    text = data.decode("utf-8", "replace")
    for score in (exact_match, exact_match_digits, token_f1):
        assert 0 <= score(text, "the trout pie 603") <= 1
        score("x", text)
    _ = words(text), same(text)
    assert 0 <= rouge(text, ["the trout pie", text], "rougeL") <= 1
    assert 0 <= bleu(text, ["the trout pie"]) <= 1


@target(
    "endpoint-error",
    [{"error": {"message": "no", "code": "x", "metadata": {"reasons": []}}}, ["text"]],
    "json",
)
def _(data: bytes, where: Path) -> None:
    from loramem.synthesis.replies import message_of

    Teller("key")(message_of(value_of(data)))


def _run() -> tuple[dict, Any]:
    from madeup import whole_study

    return whole_study()


@target("summary", lambda: [{**_run()[0], "verdicts": []}], "json")
def _(data: bytes, where: Path) -> None:
    path = put(where, "summary.json", data)
    summary = _summary(where)
    with files.damage_in(path):
        text_tables(summary)
        findings_of(summary)


@target("series", [{"scale": "quick", "command": "c", "studies": [{"study": "q02", "question": "q", "state": "failed", "error": "e", "seconds": 1.5}]}], "json")  # fmt: skip
def _(data: bytes, where: Path) -> None:
    path = put(where, STATUS, data)
    with files.damage_in(path):
        overview(where)


def _items() -> list[bytes]:
    import io

    held = io.BytesIO()
    _run()[1].head(8).reindex(columns=list(ITEM_COLUMNS)).to_parquet(held, index=False, compression=None)
    return [held.getvalue()]


@target("items", _items)
def _(data: bytes, where: Path) -> None:
    put(where, "items.parquet", data)
    put(where, "summary.json", b"{}")
    compare_runs(where, where)
