"""Synthesis: recipes that turn documents into supervision."""

from loramem.synthesis.supervision import RECIPES, Example, Supervision, synthesize

__all__ = ["RECIPES", "Example", "Supervision", "synthesize"]
