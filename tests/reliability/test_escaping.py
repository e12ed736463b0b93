"""Nothing from data is markup, code, a formula or a command, wherever it is shown: pages, drawings, tables, terminals.

One small study is run whose documents, file names, questions, answers, models, base, claims and errors all hold what would act
in some of these places, and everything that comes of it is read back by parsers of those places.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import sys
import unicodedata
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml
from rich.console import Console

from loramem.cli import main
from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json
from loramem.core.shown import json_fit, plain, told
from loramem.report.html import text_tables
from loramem.report.overview import overview
from loramem.report.tables import csv_text, tex
from loramem.studies.progress import Progress
from reliability.pages import Page, parsed, parsed_again
from synthesis.scripts import as_value, facts, lamps
from synthesis.scripts import told as asked_for
from synthesis.server import Exchange, Server, completion, status
from tinystudy import body

MARKUP = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg/onload=alert(1)>', "'><a href=javascript:alert(1)>x</a>",
    "</td></tr></table></style></title></svg>", "<!-- --> ]]> &lt; &#60;", "<link rel=stylesheet href=http://evil.example/x.css>",
]  # fmt: skip
TEMPLATES = ["{{7*7}}", "{% for x in range(9) %}", "{{ self.__init__ }}", "${7*7}", "#{7*7}"]
RICH = ["[red]", "[/]", "[/red]", "[link=http://evil.example]x[/link]", ":boom:"]
LATEX = [r"\input{/etc/passwd}", "100 % _ & # $x^2$ ~", "$\\frac{1", "[1mm]", "{"]
FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1"]
CONTROLS = [
    "\x1b[31mred",
    "\x1b]0;title\x07",
    "\x9b2J",
    "\x08\x08",
    "\rover",
    "\u202egnp.exe\u202c",
    "\u2028",
]
ALL = " ".join([*MARKUP, *TEMPLATES, *RICH, *LATEX, *FORMULAS, *CONTROLS])
NAME = "=cmd|<img src=x onerror=alert(1)>{{7*7}}[red]$x$ \\input{a}&%_ \x1b[31m\u202e"
"""What a file system takes for a name."""
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
HTML = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "strong", "em", "span", "section", "ul", "li", "div",
    "table", "tr", "th", "td", "details", "summary", "figure", "figcaption", "code", "pre", "a", "br", "svg",
}  # fmt: skip
SVG = {
    "metadata", "rdf:rdf", "cc:work", "dc:type", "dc:date", "dc:format", "dc:creator", "cc:agent", "dc:title", "defs", "style", "g", "path", "use",
    "clippath", "rect", "text", "tspan", "image", "pattern",
}  # fmt: skip


def judged(exchange: Exchange) -> None:
    """A writer's items, or a judge's verdict, with all of it in them; now and then an error that says it."""
    prompt = exchange.request.body["messages"][-1]["content"]
    if "</text>" in prompt:
        items = [(f"{question} {ALL}", f"{answer} {ALL}") for question, answer in lamps(prompt)]
        exchange.send(completion(exchange.request, json.dumps(as_value(items[: asked_for(prompt)]))))
    elif "lamp bela-1" in prompt:
        status(500, ALL)(exchange)
    else:
        exchange.send(completion(exchange.request, json.dumps({"reason": ALL, "score": 5})))


@dataclass(frozen=True)
class Ran:
    """What a hostile study left: its folder, what it said, and where everything lies."""

    out: Path
    said: str
    error: str
    root: Path
    base: Path

    @property
    def summary(self) -> dict:
        return read_json(self.out / "summary.json")


def command(*words: object) -> tuple[int, str, str]:
    """Run the command line here: (exit code, stdout, stderr)."""
    said, error = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said), contextlib.redirect_stderr(error):  # fmt: skip
        patch.setattr(sys, "argv", ["loramem", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
    return code, said.getvalue(), error.getvalue()


@pytest.fixture(scope="module")
def ran(checkpoints, tmp_path_factory) -> Iterator[Ran]:
    root = tmp_path_factory.mktemp("hostile")
    docs, base = root / "docs", root / NAME
    shutil.copytree(checkpoints["llama"], base)  # its tokens are bytes, and the texts are long
    write_json(base / "config.json", read_json(base / "config.json") | {"max_position_embeddings": 8192})
    docs.mkdir()
    for name in ("ada", "bela"):
        (docs / f"{name}{NAME}.md").write_text(f"# {ALL.replace(chr(13), '')}\n\n{facts(name, 3).text}\n")
    rows = [
        {"document": f"{name}{NAME}.md", "question": f"{ALL} \0 Where is lamp {name}-{number}?", "answers": [f"hall {1000 + 7 * number} {ALL} \0"], "level": ALL, "generator": ALL}
        for name in ("ada", "bela") for number in range(2)
    ]  # fmt: skip
    (docs / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch, Server(script={"": judged}) as server:
        patch.setenv("LORAMEM_STORE", str(root / "store"))
        patch.setenv("OPENAI_API_KEY", "none-that-counts")
        patch.delenv("http_proxy", raising=False)
        quick = {"retries": 0, "timeout": 5.0}
        writer = {"recipe": "qa:2", "generator": server.url, "check": False, "endpoint": quick}
        settings = {
            "question": ALL,
            "sources": {"docs": {"name": "folder", "path": str(docs), "probes": str(docs / "asked.jsonl")}},
            "supervision": [{"recipe": "raw"}, {**writer, "model": f"={ALL}"}, {**writer, "model": f"[1mm] {NAME}"}],
            "judge": {"model": ALL, "url": server.url, "endpoint": quick},
            "modules": {"spec": {"rank": [1, 2], "targets": "attention"}, "budget": {"steps": 2}, "optimizer": {"lr": 0.01, "batch": 2}},
            "seeds": 1, "readings": ["closed", "module", "icl"], "metrics": ["exact_match", "token_f1", "judge"],
            "expect": [{"claim": f"={ALL}", "metric": "exact_match", "at": {"reading": "module", "rank": 1}, "at_most": 1.0}],
        }  # fmt: skip
        file = root / f"{NAME}.yaml"
        file.write_text(yaml.safe_dump({**body(), **settings}))
        code, _, error = command("study", "run", file, "--base", base, "--out", root / "first")
        assert code == 0, error
        # a random base says little; what it answered is now as bad as can be
        for path in (root / "store" / "readings").rglob("predictions.jsonl"):
            told = [
                json.loads(line) | {"prediction": f"{ALL} \0"}
                for line in path.read_text().split("\n")
                if line
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in told))
        for path in (root / "store" / "readings").rglob("scores/*"):
            path.unlink()
        code, said, error = command("study", "run", file, "--base", base, "--out", root / "run")
        assert code == 0, error
        yield Ran(root / "run", said, error, root, base)


# -- the page --------------------------------------------------------------------------------------------------
def check_page(page: Page, links: set[str] = frozenset(), images: bool = False) -> None:
    """Every element and every attribute is the template's own."""
    for tag, attributes, drawn in page.elements:
        allowed = SVG if drawn else HTML | ({"img"} if images else set())
        assert tag.lower() in allowed, (tag, attributes)
        for name, value in attributes.items():
            assert not name.lower().startswith("on"), (tag, name, value)
            assert not re.search(r"javascript:|expression\(|@import|url\((?!['\"]?#)", value, re.I), (tag, name, value)  # fmt: skip
            if name.split(":")[-1] in ("href", "src", "action", "data", "formaction", "srcset", "background", "poster"):  # fmt: skip
                inside = value.startswith("#") or value.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))  # fmt: skip
                assert inside or value in links, (tag, name, value)
            if not drawn and tag not in ("svg", "meta", "img"):
                own = {"class": r"[a-z -]*", "id": r"[a-z0-9_-]+", "lang": "en", "open": "", "aria-label": "In short", "href": r"[#a-z0-9_./-]+", "charset": "utf-8"}  # fmt: skip
                assert name in own and re.fullmatch(own[name], value), (tag, name, value)
    heads = [attributes for tag, attributes, _ in page.elements if tag == "meta"]
    policy = next(one["content"] for one in heads if one.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "script-src" not in policy and "http" not in policy
    assert {"name": "referrer", "content": "no-referrer"} in heads


@pytest.mark.parametrize("parse", [parsed, parsed_again])
def test_every_element_and_attribute_of_the_page_is_the_templates_own(ran, parse):
    check_page(parse((ran.out / "report.html").read_text()))


def test_what_data_says_stands_in_the_page_word_for_word(ran):
    text = (ran.out / "report.html").read_text()
    page = parsed(text)
    assert page.text.count(plain(ALL)) > 20, "questions, answers, predictions, claims, models, ..."
    assert plain(f"{ALL} \0") in page.text and "\\x00" in page.text and str(7 * 7) + "}" not in page.text
    assert not ACTS.search(text)
    assert text.count("<svg") == len(list((ran.out / "figures").glob("*.svg"))) > 2


def test_drawings_are_valid_and_hold_no_more_than_drawings_do(ran):
    paths = sorted((ran.out / "figures").glob("*.svg"))
    for path in paths:
        tree = ET.parse(path)  # it would fail on control characters
        for element in tree.iter():
            assert element.tag.rpartition("}")[2].lower() in {name.split(":")[-1] for name in SVG | {"svg"}}
            assert not [name for name in element.attrib if name.lower().startswith("on")]
            link = element.attrib.get("{http://www.w3.org/1999/xlink}href", "#")
            assert link.startswith(("#", "data:image/png")), link
        assert re.fullmatch(r"[a-z0-9._=+@-]+", path.stem), "a plain name of a file"
    texts = "".join("".join(ET.parse(path).getroot().itertext()) for path in paths)
    assert "<img src=x onerror=alert(1)>" in texts and "$x$" in texts and "{{7*7}}" in texts


def test_an_overview_of_it_is_safe_too(ran, tmp_path):
    shutil.copytree(ran.out, tmp_path / "q20")
    shutil.copytree(ran.out, tmp_path / "q21")
    (tmp_path / "q21" / "summary.json").unlink()
    svg = next(path for path in (tmp_path / "q20" / "figures").glob("*.svg"))
    svg.write_text(svg.read_text().replace("</svg>", "<script>alert(1)</script><!--> <img src=x onerror=alert(1)> --></svg>"))  # fmt: skip
    entries = [{"study": "q20", "question": ALL, "state": "done", "error": "", "seconds": 1.0}, {"study": "q21", "question": ALL, "state": "failed", "error": ALL, "seconds": 1.0}]  # fmt: skip
    write_json(tmp_path / "series.json", {"scale": "quick", "command": ALL, "studies": entries})
    text = overview(tmp_path)[0].read_text()
    for parse in (parsed, parsed_again):
        page = parse(text)
        check_page(page, links={"q20/report.html", "q21/report.html"}, images=True)
        assert page.text.count(plain(ALL)) > 5 and "alert(1)</script><!-->" not in page.text
    assert not ACTS.search(text)
    pictures = [attributes for tag, attributes, _ in parsed(text).elements if tag == "img"]
    assert pictures and all(set(one) == {"alt", "src"} for one in pictures)


@pytest.mark.parametrize("name", ["../x", "..", "javascript:alert(1)", "/etc", '"><script>', "a/b", ""])
def test_an_overview_reads_no_folder_elsewhere(name, tmp_path):
    entry = {"study": name, "question": "?", "state": "done", "error": "", "seconds": 1.0}
    write_json(tmp_path / "out" / "series.json", {"scale": "quick", "command": "", "studies": [entry]})
    with pytest.raises(InputError, match="is no name of a study"):
        overview(tmp_path / "out")
    assert not (tmp_path / "out" / "report.html").exists()


def test_an_overview_reads_no_figure_elsewhere(ran, tmp_path):
    shutil.copytree(ran.out, tmp_path / "out" / "q20")
    (tmp_path / "secret.svg").write_text("<svg>secret</svg>")
    write_json(tmp_path / "out" / "q20" / "figures" / "index.json", [{"name": "../../../secret", "caption": "", "leads": True, "source": "docs"}])  # fmt: skip
    entry = {"study": "q20", "question": "?", "state": "done", "error": "", "seconds": 1.0}
    write_json(tmp_path / "out" / "series.json", {"scale": "quick", "command": "", "studies": [entry]})
    with pytest.raises(InputError, match="leaves its folder"):
        overview(tmp_path / "out")


# -- tables ----------------------------------------------------------------------------------------------------
def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_no_text_of_a_csv_is_a_formula_and_no_number_changes(ran):
    paths = sorted((ran.out / "tables").glob("*.csv"))
    assert {"cells", "comparisons", "verdicts"} <= {path.stem for path in paths}
    risky = 0
    for path in paths:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file, strict=True))
        for row in rows:
            assert len(row) == len(rows[0])
            for text in row:
                assert is_number(text) or not text.lstrip().startswith(("=", "+", "-", "@")), text
                assert not ACTS.search(text) and "\0" not in text
                risky += text.startswith("'=")
    assert risky, "a claim and two models begin like formulas"
    back = pd.read_csv(ran.out / "tables" / "cells.csv")
    cells = pd.DataFrame(ran.summary["cells"])
    for column in ("mean", "ci_low", "ci_high", "n", "n_failed", "rank"):
        pd.testing.assert_series_equal(back[column].astype(float), cells[column].astype(float), check_exact=True)  # fmt: skip


