"""Synthesis: recipes that turn documents into supervision."""

from loramem.synthesis.making import synthesize
from loramem.synthesis.recipes import RECIPES
from loramem.synthesis.supervision import Example, Supervision

__all__ = ["RECIPES", "Example", "Supervision", "synthesize"]
