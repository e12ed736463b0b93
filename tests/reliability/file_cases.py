"""Files of rows, of supervision and of questions, and folders of documents, that cannot be used."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reliability.case import Case, Cases, Content

LINE = "Question: What is the phone number of Ada Quill? Answer: 201-555-0101"
FLAT = {"id": "1", "title": "T", "context": "Ada is here.", "question": "Who?", "answers": ["Ada"]}
NESTED = "[" * 100_000
DIGITS = "9" * 5000


def lines(*rows: object) -> str:
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n"


def prepared(source: str, name: str, content: Content, *says: str, more: str = "") -> Case:
    """A file of published data."""
    command = f"data prepare {source} --from {name} --to out --base {{base}} {more}"
    return Case(command, says, {name: content}, about=("--from",))


def phones(content: Content, *says: str) -> Case:
    return prepared("phonebook", "p.csv", content, *says, more="--sizes 10")


def trained(content: Content, *says: str) -> Case:
    """A file of supervision."""
    command = "modules train --supervision s.jsonl --rank 1 --steps 1 --base {base}"
    return Case(command, says, {"s.jsonl": content}, about=("--supervision",))


def asked(content: Content, *says: str, name: str = "q.jsonl") -> Case:
    """A file of questions about a folder of one document, a.md."""
    files: dict[str, Content] = {"docs/a.md": "# A\n\nAda is here.\n", name: content}
    return Case(
        f"data prepare folder --from docs --to out --base {{base}} --set probes={name}",
        says,
        files,
        about=("--set",),
    )


def folder(files: dict[str, Content], *says: str, more: str = "") -> Case:
    """A folder of documents."""
    return Case(
        f"synth docs --recipe raw --out new/s.jsonl --base {{base}} {more}", says, files, about=("source",)
    )


def parquet(*columns: Any, **named: Any) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(named), path)

    return make


def half(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def torn(path: Path) -> None:
        make(path)
        os.truncate(path, path.stat().st_size // 2)

    return torn


def no_utf8(path: Path) -> None:
    """Parquet that says text and holds other bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    held = pa.array([b"\xff\xfe\xfd"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"context": held, "question": ["q"], "answers": [["a"]]}), path)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def nowhere(path: Path) -> None:
    """A file whose name is not UTF-8."""
    path.unlink(missing_ok=True)
    with open(os.fsencode(path.parent) + b"/n\xff\xfe.md", "w") as file:
        file.write("text")


PDF = b"%PDF-1.4\n1 0 obj\n<< /Type /Catalog /Pages 2 0 R >>\nendobj\nxref\n0 9\n"