@pytest.mark.parametrize("text", ["-0.5", "+3", "-1e-7", "1e3", "-inf", "", "0"])
def test_a_number_in_a_text_column_stays_a_number(text):
    frame = pd.DataFrame({"=name": [text, "=1", None], "n": [-1, 2, 3]})
    rows = list(csv.reader(io.StringIO(csv_text(frame))))
    assert rows == [["'=name", "n"], [text, "-1"], ["'=1", "2"], ["", "3"]]


@pytest.mark.parametrize("text", [*FORMULAS, " =1", "\n=1", "＝1", "\r=1", "\x00=1", "=1\n=2"])  # noqa: RUF001
def test_every_beginning_of_a_formula_is_taken_away(text):
    [_, [shown]] = list(csv.reader(io.StringIO(csv_text(pd.DataFrame({"x": [text]})))))
    assert shown[0] == "'" or shown.startswith(("\\x0d", "\\x00"))


def test_latex_tables_hold_no_command_from_data(ran):
    for path in (ran.out / "tables").glob("*.tex"):
        text = path.read_text()
        own = r"\\(?:begin|end)\{(?:table|tabular)\}|\\(?:centering|toprule|midrule|bottomrule)\b|\\caption\{|\\begin\{tabular\}\{l+r*\}"
        shown = r"\\text(?:backslash|asciitilde|asciicircum|less|greater)\{\}|\\[&%$#_{}]"
        assert "\n\n\\" in text or text.count("\\begin{table}") == 1
        for table in text.split("\n\n"):
            assert not re.search(r"\n[ \t]*\n", table.strip())
            rest = re.sub(own, "", re.sub(r"\{l+r*\}", "", re.sub(shown, "", table)))
            rest = rest.replace(r"\\", "")
            assert not re.findall(r"\\\w*|[%$#_~^]", rest), re.findall(r"\\\w*|[%$#_~^]", rest)
            bare = re.sub(r"\\[{}\\]", "", re.sub(shown, "", table))
            assert bare.count("{") == bare.count("}")
            columns = len(re.search(r"\\begin\{tabular\}\{(\w+)\}", table)[1])
            for line in [one for one in table.split("\n") if one.endswith(r"\\")]:
                assert re.sub(shown, "", line).count("&") == columns - 1
                assert not line.startswith(("[", "*"))
    scores = (ran.out / "tables" / "scores.tex").read_text()
    assert r"\textbackslash{}input\{" in scores and r"\{\{7*7\}\}" in scores


