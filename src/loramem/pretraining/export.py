"""From a checkpoint to the embedded base: bf16 weights, config, tokenizer, chat template, provenance."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loramem.core.errors import InputError
from loramem.core.files import write_json
from loramem.core.identity import file_digest
from loramem.pretraining.tokenizer import BOS, CHAT_TEMPLATE, END, PAD, SPECIALS
from loramem.pretraining.train import CONTEXT, State
from loramem.sources.almanac.schema import ALMANAC_VERSION


def export(work: Path, to: Path, *, seed: int, made_by: str = "python -m loramem.pretraining") -> Path:
    """Write the base of the checkpoint in `work` to `to`, in ordinary Hugging Face form.

    Raises:
        InputError: no checkpoint in `work`.
    """
    path = work / "checkpoint.safetensors"
    if not path.exists():
        raise InputError(f"{work}: no checkpoint; train first")
    backend = Tokenizer.from_file(str(work / "tokenizer.json"))
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(work))
    with safe_open(path, framework="pt") as file, torch.no_grad():
        state = State(**json.loads(file.metadata()["state"]))
        for name, parameter in model.named_parameters():
            parameter.copy_(file.get_tensor(f"weight/{name}"))
    to.mkdir(parents=True, exist_ok=True)
    model.to(dtype=torch.bfloat16)  # type: ignore[call-arg]
    model.save_pretrained(to)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=BOS, eos_token=END, pad_token=PAD, additional_special_tokens=list(SPECIALS[3:]),
        model_max_length=CONTEXT, clean_up_tokenization_spaces=False, chat_template=CHAT_TEMPLATE,
    )  # fmt: skip
    tokenizer.save_pretrained(to)
    write_json(
        to / "provenance.json",
        {
            "made_by": made_by, "seed": seed, "almanac_version": ALMANAC_VERSION, "torch": torch.__version__,
            "tokens": state.tokens, "steps": state.step, "seconds": round(state.seconds, 1), "stages": state.history,
            "weights_sha256": file_digest(to / "model.safetensors"), "parameters": sum(p.numel() for p in model.parameters()),
            "data": "generated worlds only (loramem.sources.almanac); no text from elsewhere",
        },
    )  # fmt: skip
    return to
