"""What a model that writes is told, and what is taken from its answers. Our own words, not those of the published code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loramem.synthesis.completing import Ask
from loramem.synthesis.recipes import Portion

SYSTEM = (
    "You write study material from which a language model learns a text by heart. The reader of your material will not see "
    "the text. So every item stands on its own: it names persons, places and things in full, never says 'the text', 'the "
    "author' or 'he' without a name, and states nothing that the text does not state. Answer in JSON only."
)
SHOWN = 60
"""Items already written that a further round is shown, the latest ones."""
LONGEST = {"chat": 300, "text": 4_000}
"""Characters of an item's text, at most."""
PER_CALL = 10
"""Items asked for in one prompt, at most; a model loses count of many more."""
PER_TOKEN = 3
"""Characters a token has at least, roughly: what the length of an answer is reckoned with."""
USUAL = 200
"""Characters that a question with its answer or a sentence usually takes, as JSON."""
AGAIN = "Your last answer gave nothing new that the text states. Look at passages that nothing has been written about yet."


def items_per_call(portion: Portion, text: str, most_tokens: int) -> int:
    """How many items about a text fit one answer of `most_tokens`."""
    length = {"rewrite": len(text), "summary": len(text) // 3}.get(portion.kind.name, 0)
    return max(1, min(PER_CALL, most_tokens * PER_TOKEN // (USUAL + length)))


def schema(form: str, n: int, *, least: int = 1, length: int = 0) -> dict[str, Any]:
    """JSON schema of an answer with `least` to `n` items; `length` is that of the text where an item is as long."""
    longest = max(LONGEST[form], -(-2 * length // 1_000) * 1_000)
    text = {"type": "string", "minLength": 1, "maxLength": longest}
    names = ["question", "answer"] if form == "chat" else ["text"]
    item = {
        "type": "object", "properties": dict.fromkeys(names, text), "required": names, "additionalProperties": False,
    }  # fmt: skip
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item, "minItems": least, "maxItems": n}},
        "required": ["items"],
        "additionalProperties": False,
    }


def ask(
    text: str,
    portion: Portion,
    n: int,
    written: Sequence[str],
    *,
    round_: int,
    most_tokens: int,
    again: bool = False,
) -> Ask:
    """The prompt for `n` more items about a text.

    Args:
        again: The last prompt gave nothing: it is not repeated word for word.
        written: What was written before: not to be repeated; from the second round on of `iterative`, what is covered.
    """
    told = portion.kind.instruction.format(n=n)
    parts = [f"<text>\n{text}\n</text>", told]
    least = 1
    if written:
        listed = "\n".join(f"- {line}" for line in written[-SHOWN:])
        if portion.kind.name == "iterative" and round_ > 0:
            least = 0  # there may be no such fact, and none is to be made up
            parts[1] = (
                f"The questions below exist already. Find facts that the text states and that none of them asks for, and "
                f"write at most {n} questions with short answers about these facts only."
            )
        parts.append(f"Already written; do not repeat any of it, nor the same fact in other words:\n{listed}")
    if again:
        parts.append(AGAIN)
    parts.append(
        'Answer as {"items": [{"question": "...", "answer": "..."}, ...]}.'
        if portion.kind.form == "chat"
        else 'Answer as {"items": [{"text": "..."}, ...]}.'
    )
    length = len(text) if portion.kind.name == "rewrite" else 0
    form = schema(portion.kind.form, n, least=least, length=length)
    return Ask("\n\n".join(parts), SYSTEM, form, most_tokens, round_)


def items_of(value: Any, form: str, lead: str) -> list[tuple[str, str]]:
    """(prompt, answer) of every whole item of an answer, questions under the document's lead.

    >>> items_of({"items": [{"question": " Who? ", "answer": "Ada"}, {"question": "", "answer": "x"}]}, "chat", "")
    [('Who?', 'Ada')]
    """
    rows = value.get("items", []) if isinstance(value, dict) else []
    found = []
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        if form == "chat":
            question, answer = str(row.get("question", "")).strip(), str(row.get("answer", "")).strip()
            if question and answer:
                found.append((lead + question, answer))
        elif text := str(row.get("text", "")).strip():
            found.append(("", text))
    return found
