"""Teaches the English sentence encoder Portuguese; `python -m learning.embedder --help` runs it."""
