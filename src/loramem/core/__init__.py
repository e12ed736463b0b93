"""Leaf helpers that everything else stands on: errors, identity, atomic files, registries, costs."""
