"""The divergence of two next-token distributions, against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, kl_divergence

from loramem.metrics.harm import kl_nats
from loramem.metrics.scorers import METRICS, score
from loramem.sources.types import OUTSIDE, Probe


def logits(seed: int, tokens: int, vocabulary: int, scale: float, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(tokens, vocabulary, generator=generator, dtype=torch.float64) * scale).to(dtype)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 99), st.integers(1, 5), st.integers(2, 300), st.floats(0, 30), st.floats(-1e3, 1e3))
def test_equals_the_divergence_of_categoricals_and_is_never_below_zero(
    seed, tokens, vocabulary, scale, shift
):
    base_TV, module_TV = (
        logits(seed, tokens, vocabulary, scale),
        logits(seed + 100, tokens, vocabulary, scale),
    )
    found_T = kl_nats(base_TV, module_TV)
    assert found_T.shape == (tokens,) and found_T.dtype == torch.float64
    expected_T = kl_divergence(Categorical(logits=base_TV), Categorical(logits=module_TV))
    assert torch.allclose(found_T, expected_T, rtol=1e-9, atol=1e-9) and (found_T > -1e-12).all()
    assert torch.allclose(kl_nats(base_TV + shift, module_TV - shift), found_T, atol=1e-7), (
        "logits have no zero point"
    )
    assert (kl_nats(base_TV, base_TV) == 0).all()


def test_the_base_comes_first():
    sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = 1 / (1 + math.exp(-4))
    assert kl_nats(sure, unsure).item() == pytest.approx(
        math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p), abs=1e-6
    )
    assert kl_nats(unsure, sure).item() == pytest.approx(
        -math.log(2) - (math.log(p) + math.log(1 - p)) / 2, abs=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrow_logits_are_widened(dtype):
    base_TV, module_TV = logits(1, 3, 50, 3, dtype), logits(2, 3, 50, 3, dtype)
    found_T = kl_nats(base_TV, module_TV)
    assert found_T.dtype == torch.float32
    assert torch.allclose(found_T.double(), kl_nats(base_TV.double(), module_TV.double()), atol=1e-5)


def test_ruled_out_tokens():
    base_TV = torch.tensor([[0.0, 0.0, -torch.inf]])
    assert kl_nats(base_TV, base_TV).item() == 0
    assert kl_nats(base_TV, torch.zeros(1, 3)).item() == pytest.approx(math.log(1.5))
    assert kl_nats(torch.zeros(1, 3), base_TV).item() == math.inf


# -- metrics ---------------------------------------------------------------------------------------
def test_scores_of_harm():
    passage = Probe("unrelated:p", "unrelated:p", "", "passage", "unrelated", "Rain fell.", ())
    metric = METRICS.get("kl_to_base")
    assert (
        score(metric, passage, {"kl_nats": 0.25}) == 0.25
        and score(metric, passage, {"failure": "x", "kl_nats": None}) is None
    )
    assert metric.measured({"kl_nats": 0.0}) and not metric.measured({"prediction": "x"})
    assert metric.highest is None and metric.lower_is_better and metric.unit == "nats"
    fact = Probe("unrelated:f", "unrelated:f", "", "generate", "unrelated", "?", ("violin",), level="common")
    assert [
        score(METRICS.get("common_accuracy"), fact, {"prediction": said}) for said in ("The violin.", "viola")
    ] == [1.0, 0.0]


MEMORY = {"exact_match", "token_f1", "rouge_l", "bleu", "judge", "accuracy", "accuracy_hard", "accuracy_parsed", "accuracy_parsed_hard",
    "parsed", "efficacy", "paraphrase", "neighbourhood", "generation_match", "negation", "fluency", "consistency", "bits_stored",
    "answer_nll", "tokens_above_half"}  # fmt: skip
"""Metrics of what was written."""


@pytest.mark.parametrize("kind", ["generate", "compare", "choice", "continue", "passage"])
@pytest.mark.parametrize("phrasing", OUTSIDE)
def test_no_score_of_a_memory_applies_to_what_it_does_not_hold(kind, phrasing):
    probe = Probe("p", "p", "", kind, phrasing, "?", ("a", "b"), bits=3.0, hard=True)
    applying = {name for name in METRICS.names() if METRICS.get(name).applies(probe)}
    assert not applying & MEMORY and set(METRICS.names()) > MEMORY
    harm = {"generate": {"common_accuracy"}, "passage": {"kl_to_base"}}.get(kind, set())
    assert applying & {"common_accuracy", "kl_to_base"} == (harm if phrasing == "unrelated" else set())