@pytest.mark.parametrize("first", ["[1mm] x", "*", "[", "*[2mm]"])
def test_a_first_cell_is_no_option_of_the_line_before(first):
    from loramem.report.tables import _tabular

    rows = _tabular(["reading", "1"], [[first, "2"], ["plain", "3"]], "c").split("\n")
    assert f"{{}}{tex(first)} & 2 \\\\" in rows and "plain & 3 \\\\" in rows


# -- the terminal ----------------------------------------------------------------------------------------------
def test_nothing_that_a_run_says_acts_on_a_terminal(ran):
    assert ran.said and not ACTS.search(ran.said + ran.error)
    assert plain(f"={ALL}")[:40] in ran.said and "[red]" in ran.said and "[/]" in ran.said
    assert "could not be judged" in ran.said
    for path in ran.out.rglob("*.jsonl"):
        assert not ACTS.search(path.read_text()), path


LOOKED = {
    "report": ("study", "report", "{run}"),
    "compare": ("study", "compare", "{run}", "{run}"),
    "modules": ("modules", "list"),
    "base": ("base", "info", "{base}"),
    "a file that is not there": ("study", "report", "{root}/" + NAME),
    "a study": ("study", "show", "{root}/" + NAME + ".yaml"),
    "a study that is none": ("study", "show", NAME),
    "an unknown module": ("modules", "show", NAME),
    "data": ("data", "prepare", "folder", "--set", "path={root}/docs", "--to", "{root}/prepared"),
    "a setting": ("study", "run", "quick", "--set", NAME + "=1"),
    "a usage": ("study", "run", "quick", "--" + NAME),
}


