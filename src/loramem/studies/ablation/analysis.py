"""Ablation: which matrices, which layers, which objective and which kind of adapter, one changed at a time against the first module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from loramem.studies.findings import Beside, Findings, cells_of, difference, listed, main_budget, share, verb
from loramem.studies.many import against, one, sentences, tested
from loramem.studies.ways import WRITTEN, At, places, way

PUBLISHED = (
    "Paper: feed-forward matrices alone are above attention matrices alone everywhere, the first half of the layers above the second half and "
    "sometimes above all layers (figures only). PaperQA, judged 0 to 10, one seed, LoRA/DoRA/PiSSA: Llama-3.1-8B 5.40/5.27/7.17, Qwen3-8B "
    "5.58/5.43/4.88. Its DCD module (closed book, NarrativeQA ROUGE-L, QuALITY accuracy; Llama-3.2-1B | Llama-3.1-8B | Qwen3-1.7B | Qwen3-8B) 23.32, 30.21 | "
    "29.07, 30.21 | 19.45, 28.73 | 28.68, 33.67 against the single next-token module's 23.81, 29.86 | 27.05, 42.42 | 24.78, 33.15 | 25.78, 44.10. Modules "
    "trained beside others compose better by 10 to 31 points (arXiv 2606.04557)."
)
ASPECTS = ("targets", "layers", "variant", "objective", "distractors")
CALLED = {
    "targets": "matrices", "layers": "layers", "variant": "kind of adapter", "objective": "objective", "distractors": "company while learning",
}  # fmt: skip
VALUES = {
    "all-linear": "all linear", "mlp": "feed-forward only", "attention": "attention only", "all": "all layers", "lora": "LoRA", "dora": "DoRA",
    "pissa": "PiSSA", "ntp-answer": "next token", "dcd": "distillation", "dcd-l1_weight=0": "distillation, KL only",
    "dcd-kl_weight=0": "distillation, L1 only", "dcd-hidden=all": "distillation, L1 at all layers", "others-p0.5": "beside others",
}  # fmt: skip
KINDS = {"LoRA": "5.40 | 5.58", "DoRA": "5.27 | 5.43", "PiSSA": "7.17 | 4.88"}
BETWEEN = {
    "targets": ("mlp", "attention"), "layers": ("first-half", "second-half"), "variant": ("pissa", "dora"),
}  # fmt: skip
"""Two variants that the paper holds against each other."""


@dataclass(frozen=True)
class Variant:
    """A module that differs from the first in one thing."""

    cell: pd.Series
    aspect: str

    @property
    def name(self) -> str:
        return value_name(self.cell[self.aspect])


def value_name(value: str | float | None) -> str:
    """A setting in words.

    >>> value_name("dcd-l1_weight=0"), value_name("q_proj"), value_name("first-half"), value_name(None)
    ('distillation, KL only', 'q_proj only', 'first half of the layers', 'alone')
    """
    if value is None or pd.isna(value):
        return "alone"
    text = str(value)
    if text in VALUES:
        return VALUES[text]
    if text.endswith("-half"):
        return f"{text.removesuffix('-half')} half of the layers"
    return f"{text} only" if text.endswith("_proj") else text


def variants(cells: pd.DataFrame) -> tuple[pd.Series | None, list[Variant]]:
    """(the first module, every other of its partition, reading and protocol that differs from it in one aspect).

    Args:
        cells: Of one source, metric and probe.
    """
    own = cells[(cells["reading"] == "module") & cells["mean"].notna()]
    if own.empty:
        return None, []
    first = own.iloc[0]
    own = own[(own["partition"] == first["partition"]) & (own["budget"] == first["budget"])]
    found = []
    for _, cell in own.iloc[1:].iterrows():
        changed = [name for name in ASPECTS if str(cell[name]) != str(first[name])]
        if len(changed) == 1:
            found.append(Variant(cell, changed[0]))
    return first, sorted(found, key=lambda variant: ASPECTS.index(variant.aspect))


def analyse(summary: dict) -> Findings:
    """What may be left out or exchanged without a clear loss; then each variant; company; harm."""
    found = places(summary)
    answer = [text for at in found for text in _of(at)]
    figures = tuple((kind, at.source) for kind in ("ablation", "harm_of_variants") for at in found)
    beside = tuple(row for at in found for row in _printed(at))
    return Findings(tuple(answer), PUBLISHED, figures, beside=beside)


def _printed(at: At) -> Iterator[Beside]:
    """The kinds of adapter as the paper scores them, by a judge of its own papers."""
    first, own = variants(cells_at(at))
    if first is None:
        return
    cells = {"LoRA": first, **{variant.name: variant.cell for variant in own if variant.aspect == "variant"}}
    for name, printed in KINDS.items():
        if name in cells and at.source == "papers":
            yield Beside(
                f"PaperQA, judged 0 to 10: {name} (Llama-3.1-8B | Qwen3-8B)",
                printed,
                f"{at.named} {share(cells[name])}",
            )


def cells_at(at: At) -> pd.DataFrame:
    """All cells of a source at its leading score, modules of the main protocol."""
    table = cells_of(at.summary, source=at.source, metric=at.metric, probe=at.probe)
    return table[(table["budget"] == main_budget(at.summary, at.source)) | table["rank"].isna()]


def _of(at: At) -> Iterator[str]:
    first, found = variants(cells_at(at))
    if first is None:
        return
    words = {
        variant.name: verb(test[1], test[2], "more", "less", "open")
        for variant in found
        if (test := tested(at.summary, variant.cell, first)) is not None
    }
    if words:
        yield _summed(at, first, words)
    for variant in found:
        yield from sentences(_variant(at, variant, first))
    for aspect, (a, b) in BETWEEN.items():
        pair = [
            next((v for v in found if (v.aspect, v.cell[aspect]) == (aspect, value)), None)
            for value in (a, b)
        ]
        if pair[0] is not None and pair[1] is not None:
            text = against(at.summary, pair[0].cell, pair[1].cell, (pair[0].name, pair[1].name))
            yield from sentences(text and f"{CALLED[aspect]}: {text}")
    yield from _company(at)
    yield from _harm(at, first, found)


def _summed(at: At, first: pd.Series, words: dict[str, str]) -> str:
    named = {
        kind: [name for name, word in words.items() if word == kind] for kind in ("more", "less", "open")
    }
    return (
        f"{at.source}, {WRITTEN.get(at.metric, at.metric)}: against the first module (LoRA, all linear matrices of all layers, next token; {share(first)}{_size(first)}) "
        f"{len(named['more'])} of {len(words)} variants give back clearly more ({listed(named['more'])}), {len(named['less'])} clearly less ({listed(named['less'])}); "
        f"not told apart: {listed(named['open'])}. All were trained at the first one's rate."
    )  # fmt: skip


def _size(cell: pd.Series) -> str:
    count = cell.get("parameters")
    return "" if count is None or pd.isna(count) else f", {int(count):,} parameters"


def _variant(at: At, variant: Variant, first: pd.Series) -> str | None:
    name = variant.name + (f" ({_size(variant.cell).removeprefix(', ')})" if _size(variant.cell) else "")
    text = against(at.summary, variant.cell, first, (name, "the first module"))
    return text and f"{CALLED[variant.aspect]}: {text}"


def _company(at: At) -> tuple[str, ...]:
    """Documents' modules that learnt beside others: alone, and added up."""
    found: list[str | None] = []
    for cell in at.all("module", "merged", partition="document"):
        if cell["distractors"] is None or pd.isna(cell["distractors"]):
            continue
        same = {
            name: None if pd.isna(cell[name]) else cell[name]
            for name in ("partition", "router", "merge", "top_k", "budget")
        }
        plain = at.one(cell["reading"], **same, distractors=None)
        if plain is not None:
            text = against(at.summary, cell, plain, ("learnt beside others", "learnt alone"))
            found.append(text and f"{way(cell)}: {text}")
    return sentences(*found)


