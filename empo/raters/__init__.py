"""Empathy raters: encoders that are trained, saved, loaded and evaluated behind one protocol."""
