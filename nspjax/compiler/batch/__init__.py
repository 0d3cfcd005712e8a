"""The batch axis of a module's values: what a part of it is made from, and how it is made."""
