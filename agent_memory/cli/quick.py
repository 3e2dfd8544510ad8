"""What makes a command start in a blink: only what it needs of the command line is built.

Typer builds every command, with all of its options, before it looks at the first argument; and it imports Pydantic to
turn the text of an argument into text. Both take longer than recalling something does.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

_NUMBERS: dict[type, re.Pattern[str]] = {
    int: re.compile(r"[0-9]{1,9}"),
    float: re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?"),
}


def keep_what_is_named(app: typer.Typer, arguments: Sequence[str]) -> typer.Typer:
    """Return an app with the one command or group that the arguments name.

    If they name none, as ``--help`` does, it has all of them by name and first line, without options of their own.
    """
    named = next((each for each in arguments if not each.startswith("-")), None)
    groups = [part for part in app.registered_groups if isinstance(part.name, str)]
    flat = [part.typer_instance for part in app.registered_groups if part not in groups]
    commands = [command for each in flat if each is not None for command in each.registered_commands]
    found = [command for command in commands if _name(command) == named]
    chosen = [part for part in groups if part.name == named]
    small = copy.copy(app)
    small.registered_groups = []
    if found or chosen:
        small.registered_commands, small.registered_groups = found, chosen
        return small
    small.registered_commands = [_outline(command) for command in commands]
    for part in groups:
        outline = copy.copy(part)
        outline.typer_instance = copy.copy(part.typer_instance)
        if outline.typer_instance is not None:
            outline.typer_instance.registered_commands = []
            outline.typer_instance.registered_groups = []
        small.registered_groups.append(outline)
    return small


def _name(command: Any) -> str:  # noqa: ANN401 - Typer's record of a command
    return str(command.name or command.callback.__name__.replace("_", "-"))


def _outline(command: Any) -> Any:  # noqa: ANN401 - Typer's record of a command
    """Return a command that has its name and its help, and does nothing."""

    def nothing() -> None:
        pass

    outline = copy.copy(command)
    outline.name = _name(command)
    nothing.__doc__ = command.callback.__doc__
    outline.callback = nothing
    return outline


class _Plain:
    """Takes text, flags, and numbers as most people write them; all else is left to Typer.

    Args:
        parameter: The parameter.
        kind: What its values are.
    """

    def __init__(self, parameter: Any, kind: type) -> None:  # noqa: ANN401 - Typer's
        self._parameter, self._kind = parameter, kind

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:  # noqa: ANN401 - as Typer calls it
        """Return the value of an argument."""
        if value is None or type(value) is self._kind:
            return value
        numbers = _NUMBERS.get(self._kind)
        if numbers is not None and isinstance(value, str) and numbers.fullmatch(value):
            return self._kind(value)
        self._parameter._runtime_param = None
        return self._parameter.get_runtime_param().coerce(value, param=param, ctx=ctx)


def take_plain_values(command: Any) -> None:  # noqa: ANN401 - Typer's, or a group of them
    """Let the commands of a group convert plain values themselves, where Typer would import Pydantic for it."""
    make_help = command.get_help_option

    def get_help_option(ctx: Any) -> Any:  # noqa: ANN401 - Typer's
        option = make_help(ctx)
        _ease(option)
        return option

    command.get_help_option = get_help_option  # an option that is made when it is asked for
    for parameter in command.params:
        _ease(parameter)
    if isinstance(command, TyperGroup):
        for part in command.commands.values():
            take_plain_values(part)


def _ease(parameter: Any) -> None:  # noqa: ANN401 - Typer's
    kind = _find_kind(parameter)
    if kind is not None:
        parameter._runtime_param = _Plain(parameter, kind)


def _find_kind(parameter: Any) -> type | None:  # noqa: ANN401 - Typer's
    """Return the type of a parameter's single value if it is a plain one; None of versions of Typer without types."""
    described: Any = getattr(parameter, "type_descriptor", None)
    info = getattr(described, "parameter_info", None)
    if info is None or getattr(parameter, "_runtime_param", 0) is not None:
        return None
    single = parameter.nargs == 1 and not parameter.multiple
    plain = all(getattr(info, name, None) is None for name in ("parser", "click_type", "min", "max", "formats"))
    kind = described.annotation
    return kind if single and plain and kind in (str, int, float, bool) else None
