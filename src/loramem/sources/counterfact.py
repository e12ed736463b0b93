"""CounterFact: facts edited against what the base knows (Meng et al. 2022; arXiv 2603.01097, section 3).

Generated from Almanac's common world (which the embedded base knows by heart), or read from the published
forms: ROME's JSON, EasyEdit records, or CSV slices joined with such records by `prompt + " " + target_new`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from loramem.core.config import Config
from loramem.core.errors import InputError
from loramem.core.paths import user_path
from loramem.core.shown import blank
from loramem.sources.almanac.editing import edits as common_edits
from loramem.sources.edits import Edit, edit_source
from loramem.sources.published import choose_slices, raise_faults, read_column, read_list, slice_files
from loramem.sources.slicing import Size, nested_slices
from loramem.sources.types import Source

PATTERN = "counterfact_edit_{K}K.csv"


class CounterFactConfig(Config):
    """Edits in nested slices."""

    name: Literal["counterfact"] = "counterfact"
    sizes: Annotated[tuple[Size, ...], Field(min_length=1)]
    """Slice sizes, in tokens of the base (published slices: of the tokenizer that cut them)."""
    seed: int = 12
    """Of order, new targets and wording of generated edits."""
    path: str | None = None
    """A JSON file of records (ROME or EasyEdit form), or a folder with records and CSV slices; None generates."""
    beyond: Annotated[int, Field(ge=0)] | None = None
    """Edits asked in other ways than the trained prompt (paraphrases, neighbours, negation), N spread over a
    slice; None: all."""
    generations: Annotated[int, Field(ge=0)] = 20
    """Edits after whose generation prompts the model goes on freely (fluency, consistency); 0: none."""
    snippets: str | None = None
    """ROME's attribute_snippets.json: references for consistency; None: no references with files of records."""
    slices: Literal["recut", "published"] = "recut"
    """`recut`: cut the records' order in the base's own tokens; `published`: the CSV slices as they are."""


def _text(row: dict, *path: str) -> str | None:
    value: Any = row
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) and not blank(value) else None


def _texts(row: dict, key: str) -> tuple[str, ...]:
    value = row.get(key)
    if isinstance(value, str):
        return () if blank(value) else (value,)
    return (
        tuple(item for item in value if isinstance(item, str) and not blank(item))
        if isinstance(value, list)
        else ()
    )


Snippets = Mapping[tuple[str, str], tuple[str, ...]]


def rome_edit(row: dict, snippets: Snippets) -> Edit | None:
    """A record of the original file (requested_rewrite, paraphrase_prompts, neighborhood_prompts); None if malformed.

    Args:
        snippets: Reference texts by (relation id, id of the new target), from attribute_snippets.json.
    """
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
        generations=_texts(row, "generation_prompts"),
        references=snippets.get((str(rewrite.get("relation_id")), str(_text(rewrite, "target_new", "id"))), ()),
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


def read_snippets(path: Path) -> Snippets:
    """ROME's attribute_snippets.json: texts about things that truly have an attribute, by relation and target.

    Raises:
        Faults: entries without relation_id, target_id and samples with text.
    """
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    faults = []
    for number, row in enumerate(read_list(path), start=1):
        ids = (_text(row, "relation_id"), _text(row, "target_id")) if isinstance(row, dict) else (None, None)
        samples = row.get("samples") if isinstance(row, dict) else None
        texts = tuple(
            text
            for sample in (samples if isinstance(samples, list) else [])
            if (text := _text(sample, "text"))
        )
        if not (ids[0] and ids[1] and texts):
            faults.append(f"{path}: entry {number}: needs relation_id, target_id and samples with text")
        else:
            found[ids[0], ids[1]] = texts
    raise_faults(faults)
    return found


def read_records(path: Path, snippets: Snippets) -> list[Edit]:
    """Edits of a JSON file in either form. Raises `Faults` naming every malformed or repeated record."""
    edits: list[Edit] = []
    faults = []
    seen: dict[str, int] = {}
    for number, row in enumerate(read_list(path), start=1):
        if not isinstance(row, dict) or row.get("case_id") is None:
            faults.append(f"{path}: record {number}: needs a case_id")
            continue
        edit = rome_edit(row, snippets) if "requested_rewrite" in row else easyedit_edit(row)
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
    if config.path is None and config.slices == "published":
        raise InputError("slices: published needs path: the folder of the published files")
    edits, what = _edits(config)
    if config.slices == "published":
        where = user_path(str(config.path))
        files = choose_slices(where if where.is_dir() else where.parent, PATTERN, config.sizes)
        return [_source(config, join_slice(path, edits), size) for size, path in files.items()]
    cut = nested_slices([edit.statement for edit in edits], config.sizes, count_tokens, what=what)
    return [_source(config, edits[:count], size) for size, count in cut.items()]


def dev(config: CounterFactConfig, size: int, count_tokens: Callable[[str], int]) -> Source:
    """Edits of `size` tokens that no slice of `build(config)` holds: settings are chosen on them (PITFALLS 44).

    Raises:
        Faults: too few edits are left beyond the largest slice.
    """
    taken = {record.id for source in build(config, count_tokens) for record in source.records}
    rest = [edit for edit in _edits(config)[0] if edit.case_id not in taken]
    cut = nested_slices(
        [e.statement for e in rest], [size], count_tokens, what="edits beyond the largest slice"
    )
    return _source(config, rest[: cut[size]], size, split="dev")


def _source(config: CounterFactConfig, edits: Sequence[Edit], size: int, **more: str) -> Source:
    settings = {key: value for key, value in config.identity().items() if key not in ("path", "snippets")}
    return edit_source(
        edits, size=size, settings={**settings, **more}, generations=config.generations, beyond=config.beyond
    )


def _edits(config: CounterFactConfig) -> tuple[list[Edit], str]:
    """All edits in the order from which slices are cut, and what they are."""
    if config.path is None:
        return list(common_edits(config.seed)), "common facts"
    where = user_path(config.path)
    if not where.exists():
        raise InputError(f"path {config.path!r}: no such file or folder")
    snippets = read_snippets(user_path(config.snippets)) if config.snippets else {}
    records = _records_file(where) if where.is_dir() else where
    edits = read_records(records, snippets)
    largest = list(slice_files(where, PATTERN).values()) if where.is_dir() else []
    if largest and config.slices == "recut":  # keep the published order, which the records file need not have
        return join_slice(largest[-1], edits), f"lines of {largest[-1].name}"
    return edits, f"records of {records.name}"
