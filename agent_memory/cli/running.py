"""How a command ends: what it prints reaches any output, and every error becomes one line and an exit code."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from agent_memory.cli.shared import ERR, is_utf8, printable
from agent_memory.errors import (
    AgentMemoryError,
    InvalidInputError,
    LeaseHeldError,
    LockTimeoutError,
    NotFoundError,
)

EXIT_CODES: tuple[tuple[type[Exception], int], ...] = (
    (InvalidInputError, 2),
    (NotFoundError, 3),
    (LeaseHeldError, 4),
    (LockTimeoutError, 4),
    (AgentMemoryError, 1),
    (OSError, 1),
)
"""The exit code of each class of errors; of several that fit, the first."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells count it: 128 and the number of SIGINT."""

PIPE_CLOSED = 141
"""Exit code when the reader of the output has gone: 128 and the number of SIGPIPE."""

HELP = (
    "Exit codes: 0 done · 1 failed, or damage found · 2 bad usage or input · 3 no such entry, session, file or store · "
    f"4 locked by another process · {INTERRUPTED} interrupted · {PIPE_CLOSED} output closed by its reader"
)
"""All of them, for ``--help``."""


class Group(TyperGroup):
    """A group of commands whose errors end in one line on standard error and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - Typer's
        """Run the command that the arguments name, and exit."""
        _accept_any_text()
        try:
            return super().main(*args, **options)
        except tuple(kind for kind, _ in EXIT_CODES) as error:
            try:
                sys.stdout.flush()
            except OSError:  # a full disk, say
                _drop_output()
            ERR.print(printable(f"error: {error}"))
            sys.exit(exit_code(error))
        except SystemExit as ended:
            # Rich and Typer turn a closed pipe into exit code 1, which is that of a failure.
            if isinstance(ended.__context__, BrokenPipeError):
                _drop_output()
                sys.exit(PIPE_CLOSED)
            raise


def exit_code(error: Exception) -> int:
    """Return the exit code of an error; 1 if it is of no known class."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)


def new_group(help_: str) -> typer.Typer:
    """Return an empty group of commands, for ``Typer.add_typer``."""
    return typer.Typer(cls=Group, no_args_is_help=True, help=help_, pretty_exceptions_enable=False)


def _accept_any_text() -> None:
    """Let standard output replace what its encoding cannot show, as standard error does of itself."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The C locale's handler lets bytes of file names through, but no other characters.
        if sys.stdout.errors == "strict" or (sys.stdout.errors == "surrogateescape" and not is_utf8()):
            sys.stdout.reconfigure(errors="replace")


def _drop_output() -> None:
    """Send what standard output still holds nowhere, so that the interpreter does not fail on it at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
