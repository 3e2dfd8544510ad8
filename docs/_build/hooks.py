"""What ``mkdocs build`` makes of the code: the command-line reference, and the index of decision records."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "docs" / "decisions"
_HEADING = re.compile(r"# (?P<number>\d{4}): (?P<title>.+)\n\n(?P<date>\d{4}-\d\d-\d\d) · (?P<status>.+)\n")
_PROGRAM = "agent-memory"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put every decision record into the navigation, so that a new one needs no other change."""
    pages = ["decisions/index.md", *(f"decisions/{record.file.name}" for record in read_records())]
    config.nav = [{"Decisions": pages} if "Decisions" in entry else entry for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "reference/cli.md", content=render_commands()))
    files.append(File.generated(config, "decisions/index.md", content=render_index()))
    return files


# --- decision records ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The head of one decision record."""

    file: Path
    number: str
    title: str
    date: str
    status: str


def read_records() -> list[Record]:
    """Return the decision records in the order of their numbers; raises ValueError for one with another heading."""
    records = []
    for file in sorted(RECORDS.glob("[0-9]*.md")):
        found = _HEADING.match(file.read_text("utf-8"))
        if found is None or not file.name.startswith(found["number"]):
            raise ValueError(f"{file.name} must begin with '# NNNN: Title', an empty line, and 'YYYY-MM-DD · status'")
        records.append(Record(file=file, **found.groupdict()))
    return records


def render_index() -> str:
    """Return the page that lists the decision records."""
    lines = [
        "# Decisions",
        "",
        "Why things are as they are: one record per decision, with what was measured and what was rejected.",
        "The date is that of the first version; a record is brought up to date when a later measurement changes it.",
        "",
        "| number | decision | date | status |",
        "|---|---|---|---|",
    ]
    for record in read_records():
        lines.append(f"| {record.number} | [{record.title}]({record.file.name}) | {record.date} | {record.status} |")
    return "\n".join(lines) + "\n"


# --- command line --------------------------------------------------------------------------------------------


def find_app() -> typer.Typer:
    """Return the Typer application that ``agent_memory.cli:main`` runs."""
    sys.path.insert(0, str(ROOT))
    try:
        main = importlib.import_module("agent_memory.cli").main
    finally:
        sys.path.remove(str(ROOT))
    app = inspect.getmodule(main).__dict__.get("app") or importlib.import_module("agent_memory.cli").app
    if not isinstance(app, typer.Typer):
        raise TypeError("agent_memory.cli has no Typer application named app")
    return app


def walk(command: Any, path: tuple[str, ...] = (_PROGRAM,)) -> Iterator[tuple[tuple[str, ...], Any]]:  # noqa: ANN401
    """Yield every command that can be run, with the words that run it, in the order of ``--help``."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        if not child.hidden:
            yield from walk(child, (*path, name))


def render_commands() -> str:
    """Return the reference of all commands."""
    root = typer.main.get_command(find_app())
    lines = [
        "# Command line",
        "",
        root.help or "",
        "",
        "This page is generated from the commands themselves; `agent-memory COMMAND --help` says the same.",
        "",
        root.epilog or "",
        "",
    ]
    group = None
    for path, command in walk(root):
        if len(path) > 2 and path[:2] != group:
            lines += [f"## {' '.join(path[:2])}", "", root.commands[path[1]].help or "", ""]
        group = path[:2]
        lines += _render_command(path, command)
    return "\n".join(lines)


def _render_command(path: tuple[str, ...], command: Any) -> list[str]:  # noqa: ANN401
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    usage = " ".join([*path, *(_usage(argument) for argument in arguments), *(["[OPTIONS]"] if options else [])])
    level = "##" if len(path) == 2 else "###"
    lines = [f"{level} {' '.join(path)}", "", _plain(command.help), "", "```text", usage, "```", ""]
    if command.epilog:
        lines += [_example(command.epilog), ""]
    rows = [f"| `{_upper(argument)}` | {_cell(argument.help)} |" for argument in arguments]
    rows += [f"| {_names(option)} | {_cell(option.help)}{_default(option)} |" for option in options]
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|", *rows, ""]
    return lines


def _usage(argument: Any) -> str:  # noqa: ANN401
    name = _upper(argument) + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _upper(parameter: Any) -> str:  # noqa: ANN401
    return parameter.metavar or parameter.name.upper()


def _example(epilog: str) -> str:
    """Return the examples of an epilog as blocks of commands; "Example: a   or: b" holds two."""
    commands = re.split(r"\s+or(?:, from cron)?:\s+", _plain(epilog).removeprefix("Example:").strip())
    return "\n".join(["```sh", *(command.removeprefix(":").strip() for command in commands), "```"])


def _names(option: Any) -> str:  # noqa: ANN401
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {_upper(option)}"


def _default(option: Any) -> str:  # noqa: ANN401
    default = option.default
    facts = []
    if default not in (None, "", (), []) and not option.is_flag and not callable(default):
        facts.append(f"default `{default}`")
    if option.envvar:
        facts.append(f"environment variable `{option.envvar}`")
    return f" ({'; '.join(facts)})" if facts else ""


def _cell(text: str | None) -> str:
    return _plain(text).replace("|", "\\|")


def _plain(text: str | None) -> str:
    """Return a help text without Rich's markup, on one line a paragraph."""
    return re.sub(r"\[/?[a-z ]+\]", "", inspect.cleandoc(text or "")).strip()