TABLES: Cases = {
    "csv-empty": phones("", "p.csv", "empty file"),
    "csv-header-only": phones("text\n", "p.csv: no rows below the header"),
    "csv-blank-lines": phones("text\n\n\n \n", "p.csv"),
    "csv-without-the-column": phones(f"line\n{LINE}\n", "p.csv:1: no 'text' column; it has 'line'"),
    "csv-ragged": phones(f"text,n\n{LINE},1\n{LINE}\n{LINE},2,3\n", "p.csv:3: 1 fields, expected 2", "p.csv:4: 3 fields, expected 2"),
    "csv-header-twice": phones(f"text,text\n{LINE},{LINE}\n", "p.csv:1", "'text'", "twice"),
    "csv-nul": phones(f"text\n{LINE}\x00\n", "p.csv:2: holds a NUL byte"),
    "csv-quote-unclosed": phones(f'text\n"{LINE}\n', "p.csv", "not CSV"),
    "csv-quote-in-the-middle": phones(f'text\n"a"b\n{LINE}\n', "p.csv:2: not CSV"),
    "csv-huge-field": phones("text\n" + "x" * 17_000_000 + "\n", "p.csv", "not CSV (field larger than field limit"),
    "csv-other-lines": phones("text\nAda 201-555-0101\n", "p.csv:2: not 'Question: What is the phone number of NAME?"),
    "csv-two-numbers-of-one-name": phones(f"text\n{LINE}\n{LINE[:-1]}9\n", "p.csv:3: 'Ada Quill' has another number in line 2"),
    "csv-latin-1": phones("text\nZo\xeb\n".encode("latin-1"), "p.csv: not UTF-8 text (byte 7)"),
    "csv-utf-16": phones(f"text\n{LINE}\n".encode("utf-16"), "p.csv", "UTF-16"),
    "csv-is-a-folder": phones(lambda path: path.mkdir(), "p.csv", "no file named like phonebook_qa_8K.csv"),
    "csv-smaller-than-the-size": prepared("phonebook", "p.csv", f"text\n{LINE}\n", "size 5000 is larger than the data", more="--sizes 5000"),
    "csv-no-slice-of-that-size": Case(
        "data prepare phonebook --from d --slices published --sizes 5000 --to out --base {base}", ("no published slice of 5000 tokens; allowed: 8000",),
        {"d/phonebook_qa_8K.csv": f"text\n{LINE}\n"}, about=("--slices", "--sizes"),
    ),
    "tsv-ragged": prepared("narrativeqa", "q.tsv", "Question\tAnswer1\tAnswer2\nwho?\tada\n", "q.tsv:2: 2 fields, expected 3"),
    "tsv-header-twice": prepared("narrativeqa", "q.tsv", "Question\tAnswer1\tAnswer1\nwho?\tada\tbela\n", "q.tsv:1", "'Answer1'", "twice"),
    "tsv-without-answers": prepared("narrativeqa", "q.tsv", "Question\tAnswer1\nwho?\t \n", "q.tsv:2: needs Answer1"),
    "tsv-of-other-columns": prepared("narrativeqa", "q.tsv", "a\tb\n1\t2\n", "q.tsv:2: columns a, b are none of the forms"),
    "tsv-nul": prepared("narrativeqa", "q.tsv", "Question\tAnswer1\nwho?\ta\x00\n", "q.tsv:2: holds a NUL byte"),
    "parquet-is-text": prepared("squad", "s.parquet", "hello", "s.parquet: not parquet"),
    "parquet-empty": prepared("squad", "s.parquet", b"", "s.parquet: not parquet"),
    "parquet-half": prepared("squad", "s.parquet", half(parquet(context=["c"], question=["q"], answers=[["a"]])), "s.parquet: not parquet"),
    "parquet-of-other-columns": prepared("squad", "s.parquet", parquet(a=[1, 2]), "s.parquet: row 1"),
    "parquet-of-numbers": prepared("squad", "s.parquet", parquet(context=[1], question=["q"], answers=[["a"]]), "s.parquet: row 1: needs context (text)"),
    "parquet-no-utf-8": prepared("squad", "s.parquet", no_utf8, "s.parquet"),
    "parquet-without-rows": prepared("squad", "s.parquet", parquet(context=[], question=[]), "s.parquet"),
}  # fmt: skip