@pytest.mark.parametrize("name", LOOKED)
def test_nothing_that_a_command_shows_acts_on_a_terminal(name, ran, monkeypatch):
    monkeypatch.setenv("LORAMEM_STORE", str(ran.root / "store"))
    words = [word.replace("{run}", str(ran.out)).replace("{base}", str(ran.base)).replace("{root}", str(ran.root)) for word in LOOKED[name]]  # fmt: skip
    _, said, error = command(*words)
    assert said + error and not ACTS.search(said + error), said + error
    assert "Traceback" not in error and "a bug in loramem" not in error


def test_answers_and_names_of_modules_do_not_act_on_a_terminal(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("LORAMEM_STORE", str(tmp_path / "store"))
    rows = [{"question": ALL, "answer": f"{ALL} \0", "document": f"{name}{ALL}"} for name in "ab"]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, said, error = command("modules", "train", "--supervision", tmp_path / "s.jsonl", "--each", "document", "--rank", "1", "--steps", "1", "--base", ran.base)  # fmt: skip
    assert code == 0 and plain(ALL) in said and not ACTS.search(said + error), error
    for more in (
        (),
        ("--json",),
        ("--reading", "routed", "--always"),
        ("--reading", "module+icl", "--modules", "all"),
    ):
        code, said, error = command("ask", ALL, "What?", "--modules", "all", *more, "--base", ran.base)
        assert not ACTS.search(said + error) and "a bug in loramem" not in error, (said, error)
    assert {json.loads(line)["question"] for line in command("ask", ALL, "--modules", "all", "--json", "--base", ran.base)[1].splitlines()} == {ALL}  # fmt: skip


def test_a_progress_bar_and_tables_take_no_names_for_markup(ran, capsys):
    screen = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=4000)
    for table in text_tables(ran.summary):
        screen.print(table)  # also by a console that takes markup
    shown = screen.file.getvalue()
    assert "[red]" in shown and "[/]" in shown and not re.search("[\x07\x08\x9b\u202e]", shown)
    progress = Progress(live=True)
    progress.start("train", total=2, unit="rows", things=1)
    progress.say(ALL)
    progress.stop()
    said = capsys.readouterr().out
    assert "\x1b]0;title" not in said and "[link=http://evil.example]" in said


# -- texts -----------------------------------------------------------------------------------------------------
def test_plain_changes_what_acts_and_nothing_else():
    kept = "".join(
        map(chr, [9, 10, *range(32, 127), *range(160, 0x2028), 0x202F, 0x2065, 0x206A, 0xFEFF, 0x1F600])
    )
    kept = "".join(c for c in kept if not ACTS.match(c) and unicodedata.category(c) != "Cs")
    assert plain(kept) == kept == plain(plain(kept))
    counts = Counter(plain(chr(code)) for code in range(0x110000) if plain(chr(code)) != chr(code))
    assert max(counts.values()) == 1 and len(counts) == 65 - 2 + 2 + 5 + 4 + 2048 + 2
    assert told("\ud800 \x1b") == "\\ud800 \\x1b"


def test_json_that_is_shown_is_the_same_json():
    value = {f"{ALL}\0": [ALL, 1, None, "\ud800"]}
    shown = json_fit(json.dumps(value, ensure_ascii=False))
    assert json.loads(shown) == value and not ACTS.search(shown) and shown.encode()
