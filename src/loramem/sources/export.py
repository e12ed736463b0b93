"""A source as JSON lines, for people and other programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from loramem.core.errors import InputError
from loramem.core.files import read_json, write_json, write_jsonl
from loramem.sources.types import Source


def write_source(source: Source, to: Path) -> Path:
    """Write documents.jsonl, supervision.jsonl (recipe raw), probes.jsonl and source.json under `to`/NAME-SIZE (`to`/NAME where size does not apply).

    Raises:
        InputError: another source of that name and size lies there.
    """
    folder = to / "-".join(map(str, filter(None, (source.name, source.size_tokens))))
    if (folder / "source.json").exists():
        there = read_json(folder / "source.json")
        if not isinstance(there, dict) or there.get("hash") != source.hash:
            raise InputError(f"{folder} holds another source; give another --to")
    write_jsonl(
        folder / "documents.jsonl", ({"id": d.id, "title": d.title, "text": d.text} for d in source.documents)
    )
    write_jsonl(
        folder / "supervision.jsonl",
        (
            {
                "form": r.form,
                "prompt": r.prompt,
                "answer": r.answer if r.form != "text" else r.text,
                "document": d.id,
                "record": r.id,
            }
            for d in source.documents
            for r in d.records
        ),
    )
    write_jsonl(folder / "probes.jsonl", (asdict(probe) for probe in source.probes))
    write_json(
        folder / "source.json",
        {
            "name": source.name,
            "hash": source.hash,
            "size_tokens": source.size_tokens,
            "settings": source.settings,
            "notes": list(source.notes),
        },
    )
    return folder
