"""Speculation: tokens that an answer may go on with, verified several at a time."""
