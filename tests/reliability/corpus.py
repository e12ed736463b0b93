"""Bad input of every kind as data (issue 7): what is given, and what has to be said about it."""

from __future__ import annotations

from reliability.case import Case, Cases
from reliability.file_cases import FILES
from reliability.model_cases import MODELS
from reliability.option_cases import OPTIONS
from reliability.study_cases import STUDIES

CASES: Cases = {}
for _part in (STUDIES, FILES, MODELS, OPTIONS):
    assert not CASES.keys() & _part.keys(), f"named twice: {CASES.keys() & _part.keys()}"
    CASES |= _part

__all__ = ["CASES", "Case"]
