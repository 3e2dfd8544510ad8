"""``agent-memory session``: what sessions there are, and how one evolves."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agent_memory.cli.shared import DEFAULT_PATH, JsonOption, PathOption
from agent_memory.memory import Memory

app = typer.Typer(no_args_is_help=True, help="Sessions: list them, show how one evolves.")


@app.command("list", epilog="Example: agent-memory session list --path ./my-agent")
def list_(path: PathOption = DEFAULT_PATH, as_json: JsonOption = False) -> None:
    """Show the sessions of a store."""
    with Memory(path) as memory:
        sessions = memory.sessions()
    if as_json:
        typer.echo(json.dumps([asdict(session) for session in sessions], default=str, ensure_ascii=False, indent=2))
        return
    for session in sessions:
        place = "/".join((*session.namespace, session.name))
        typer.echo(
            f"{place}  {session.entries} entries, {session.first_event:%Y-%m-%d} to {session.last_event:%Y-%m-%d}"
        )


@app.command(epilog='Example: agent-memory session show chat-7 --query "Where does Alice live?" --plot evolution.png')
def show(
    name: Annotated[str, typer.Argument(help="The session.")],
    query: Annotated[str | None, typer.Option(help="What to ask; the session's first text if left out.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it to this file (PNG).")] = None,
    steps: Annotated[int, typer.Option(min=1, help="At how many moments of the session.")] = 12,
    k: Annotated[int, typer.Option("-k", min=1, help="Hits at each moment.")] = 3,
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Ask one question at several moments of a session: its best hits, by meaning alone, as the session grows."""
    from agent_memory.evaluation.plots import plot_session_view
    from agent_memory.evaluation.session_view import view_session

    with Memory(path) as memory:
        view = view_session(memory, name, query, steps=steps, k=k)
    if plot is not None:
        plot_session_view(view, plot)
    if as_json:
        facts = asdict(view) | {"question": view.question.tolist(), "latents": view.latents.tolist()}
        typer.echo(json.dumps(facts, ensure_ascii=False, indent=2))
        return
    typer.echo(view.query)
    for after, top, scores, moved in zip(view.after, view.top, view.scores, view.question[0], strict=True):
        typer.echo(f"after {after} segments (the question's cosine with its first vector: {moved:.2f})")
        for place, score in zip(top, scores, strict=True):
            typer.echo(f"  {score:.2f}  [{place + 1}] {view.texts[place]}")
    if plot is not None:
        typer.echo(f"drawn to {plot}")
