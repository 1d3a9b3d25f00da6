"""The command line: the only room that prints."""

from mtembed.cli.app import main

__all__ = ["main"]
