"""Fuzz targets: files of rows, of supervision and of questions."""

from __future__ import annotations

from pathlib import Path

from loramem.core import files
from loramem.core.parsing import yaml_value
from loramem.sources import published
from loramem.sources.probe_file import read_probes
from loramem.sources.remote import rows
from loramem.sources.types import Document, Record
from loramem.synthesis.supervision import load as load_supervision
from reliability.targeting import fixture, put, target, text_of

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


def small_parquet() -> bytes:
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


@target("rows-parquet", [small_parquet()])
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
