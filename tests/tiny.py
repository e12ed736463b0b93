"""Tiny random checkpoints of five families, in ordinary Hugging Face form, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

FAMILIES = ("llama", "qwen3", "gemma", "mistral", "gpt2")
# Each style is written as its family writes it: where BOS, role marks, end of turn and white space stand.
TEMPLATES = {
    "llama": "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}",
    "qwen3": "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}",
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
}
MARKS = {
    "llama": ["<|start|>", "<|stop|>", "<|eot|>"],
    "qwen3": ["<|im_start|>", "<|im_end|>", "<think>", "</think>"],
    "gemma": ["<start_of_turn>", "<end_of_turn>"],
    "mistral": ["[INST]", "[/INST]"],
    "gpt2": [],
}
ENDS = {
    "llama": "<|eot|>",
    "qwen3": "<|im_end|>",
    "gemma": "<end_of_turn>",
    "mistral": "</s>",
    "gpt2": "</s>",
}


def make_tokenizer(family: str, *, chat: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the family's marks; its pad token is its eos token, as often in the wild."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<s>", "</s>", *MARKS[family]]
    vocab = {token: number for number, token in enumerate([*specials, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=None if family == "qwen3" else "<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=MARKS[family],
        clean_up_tokenization_spaces=False,
    )
    if chat and family in TEMPLATES:
        tokenizer.chat_template = TEMPLATES[family]
    return tokenizer


def make_config(family: str, vocab: int):
    common = dict(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    if family == "llama":
        return LlamaConfig(**common, num_key_value_heads=2)
    if family == "qwen3":
        return Qwen3Config(**common, num_key_value_heads=2, head_dim=8)
    if family == "gemma":
        return GemmaConfig(**common, num_key_value_heads=1, head_dim=8)
    if family == "mistral":
        return MistralConfig(**common, num_key_value_heads=2, sliding_window=None)
    return GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=512)


def make_checkpoint(family: str, folder: Path, *, chat: bool = True, seed: int = 0) -> Path:
    """Save a random model and its tokenizer to `folder`; weights are wide enough that answers differ."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(family, chat=chat)
    model = AutoModelForCausalLM.from_config(make_config(family, len(tokenizer)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    json.loads((folder / "config.json").read_text())
    return folder