def _harm(at: At, first: pd.Series, found: list[Variant]) -> Iterator[str]:
    """What else changes: predictions on unrelated text, common facts. Differences from the two intervals, not paired."""
    for metric, called in (
        ("kl_to_base", "nats from the base on unrelated text"),
        ("common_accuracy", "common facts still answered"),
    ):
        main = _other(at, first, metric)
        if main is None:
            continue
        words: dict[str, list[str]] = {"more": [], "less": [], "open": []}
        for variant in found:
            own = _other(at, variant.cell, metric)
            if own is not None:
                _, low, high = difference(main, own)
                words[verb(low, high, "more", "less", "open")].append(f"{variant.name} {_amount(own)}")
        yield (
            f"Harm, {called}: the first module {_amount(main)}; clearly more: {listed(words['more'])}; clearly less: {listed(words['less'])}; "
            f"{len(words['open'])} variants are not told apart from it (intervals of the two, not paired)."
        )  # fmt: skip


def _other(at: At, cell: pd.Series, metric: str) -> pd.Series | None:
    return one(at.summary, cell=cell["cell"], metric=metric, probe="unrelated")


def _amount(cell: pd.Series) -> str:
    if cell["metric"] == "kl_to_base":
        return f"{cell['mean']:.3f} [{cell['ci_low']:.3f}, {cell['ci_high']:.3f}]"
    return share(cell)