JSON: Cases = {
    "json-half": prepared("squad", "s.json", '[{"context": "a",\n "question"', "s.json:2: not JSON"),
    "json-empty": prepared("squad", "s.json", "", "s.json: empty file"),
    "json-a-number": prepared("squad", "s.json", "5", "s.json: expected an object, found int"),
    "json-a-list-of-numbers": prepared("squad", "s.json", "[1, null]", "s.json: item 1: expected an object, found int", "item 2"),
    "json-an-empty-list": prepared("squad", "s.json", "[]", "s.json: no passages"),
    "json-deep": prepared("squad", "s.json", NESTED, "s.json", "nested too deeply"),
    "json-deep-in-a-line": prepared("squad", "s.jsonl", lines(FLAT, NESTED), "s.jsonl:2", "nested too deeply"),
    "json-5000-digits": prepared("squad", "s.jsonl", lines(FLAT, f'{{"context": {DIGITS}}}'), "s.jsonl:2", "digits"),
    "json-nan": prepared("squad", "s.jsonl", lines(FLAT, '{"context": NaN}'), "s.jsonl:2", "NaN"),
    "json-half-a-character": prepared("squad", "s.jsonl", lines({**FLAT, "context": "a\ud800b"}), "s.jsonl:1", "half a character"),
    "json-key-twice": prepared("squad", "s.jsonl", '{"context": "a", "context": "b", "question": "q", "answers": ["a"]}', "s.jsonl:1", "'context'", "twice"),
    "json-ids-twice": prepared("squad", "s.jsonl", lines(FLAT, {**FLAT, "question": "When?"}), "s.jsonl:2: question 1 stands already"),
    "json-one-line-of-50-megabytes": prepared("squad", "s.jsonl", '{"context": "' + "x" * 50_000_000, "s.jsonl:1: not JSON"),
    "json-answers-of-the-wrong-type": prepared("squad", "s.jsonl", lines({**FLAT, "answers": {"text": "a"}}), "s.jsonl:1: needs answers"),
    "json-blank-context": prepared("squad", "s.jsonl", lines({**FLAT, "context": "\u200b \u2060"}), "s.jsonl:1: needs context (text)"),
    "json-article-of-numbers": prepared("squad", "s.json", '{"data": [5, {"title": [], "paragraphs": [5]}]}', "s.json"),
    "json-quality-gold-beyond": prepared("quality", "q.jsonl", lines({"article_id": 1, "article": "a", "questions": [{"question": "q", "options": ["a", "b"], "gold_label": 9}]}), "gold_label 9: needs a number from 1 to 2"),
    "json-quality-gold-true": prepared("quality", "q.jsonl", lines({"article_id": 1, "article": "a", "questions": [{"question": "q", "options": ["a", "b"], "gold_label": True}]}), "gold_label True"),
    "json-quality-one-option": prepared("quality", "q.jsonl", lines({"article_id": 1, "article": "a", "questions": [{"question": "q", "options": ["a"], "gold_label": 1}]}), "needs two texts or more"),
    "json-quality-leval-of-numbers": prepared("quality", "q.jsonl", lines({"input": "a", "instructions": [5], "outputs": [6]}), "q.jsonl:1: instruction 1"),
    "json-quality-article-of-no-text": prepared("quality", "q.jsonl", lines({"article_id": 1, "article": "<p> </p>", "questions": [{"question": "q", "options": ["a", "b"], "gold_label": 1}]}), "holds no text"),
    "json-paperqa-level": prepared("paperqa", "p.json", lines([{"id": 1, "title": "t", "introduction": "i", "QA": [{"level": 9, "question": "q", "answer": "a"}]}]), "question 1: level 9; allowed:"),
    "json-paperqa-ids-twice": prepared("paperqa", "p.json", json.dumps([{"id": 1, "title": "t", "introduction": "i", "QA": []}] * 2), "paper 1 stands already"),
    "json-counterfact-cases-twice": prepared("counterfact", "c.json", json.dumps([{"case_id": 1, "prompt": "p", "subject": "s", "target_new": "n", "ground_truth": "t"}] * 2), "case 1 stands already at record 1", more="--sizes 10"),
    "json-counterfact-half-a-record": prepared("counterfact", "c.json", '[{"case_id": 1, "requested_rewrite": {"prompt": 5}}]', "record 1 (case 1): needs requested_rewrite", more="--sizes 10"),
    "json-counterfact-no-list": prepared("counterfact", "c.json", '{"case_id": 1}', "expected a non-empty JSON list, found dict", more="--sizes 10"),
    "json-babilong-no-task": prepared("babilong", "x.json", lines([{"input": "i", "question": "q", "target": "t"}]), "neither its name nor its folder says the task"),
    "json-babilong-blank": prepared("babilong", "qa1_4k.json", lines([{"input": " ", "question": "q", "target": "t"}]), "needs input (text)"),
    "text-babi-of-other-lines": prepared("babilong", "qa1_x.txt", "Mary went\n", "qa1_x.txt:1: not 'NUMBER FACT'"),
    "url-without-a-checksum": Case("data prepare squad --from http://127.0.0.1:{port}/x.json --to out --base {base}", ("sha256: HEX is needed",), about=("--from",)),
    "url-of-a-bad-scheme": Case(f"data prepare squad --from ftp://h/x --set sha256={'a' * 64} --to out --base {{base}}", ("allowed: http, https",), about=("--from",)),
    "url-refused": Case(f"data prepare squad --from http://127.0.0.1:{{port}}/x.json --set sha256={'a' * 64} --to out --base {{base}}", ("cannot be downloaded",), about=("--from",), environment={"HF_HUB_OFFLINE": "0"}),
    "url-of-no-port": Case(f"data prepare squad --from http://h:port/x --set sha256={'a' * 64} --to out --base {{base}}", ("cannot be downloaded",), about=("--from",), environment={"HF_HUB_OFFLINE": "0"}),
    "url-half-a-bracket": Case(f"data prepare squad --from http://[::1/x --set sha256={'a' * 64} --to out --base {{base}}", ("path 'http://[::1/x'",), about=("--from",)),
}  # fmt: skip

