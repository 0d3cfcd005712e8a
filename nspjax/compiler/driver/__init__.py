"""Pipelines: their text, their presets, the run of their passes, what passes say of themselves."""
