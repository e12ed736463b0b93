"""Thin commands; `main` is the entry point."""

from loramem.cli.entry import main

__all__ = ["main"]
