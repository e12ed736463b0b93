"""Names from data never leave their folder and never overwrite each other, whatever they are.

What lies around is photographed before and after: nothing that was there changes, nothing appears beside the folders that a
command was given, and nothing outside them is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loramem.core.errors import InputError
from loramem.core.files import inside
from loramem.core.names import LONGEST, file_name
from loramem.modules.store import Store
from loramem.report.gallery import draw
from loramem.sources.catalogue import load_source
from loramem.sources.export import write_source
from loramem.sources.latex import latex_introduction
from loramem.sources.remote import download
from loramem.studies.findings import Findings
from madeup import GRID, found, results
from synthesis.scripts import facts
from tinystudy import PHONES, body

AWAY = [
    "../x", "../../../x", "/x", "/etc/passwd", "..", ".", "", "a/../../x", "./../x", "~/x", "a\0b", "\0", "x" * 300, "ü" * 200, "a\nb", "\x1b[31m",
    "\u202ex", "a/" + "b" * 300, "//x", "x\ud800",
]  # fmt: skip
TWINS = [
    ("Ada", "ada"), ("é", "e\u0301"), ("Straße", "STRASSE"), ("ﬁle", "file"), ("Å", "\u212b"), ("x", "x "), ("a.b", "a-b"), ("a/b", "a-b"),
    ("x" * 200, "x" * 201), ("../x", "x"), ("con", "CON"), ("a:b", "a-b"), ("", "name"),
]  # fmt: skip
RESERVED = ["con", "CON", "nul", "aux.txt", "com1", "LPT9.svg", "prn"]


def count(text: str) -> int:
    return len(text.split())


def seen(root: Path) -> dict[str, str]:
    """Every file below a folder with its checksum, every folder, every link with where it leads."""
    found: dict[str, str] = {}
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            path = Path(folder, name)
            if path.is_symlink():
                found[str(path)] = f"-> {os.readlink(path)}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "folder"
    return found


@pytest.fixture
def watched(tmp_path) -> Callable[..., None]:
    """Around the folder in which a test works lies something worth taking; the call checks it is as it was.

    Args:
        own: Folders in which anything may have appeared.
    """
    (tmp_path / "x").write_text("worth taking")
    (tmp_path / "x.txt").write_text("worth taking")
    (tmp_path / "x.svg").write_text("<svg>worth taking</svg>")
    work = tmp_path / "work" / "deep"
    work.mkdir(parents=True)
    before = seen(tmp_path)

    def check(*own: Path) -> None:
        now = seen(tmp_path)
        assert {path: now.get(path) for path in before} == before
        allowed = tuple(f"{folder}/" for folder in own)
        new = [path for path in now if path not in before and not f"{path}/".startswith(allowed)]
        assert new == []

    return check


# -- names of files --------------------------------------------------------------------------------------------
def folded(name: str) -> str:
    """A name as a file system sees it that knows neither case nor forms of accents."""
    return unicodedata.normalize("NFKC", name).casefold()


@pytest.mark.parametrize(
    "name", [*AWAY, *RESERVED, *(one for pair in TWINS for one in pair), "plain-name_1.a+b=c@d", "1"]
)
def test_a_files_name_is_one_on_any_system(name):
    made = file_name(name)
    assert re.fullmatch(r"[a-z0-9_][a-z0-9._=+@-]*", made) and len(made) <= LONGEST and made[-1] not in ". "
    assert not re.fullmatch(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", made)
    assert file_name(made) == made or re.search(r"-[0-9a-f]{12}$", made)


@pytest.mark.parametrize("twins", TWINS)
def test_twins_get_names_of_their_own(twins):
    one, other = map(file_name, twins)
    assert folded(one) != folded(other) and one != other


@given(st.text(max_size=40), st.text(max_size=40))
def test_two_names_never_meet(one, other):
    assert (file_name(one) == file_name(other)) == (one == other)


@given(st.text(st.sampled_from("abAB-._0é1f/ "), max_size=8), st.text(st.sampled_from("abAB-._0é1f/ "), max_size=8))  # fmt: skip
def test_two_names_that_are_nearly_one_never_meet(one, other):
    assert (folded(file_name(one)) == folded(file_name(other))) == (one == other)


def test_a_name_cannot_pretend_to_be_anothers():
    """A text that is spelt like the hashed name of another one gets a hash of its own."""
    taken = file_name("Ada")
    assert re.search(r"-[0-9a-f]{12}$", taken) and file_name(taken) != taken


@pytest.mark.parametrize("name", AWAY)
def test_inside_keeps_names_inside(name, tmp_path):
    root = tmp_path / "root"
    if name in ("~/x", "a\nb"):  # no shell is asked, and a file may be called so
        assert inside(root, name) == root / name
        return
    with pytest.raises(InputError, match="leaves its folder|is no name of a file"):
        inside(root, name)


def test_inside_follows_no_link_out(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    with pytest.raises(InputError, match="leaves its folder"):
        inside(root, "out/x")
    assert inside(root, "a/../b c/ü") == root / "b c" / "ü"


# -- studies ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [name for name in AWAY if "\ud800" not in name] + ["a\\b", "<b>", "a:b", "{{7}}", "[red]", "$x$", " x", "x ", "-x", ".x", "x/y", "=1", 'a"b'])  # fmt: skip
def test_a_source_of_a_study_has_a_plain_name(name, loramem, watched, tmp_path):
    work = tmp_path / "work" / "deep"
    source = {"name": "phonebook", "sizes": [60]}
    (work / "s.yaml").write_text(yaml.safe_dump(body(sources={name: source})))
    code, said, error = loramem("study", "run", work / "s.yaml", "--out", work / "run")
    assert code == 2 and "a source called" in error and "Traceback" not in error, error
    assert not re.search("[\x00\x1b\u202e]", said + error)
    (work / "s.yaml").unlink()
    watched()


@pytest.mark.parametrize("twins", [("Ada", "ada"), ("Straße", "strasse"), ("Å", "\u212b"), ("ﬁle", "file")])
def test_sources_that_look_alike_are_refused(twins, loramem, tmp_path):
    source = {"name": "phonebook", "sizes": [60]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(body(sources=dict.fromkeys(twins, source)), allow_unicode=True))  # fmt: skip
    code, _, error = loramem("study", "run", tmp_path / "s.yaml", "--out", tmp_path / "run")
    assert code == 2 and "names that look alike; rename one" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["../x", "/x", "..", "", "A", "a b", "x" * 65, "é", "<b>", "a\n"])
def test_a_study_has_a_plain_name(name, loramem, watched, tmp_path, monkeypatch):
    work = tmp_path / "work" / "deep"
    (work / "s.yaml").write_text(yaml.safe_dump(body(study=name)))
    monkeypatch.chdir(work)
    code, _, error = loramem("study", "run", work / "s.yaml")
    assert code == 2 and "study: " in error
    (work / "s.yaml").unlink()
    watched()


FILES = [
    "ada.md", "Ada.md", "é.md", "e\u0301.md", "CON.md", "..md", "...md", " .md", "a b\n.md", "~.md", "-x.md", "$HOME.md", "%2e%2e.md", "a\\b.md",
    "x" * 200 + ".md", "C:.md", "\u202egpj.md", "recipe.json.md", "ü" * 100 + ".md",
]  # fmt: skip


def test_documents_of_any_name_stay_in_the_store_and_apart(loramem, checkpoints, watched, tmp_path):
    """One module a document; twins in case and in the form of accents are two documents."""
    work = tmp_path / "work" / "deep"
    docs, run = work / "docs", work / "run"
    docs.mkdir()
    for number, name in enumerate(FILES):
        (docs / name).write_text(f"Lamp {number} hangs in hall {1000 + number}.\n")
    rows = [
        {"document": name, "question": f"Where is lamp {number}?", "answers": [f"hall {1000 + number}"], "id": f"../{name}"}
        for number, name in enumerate(FILES) if not name.startswith(".")
    ]  # fmt: skip
    (work / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    study = body(
        sources={"own": {"name": "folder", "path": str(docs), "probes": str(work / "p.jsonl")}}, partition="document",
        modules__spec__rank=[1], modules__budget={"steps": 1}, seeds=1, metrics=["exact_match"],
    )  # fmt: skip
    (work / "s.yaml").write_text(yaml.safe_dump(study))
    before = seen(docs)
    code, said, error = loramem("study", "run", work / "s.yaml", "--base", checkpoints["llama"], "--out", run)
    assert code == 0, error
    assert seen(docs) == before
    store = Store(tmp_path / "store", look=True)
    texts = sorted(module.text for module in store.modules())
    assert len(texts) == len(rows) and len(set(texts)) == len(rows), "hidden files are none"
    for path in (*(tmp_path / "store").rglob("*"), *run.rglob("*")):
        assert re.fullmatch(r"[A-Za-z0-9._=+@-]+", path.name), path
    (work / "s.yaml").unlink()
    (work / "p.jsonl").unlink()
    watched(tmp_path / "store", docs.parent / "docs", run, docs, work)


@pytest.mark.parametrize("source", ["../x", "../../x", "/x", "Docs", "docs", "é", "e\u0301", "x" * 300, "con", "a\0b", "a\\b"])  # fmt: skip
def test_figures_stay_in_their_folder(source, watched, tmp_path):
    """Also of a summary that no study of ours wrote."""
    rows, items = results(GRID, source=source)
    folder = tmp_path / "work" / "deep" / "run" / "figures"
    made = draw(found(rows, items), [], folder, Findings(()))
    assert made and all((folder / f"{one['name']}.svg").is_file() for one in made)
    assert len({folded(one["name"]) for one in made}) == len(made)
    watched(tmp_path / "work" / "deep" / "run")


def test_figures_of_twins_do_not_overwrite_each_other(tmp_path):
    names = [draw(found(*results(GRID, source=source)), [], tmp_path, Findings(())) for source in ("docs", "Docs", "DOCS")]  # fmt: skip
    every = [folded(one["name"]) for made in names for one in made]
    assert len(set(every)) == len(every) and len(list(tmp_path.glob("*.svg"))) == len(every)


# -- modules and sources ---------------------------------------------------------------------------------------
def test_modules_of_documents_of_any_id_stay_in_the_store(loramem, checkpoints, watched, tmp_path):
    work = tmp_path / "work" / "deep"
    ids = [name for name in AWAY if "\ud800" not in name] + [one for pair in TWINS for one in pair]
    ids = list(dict.fromkeys(ids))
    rows = [{"question": f"q{number}?", "answer": f"a{number}", "document": id, "record": id} for number, id in enumerate(ids)]  # fmt: skip
    (work / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, error = loramem(
        "modules", "train", "--supervision", work / "s.jsonl", "--each", "document", "--rank", "1", "--steps", "1", "--base", checkpoints["llama"],
    )  # fmt: skip
    assert code == 0, error
    texts = [module.text for module in Store(tmp_path / "store", look=True).modules()]
    assert sorted(texts) == sorted(f"q{number}? a{number}" for number in range(len(ids)))
    (work / "s.jsonl").unlink()
    watched(tmp_path / "store")


@pytest.mark.parametrize("name", [*AWAY, "*", "?", "[a-f]", "@", "@0", "a@../..", "a@/etc", "%2e%2e"])
@pytest.mark.parametrize("command", ["show", "delete", "export"])
def test_no_name_of_a_module_leads_out_of_the_store(name, command, loramem, watched, tmp_path):
    work = tmp_path / "work" / "deep"
    (tmp_path / "store" / "modules").mkdir(parents=True)
    (tmp_path / "store" / "readings").mkdir()
    (tmp_path / "recipe.json").write_text("{}")
    more = ("--to", work / "out") if command == "export" else ()
    code, _, error = loramem("modules", command, *more, "--", name)
    assert code == 2 and error.startswith("error: ") and "Traceback" not in error, error
    assert not (work / "out").exists() and (tmp_path / "recipe.json").exists()
    (tmp_path / "recipe.json").unlink()
    watched(tmp_path / "store")


def test_two_sources_prepared_into_one_folder_do_not_meet(tmp_path):
    sources = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.md").write_text(f"All of {name}.")
        sources += load_source({"name": "folder", "path": str(tmp_path / name)}, count)
    first = write_source(sources[0], tmp_path / "out")
    before = seen(first)
    with pytest.raises(InputError, match="holds another source"):
        write_source(sources[1], tmp_path / "out")
    assert seen(first) == before and write_source(sources[0], tmp_path / "out") == first


@pytest.mark.parametrize("name", ["../../x", "../x", "/x", "..", "a\0b", "x" * 300, "stories/../../../x"])
def test_a_published_id_reads_no_file_elsewhere(name, watched, tmp_path):
    """NarrativeQA's ids are names of files: one that leads away is told, and nothing is read."""
    folder = tmp_path / "work" / "deep"
    name = name.replace("/x", f"{tmp_path}/x") if name == "/x" else name
    quoted = '"' + name + '"'
    (folder / "documents.csv").write_text(f"document_id,set,kind\n{quoted},test,gutenberg\n")
    (folder / "qaps.csv").write_text(f"document_id,question,answer1\n{quoted},What?,that\n")
    with pytest.raises(InputError) as caught:
        load_source({"name": "narrativeqa", "path": str(folder)}, count)
    assert "worth taking" not in str(caught.value)
    told = (
        "without story text" if name == ".." else "leaves its folder|is no name of a file|NUL"
    )  # `...txt` is a name
    assert re.search(told, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("name", ["../x", "../../x.txt", "/x", "..", "a\0b", "x" * 300, "{}", "link"])
def test_a_papers_input_reads_no_file_elsewhere(name, watched, tmp_path):
    folder = tmp_path / "work" / "deep"
    (folder / "link.tex").symlink_to(tmp_path / "x.txt")
    name = f"{tmp_path}/x" if name == "/x" else name
    text = f"\\documentclass{{a}}\\begin{{document}}\\section{{Introduction}} Words \\input{{{name}}} here.\\section{{End}}\\end{{document}}"
    (folder / "main.tex").write_text(text)
    try:
        said = str(latex_introduction(folder))
    except InputError as error:
        said = str(error)
        assert re.search("leaves its folder|is no name of a file|NUL", said), said
    assert "worth taking" not in said


def test_a_folder_of_documents_is_left_by_no_link(watched, tmp_path):
    folder = tmp_path / "work" / "deep"
    (folder / "own.md").write_text("Own words.")
    (folder / "file.txt").symlink_to(tmp_path / "x.txt")
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(folder)
    [source] = load_source({"name": "folder", "path": str(folder)}, count)
    assert [document.id for document in source.documents] == ["own.md"] and "worth taking" not in source.text


def test_a_file_name_that_is_no_text_is_told(loramem, tmp_path):
    """Linux has names that no UTF-8 holds; an id made of one could be kept in no file."""
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "good.md").write_text(facts("a", 2).text)
    with open(os.fsencode(docs) + b"/\xff\xfe.md", "w") as file:
        file.write(facts("b", 2).text)
    code, said, error = loramem("synth", docs, "--recipe", "raw", "--out", tmp_path / "s.jsonl")
    assert code == 2 and "a name that is not UTF-8" in error, (said, error)
    assert not (tmp_path / "s.jsonl").exists()


