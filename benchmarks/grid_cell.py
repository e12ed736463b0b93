"""The plain ways of bench `grid`: transformers, PEFT and torch, as published scripts use them, with the labels mended.

Started by grid.py with one JSON job: `plan` writes the cells of the study; `published` trains and asks one cell, one
question at a time; `warm` goes through many cells in one process and asks in batches. Times are seconds since
`began`, the monotonic clock at which the parent started this process, so imports and loading are in `start`.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import asdict
from pathlib import Path

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from loramem.base.prompts import PromptBuilder
from loramem.core.errors import LoramemError
from loramem.core.identity import seed_from
from loramem.inference.batching import left_pad, positions
from loramem.metrics.scorers import METRICS, score
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.sources.types import Probe
from loramem.synthesis.supervision import Example, encode
from loramem.training import TrainJob
from loramem.training.feed import Feed
from loramem.training.schedule import factor

MAX_NEW_TOKENS = 50


# -- the study's cells ---------------------------------------------------------------------------------
def plan(job: dict) -> dict:
    """Write each cell as JSON: its settings, training examples and probes as text."""
    from loramem.base.model import load_base, resolve
    from loramem.modules.targets import resolve_targets
    from loramem.studies import spec
    from loramem.studies.plan import make_plan

    study = spec.load(
        "quick", assignments=job["assignments"], overrides={"seeds": job["seeds"], "base": job["base"]}
    )
    (name,) = study.bases
    base = load_base(name, device=job["device"], offline=True)
    metrics = [METRICS.get(name) for name in study.file.metrics]
    cells = []
    for cell in make_plan(study, base).cells:
        (task,) = cell.tasks  # the study's partition is corpus: one module for all
        asked = [probe for probe in task.probes if any(metric.applies(probe) for metric in metrics)]
        if job["probes"] == "trained":
            asked = [probe for probe in asked if probe.phrasing == "trained"]
        found = {
            "name": cell.slug if cell.seed is None else f"{cell.slug}-s{cell.seed}",
            "source": cell.source_key, "reading": cell.stem, "metrics": list(study.file.metrics),
            "group": f"{cell.source_key}-{cell.source.size_tokens}-{cell.stem}",
            "probes": [asdict(probe) for probe in asked], "module": None,
        }  # fmt: skip
        if cell.module is not None:
            one = cell.module.job
            found["module"] = {
                "spec": one.spec.model_dump(mode="json"), "objective": one.objective.model_dump(mode="json"),
                "optimizer": one.optimizer.model_dump(mode="json"), "steps": one.steps, "length": one.length,
                "seed": one.seed, "targets": resolve_targets(base.model, one.spec),
                "examples": [[e.form, e.prompt, e.answer] for e in cell.module.learnt.supervision.examples],
            }  # fmt: skip
        path = Path(job["folder"]) / f"{found['name']}.json"
        path.write_text(json.dumps(found), encoding="utf-8")
        shown = {key: found[key] for key in ("name", "source", "reading", "group")}
        steps = cell.module.job.steps if cell.module else 0
        cells.append({**shown, "path": str(path), "questions": len(asked), "steps": steps})
    return {
        "cells": cells, "base": str(resolve(name, offline=True)), "fingerprint": base.fingerprint,
        "device": str(base.device), "dtype": str(base.dtype).removeprefix("torch."),
        "context_length": base.context_length,
    }  # fmt: skip


# -- training ------------------------------------------------------------------------------------------
def attach(model, module: dict):
    """A PEFT model whose A matrices start where loramem's start (same distribution as PEFT's own; B is zero)."""
    spec = LoraSpec(**module["spec"])
    config = peft.LoraConfig(
        r=spec.rank,
        lora_alpha=spec.scale * spec.rank,
        lora_dropout=spec.dropout,
        target_modules=module["targets"],
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    model = peft.get_peft_model(model, config)
    for name, parameter in model.named_parameters():
        if ".lora_A." in name:
            layer = name.removeprefix("base_model.model.").split(".lora_A.")[0]
            generator = torch.Generator().manual_seed(seed_from("lora-init", module["seed"], layer))
            drawn = torch.nn.init.kaiming_uniform_(
                torch.empty(parameter.shape), a=math.sqrt(5), generator=generator
            )
            parameter.data.copy_(drawn)
    return model


def train(model, module: dict, encoded: tuple, pad_id: int) -> None:
    """The plain loop; `Feed` gives the rows of the study's own order, padded as the study pads them."""
    options = Optimizer(**module["optimizer"])
    steps = module["steps"]
    job = TrainJob(
        "solo", LoraSpec(**module["spec"]), Objective(**module["objective"]), options, steps, module["seed"], encoded,
        module["length"],
    )  # fmt: skip
    device = next(model.parameters()).device
    feed = Feed(job, pad_id, device)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: factor(options.schedule, step, steps=steps, warmup=options.warmup)
    )
    model.train(job.spec.dropout > 0)
    for _ in range(steps):
        chosen = feed.next()
        ids = feed.ids_ET[chosen]
        labels = ids.masked_fill(~feed.learn_ET[chosen], -100)
        model(input_ids=ids, attention_mask=feed.mask_ET[chosen], labels=labels).loss.backward()
        if options.clip:
            torch.nn.utils.clip_grad_norm_(parameters, options.clip)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.eval()


