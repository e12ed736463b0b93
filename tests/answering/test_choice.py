"""Four-option questions: every option scored as an answer, with and without a context, and the likeliest is the choice."""

from __future__ import annotations

import pytest
import torch

from loramem.answering.ask import answer
from loramem.answering.contexts import alone, in_documents, in_passages
from loramem.metrics.scorers import METRICS, score
from loramem.retrieval import Retrieval
from loramem.sources.types import Document, Probe, Record

DOCUMENT = Document("d", (Record("r0", "The lamp is red."), Record("r1", "The boat is new.")))
PROBES = tuple(
    Probe(f"p{n}", f"r{n}", "d", "choice", "heldout", f"What is it, {n}?", ("red", "a new one", "x", "the old"), gold=n)
    for n in range(2)
)  # fmt: skip


def mean_nats(base, prompt: list[int], option: list[int]) -> float:
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([[*prompt, *option]]), use_cache=False).logits[0]
    rows = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return rows.gather(1, torch.tensor(option)[:, None]).mean().item()


@pytest.mark.parametrize("reading", ["closed", "icl", "rag"])
def test_every_option_is_scored_as_an_answer(base, reading):
    if reading == "closed":
        rows, context = answer(base, alone(PROBES), rows=8), None
    elif reading == "icl":
        rows, context = answer(base, in_documents(base, PROBES, [DOCUMENT]), rows=8), DOCUMENT.text
    else:
        found = Retrieval(method="gold", passages_k=1, chunk_tokens=12)
        rows = answer(base, in_passages(base, PROBES, [DOCUMENT], found), rows=8)
        context = None
    for probe, row in zip(PROBES, rows, strict=True):
        assert row["options"] == list(probe.answers) and len(row["sum_nats"]) == 4
        if reading == "rag":
            assert row["passage_hit"]
            continue
        prompt = base.prompts.chat(probe.prompt, context)
        expected = [mean_nats(base, prompt, base.prompts.answer(option)) for option in probe.answers]
        told = [total / count for total, count in zip(row["sum_nats"], row["tokens"], strict=True)]
        assert told == pytest.approx(expected, abs=2e-4)
        assert sum(row["gold_nats"]) == pytest.approx(row["sum_nats"][probe.gold])
        best = max(range(4), key=expected.__getitem__)
        assert score(METRICS.get("accuracy"), probe, row) == float(best == probe.gold)


def test_a_tie_is_shared_and_the_hard_subset_counts_hard_questions_only():
    probe = PROBES[0]
    row = {"sum_nats": [-2.0, -4.0, -9.0, -3.0], "tokens": [1, 2, 3, 1]}
    assert score(METRICS.get("accuracy"), probe, row) == 0.5
    assert score(METRICS.get("accuracy"), probe, {"failure": "x"}) is None
    hard = METRICS.get("accuracy_hard")
    assert not hard.applies(probe) and METRICS.get("accuracy").applies(probe)
    assert hard.applies(Probe("h", "r0", "d", "choice", "heldout", "?", ("a", "b"), hard=True))
