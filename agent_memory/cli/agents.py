"""``agent-memory agent`` and ``agent-memory hook``: the memory of coding agents."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_memory.agents import events, notes, spool
from agent_memory.agents.layouts import Scope
from agent_memory.agents.places import find_store
from agent_memory.agents.projects import find_project
from agent_memory.cli.running import new_group
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    EncoderOption,
    JsonOption,
    PathOption,
    open_store,
    print_json,
    print_line,
    printable,
    progress_bar,
    require_folder,
    say,
)
from agent_memory.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from agent_memory.agents.install import Installed

app = new_group("Coding agents: install, status, uninstall, read the transcripts of the past.")
hooks = typer.Typer()


class Agent(StrEnum):
    """The agents that there are hooks for."""

    CLAUDE_CODE = events.CLAUDE_CODE
    CODEX = events.CODEX
    CURSOR = events.CURSOR
    OPENCODE = events.OPENCODE


AgentArgument = Annotated[Agent, typer.Argument(help="The agent.")]
UserOption = Annotated[bool, typer.Option("--user", help="For all your sessions (the default).")]
ProjectOption = Annotated[bool, typer.Option("--project", help="For the sessions in this project.")]


@app.command(epilog="Example: agent-memory agent install claude-code")
def install(
    agent: AgentArgument,
    user: UserOption = False,
    project: ProjectOption = False,
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Write hooks, MCP server and skill into an agent's settings; all else in them stays byte for byte."""
    from agent_memory.agents.install import install as write
    from agent_memory.agents.secrets import check_installed

    check_installed()
    scope, root = _find_scope(user, project)
    store = _find_store(path)
    given = None if path == DEFAULT_PATH else str(store)
    _print_parts(write(agent, scope, root, store, given_store=given), as_json)
    if agent is Agent.CODEX and not as_json:
        print_line("Codex runs new hooks once you have trusted them: /hooks shows them.")


@app.command(epilog="Example: agent-memory agent uninstall claude-code")
def uninstall(
    agent: AgentArgument,
    user: UserOption = False,
    project: ProjectOption = False,
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Take out of an agent's settings what install has put there. The memory stays."""
    from agent_memory.agents.install import uninstall as undo

    scope, root = _find_scope(user, project)
    _print_parts(undo(agent, scope, root, _find_store(path)), as_json)


@app.command(epilog="Example: agent-memory agent status")
def status(
    agent: Annotated[Agent | None, typer.Argument(help="The agent; all of them if left out.")] = None,
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Show what is installed, when a hook last ran, its last error, and what waits to be written."""
    from agent_memory.agents.install import inspect

    store = _find_store(path)
    roots = {Scope.USER: _find_home(), Scope.PROJECT: _find_project_folder()}
    facts: dict[str, Any] = {
        "project": "/".join(find_project()),
        "waiting": len(spool.list_files(store)),
        "agents": {
            str(one): {
                **{str(scope): inspect(one, scope, root, store) for scope, root in roots.items()},
                "run": notes.read_note(store, one, "run"),
                "error": notes.read_note(store, one, "error"),
            }
            for one in ([agent] if agent else Agent)
        },
    }
    if as_json:
        print_json(facts)
        return
    print_line(f"project {printable(facts['project'])}, {facts['waiting']} captured messages wait to be written")
    for name, known in facts["agents"].items():
        print_line((name, "bold"))
        for scope in roots:
            states = ", ".join(f"{part.kind} {part.state}" for part in known[scope])
            print_line(f"  {scope}: {states}")
        run, error = known["run"], known["error"]
        print_line(f"  last run: {run['event']} at {run['at']}, {run['ms']} ms" if run else "  last run: never")
        if error:
            print_line(printable(f"  last error: {error['event']} at {error['at']}: {error['error']}"))


@app.command(epilog="Example: agent-memory agent backfill claude-code ~/.claude/projects")
def backfill(
    agent: AgentArgument,
    transcripts: Annotated[Path, typer.Argument(metavar="PATH", help="A transcript, or a folder of them.")],
    path: PathOption = DEFAULT_PATH,
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the transcripts of the past; what is known already is passed over, so it can be run again."""
    from agent_memory.agents.backfill import backfill as read

    if not transcripts.exists():  # before a store is made for it
        raise NotFoundError(f"there is no file {transcripts}")
    with (
        open_store(path, encoder=encoder, create=True) as memory,
        progress_bar("reading transcripts", quiet=as_json) as progress,
    ):
        done = read(memory, agent, transcripts, progress=progress)
    if as_json:
        print_json(done)
        return
    print_line(
        f"{done.new} new entries of {done.projects} projects from {done.files} transcripts; {done.known} were known"
    )
    for problem in done.problems:
        print_line(printable(f"  not read: {problem}"))


@app.command(epilog="Example: agent-memory agent plugin ./agent-memory-plugin")
def plugin(
    folder: Annotated[Path, typer.Argument(help="Folder to write; it must be empty or missing.")],
    as_json: JsonOption = False,
) -> None:
    """Write a portable package with MCP server and skill (Agent Plugins 1.0), for agents that read these."""
    from agent_memory.agents.install import write_plugin

    written = write_plugin(folder)
    say(written, "\n".join(printable(str(file)) for file in written), as_json=as_json)


def _find_store(path: str) -> Path:
    require_folder(path, "hooks keep what they capture in the folder of the store")
    return find_store(path)


@app.command("take-in", epilog="Example: agent-memory agent take-in")
def take_in(path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Write what hooks have captured into the store now; they start this by themselves."""
    written = spool.take_in(_find_store(path))
    say({"written": written}, f"{written} entries written", as_json=as_json)


@hooks.command(epilog="Example: agent-memory hook SessionStart --agent claude-code")
def hook(
    event: Annotated[str, typer.Argument(help=f"The event, as the agent names it: {', '.join(events.KINDS)}.")],
    agent: Annotated[str, typer.Option(help="Whose hook.")] = events.CLAUDE_CODE,
    path: Annotated[str | None, typer.Option("--path", "-p", metavar="FOLDER", help="Folder of the store.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a hook of a coding agent: reads the agent's JSON on standard input, and prints JSON. It never fails."""
    from agent_memory.agents.hook import main

    main([event, "--agent", agent, *(["--path", path] if path else [])])


def _find_scope(user: bool, project: bool) -> tuple[Scope, Path]:
    if user and project:
        raise InvalidInputError("--user and --project exclude each other")
    return (Scope.PROJECT, _find_project_folder()) if project else (Scope.USER, _find_home())


def _find_home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        raise NotFoundError("there is no home folder; use --project, or set HOME") from error


def _find_project_folder() -> Path:
    """Return the folder that holds the current one's ``.git``, or else the current one."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)


def _print_parts(parts: Iterable[Installed], as_json: bool) -> None:
    if as_json:
        print_json(list(parts))
        return
    for part in parts:
        print_line(printable(f"{part.state:<9}  {part.kind:<7}  {part.path}"))
