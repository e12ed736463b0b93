"""The study of one question: its file, its analysis, and how to read it."""
