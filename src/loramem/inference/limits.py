"""How many tokens an answer may have; part of every reading's identity."""

MAX_NEW_TOKENS = 50
"""Of an answer to a question (the published protocol)."""
MAX_CONTINUATION = 50
"""Of free text after a prompt, from which fluency is measured (ROME: 100, with sampling; here greedy)."""
LETTER_TOKENS = 12
"""New tokens of a lettered answer with its lead-in ("The answer is B.")."""
