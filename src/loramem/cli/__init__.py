"""Thin commands; `main` is the entry point."""

from loramem.cli.app import main

__all__ = ["main"]
