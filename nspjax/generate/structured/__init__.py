"""Answers that must be of a form: JSON of a schema, a regular expression, a choice, a grammar.

What is asked for (`params.py`) becomes rules (`grammar_text.py`), which llguidance holds answers to
in a process of its own (`grammar_worker.py`). `token_grammars.py` asks it which tokens may come
next. llguidance is the extra `structured`.
"""

from nspjax.generate.structured.params import StructuredOutputsParams as StructuredOutputsParams
