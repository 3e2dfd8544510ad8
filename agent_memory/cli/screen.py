"""Where commands print: standard output and standard error, with Rich only if a line needs it."""

from __future__ import annotations

import os
import sys
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")  # with any of them, Rich may take a file for a terminal
_WIDE = 150  # columns of standard output, where there is no terminal to ask


class Screen:
    """Prints to standard output or standard error; Rich, which takes a tenth of a second, comes with the first line.

    Args:
        options: As of ``rich.console.Console``.
    """

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - Rich's
        self._options = options

    @cached_property
    def console(self) -> Console:
        """What prints."""
        from rich.console import Console

        width = None if self._options.get("stderr") or self._file.isatty() else _WIDE
        return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width, **self._options)

    def reset(self) -> None:
        """Forget what the outputs were found to be: they are others now."""
        self.__dict__.pop("console", None)

    def print(self, *objects: Any, **options: Any) -> None:  # noqa: ANN401 - Rich's
        """Print as ``rich.console.Console.print`` does; lines that no terminal shows are written as they are."""
        if self._is_plain and not options and all(isinstance(one, str) for one in objects):
            self._file.write(" ".join(objects) + "\n")
            self._file.flush()
        else:
            self.console.print(*objects, **options)

    def print_parts(self, *parts: str | tuple[str, str]) -> None:
        """Print texts, some with a style behind them, on one line."""
        if self._is_plain:
            self.print("".join(part if isinstance(part, str) else part[0] for part in parts))
            return
        from rich.text import Text

        self.console.print(Text.assemble(*parts))

    @property
    def _file(self) -> TextIO:
        return sys.stderr if self._options.get("stderr") else sys.stdout

    @property
    def _is_plain(self) -> bool:
        return not self._file.isatty() and not any(name in os.environ for name in _COLOURS)
