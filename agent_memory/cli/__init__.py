"""The command line, one file per group of commands."""

from agent_memory.cli.app import app, main

__all__ = ["app", "main"]
