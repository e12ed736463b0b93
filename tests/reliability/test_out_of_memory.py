"""Out of memory: what does not fit is told, everything else is kept, and with more memory the same command does the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import yaml

from loramem.answering import readings
from loramem.core.files import read_json
from loramem.modules.store import MODULE_MARKER, Store
from loramem.studies import learning
from loramem.training import loop
from tinystudy import PHONES, body

SMALL = {
    **PHONES, "sources__phonebook__sizes": [60], "seeds": 1, "modules__budget__steps": 2, "metrics": ["exact_match", "answer_nll"],
    "readings": ["closed", "module"],
}  # fmt: skip


def command(folder: Path, checkpoints) -> list[str]:
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(body(**SMALL)), encoding="utf-8")
    return ["study", "run", str(file), "--base", str(checkpoints["llama"]), "--out", str(folder / "out")]


def test_what_does_not_fit_is_told_and_the_rest_is_kept_and_not_done_again(
    loramem, checkpoints, tmp_path, monkeypatch
):
    """Modules of rank 3 do not fit at all, and reading without a module does not either."""
    part_losses, answer = loop.part_losses, readings.answer

    def training(base, bank, parts):
        if any(part.learner.job.spec.rank == 3 for part in parts):
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"
            )
        return part_losses(base, bank, parts)

    def reading(base, asked, *rest, **options):
        if any(one.adapter is None for one in asked):
            raise MemoryError
        return answer(base, asked, *rest, **options)

    monkeypatch.setattr(loop, "part_losses", training)
    monkeypatch.setattr(readings, "answer", reading)
    words = command(tmp_path, checkpoints)
    code, said, told = loramem(*words)
    assert code == 1 and "Traceback" not in told + said
    [line] = told.splitlines()
    assert line.startswith("2 cells have no result") and "emory" in line
    assert "out of memory with a single row" in said and "MemoryError" in said
    store = Store(tmp_path / "store", look=True)
    [kept] = store.modules()
    assert kept.load()[0].rank == 1
    stamp = (kept.folder / MODULE_MARKER).stat()
    rows = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert rows.loc[rows["reading"] == "module", "value"].notna().all()
    failures = read_json(tmp_path / "out" / "summary.json")["failures"]
    assert len(failures) == 2 and all("emory" in one["error"] for one in failures)

    monkeypatch.setattr(loop, "part_losses", part_losses)
    monkeypatch.setattr(readings, "answer", answer)
    code, said, told = loramem(*words)
    assert (code, told) == (0, ""), told
    assert "train: 1 of 1 done" in said and "read: 2 of 2 done" in said
    again = (kept.folder / MODULE_MARKER).stat()
    assert (again.st_ino, again.st_mtime_ns) == (stamp.st_ino, stamp.st_mtime_ns)
    assert sorted(module.load()[0].rank for module in store.modules()) == [1, 3]


def test_memory_that_ends_while_planning_is_one_message(loramem, checkpoints, tmp_path, monkeypatch):
    def synthesize(*_, **__):
        raise MemoryError("Unable to allocate 9.1 TiB for an array")

    monkeypatch.setattr(learning, "synthesize", synthesize)
    code, _, told = loramem(*command(tmp_path, checkpoints))
    assert code == 1 and told.startswith(
        "error: out of memory (Unable to allocate 9.1 TiB for an array); what was finished is kept"
    )
    assert len(told.splitlines()) == 1
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log[-1]["event"] == "run-end" and log[-1]["state"] == "failed"
