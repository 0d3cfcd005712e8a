"""Attention over rows whose X is stored, and for how many rows that pays."""
