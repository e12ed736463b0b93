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
PER_TOKEN = 3
"""Characters a token has at least, roughly: what the length of an answer is reckoned with."""


def schema(form: str, n: int) -> dict[str, Any]:
    """JSON schema of an answer with at most `n` items."""
    text = {"type": "string", "minLength": 1, "maxLength": LONGEST[form]}
    names = ["question", "answer"] if form == "chat" else ["text"]
    item = {
        "type": "object", "properties": dict.fromkeys(names, text), "required": names, "additionalProperties": False,
    }  # fmt: skip
    return {
        "type": "object",
        "properties": {"items": {"type": "array", "items": item, "minItems": 1, "maxItems": n}},
        "required": ["items"],
        "additionalProperties": False,
    }


def ask(text: str, portion: Portion, n: int, written: Sequence[str], *, round_: int, most_tokens: int) -> Ask:
    """The prompt for `n` more items about a text.

    Args:
        written: What was written before: not to be repeated; from the second round on of `iterative`, what is covered.
    """
    told = portion.kind.instruction.format(n=n)
    parts = [f"<text>\n{text}\n</text>", told]
    if written:
        listed = "\n".join(f"- {line}" for line in written[-SHOWN:])
        if portion.kind.name == "iterative" and round_ > 0:
            parts[1] = (
                f"The questions below exist already. Find facts that the text states and that none of them asks for, and "
                f"write at most {n} questions with short answers about these facts only."
            )
        parts.append(f"Already written; do not repeat any of it, nor the same fact in other words:\n{listed}")
    parts.append(
        'Answer as {"items": [{"question": "...", "answer": "..."}, ...]}.'
        if portion.kind.form == "chat"
        else 'Answer as {"items": [{"text": "..."}, ...]}.'
    )
    return Ask("\n\n".join(parts), SYSTEM, schema(portion.kind.form, n), most_tokens, round_)


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
