"""The frozen model: loading, fingerprint, and the one prompt and label builder.

>>> from loramem.base import PromptBuilder  # load_base("embedded") gives a Base with .prompts
"""

from loramem.base.model import EMBEDDED, Base, describe, load_base, prepare
from loramem.base.prompts import Encoded, PromptBuilder

__all__ = ["EMBEDDED", "Base", "Encoded", "PromptBuilder", "describe", "load_base", "prepare"]
