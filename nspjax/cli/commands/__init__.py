"""The commands and their options. Nothing heavy is imported before a command needs it."""
