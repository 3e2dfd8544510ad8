"""``agent-memory models``: what there is, where it is, and fetching it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from agent_memory.encoders import models
from agent_memory.errors import AgentMemoryError

app = typer.Typer(no_args_is_help=True, help="Encoder models: list, pull, verify, path.")

_T = TypeVar("_T")
_Name = Annotated[str, typer.Argument(help="minilm, mpnet, aegis; for pull also any owner/model of the hub")]


@app.command("list")
def list_() -> None:
    """Show the known models and whether they are on this machine."""
    for model in models.KNOWN.values():
        where = "here" if models.is_here(model.name) else "not here"
        typer.echo(f"{model.name:8} {where:9} {model.size_bytes / 1e6:7.0f} MB  {model.licence}")
        typer.echo(f"         {model.summary}")
        typer.echo(f"         {model.source}; sha256 {model.sha256 or 'not pinned'}")


@app.command()
def pull(name: _Name) -> None:
    """Fetch a model; the only command that uses the network."""
    typer.echo(str(_guard(models.pull, name)))


@app.command()
def verify(name: _Name) -> None:
    """Compare the weights with their published SHA-256."""
    digest = _guard(models.verify_model, name)
    pinned = "as published" if models.KNOWN[name].sha256 else "no published digest to compare with"
    typer.echo(f"{name}: {digest} ({pinned})")


@app.command()
def path(name: _Name) -> None:
    """Print the folder of a model."""
    typer.echo(str(_guard(models.path_of, name)))


def _guard(call: Callable[[str], _T], name: str) -> _T:
    try:
        return call(name)
    except AgentMemoryError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