SUPERVISION: Cases = {
    "supervision-empty": trained("", "s.jsonl: holds no examples"),
    "supervision-blank-lines": trained("\n \n\n", "s.jsonl: holds no examples"),
    "supervision-missing": Case("modules train --supervision none.jsonl --base {base}", ("no such file: none.jsonl",), about=("--supervision",)),
    "supervision-is-a-folder": trained(lambda path: path.mkdir(), "s.jsonl", "folder"),
    "supervision-is-a-device": Case("modules train --supervision /dev/zero --base {base}", ("/dev/zero", "a device"), about=("--supervision",)),
    "supervision-below-a-file": Case("modules train --supervision a/s.jsonl --base {base}", ("a/s.jsonl",), {"a": "x"}, about=("--supervision",)),
    "supervision-without-an-answer": trained(lines({"question": "Who?"}), "s.jsonl:1", "answer"),
    "supervision-with-an-empty-answer": trained(lines({"question": "Who?", "answer": ""}), "s.jsonl:1", "answer"),
    "supervision-with-a-blank-answer": trained(lines({"question": "Who?", "answer": " \t\n\u3000"}), "s.jsonl:1", "answer"),
    "supervision-with-control-characters-for-an-answer": trained(lines({"question": "Who?", "answer": "\x00\x07\x1b"}), "s.jsonl:1", "answer"),
    "supervision-with-an-answer-nobody-sees": trained(lines({"question": "Who?", "answer": "\u200b\u200d\ufe0f\u2060"}), "s.jsonl:1", "answer"),
    "supervision-with-a-blank-question": trained(lines({"question": " ", "answer": "Ada"}), "s.jsonl:1", "prompt"),
    "supervision-of-an-unknown-form": trained(lines({"form": "chta", "prompt": "p", "answer": "a"}), "s.jsonl:1", "'chta'", "Did you mean 'chat'?"),
    "supervision-of-numbers": trained(lines({"question": 5, "answer": 6}), "s.jsonl:1"),
    "supervision-a-list": trained(lines([1, 2]), "s.jsonl:1", "object"),
    "supervision-a-json-list": trained(json.dumps([{"question": "q", "answer": "a"}], indent=1), "s.jsonl:1", "not JSON"),
    "supervision-csv": trained("question,answer\nWho?,Ada\n", "s.jsonl:1: not JSON"),
    "supervision-half": trained('{"question": "Who?", "answer": "Ada"}\n\n{"question": "Wh', "s.jsonl:3: not JSON"),
    "supervision-the-line-is-named": trained(lines({"question": "Who?", "answer": "Ada"}, "", "", {"question": "Who?"}), "s.jsonl:4"),
    "supervision-a-thousand-faults": trained(lines(*[{"question": f"q{n}"} for n in range(1000)]), "s.jsonl:1", "more"),
    "supervision-deep": trained(NESTED, "s.jsonl:1", "nested too deeply"),
    "supervision-5000-digits": trained(f'{{"question": "q", "answer": "a", "tokens_spent": {DIGITS}}}', "s.jsonl:1", "digits"),
    "supervision-nan": trained('{"question": "q", "answer": "a", "cost": NaN}', "s.jsonl:1", "NaN"),
    "supervision-half-a-character": trained('{"question": "q", "answer": "\\ud83d"}', "s.jsonl:1", "half a character"),
    "supervision-key-twice": trained('{"question": "q", "answer": "a", "answer": "b"}', "s.jsonl:1", "'answer'", "twice"),
    "supervision-provenance-of-numbers": trained(lines({"question": "q", "answer": "a", "document": 5, "tokens_spent": "x"}), "s.jsonl:1", "document: expected text; tokens_spent"),
    "supervision-span-of-words": trained(lines({"question": "q", "answer": "a", "span": "3-5"}), "s.jsonl:1", "span"),
    "supervision-span-backwards": trained(lines({"question": "q", "answer": "a", "span": [5, 3]}), "s.jsonl:1", "span"),
    "supervision-utf-16": trained(lines({"question": "q", "answer": "a"}).encode("utf-16"), "s.jsonl", "UTF-16"),
    "supervision-binary": trained(bytes(range(256)) * 4, "s.jsonl", "not UTF-8"),
    "supervision-a-line-of-50-megabytes": trained('{"form": 5, "prompt": "", "answer": "' + "x" * 50_000_000 + '"}', "s.jsonl:1"),
    "supervision-too-long-for-the-context": trained(lines({"question": "x" * 2000, "answer": "Ada"}), "no answer within the base's context of 512 tokens"),
}  # fmt: skip

