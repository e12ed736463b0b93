"""Families whose attention or caches are not the plain ones: shared contexts, refills and scores are right there too."""

from __future__ import annotations

import dataclasses
import random
from functools import cache

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from loramem.inference import PrefixCache, Request, ScoreRequest, generate, loglikelihood, shared_attention

COMMON = dict(
    hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=256, head_dim=8, pad_token_id=1, bos_token_id=0, eos_token_id=1,
)  # fmt: skip
FAMILIES = {
    "gemma2": dict(sliding_window=128),  # scores are capped, every other layer has a window
    "gemma3_text": dict(sliding_window=16),
    "granite": dict(attention_multiplier=0.4),
    "olmo3": dict(sliding_window=128),
    "gpt_neox": {},  # rotates a part of each head
    "gpt_bigcode": dict(n_embd=32, n_layer=2, n_head=4, n_positions=256),  # one head of keys and values
    "gpt_oss": dict(num_local_experts=4, sliding_window=128),  # attention sinks
    "falcon": dict(alibi=True, head_dim=None),
    "bloom": dict(n_layer=2, n_head=4),
    "opt": dict(ffn_dim=48, word_embed_proj_dim=32),
    "deepseek_v3": dict(  # caches latents
        q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, n_routed_experts=4,
        num_experts_per_tok=2, n_group=1, topk_group=1, moe_intermediate_size=16, num_key_value_heads=4, head_dim=None,
    ),
    "diffllama": {},  # attention classes of its own
    "doge": {},  # a mask per head
    "qwen3_5_text": dict(  # layers with a state in place of keys and values
        layer_types=["linear_attention", "full_attention"] * 2, linear_num_value_heads=4, linear_num_key_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8,
    ),
    "lfm2": dict(layer_types=["conv", "full_attention"] * 2),
    "minimax": dict(  # a state that reads the padding
        layer_types=["linear_attention", "full_attention"] * 2, num_local_experts=2, num_experts_per_tok=1, head_dim=8,
    ),
}  # fmt: skip


@cache
def _model(family: str, vocab: int):
    given = {key: value for key, value in (COMMON | FAMILIES[family]).items() if value is not None}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](vocab_size=vocab, **given)).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.requires_grad_(False)


@pytest.fixture
def wrapped(bases):
    """A base around the tiny model of a family."""
    base = bases["llama"]
    return lambda family: dataclasses.replace(base, model=_model(family, len(base.tokenizer)))


def asked(base) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """(context, prompt, limit): two contexts, ragged prompts, answers of very different length."""
    rng = random.Random(1)
    draw = lambda count: tuple(rng.randrange(6, len(base.tokenizer)) for _ in range(count))  # noqa: E731
    contexts = [draw(9), draw(17)]
    return [
        (contexts[n % 2], draw(rng.randint(1, 7)), limit) for n, limit in enumerate((1, 2, 9, 3, 8, 5, 1, 6))
    ]


def by_hand(base, ids: tuple[int, ...], limit: int) -> tuple[int, ...]:
    told = list(ids)
    for _ in range(limit):
        with torch.no_grad():
            logits = base.model(input_ids=torch.tensor([told]), use_cache=False).logits[0, -1]
        told.append(int(logits.argmax()))
        if told[-1] in base.prompts.stop_ids:
            return tuple(told[len(ids) : -1])
    return tuple(told[len(ids) :])


@pytest.mark.parametrize("rows", [4, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_answers_in_batches_that_refill(wrapped, family, rows):
    base = wrapped(family)
    rows_asked = [((*context, *prompt), limit) for context, prompt, limit in asked(base)]
    got = generate(base, [Request(ids, None, limit) for ids, limit in rows_asked], rows=rows)
    assert [g.ids for g in got] == [by_hand(base, ids, limit) for ids, limit in rows_asked]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_after_shared_contexts(wrapped, family):
    base = wrapped(family)
    got = generate(base, [Request(prompt, None, limit, context) for context, prompt, limit in asked(base)])
    assert [g.ids for g in got] == [by_hand(base, (*c, *p), limit) for c, p, limit in asked(base)]


@pytest.mark.parametrize("family", FAMILIES)
def test_targets_after_shared_contexts(wrapped, family):
    base = wrapped(family)
    requests = [ScoreRequest(prompt, (*prompt[::-1], 9), None, context) for context, prompt, _ in asked(base)]
    for one, got in zip(requests, loglikelihood(base, requests, rows=6), strict=True):
        ids = torch.tensor([[*one.prefix, *one.prompt, *one.target]])
        with torch.no_grad():
            logits = base.model(input_ids=ids, use_cache=False).logits[0, -len(one.target) - 1 : -1]
        nats = logits.log_softmax(-1).gather(1, torch.tensor(one.target)[:, None]).squeeze(1)
        assert got.nats == pytest.approx(nats.tolist(), abs=2e-4)


@pytest.mark.parametrize("scores_bytes", [1, 4 * 2 * 2 * 17 * 5])
def test_scores_to_a_context_are_taken_in_parts(bases, monkeypatch, scores_bytes):
    monkeypatch.setattr(shared_attention, "SCORES_BYTES", scores_bytes)
    base, contexts = bases["llama"], PrefixCache(bases["llama"])
    requests = [Request(prompt, None, limit, context) for context, prompt, limit in asked(base)]
    got = generate(base, requests, prefixes=contexts)
    assert [g.ids for g in got] == [by_hand(base, (*c, *p), limit) for c, p, limit in asked(base)]
    assert contexts.encoded == 2