# -- reading -------------------------------------------------------------------------------------------
def prompt_of(prompts: PromptBuilder, probe: Probe) -> list[int]:
    return prompts.chat(probe.prompt) if probe.kind == "generate" else prompts.cloze(probe.prompt)


@torch.inference_mode()
def answers(model, prompts: PromptBuilder, batch: list[list[int]]) -> list[dict]:
    """Greedy answers to prompts, left-padded where there are several."""
    ids, mask = left_pad(batch, prompts.pad_id, model.device)
    room = prompts.context_length - ids.shape[1]
    if room < 1:
        raise LoramemError(f"a prompt of {ids.shape[1]} tokens leaves no room in {prompts.context_length}")
    stops = prompts.stop_ids
    output = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=min(MAX_NEW_TOKENS, room), do_sample=False,
        eos_token_id=sorted(stops), pad_token_id=prompts.pad_id,
    )  # fmt: skip
    found = []
    for row in output[:, ids.shape[1] :].tolist():
        end = next((place for place, token in enumerate(row) if token in stops), len(row))
        found.append({"prediction": prompts.decode(row[:end])})
    return found


@torch.inference_mode()
def likelihoods(model, prompts: PromptBuilder, batch: list[tuple[list[int], list[int]]]) -> list[dict]:
    """Log-likelihood of each target after its prompt; logits at the end only, where the targets stand."""
    ids, mask = left_pad([prompt + target for prompt, target in batch], prompts.pad_id, model.device)
    longest = max(len(target) for _, target in batch)
    logits = model(
        input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False, logits_to_keep=longest + 1
    ).logits  # fmt: skip
    found = []
    for row, (_, target) in zip(logits, batch, strict=True):
        wanted = torch.tensor(target, device=row.device)
        scores = row[-len(target) - 1 : -1].float()
        nats = scores.log_softmax(-1).gather(1, wanted[:, None]).double().sum()
        found.append(
            {"nats": float(nats), "tokens": len(target), "greedy": bool((scores.argmax(-1) == wanted).all())}
        )
    return found


def batches(items: list, length, rows: int):
    """Indices of similar length together, longest first; one by one in the order asked where `rows` is 1."""
    order = range(len(items)) if rows == 1 else sorted(range(len(items)), key=lambda i: -length(items[i]))
    for start in range(0, len(items), rows):
        yield order[start : start + rows]


