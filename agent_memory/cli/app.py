"""The command line, put together; the exit codes are listed under ``agent-memory --help``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from agent_memory.cli import (
    agents,
    evaluation,
    files,
    jobs,
    mcp,
    memory,
    models,
    recall,
    running,
    server,
    sessions,
    topics,
    upkeep,
)
from agent_memory.cli.quick import keep_what_is_named, take_plain_values
from agent_memory.cli.shared import OUT

_ABOUT = (
    "Long-term memory for AI agents: durable, offline, in one folder.",
    "Every command takes --json and then prints one JSON value on standard output; jobs run, mcp and serve, which "
    "report while they run, print JSON Lines. Times are in UTC, in JSON as ISO 8601 with the offset. Progress and "
    "errors go to standard error.",
    "Only add, import, restore, copy, demo, agent backfill, mcp and serve make a store where there is none.",
)

app = typer.Typer(
    name="agent-memory",
    cls=running.Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,  # importing what draws boxes takes longer than all the rest of --help
    help="\n\n".join(_ABOUT),
    epilog=running.HELP,
)
_FLAT = (memory, recall, topics, files, upkeep, evaluation, mcp, server)
for _commands in (*(each.app for each in _FLAT), agents.hooks):
    app.add_typer(_commands)
app.add_typer(sessions.app, name="session")
app.add_typer(jobs.app, name="jobs")
app.add_typer(upkeep.queries, name="queries")
app.add_typer(models.app, name="models")
app.add_typer(agents.app, name="agent")
app.add_typer(server.keys, name="keys")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        OUT.print(version("agent-memory"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    no_helper: Annotated[
        bool, typer.Option("--no-helper", help="Do the work here, also if `serve` runs; as AGENT_MEMORY_HELPER=0.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; see ``running.Group`` for how it ends."""
    command = typer.main.get_command(keep_what_is_named(app, sys.argv[1:]))
    take_plain_values(command)
    try:
        command()
    except KeyboardInterrupt:  # outside of a command, where Typer catches it
        sys.exit(running.INTERRUPTED)


if __name__ == "__main__":
    main()
