"""Models of hardware that is not here: what it would do, from its structure."""
