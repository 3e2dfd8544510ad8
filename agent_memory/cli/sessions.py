"""``agent-memory session``: what sessions there are, and how one evolves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.running import new_group
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    OUT,
    JsonOption,
    NamespaceOption,
    PathOption,
    moment,
    open_store,
    print_json,
    printable,
    shorten,
)

if TYPE_CHECKING:
    from agent_memory.records import Session

app = new_group("Sessions: list them, show how one evolves.")


def print_sessions(sessions: Sequence[Session], *, as_json: bool) -> None:
    """Print sessions, one on a line, or as JSON."""
    if as_json:
        print_json(sessions)
        return
    for session in sessions:
        place = printable("/".join((*session.namespace, session.name)))
        OUT.print(f"{place}  {session.entries} entries, {moment(session.first_event)} to {moment(session.last_event)}")


@app.command("list", epilog="Example: agent-memory session list --path ./my-agent")
def list_(path: PathOption = DEFAULT_PATH, namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """Show the sessions of a store."""
    with open_store(path, namespace) as memory:
        print_sessions(memory.sessions(), as_json=as_json)


@app.command(epilog='Example: agent-memory session show chat-7 --query "Where does Alice live?" --plot evolution.png')
def show(
    name: Annotated[str, typer.Argument(help="The session.")],
    query: Annotated[str | None, typer.Option(help="What to ask; the session's first text if left out.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it to this file (PNG).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of moments of the session to ask at.")] = 12,
    k: Annotated[int, typer.Option("-k", min=1, help="Maximum number of hits at each moment.")] = 3,
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Ask one question at several moments of a session: its best hits, by meaning alone, as the session grows."""
    from agent_memory.evaluation.plots import plot_session_view
    from agent_memory.evaluation.session_view import view_session

    with open_store(path, namespace) as memory:
        view = view_session(memory, name, query, steps=steps, k=k)
    if plot is not None:
        plot_session_view(view, plot)
    if as_json:
        print_json(view)
        return
    OUT.print(printable(view.query))
    for after, top, scores, moved in zip(view.after, view.top, view.scores, view.question[0], strict=True):
        OUT.print(f"after {after} segments (the question's cosine with its first vector: {moved:.2f})")
        for place, score in zip(top, scores, strict=True):
            OUT.print(f"  {score:.2f}  [{place + 1}] {shorten(view.texts[place])}")
    if plot is not None:
        OUT.print(f"drawn to {plot}")
