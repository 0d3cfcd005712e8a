"""Answers that must be of a form: JSON of a schema, a regular expression, a choice, a grammar.

What is asked for (`params`) becomes a grammar (`grammar_text`), and a grammar over a tokenizer's
tokens (`token_grammar`) says which tokens may come next. The work is llguidance's, which is the
extra `structured`.
"""

from nspjax.generate.structured.params import StructuredOutputsParams as StructuredOutputsParams
