"""CounterFact: facts edited against what the base knows (Meng et al. 2022; arXiv 2603.01097, section 3).

Generated from Almanac's common world (which the embedded base knows by heart), or read from the published
forms: ROME's JSON, EasyEdit records, or CSV slices joined with such records by `prompt + " " + target_new`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.sources.almanac.editing import edits as common_edits
from loramem.sources.edits import Edit, edit_source
from loramem.sources.published import choose_slices, raise_faults, read_column, read_list, slice_files
from loramem.sources.slicing import nested_slices
from loramem.sources.types import Source

PATTERN = "counterfact_edit_{K}K.csv"


class CounterFactConfig(Config):
    """Edits in nested slices."""

    name: Literal["counterfact"] = "counterfact"
    sizes: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]
    """Slice sizes, in tokens of the base (published slices: of the tokenizer that cut them)."""
    seed: int = 12
    """Of order, new targets and wording of generated edits."""
    path: str | None = None
    """A JSON file of records (ROME or EasyEdit form), or a folder with records and CSV slices; None generates."""
    slices: Literal["recut", "published"] = "recut"
    """`recut`: cut the records' order in the base's own tokens; `published`: the CSV slices as they are."""


def _text(row: dict, *path: str) -> str | None:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value.strip() else None


def _texts(row: dict, key: str) -> tuple[str, ...]:
    value = row.get(key)
    if isinstance(value, str):
        return (value,) if value.strip() else ()
    return (
        tuple(item for item in value if isinstance(item, str) and item.strip())
        if isinstance(value, list)
        else ()
    )


def rome_edit(row: dict) -> Edit | None:
    """A record of the original file (requested_rewrite, paraphrase_prompts, neighborhood_prompts); None if malformed."""
    rewrite = row.get("requested_rewrite")
    if not isinstance(rewrite, dict):
        return None
    template, subject = _text(rewrite, "prompt"), _text(rewrite, "subject")
    new, true = _text(rewrite, "target_new", "str"), _text(rewrite, "target_true", "str")
    if not (template and subject and new and true) or "{}" not in template:
        return None
    return Edit(
        str(row.get("case_id")), subject, template.replace("{}", subject), new, true,
        _texts(row, "paraphrase_prompts"), tuple((prompt, true) for prompt in _texts(row, "neighborhood_prompts")),
    )  # fmt: skip


def easyedit_edit(row: dict) -> Edit | None:
    """A record of the EasyEdit form (prompt, rephrase_prompt, locality_prompt); None if malformed."""
    prompt, subject, new, true = (
        _text(row, key) for key in ("prompt", "subject", "target_new", "ground_truth")
    )
    if not (prompt and subject and new and true):
        return None
    near, near_true = _text(row, "locality_prompt"), _text(row, "locality_ground_truth")
    return Edit(
        str(row.get("case_id")),
        subject,
        prompt,
        new,
        true,
        _texts(row, "rephrase_prompt"),
        ((near, near_true),) if near and near_true else (),
    )


def read_records(path: Path) -> list[Edit]:
    """Edits of a JSON file in either form. Raises `Faults` naming every malformed or repeated record."""
    edits: list[Edit] = []
    faults = []
    seen: dict[str, int] = {}
    for number, row in enumerate(read_list(path), start=1):
        if not isinstance(row, dict) or row.get("case_id") is None:
            faults.append(f"{path}: record {number}: needs a case_id")
            continue
        edit = rome_edit(row) if "requested_rewrite" in row else easyedit_edit(row)
        if edit is None:
            form = (
                "requested_rewrite{prompt with {}, subject, target_new.str, target_true.str}"
                if "requested_rewrite" in row
                else "prompt, subject, target_new, ground_truth"
            )
            faults.append(f"{path}: record {number} (case {row['case_id']}): needs {form}")
        elif edit.case_id in seen:
            faults.append(
                f"{path}: record {number}: case {edit.case_id} stands already at record {seen[edit.case_id]}"
            )
        else:
            seen[edit.case_id] = number
            edits.append(edit)
    raise_faults(faults)
    return edits


def join_slice(path: Path, edits: Sequence[Edit]) -> list[Edit]:
    """The edits of a CSV slice, found by their whole statement (PITFALLS 47: subjects are not unique)."""
    by_statement: dict[str, list[Edit]] = {}
    for edit in edits:
        by_statement.setdefault(edit.statement, []).append(edit)
    chosen, faults = [], []
    for line, text in read_column(path):
        found = by_statement.get(text, [])
        if len(found) != 1:
            faults.append(
                f"{path}:{line}: {len(found) or 'no'} records say {text[:80]!r}; needed: exactly one"
            )
        else:
            chosen.append(found[0])
    raise_faults(faults)
    return list({edit.case_id: edit for edit in chosen}.values())


def _records_file(folder: Path) -> Path:
    found = sorted(path for path in folder.glob("*.json") if not path.name.endswith("_meta.json"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{folder}: needs exactly one JSON file of records beside the slices, found {names}; give path: FILE.json to choose"
        )
    return found[0]


def build(config: CounterFactConfig, count_tokens: Callable[[str], int]) -> list[Source]:
    """One source per size, smallest first. Raises `InputError`/`Faults` for bad files and impossible sizes."""
    settings = {key: value for key, value in config.identity().items() if key != "path"}
    if config.path is None:
        if config.slices == "published":
            raise InputError("slices: published needs path: the folder of the published files")
        edits, what = list(common_edits(config.seed)), "common facts"
    else:
        where = Path(config.path).expanduser()
        if not where.exists():
            raise InputError(f"path {config.path!r}: no such file or folder")
        records = _records_file(where) if where.is_dir() else where
        edits, what = read_records(records), f"records of {records.name}"
        if config.slices == "published":
            files = choose_slices(where if where.is_dir() else where.parent, PATTERN, config.sizes)
            return [
                edit_source(join_slice(path, edits), size=size, settings=settings)
                for size, path in files.items()
            ]
        folder = where if where.is_dir() else where.parent
        largest = list(slice_files(folder, PATTERN).values())
        if where.is_dir() and largest:  # keep the published order, which the records file need not have
            edits, what = join_slice(largest[-1], edits), f"lines of {largest[-1].name}"
    cut = nested_slices([edit.statement for edit in edits], config.sizes, count_tokens, what=what)
    return [edit_source(edits[:count], size=size, settings=settings) for size, count in cut.items()]