@pytest.mark.parametrize("path", ["/../../x", "/%2e%2e%2f%2e%2e%2fx", "/..%5cx", "/" + "x" * 400 + ".jsonl", "/con", "/.hidden", "/%00x", "/", "/a/b/"])  # fmt: skip
def test_a_downloads_name_stays_in_its_folder(path, watched, tmp_path, monkeypatch):
    """The file is there already, as an earlier download left it: found by checksum and the name that is made of the URL."""
    folder = tmp_path / "work" / "deep"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="not downloaded yet"):
        download(f"http://127.0.0.1:9{path}", "0" * 64, to=folder)
    for name in [re.sub(r"[^\w.-]", "_", part) for part in ("x", "__x", "file")]:
        assert not (folder / name).exists()
    watched(folder)


def test_a_downloads_long_name_is_cut_and_keeps_its_suffix(tmp_path):
    (tmp_path / ("0" * 64)).mkdir()
    kept = tmp_path / ("0" * 64) / ("x" * 74 + ".jsonl")
    kept.write_text("{}")
    assert download("http://127.0.0.1:9/" + "x" * 400 + ".jsonl", "0" * 64, to=tmp_path) == kept


def test_phonebooks_of_two_names_are_two_cells(loramem, checkpoints, tmp_path):
    """Names that differ only in marks stay apart in cells, figures and results."""
    sources = {"a.b": PHONES["sources"]["phonebook"], "a-b": PHONES["sources"]["phonebook"] | {"seed": 5}}
    study = body(sources=sources, modules__spec__rank=[1], modules__budget={"steps": 1}, seeds=1, metrics=["exact_match"])  # fmt: skip
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study))
    code, _, error = loramem("study", "run", tmp_path / "s.yaml", "--base", checkpoints["llama"], "--out", tmp_path / "run")  # fmt: skip
    assert code == 0, error
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {cell["source"] for cell in summary["cells"]} == set(sources)
    names = {path.stem for path in (tmp_path / "run" / "figures").glob("*.svg")}
    assert {name.startswith("a.b-") for name in names} == {True, False}