QUESTIONS: Cases = {
    "questions-empty": asked("", "q.jsonl: empty file"),
    "questions-missing": Case("data prepare folder --from docs --to out --base {base} --set probes=none.jsonl", ("no such file: none.jsonl",), {"docs/a.md": "text"}, about=("--set",)),
    "questions-about-nothing-there": asked(lines({"document": "b.md", "question": "Who?", "answer": "Ada"}), "q.jsonl:1: document 'b.md' is not among the documents", "Did you mean 'a.md'?"),
    "questions-without-answers": asked(lines({"document": "a.md", "question": "Who?", "answers": []}), "q.jsonl:1: needs answers"),
    "questions-nobody-sees": asked(lines({"document": "a.md", "question": "\u200b", "answer": "Ada"}), "q.jsonl:1: needs question (text)"),
    "questions-answers-nobody-sees": asked(lines({"document": "a.md", "question": "Who?", "answer": "\u200b"}), "q.jsonl:1: needs answers"),
    "questions-of-an-unknown-split": asked(lines({"document": "a.md", "question": "Who?", "answer": "Ada", "split": "tets"}), "q.jsonl:1: split 'tets'", "Did you mean 'test'?"),
    "questions-of-another-split": asked(lines({"document": "a.md", "question": "Who?", "answer": "Ada", "split": "dev"}), "no question of split 'test'", "dev 1"),
    "questions-ids-twice": asked(lines(*[{"document": "a.md", "question": "Who?", "answer": "Ada", "id": 7}] * 2), "q.jsonl:2: id '7' stands in the file twice"),
    "questions-yaml": asked("- document: a.md\n  question: Who?\n  answer: Ada\n", "q.yaml", "not JSON", name="q.yaml"),
    "questions-ragged-csv": asked("document,question,answer\na.md,Who?\n", "q.csv:2: 2 fields, expected 3", name="q.csv"),
    "questions-half-a-character": asked('{"document": "a.md", "question": "\\udc00?", "answer": "Ada"}', "q.jsonl:1", "half a character"),
    "questions-a-mapping-as-a-document": asked(lines({"document": {"a": 1}, "question": "Who?", "answer": "Ada"}), "q.jsonl:1: document {'a': 1}"),
    "questions-a-document-of-100-kilobytes": asked(lines({"document": "d" * 100_000, "question": "Who?", "answer": "Ada"}), "q.jsonl:1: document"),
}  # fmt: skip

