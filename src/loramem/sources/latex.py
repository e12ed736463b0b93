"""The introduction of a paper from its LaTeX sources, as plain text."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from loramem.core.errors import InputError
from loramem.core.files import inside, read_text

_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*\n?[ \t]*")
_INPUT = re.compile(r"\\(?:input|include|subfile)\s*(?:\{([^}]*)\}|([^\s{}\\]+))")
_DEFINED = re.compile(r"\\(?:(?:re)?newcommand\*?\s*\{?|def\s*)(\\[A-Za-z]+)\}?\s*(?=\{)")
_STOP = re.compile(
    r"\\(?:section|chapter|appendix|bibliography|printbibliography)\b|\\begin\{thebibliography\}|\\end\{document\}"
)
# fmt: off
_FLOATS = re.compile(r"\\begin\{((?:figure|table|algorithm|wrapfigure|wraptable|tikzpicture|teaserfigure|abstract)\*?)\}.*?\\end\{\1\}", re.DOTALL)
_MATH = re.compile(r"\$\$.*?\$\$|(?<!\\)\$.*?(?<!\\)\$|\\\(.*?\\\)|\\\[.*?\\\]|\\begin\{((?:equation|align|gather|multline|eqnarray)\*?)\}.*?\\end\{\1\}", re.DOTALL)
_SILENT = re.compile(r"(?:[Cc]ite\w*|(?!href)[a-zA-Z]*ref|label|footnote(?:mark|text)?|thanks|vspace|hspace|includegraphics|input|vskip|setlength|bibliographystyle|color|looseness|todo|phantomsection|pagestyle)\Z")
_LAST = frozenset(("href", "textcolor", "colorbox", "scalebox", "resizebox"))
_SYMBOLS = {
    "ldots": "…", "dots": "…", "LaTeX": "LaTeX", "TeX": "TeX", "S": "§", "ss": "ß", "ae": "æ", "oe": "œ", "o": "ø", "O": "Ø", "aa": "å", "l": "ł", "i": "i", "item": "\n- ",
    "par": "\n\n", "textendash": "–", "textemdash": "—", "textbackslash": "\\", "quad": " ", "qquad": " ", "newline": "\n", "linebreak": "\n", "textasciitilde": "~",
}
_ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", '"': "\u0308", "~": "\u0303", "=": "\u0304", ".": "\u0307", "c": "\u0327", "v": "\u030c", "H": "\u030b", "u": "\u0306"}
# fmt: on


def _braced(text: str, start: int, pair: str = "{}") -> tuple[str, int]:
    """(what stands in the brackets that open at `start`, the place after them); an unclosed one runs to the end."""
    depth, place = 0, start
    while place < len(text):
        if text[place] == "\\":
            place += 1
        elif text[place] == pair[0]:
            depth += 1
        elif text[place] == pair[1]:
            depth -= 1
            if not depth:
                return text[start + 1 : place], place + 1
        place += 1
    return text[start + 1 :], len(text)


def _expand(path: Path, root: Path, above: tuple[Path, ...] = ()) -> str:
    r"""A file without comments, every \input in it replaced by its file; only files inside `root` are read."""
    if path in above:
        raise InputError(f"{path}: inputs itself")

    def read(match: re.Match) -> str:
        name = (match[1] if match[1] is not None else match[2]).strip()
        where = inside(root, name)
        where = where if where.suffix == ".tex" or where.is_file() else inside(root, name + ".tex")
        return _expand(where, root, (*above, path)) if where.is_file() else ""

    text = read_text(path).replace("\r\n", "\n")
    return _INPUT.sub(read, _COMMENT.sub(r"\1", text))


def _macros(text: str) -> str:
    """The text with its own macros without arguments written out; those with arguments are left to `_plain`."""
    known = {match[1]: _braced(text, match.end())[0] for match in _DEFINED.finditer(text)}
    body = text[text.find(r"\begin{document}") :] if r"\begin{document}" in text else text
    for _ in range(5):  # macros of macros; a circle of them ends
        before = body
        for name, value in known.items():
            # a definition inside the body stays what it is
            use = rf"(?<!command)(?<!command\{{)(?<!def){re.escape(name)}(?![A-Za-z])(?:\{{\}})?"
            body = re.sub(
                use, value.replace("\\", r"\\"), body
            )  # a backslash in a replacement is written twice
        if body == before or len(body) > 2**22:
            break
    return body


def _plain(text: str) -> str:
    """LaTeX prose as plain text: citations, references, labels, footnotes and floats gone, formulas as written."""
    formulas: list[str] = []

    def keep(match: re.Match) -> str:
        formulas.append(match.group())
        return f"\x00{len(formulas) - 1}\x00"

    plain = _prose(_MATH.sub(keep, _FLOATS.sub("", text.replace("\x00", ""))))
    plain = plain.replace("``", "“").replace("''", "”").replace("---", "—").replace("--", "–")
    plain = re.sub(r"\x00(\d+)\x00", lambda match: formulas[int(match[1])], plain)
    plain = re.sub(r"\s*\n- ", "\n- ", re.sub(r" ?\( *[;,]? *\)", "", plain))
    paragraphs = (re.sub(r"\n(?!- )", " ", part) for part in re.split(r"\n[ \t]*\n\s*", plain))
    return "\n\n".join(
        tidy for part in paragraphs if (tidy := re.sub(r"[ \t]+", " ", part).replace(" \n", "\n").strip())
    )


_COMMAND = re.compile(r"\\([A-Za-z]+)\*?[ \t]*\n?|\\(.)", re.DOTALL)


def _prose(text: str) -> str:
    """The words of LaTeX, command by command."""
    out: list[str] = []
    place = 0
    while place < len(text):
        match = _COMMAND.match(text, place)
        if not match:
            out.append({"~": " ", "{": "", "}": ""}.get(text[place], text[place]))
            place += 1
            continue
        name, place = match[1] or match[2], match.end()
        if name in _ACCENTS and (not match[1] or text[place : place + 1] == "{"):
            letter, place = (
                _braced(text, place)
                if text[place : place + 1] == "{"
                else (text[place : place + 1], place + 1)
            )
            out.append(unicodedata.normalize("NFC", letter.replace("\\i", "i") + _ACCENTS[name]))
        elif match[2]:
            out.append("\n" if name == "\\" else name if name in "%&_#${} " else "")
        elif name in _SYMBOLS:
            out.append(
                _SYMBOLS[name] + ("" if name in ("item", "par") or match.group()[-1:].isalpha() else " ")
            )
        else:
            arguments = []
            while text[place : place + 1] in ("[", "{"):
                inner, place = _braced(text, place, "[]" if text[place] == "[" else "{}")
                arguments += [inner] if text[place - 1 : place] != "]" else []
            if name in ("begin", "end"):
                out.append("\n\n")
            elif name.lower() in ("citet", "textcite", "citeauthor") and arguments:
                out.append(f"[{arguments[-1]}]")  # the sentence's subject: its key stands for it
            elif _SILENT.match(name):
                while out and out[-1] in (
                    " ",
                    "\n",
                ):  # "as shown \cite{x}." keeps no space before the full stop
                    out.pop()
                out.append("" if text[place : place + 1] in (".", ",", ";", ":", ")", "") else " ")
            else:
                out += (
                    [_prose(arguments[-1])]
                    if name in _LAST and arguments
                    else [" ".join(map(_prose, arguments))]
                )
    return "".join(out)


def _main_file(source: Path) -> Path:
    """The file with the document class. Raises `InputError` where there are none or several."""
    if source.is_file():
        return source
    found = [
        p for p in sorted(source.rglob("*.tex")) if r"\documentclass" in _COMMENT.sub(r"\1", read_text(p))
    ]
    main = [path for path in found if path.stem in ("main", "ms", "paper")] if len(found) > 1 else found
    if len(main) != 1:
        names = ", ".join(str(path.relative_to(source)) for path in found) or "none"
        raise InputError(
            f"{source}: needs one .tex file with \\documentclass, found {names}; give that file alone"
        )
    return main[0]


def latex_introduction(source: Path) -> tuple[str, str]:
    r"""(introduction, title) of a LaTeX file or folder, as plain text: \section{Introduction} to the next section.

    Raises:
        InputError: no main file or several, an \input that leaves the folder or goes in a circle, no such section.
    """
    main = _main_file(source)
    raw = _expand(main, main.parent if source.is_file() else source)
    text = _macros(raw)
    for match in re.finditer(r"\\(?:section|chapter)\*?\s*(?:\[[^\]]*\]\s*)?(?=\{)", text):
        heading, start = _braced(text, match.end())
        if "introduction" in _plain(heading).lower():
            stop = _STOP.search(text, start)
            named = re.search(r"\\title\s*(?:\[[^\]]*\]\s*)?(?=\{)", raw)
            title = " ".join(_plain(_braced(raw, named.end())[0]).split()) if named else ""
            body = _plain(text[start : stop.start()] if stop else text[start:])
            if body:
                return body, title
    raise InputError(f"{main}: no \\section{{Introduction}} with text under it")
