"""Fuzz targets: published data, and folders of documents of every kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loramem.core.config import parse
from loramem.sources import (
    babilong,
    counterfact,
    folder,
    latex,
    narrativeqa,
    paperqa,
    phonebook,
    quality,
    squad,
)
from loramem.sources.catalogue import load_source, source_config
from reliability.files_targets import small_parquet
from reliability.targeting import FIXTURES, count, fixture, put, target, text_of


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
_source("squad", "s.parquet", [small_parquet()])
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
