"""Rebuilds the embedded base from nothing but generated worlds: tokenizer, curriculum, training, card."""
