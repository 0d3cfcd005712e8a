"""Text in and out: tokenizers, chat templates and stop texts, as transformers has them."""
