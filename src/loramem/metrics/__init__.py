"""Metrics: text, edits, intervals and paired tests; `scorers` lists what a study can ask for."""
