"""The command line, `nspjax COMMAND`. Nothing heavy is imported before a command needs it."""

from nspjax.cli.app import app as app
from nspjax.cli.app import main as main
