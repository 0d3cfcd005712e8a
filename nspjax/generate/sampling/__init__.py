"""How the next token of a row is chosen from its logits, and what a row may ask about them."""
