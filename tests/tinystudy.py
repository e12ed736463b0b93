"""A study of a few facts and steps, for tests on tiny checkpoints."""

from __future__ import annotations

import copy
from typing import Any

from loramem.studies import grid, spec

BODY: dict[str, Any] = {
    "study": "tiny",
    "question": "Does it run?",
    "sources": {
        "phonebook": {"name": "phonebook", "sizes": [60, 300]},
        "counterfact": {"name": "counterfact", "sizes": [60], "generations": 1},
    },
    "modules": {
        "spec": {"rank": [1, 3], "targets": "attention"},
        "budget": {"steps": 3},
        "optimizer": {"lr": 0.01, "batch": 2},
    },
    "seeds": 2,
    "readings": ["closed", "module"],
    "metrics": ["exact_match", "efficacy", "answer_nll"],
}
"""Sizes of 60 and 300 tokens are one and five lines of a phonebook in the tiny tokenizer."""


def body(**changes: Any) -> dict:
    """`BODY` with paths set: `modules__spec__rank=[2]`; a value of None takes the key away."""
    found = copy.deepcopy(BODY)
    for path, value in changes.items():
        *parents, last = path.split("__")
        if value is None and not parents:
            found.pop(last, None)
        else:
            grid.set_path(found, ".".join([*parents, last]), copy.deepcopy(value))
    return found


def study(**changes: Any) -> spec.Study:
    return spec.validate(body(**changes), "quick")


PHONES = {"sources": {"phonebook": BODY["sources"]["phonebook"]}}
"""The phonebook alone."""