def ask(model, prompts: PromptBuilder, probes: list[Probe], rows: int) -> dict[str, dict]:
    """Prediction rows by probe id: `rows` prompts (or targets) go through the model together."""
    found: dict[str, dict] = {}
    asked = [(probe, prompt_of(prompts, probe)) for probe in probes if probe.kind != "compare"]
    for chosen in batches(asked, lambda item: len(item[1]), rows):
        for place, row in zip(chosen, answers(model, prompts, [asked[i][1] for i in chosen]), strict=True):
            found[asked[place][0].id] = row
    compared = [
        (probe, (prompt_of(prompts, probe), prompts.target(answer)))
        for probe in probes
        if probe.kind == "compare"
        for answer in probe.answers
    ]
    scored: dict[int, dict] = {}
    for chosen in batches(compared, lambda item: len(item[1][0]) + len(item[1][1]), rows):
        for place, row in zip(
            chosen, likelihoods(model, prompts, [compared[i][1] for i in chosen]), strict=True
        ):
            scored[place] = row
    for place, (probe, _) in enumerate(compared):
        row = found.setdefault(probe.id, {"sum_nats": [], "tokens": [], "greedy": []})
        row["sum_nats"].append(scored[place]["nats"])
        row["tokens"].append(scored[place]["tokens"])
        row["greedy"].append(scored[place]["greedy"])
    return found


def means(metrics: list[str], probes: list[Probe], rows: dict[str, dict]) -> dict[str, float]:
    """`metric/phrasing` -> mean score."""
    found: dict[str, list[float]] = {}
    for metric in map(METRICS.get, metrics):
        for probe in probes:
            if metric.applies(probe):
                found.setdefault(f"{metric.name}/{probe.phrasing}", []).append(
                    score(metric, probe, rows[probe.id])
                )
    return {key: sum(values) / len(values) for key, values in found.items()}


# -- one process ---------------------------------------------------------------------------------------
def run(job: dict) -> dict:
    """Load the base, then train, ask and score every cell of the job. Seconds of each part, summed over cells."""
    torch.set_num_threads(job["threads"])
    transformers_logging.disable_progress_bar()
    device = torch.device(job["device"])

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    tokenizer = AutoTokenizer.from_pretrained(job["base"], local_files_only=True)
    tokenizer.model_max_length = 10**12
    model = AutoModelForCausalLM.from_pretrained(
        job["base"], dtype=getattr(torch, job["dtype"]), use_safetensors=True, local_files_only=True
    )
    model.to(device).eval().requires_grad_(False)
    model.generation_config = GenerationConfig()
    prompts = PromptBuilder(tokenizer, job["context_length"])
    seconds = {"start": 0.0, "train": 0.0, "read": 0.0}
    cells = {}
    last = job["began"]

    def spent(part: str) -> None:
        nonlocal last
        at = now()
        seconds[part] += at - last
        last = at

    for path in job["cells"]:
        cell = json.loads(Path(path).read_text(encoding="utf-8"))
        probes = [Probe(**{**probe, "answers": tuple(probe["answers"])}) for probe in cell["probes"]]
        module = cell["module"]
        asked = model
        if module is not None:
            encoded = tuple(
                encode(Example(form, prompt, answer, "", ""), prompts)
                for form, prompt, answer in module["examples"]
            )
            spent("start")
            asked = attach(model, module)
            train(asked, module, encoded, prompts.pad_id)
            spent("train")
        else:
            spent("start")
        cells[cell["name"]] = means(cell["metrics"], probes, ask(asked, prompts, probes, job["rows"]))
        if module is not None and len(job["cells"]) > 1:
            model = asked.unload()
            if hasattr(
                model, "peft_config"
            ):  # else PEFT takes the next module for a second one of this model
                del model.peft_config
        spent("read")
    gpu = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {"seconds": seconds, "scores": cells, "threads": torch.get_num_threads(), "gpu_mib": gpu}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    try:
        found = plan(job) if job["do"] == "plan" else run(job)
    except LoramemError as error:
        sys.exit(f"error: {error}")
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
