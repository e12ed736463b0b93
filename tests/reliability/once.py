"""A study, run once in a process of its own, under circumstances that must not matter: `python -m reliability.once SETTINGS.json`.

The settings say where (`work`), on which base, with how many threads, how many rows of a step, and what the process did before
(`disturb`: draw random numbers, read another set of names). What must come out the same is in `outcome`.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

VOLATILE = {"time", "seconds", "created", "run", "pid", "host", "ledger.json"}
LINES = {
    "ada.md": "Lamp a hangs in hall 1000. Lamp b hangs in hall 1007.",
    "bela.md": "Lamp b hangs in hall 1007. Lamp a hangs in hall 1000.",  # a router that counts words sees no difference
    "cid.md": "Lamp c hangs in hall 1014.",
    "Öde.md": "Lamp d hangs in hall 1021.",
    "dora.md": "Lamp e hangs in hall 1028.",
}
"""Documents of the folder source, by name."""


def write_documents(folder: Path, *, backwards: bool = False) -> Path:
    """The documents and their questions, the files made in this order or in the other one."""
    folder.mkdir(parents=True)
    for name in sorted(LINES, reverse=backwards):
        (folder / name).write_text(LINES[name] + "\n", encoding="utf-8")
    rows = [
        {"document": name, "question": f"In which hall hangs lamp {letter}?", "answers": [f"hall {1000 + 7 * number}"]}
        for number, (name, letter) in enumerate(zip(LINES, "abcde", strict=True))
    ]  # fmt: skip
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(settings: dict, folder: Path, **environment: str) -> subprocess.Popen:
    """Run settings in a new process, whose working folder is `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = Path(settings["work"]).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))
    tests = Path(__file__).parents[1]
    own = {"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent / 'src'}", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "PASSIVE"}  # fmt: skip
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(settings["threads"]))  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "reliability.once", str(path)], cwd=folder, env={**os.environ, **own, **threads, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen) -> None:
    said, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, said


# -- what must be the same -------------------------------------------------------------------------------------
def outcome(work: Path) -> dict[str, str]:
    """What a run left, by name: checksums of weights, predictions, texts, results, drawings; no times and no places."""
    found: dict[str, str] = {}
    store, run = work / "store", work / "run"
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if path.is_file() and not name.startswith(("cache/", "downloads/")):
            found[name] = _checksum(path)
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if path.is_file() and path.suffix in (".parquet", ".svg", ".csv", ".tex") or name == "summary.json":
            found[f"run/{name}"] = _checksum(path)
    for path in work.glob("said.json"):
        found["said.json"] = _checksum(path)
    return found


def _checksum(path: Path) -> str:
    if path.suffix == ".parquet":
        frame = pd.read_parquet(path)
        return hashlib.sha256(frame.to_json(orient="split", double_precision=15).encode()).hexdigest()
    if path.suffix in (".json", ".jsonl"):
        rows = [json.loads(line) for line in path.read_text().split("\n") if line] if path.suffix == ".jsonl" else json.loads(path.read_text())  # fmt: skip
        return hashlib.sha256(json.dumps(_lasting(rows), sort_keys=True).encode()).hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lasting(value: Any) -> Any:
    """A value without times (a marker keeps checksums of its files, and one of them holds times)."""
    if isinstance(value, dict):
        return {
            key: _lasting(inner) for key, inner in value.items() if not VOLATILE & set(str(key).split("_"))
        }
    return [_lasting(inner) for inner in value] if isinstance(value, list) else value


# -- the process -----------------------------------------------------------------------------------------------
def main(settings: dict) -> None:
    import numpy as np
    import torch

    torch.set_num_threads(settings["threads"])
    if settings.get("disturb"):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(settings["disturb"])
        torch.rand(100)

    from loramem.api import run_study
    from loramem.base import load_base
    from loramem.modules.store import Store
    from loramem.studies import spec
    from loramem.studies.progress import Progress

    work = Path(settings["work"])
    base = load_base(settings["base"], device="cpu", dtype="float32", offline=True)
    made = spec.validate(settings["body"], "quick")
    run_study(made, base, Store(work / "store"), work / "run", rows=settings.get("rows", 256), progress=Progress(live=False))  # fmt: skip
    if settings.get("sampled"):
        from loramem.synthesis.completing import Ask, Sampling
        from loramem.synthesis.local import Local

        asks = [
            Ask(f"Say {number}", max_tokens=24, sample=number % 2) for number in range(settings["sampled"])
        ]
        order = asks[::-1] if settings.get("disturb") else asks
        told = Local(base, Sampling(temperature=1.0, top_p=0.9, seed=3), rows=settings.get("sampled_rows", 4)).complete(order)  # fmt: skip
        said = {one.user: getattr(reply, "text", getattr(reply, "reason", "")) for one, reply in zip(order, told, strict=True)}  # fmt: skip
        (work / "said.json").write_text(json.dumps({f"{key}!": text for key, text in said.items()}, sort_keys=True))  # fmt: skip


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
