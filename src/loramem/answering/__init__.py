"""Readings: closed book, with a module, with a wrong module, in context."""

from loramem.answering.readings import STEMS, ReadingTask, read

__all__ = ["STEMS", "ReadingTask", "read"]