FOLDERS: Cases = {
    "folder-missing": Case("synth nowhere --recipe raw --out s.jsonl --base {base}", ("'nowhere' is neither a folder of documents nor a source",), about=("source",)),
    "folder-empty": folder({"docs": lambda path: path.mkdir()}, "docs: no .md", "file in this folder"),
    "folder-of-pictures": folder({"docs/a.png": b"x"}, "docs: no .md", "1 files of another kind skipped (.png)"),
    "folder-of-hidden-files": folder({"docs/.a.md": "x", "docs/.git/b.md": "x"}, "docs: no .md", "2 hidden"),
    "folder-of-zero-length": folder({"docs/a.md": "", "docs/b.txt": b""}, "no file here holds any text"),
    "folder-of-blank-text": folder({"docs/a.md": " \n\u200b\n\u3000", "docs/b.html": "<p> </p>"}, "no file here holds any text"),
    "folder-binary": folder({"docs/a.txt": b"a\0b", "docs/b.md": b"\x89PNG\r\n\x1a\n\0\0"}, "docs/a.txt: binary", "docs/b.md: binary"),
    "folder-utf-16": folder({"docs/a.txt": "text".encode("utf-16")}, "docs/a.txt: not UTF-8 but UTF-16 text; save it as UTF-8"),
    "folder-latin-1": folder({"docs/a.md": "Zo\xeb".encode("latin-1")}, "docs/a.md: not UTF-8 text (byte 2)"),
    "folder-broken-pdf": folder({"docs/a.pdf": PDF, "docs/b.pdf": b""}, "docs/a.pdf: not a PDF that can be read", "docs/b.pdf"),
    "folder-html-of-scripts": folder({"docs/a.html": "<script>x()</script><style>p{}</style>"}, "no file here holds any text"),
    "folder-links-in-a-circle": folder({"docs/a": link("b"), "docs/b": link("a"), "docs/c.md": link("c.md")}, "docs: no .md", "3 broken links skipped"),
    "folder-links-that-leave": folder({"docs/a.md": link("../secret.md"), "secret.md": "x"}, "docs: no .md", "1 links that leave the folder skipped"),
    "folder-a-pipe": folder({"docs/a.md": lambda path: os.mkfifo(path)}, "docs: no .md", "1 things that are no files skipped"),
    "folder-a-name-that-is-not-utf-8": folder({"docs/n.md": nowhere}, "a name that is not UTF-8"),
    "folder-a-huge-file": folder({"docs/a.md": lambda path: path.touch() or os.truncate(path, 60_000_000)}, "docs/a.md: 60000000 bytes, more than max_bytes: 50000000"),
    "folder-no-document-of-that-id": folder({"docs/a.md": "x"}, "ids: no document 'b.md'", "Did you mean 'a.md'?", more="--set ids=[b.md]"),
    "folder-more-documents-than-there-are": folder({"docs/a.md": "x"}, "documents: 9 asked for, 1 there", more="--set documents=9"),
    "folder-no-documents": folder({"docs/a.md": "x"}, "source.documents", more="--set documents=0"),
    "folder-is-a-file-of-another-kind": folder({"docs": "x"}, "docs: not one of .md"),
    "folder-of-nobody": Case("synth ~nobody-has-this-name/docs --recipe raw --out s.jsonl --base {base}", ("~nobody-has-this-name",), about=("source",)),
    "folder-of-a-long-name": Case(f"synth {'d' * 5000} --recipe raw --out s.jsonl --base {{base}}", ("ddd",), about=("source",)),
    "latex-in-a-circle": Case("data prepare paperqa --from papers --to out --base {base}", ("inputs itself",), {"papers/p/main.tex": "\\documentclass{article}\\input{main}"}, about=("--from",)),
    "latex-that-leaves": Case("data prepare paperqa --from papers --to out --base {base}", ("leaves its folder",), {"papers/p/main.tex": "\\documentclass{article}\\input{../../secret}"}, about=("--from",)),
    "latex-without-an-introduction": Case("data prepare paperqa --from papers --to out --base {base}", ("no \\section{Introduction}",), {"papers/p/main.tex": "\\documentclass{article} text"}, about=("--from",)),
}  # fmt: skip

FILES: Cases = {**TABLES, **JSON, **SUPERVISION, **QUESTIONS, **FOLDERS}
