"""Batch jobs: a file of OpenAI batch lines in, a file of result lines out."""
