"""``agent-memory models``: what there is, where it is, and fetching it."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.running import new_group
from agent_memory.cli.shared import OUT, JsonOption, print_json, say

if TYPE_CHECKING:
    from agent_memory.encoders.models import KnownModel

app = new_group("Encoder models: list, pull, verify, path.")

_Name = Annotated[
    str, typer.Argument(help="minilm, multilingual, mpnet, aegis; for pull also any owner/model of the hub")
]


@app.command("list", epilog="Example: agent-memory models list")
def list_(as_json: JsonOption = False) -> None:
    """Show the known models and whether they are on this machine."""
    from agent_memory.encoders import models

    here = {name: models.is_here(name) for name in models.KNOWN}
    if as_json:
        print_json([_facts(model) | {"here": here[model.name]} for model in models.KNOWN.values()])
        return
    for model in models.KNOWN.values():
        where = "here" if here[model.name] else "not here"
        OUT.print(f"{model.name:12} {where:9} {model.size_bytes / 1e6:7.0f} MB  {model.licence}")
        OUT.print(f"             {model.summary}")
        OUT.print(f"             {model.source}; sha256 {model.sha256 or 'not pinned'}")


def _facts(model: KnownModel) -> dict[str, object]:
    return {field.name: getattr(model, field.name) for field in fields(model)}


@app.command(epilog="Example: agent-memory models pull mpnet")
def pull(name: _Name, as_json: JsonOption = False) -> None:
    """Fetch a model; the only command that uses the network."""
    from agent_memory.encoders import models

    folder = models.pull(name)
    say({"name": name, "path": folder}, str(folder), as_json=as_json)


@app.command(epilog="Example: agent-memory models verify minilm")
def verify(name: _Name, as_json: JsonOption = False) -> None:
    """Compare the weights with their published SHA-256."""
    from agent_memory.encoders import models

    digest = models.verify_model(name)
    published = models.KNOWN[name].sha256 is not None
    known = "as published" if published else "no published digest to compare with"
    say({"name": name, "sha256": digest, "published": published}, f"{name}: {digest} ({known})", as_json=as_json)


@app.command(epilog="Example: agent-memory models path minilm")
def path(name: _Name, as_json: JsonOption = False) -> None:
    """Print the folder of a model."""
    from agent_memory.encoders import models

    folder = models.path_of(name)
    say({"name": name, "path": folder}, str(folder), as_json=as_json)
