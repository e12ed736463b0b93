"""The one builder of prompts and labels: training, every reading and every baseline go through it.

A question stands in the user turn, its answer and end of turn in the assistant turn, and what is learnt
or scored is the answer with its end of turn. Pieces are tokenised apart and joined as token ids (template
parts are found in the rendered template, never by a marker of one family), so that the prompt of a
reading is, id by id, the prompt of the training example. What is masked is decided by position, never by
token id, so a tokenizer whose pad is its eos loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from loramem.core.errors import InputError

PROMPT_VERSION = 1
_QUESTION, _ANSWER = "QQ7question7QQ", "AA7answer7AA"
# A base without a chat template is asked in the plain words of the published PhoneBook lines.
_PLAIN = ("Question:", " ", "\nAnswer:", " ")


@dataclass(frozen=True)
class Encoded:
    """A training example: `ids[answer_start:]` is the answer with its end of turn.

    The first `shared` ids are the same for all examples on the same context (0: there is none); at least one more
    stands between them and the answer.
    """

    ids: tuple[int, ...]
    answer_start: int
    shared: int = 0


@dataclass(frozen=True)
class _Template:
    """What a chat template puts around question and answer: `head` `space` question `middle` (then `lead` answer).

    `space` is the blank at the end of the head: it is tokenised with the word that follows it, as it would be
    in the rendered text (" What" is one token, " " and "What" are two that no model ever saw together).
    """

    head: str
    space: str
    middle: str
    lead: str
    end: tuple[int, ...]


class PromptBuilder:
    """Turns questions, contexts and answers into token ids for one tokenizer.

    Args:
        tokenizer: A Hugging Face tokenizer, with or without a chat template.
        context_length: Longest sequence the model takes, in tokens.
    """

    def __init__(self, tokenizer: Any, context_length: int):
        self.tokenizer = tokenizer
        self.context_length = context_length

    # -- pieces ----------------------------------------------------------------------------------
    def tokens(self, text: str) -> list[int]:
        """Ids of `text` alone; special tokens written in a template are recognised, none is added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain_tokens(self, text: str) -> list[int]:
        """Ids of text that comes from data: a special token written in it stays ordinary text."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def count(self, text: str) -> int:
        """Length of `text` in tokens of the base: the unit of every size."""
        return len(self._plain_tokens(text))

    def cut(self, text: str, tokens: int) -> tuple[str, int]:
        """(the longest beginning of `text` of at most `tokens` tokens, how many tokens were cut away)."""
        whole = self.count(text)
        if whole <= tokens:
            return text, 0
        fits, over = 0, len(text)  # characters
        while over - fits > 1:
            middle = (fits + over) // 2
            fits, over = (middle, over) if self.count(text[:middle]) <= tokens else (fits, middle)
        return text[:fits], whole - self.count(text[:fits])

    @property
    def bos(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    @property
    def has_chat(self) -> bool:
        return bool(getattr(self.tokenizer, "chat_template", None))

    @cached_property
    def pad_id(self) -> int:
        for candidate in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id, 0):
            if candidate is not None:
                return candidate
        raise AssertionError("0 is not None")

    @cached_property
    def end(self) -> list[int]:
        """The token that ends an answer: the template's end of turn, or eos without a template."""
        return list(self._template.end)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids at which decoding stops: end of turn and eos."""
        eos = self.tokenizer.eos_token_id
        return frozenset([*self.end, *([] if eos is None else [eos])])

    @cached_property
    def _template(self) -> _Template:
        eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        if not self.has_chat:
            return _Template(*_PLAIN, end=tuple(eos[:1]))
        ask = [{"role": "user", "content": _QUESTION}]
        told = [*ask, {"role": "assistant", "content": _ANSWER}]
        # enable_thinking=False asks Qwen3-style templates for the direct form in both renderings;
        # templates that know no such variable ignore it.
        options = {"tokenize": False, "enable_thinking": False}
        try:
            prompt = self.tokenizer.apply_chat_template(ask, add_generation_prompt=True, **options)
            whole = self.tokenizer.apply_chat_template(told, **options)
        except Exception as error:  # a template is a program: faulty, or one that its sandbox stops
            why = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
            raise InputError(f"the chat template of this base cannot be rendered ({why})") from None
        if prompt.count(_QUESTION) != 1 or whole.count(_ANSWER) != 1:
            raise InputError(
                "the chat template of this base does not show a user turn and an assistant turn once each"
            )
        head, middle = prompt.split(_QUESTION)
        before, after = whole.split(_ANSWER)
        lead = before[len(prompt) :] if before.startswith(prompt) else ""
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        end = [token for token in self.tokens(after) if token in special][:1] or eos[:1]
        if self.tokenizer.bos_token and head.startswith(self.tokenizer.bos_token):
            head = head[len(self.tokenizer.bos_token) :]  # `_head` puts exactly one back
        bare = head.rstrip(" ")
        return _Template(bare, head[len(bare) :], middle, lead, tuple(end))

    def _head(self) -> list[int]:
        return self.bos + self.tokens(self._template.head)

    def _tail(self, question: str, *, first: bool = False) -> list[int]:
        """Ids of a question and what follows it; `first` where it opens the user turn."""
        space = self._template.space if first else ""
        return self._plain_tokens(space + question) + self.tokens(self._template.middle)

    def _context(self, context: str) -> list[int]:
        return self._plain_tokens(self._template.space + context)

    # -- prompts ---------------------------------------------------------------------------------
    def chat(self, question: str, context: str | None = None) -> list[int]:
        """The prompt of a question, up to where its answer starts; a context precedes it in the user turn."""
        prefix, suffix = self.chat_parts(question, context)
        return prefix + suffix

    def chat_parts(self, question: str, context: str | None = None) -> tuple[list[int], list[int]]:
        """(prefix shared by all questions on `context`, suffix of this question)."""
        prefix = self._head()
        if context:
            prefix += self._context(context) + self._plain_tokens("\n\n")
        return prefix, self._tail(question, first=not context)

    def fit_context(self, context: str, questions: list[str], *, reserve: int) -> tuple[list[int], int]:
        """The longest shared prefix that leaves room for every question and `reserve` answer tokens.

        The context is cut at its end, never a question (PITFALLS 21).

        Returns:
            (prefix ids, number of context tokens cut away).

        Raises:
            InputError: a question alone does not fit.
        """
        head, gap = self._head(), self._plain_tokens("\n\n")
        longest = max((len(self._tail(question)) for question in questions), default=0)
        room = self.context_length - len(head) - len(gap) - longest - reserve
        if room < 0:
            raise InputError(
                f"a question of {longest} tokens and an answer of {reserve} do not fit the base's context of {self.context_length}"
            )
        ids = self._context(context)
        return head + ids[:room] + gap, max(0, len(ids) - room)

    def suffix(self, question: str) -> list[int]:
        """What follows a shared prefix that ends with a context."""
        return self._tail(question)

    def answer(self, answer: str) -> list[int]:
        """Ids of an answer as it follows `chat` or a shared context, without its end of turn."""
        return self._plain_tokens(self._template.lead + answer)

    def cloze(self, prompt: str) -> list[int]:
        """BOS and plain text, without a template: the prompt of a statement to be completed."""
        return self.bos + self._plain_tokens(prompt)

    def following(self, prompt: str) -> list[int]:
        """Ids of a statement's prompt as the next sentence after a context."""
        return self._plain_tokens(" " + prompt)

    def target(self, target: str) -> list[int]:
        """Ids of ' ' + target as it continues a cloze prompt."""
        return self._plain_tokens(" " + target)

    def fit_statements(
        self, context: str, pairs: list[tuple[str, str]], *, reserve: int = 0
    ) -> tuple[list[int], int, list[tuple[list[int], list[int]]]]:
        """A context before plain statements: (prefix ids, context tokens cut, (prompt ids, target ids) of each pair).

        The prompt of a statement follows the context after a space, as the next sentence of the same text.
        `reserve` tokens are left free for what is decoded after it (then the target may be empty).
        """
        parts = [(self.following(prompt), self.target(target) if target else []) for prompt, target in pairs]
        longest = max((len(prompt) + len(target) for prompt, target in parts), default=0)
        room = self.context_length - len(self.bos) - longest - reserve
        if room < 0:
            and_reserve = f" and {reserve} after it do" if reserve else " does"
            raise InputError(
                f"a statement of {longest} tokens{and_reserve} not fit the base's context of {self.context_length}"
            )
        ids = self._plain_tokens(context)
        return self.bos + ids[:room], max(0, len(ids) - room), parts

    # -- training examples -----------------------------------------------------------------------
    def chat_example(self, question: str, answer: str, context: str | None = None) -> Encoded:
        """A question with its answer and end of turn."""
        prefix, suffix = self.chat_parts(question, context)
        ids = prefix + suffix + self.answer(answer) + self.end
        return Encoded(tuple(ids), len(prefix) + len(suffix), len(prefix) if context else 0)

    def cloze_example(self, prompt: str, target: str, context: str | None = None) -> Encoded:
        """Plain prompt + " " + target; nothing ends it, as nothing ends the published statements.

        After a context the prompt follows as the next sentence of the same text.
        """
        if not context:
            start = self.cloze(prompt)
            return Encoded(tuple(start + self.target(target)), len(start))
        prefix, asked = self.bos + self._plain_tokens(context), self.following(prompt)
        return Encoded(tuple(prefix + asked + self.target(target)), len(prefix) + len(asked), len(prefix))

    def text_example(self, text: str, context: str | None = None) -> Encoded:
        """BOS, text, EOS; all of it counts as the answer (less its first token where there is no BOS)."""
        eos = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        told = self._plain_tokens(text) + eos
        first = 0 if self.bos else 1
        if not context:
            return Encoded(tuple(self.bos + told), len(self.bos) + first)
        prefix, gap = self.bos + self._plain_tokens(context), self._plain_tokens("\n\n")
        return Encoded(tuple(prefix + gap + told), len(prefix) + len(gap) + first, len(prefix))

    def decode(self, ids: list[int]) -> str:
        """Text of generated ids, special tokens skipped, white space stripped."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()
