"""A user's folder: what is read, in which order, under which id; what is passed over and counted; what is an error."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from loramem.core.config import parse
from loramem.core.errors import Faults, InputError
from loramem.sources.folder import FolderConfig, build, heading, pdf_text


def words(text: str) -> int:
    return len(text.split())


def load(path: str | Path, **settings):
    (source,) = build(parse(FolderConfig, {"path": str(path), **settings}), words)
    return source


def make(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def a_pdf(*pages: str) -> bytes:
    """A minimal PDF with one line of text a page, written by hand."""
    count = len(pages)
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", f"<< /Type /Pages /Count {count} /Kids [{' '.join(f'{4 + 2 * n} 0 R' for n in range(count))}] >>",
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]  # fmt: skip
    for n, page in enumerate(pages):
        lines = " T* ".join(f"({line}) Tj" for line in page.split("\n"))
        stream = f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET" if page else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {5 + 2 * n} 0 R /Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    out, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    start = len(out)
    out += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode()
    out += b"".join(f"{place:010d} 00000 n \n".encode() for place in places)
    return out + f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()


def test_kinds_ids_titles_and_order(tmp_path):
    make(
        tmp_path,
        {
            "b.md": "---\ntitle: 'The B'\n---\n# Not this\n\nText of b.",
            "a/z.html": "<title>Zed</title><p>One &amp; two.</p><script>x</script>",
            "a/y.HTM": "<h1>The <b>Y</b></h1><p>y</p>",
            "a/plain.txt": "Zoë 🪨 plain.\r\n\r\nMore.",
            "c.markdown": "no heading here",
            "d.md": b"\xef\xbb\xbf# Dee\n\ntext",
        },
    )
    source = load(tmp_path)
    assert [(d.id, d.title, d.text) for d in source.documents] == [
        ("a/plain.txt", "plain", "Zoë 🪨 plain.\nMore."),
        ("a/y.HTM", "The Y", "The Y\ny"),
        ("a/z.html", "Zed", "One & two."),
        ("b.md", "The B", "# Not this\nText of b."),
        ("c.markdown", "c", "no heading here"),
        ("d.md", "Dee", "# Dee\ntext"),
    ]
    assert not source.probes and source.size_tokens is None and source.settings == {}
    assert source.notes == ("6 documents, 22 tokens, 0 questions",)
    assert source.records[0].id == "a/plain.txt:0"
    assert load(tmp_path).hash == source.hash


def test_identity_is_of_the_content_not_of_the_place(tmp_path):
    one, two = (make(tmp_path / name, {"a.md": "x"}) for name in ("one", "two"))
    assert load(one).hash == load(two).hash != load(make(tmp_path / "three", {"a.md": "y"})).hash


def test_what_is_passed_over_is_counted(tmp_path):
    outside = make(tmp_path / "outside", {"secret.md": "secret"})
    root = make(
        tmp_path / "docs",
        {"a.md": "text", ".hidden.md": "no", ".git/x.md": "no", "pic.png": b"\x89PNG", "code": "x", "empty.md": "", "blank.txt": " \n", "tags.html": "<p></p>"},
    )  # fmt: skip
    (root / "out.md").symlink_to(outside / "secret.md")
    (root / "outdir").symlink_to(outside)
    (root / "in.md").symlink_to(root / "a.md")
    (root / "broken.md").symlink_to(root / "nowhere.md")
    (root / "loop").symlink_to(root)
    os.mkfifo(root / "pipe.md")
    source = load(root)
    assert [d.id for d in source.documents] == ["a.md"]
    assert set(source.notes[1:]) == {
        "2 hidden files and folders skipped",
        "1 files of another kind skipped (.png)",
        "1 files of another kind skipped (no suffix)",
        "3 files without text left out",
        "2 links that leave the folder skipped",
        "2 links within the folder skipped (what they name is read)",
        "1 broken links skipped",
        "1 things that are no files skipped",
    }


def test_all_that_cannot_be_read_comes_at_once(tmp_path):
    make(
        tmp_path,
        {
            "good.md": "x",
            "latin.md": "Zo\xeb".encode("latin-1"),
            "utf16.txt": "Zoë".encode("utf-16"),
            "binary.md": b"ab\0c",
            "broken.pdf": b"hello",
            "large.md": "x" * 2000,
        },
    )
    with pytest.raises(Faults) as caught:
        load(tmp_path, max_bytes=1000)
    text = str(caught.value)
    assert len(caught.value.faults) == 5
    for part in ("latin.md: not UTF-8 text (byte 2)", "utf16.txt: not UTF-8 but UTF-16 text; save it as UTF-8", "binary.md: binary", "broken.pdf: not a PDF", "large.md: 2000 bytes, more than max_bytes: 1000"):  # fmt: skip
        assert part in text
    assert [d.id for d in load(tmp_path, ids=["good.md"]).documents] == ["good.md"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path):
    make(tmp_path, {"a.md": "x", "b.md": "y"})
    (tmp_path / "a.md").chmod(0)
    with pytest.raises(InputError, match="a.md: cannot be read"):
        load(tmp_path)


@pytest.mark.skipif(sys.platform == "darwin", reason="file names are unicode there")
def test_a_name_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / os.fsdecode(b"bad\xff.md")).write_text("x")
    with pytest.raises(InputError, match="not UTF-8") as caught:
        load(tmp_path)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("files", "settings", "pattern"),
    [
        ({}, {}, "no .md"),
        ({"a.png": "x"}, {}, r"1 files of another kind skipped \(.png\)"),
        ({"a.md": ""}, {}, "no file here holds any text"),
        ({"a.md": "x"}, {"ids": ["b.md"]}, "no document 'b.md'; allowed: a.md. Did you mean 'a.md'"),
        ({"a.md": "x"}, {"documents": 2}, "2 asked for, 1 there"),
        ({"a.md": "x"}, {"maxbytes": 2}, "Did you mean 'max_bytes'"),
        ({"a.md": "x"}, {"path": "nowhere"}, "no such folder"),
    ],
)
def test_impossible_settings(files, settings, pattern, tmp_path):
    make(tmp_path, files)
    with pytest.raises(InputError, match=pattern):
        load(**{"path": tmp_path, **settings})


def test_one_file_and_a_count(tmp_path):
    make(tmp_path, {"a.md": "", "b.md": "x", "c.md": "y", "d.bin": "x"})
    assert [d.id for d in load(tmp_path / "b.md").documents] == ["b.md"]
    assert [d.id for d in load(tmp_path, documents=1).documents] == ["b.md"]
    with pytest.raises(InputError, match="not one of"):
        load(tmp_path / "d.bin")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("# A", "A"), ("x\n\n### B C ###", "B C"), ("Head\n---", "Head"), ("```\n# no\n```", ""), ("", "")],
)
def test_headings(text, expected):
    assert heading(text) == expected


def test_pdf(tmp_path):
    pytest.importorskip("pypdf")
    make(tmp_path, {"a.pdf": a_pdf("Lamps are light-\ning up.", "Second page."), "scan.pdf": a_pdf("")})
    source = load(tmp_path)
    assert [(d.id, d.title, d.text) for d in source.documents] == [
        ("a.pdf", "a", "Lamps are lighting up.\nSecond page.")
    ]
    assert source.notes[1] == "1 PDFs without text (scans?) left out"


def test_a_locked_pdf_is_named(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    make(tmp_path, {"a.pdf": a_pdf("secret")})
    writer = pypdf.PdfWriter(clone_from=tmp_path / "a.pdf")
    writer.encrypt("key", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    with pytest.raises(InputError, match="a.pdf: locked by a password"):
        load(tmp_path)


def test_without_pypdf_a_pdf_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    make(tmp_path, {"a.pdf": b"%PDF", "b.md": "x"})
    with pytest.raises(InputError, match="a.pdf: reading PDF needs pypdf; pip install pypdf"):
        pdf_text(tmp_path / "a.pdf")
    assert load(tmp_path, ids=["b.md"]).documents


def test_a_pdf_paper_gives_its_introduction(tmp_path):
    pytest.importorskip("pypdf")
    from loramem.sources.paperqa import own_papers

    make(tmp_path, {"lamps.pdf": a_pdf("Lamps\n1 Introduction\nWe light lamps.", "2 Related Work\nNone.")})
    assert [(p.id, p.introduction) for p in own_papers(tmp_path)] == [("lamps", "We light lamps.")]
