"""The embedded base's tokenizer: byte-level BPE with digits grouped by up to three, as Llama-3 does.

All 1,110 groups of one to three digits are tokens by construction (a group is far easier to copy than
single digits); the other merges are learnt from generated worlds. Byte level, so any text survives.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from loramem.core.identity import seed_from
from loramem.sources.almanac import names, phrasing
from loramem.sources.almanac.render import STYLES, article
from loramem.sources.almanac.schema import RELATIONS
from loramem.sources.almanac.world import COMMON_COUNTS, common_world, make_world

BOS, PAD, END, SYSTEM, USER, ASSISTANT = SPECIALS = (
    "<|bos|>",
    "<|pad|>",
    "<|end|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
)
LEARNED = 1900
SPLIT = r"'(?:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] | trim + '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _corpus(seed: int) -> Iterator[str]:
    """Text without digits: common facts in every wording, articles of other worlds, names of all sorts."""
    rng = random.Random(seed_from("tokenizer", seed))
    for fact in common_world().facts:
        for template in (
            *phrasing.questions(fact.relation, held=False),
            *phrasing.statements(fact.relation, held=False),
        ):
            yield fact.say(template)
    for number in range(60):
        world = make_world(10_000 + number, {kind: count // 4 for kind, count in COMMON_COUNTS.items()})
        facts = list(world.facts)
        rng.shuffle(facts)
        for style in STYLES:
            yield article(facts[:40], rng, style=style, distractors=12)
    for relation in RELATIONS:
        for template in phrasing.questions(relation, held=True):
            yield template
    for template in (*phrasing.PHONE_LINES, *phrasing.PHONE_QUESTIONS, *phrasing.PHONE_HELDOUT):
        yield from [template.replace("{v}", "")] * 3000
    for _ in range(6000):
        yield f"the name {names.noise_word(rng)} {names.noise_word(rng)}"


def build_tokenizer(seed: int = 0) -> Tokenizer:
    """Train the merges and add the digit groups; the same seed gives the same tokenizer.json."""

    def frame(tokenizer: Tokenizer) -> Tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    learner = frame(Tokenizer(models.BPE()))
    trainer = trainers.BpeTrainer(
        vocab_size=256 + LEARNED,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    learner.train_from_iterator(_corpus(seed), trainer)
    learned = json.loads(learner.to_str())["model"]
    vocab = sorted(learned["vocab"], key=learned["vocab"].get)
    merges = [
        tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learned["merges"]
    ]
    merges = [merge for merge in merges if not any(character.isdigit() for character in "".join(merge))]
    digits = "0123456789"
    pairs = [a + b for a in digits for b in digits]
    # both ways to reach a group of three, so that the rank of its pairs never leaves it half merged
    groups = [(a, b) for a in digits for b in digits]
    groups += [(pair, c) for pair in pairs for c in digits] + [(a, pair) for a in digits for pair in pairs]
    vocab = list(dict.fromkeys([*SPECIALS, *vocab, *("".join(group) for group in groups)]))
    tokenizer = frame(
        Tokenizer(
            models.BPE(vocab={token: number for number, token in enumerate(vocab)}, merges=merges + groups)
        )
    )
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer
