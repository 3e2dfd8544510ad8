"""``agent-memory topics``: what a store is about, and what says the same twice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent_memory.cli.shared import (
    DEFAULT_PATH,
    OUT,
    JsonOption,
    NamespaceOption,
    PathOption,
    SessionOption,
    SpeakerOption,
    WhereOption,
    open_store,
    parse_object,
    print_json,
    printable,
    shorten,
)

app = typer.Typer()


@app.command(epilog="Example: agent-memory topics --path ./my-agent --plot topics.png")
def topics(
    path: PathOption = DEFAULT_PATH,
    k: Annotated[int | None, typer.Option("-k", min=1, help="Number of topics; found if left out.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw them to this file (PNG).")] = None,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    where: WhereOption = None,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show what the entries are about, and those that say nearly the same. Nothing is changed."""
    filters = parse_object(where, "--where")
    with open_store(path, namespace) as memory:
        found = memory.topics(session=session, speaker=speaker, where=filters, k=k)
    if plot is not None:
        from agent_memory.evaluation.plots import plot_topics

        plot_topics(found, plot)
    if as_json:
        print_json({"topics": list(found), "duplicates": found.duplicates, "entries": found.entries})
        return
    for topic in found:
        OUT.print(printable(f"{topic.size:5}  {', '.join(topic.words)}"))
        OUT.print(f"       {shorten(topic.examples[0].text)}")
    if found.duplicates:
        OUT.print("nearly the same:")
    for group in found.duplicates:
        OUT.print(printable(f"  {', '.join(entry.key for entry in group)}  ") + shorten(group[0].text))
    if plot is not None:
        OUT.print(f"drawn to {plot}")
