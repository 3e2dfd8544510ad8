"""``agent-memory mcp``: the store as a server for MCP clients."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_memory.agents.capture import clean
from agent_memory.agents.projects import find_project
from agent_memory.cli.running import INTERRUPTED
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    ERR,
    EncoderOption,
    JsonLinesOption,
    NamespaceOption,
    PathOption,
    TimezoneOption,
    open_store,
    print_json_line,
    show_place,
)
from agent_memory.errors import InvalidInputError
from agent_memory.integrations._mcp_transport import Transport

if TYPE_CHECKING:
    from agent_memory.memory import Memory

app = typer.Typer()


@app.command(epilog="Example: agent-memory mcp --path ./my-agent")
def mcp(
    path: PathOption = DEFAULT_PATH,
    transport: Annotated[Transport, typer.Option(help="How clients connect.")] = Transport.STDIO,
    host: Annotated[str, typer.Option(help="Address to listen on; any but a local one needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(help="What HTTP clients must send as bearer token.", envvar="AGENT_MEMORY_MCP_TOKEN"),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further Host header to answer to, such as memory.example.org:8000.")
    ] = None,
    tools: Annotated[
        str | None,
        typer.Option(
            "--tools",
            metavar="FILE",
            help="Offer pick_tools for the tools that a JSON file lists, as MCP and OpenAI describe them.",
        ),
    ] = None,
    timezone: TimezoneOption = None,
    namespace: NamespaceOption = "",
    project: Annotated[
        str | None,
        typer.Option("--project", metavar="FOLDER", help="Use the namespace of the project that a folder belongs to."),
    ] = None,
    encoder: EncoderOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Serve the memory to MCP clients, over stdio or streamable HTTP (at /mcp).

    Over stdio, standard output holds the protocol's messages, which are JSON Lines with --json and without.
    """
    from agent_memory.integrations._mcp_http import check_exposure
    from agent_memory.integrations._mcp_picking import read_tools
    from agent_memory.integrations.mcp import run_server

    described = None if tools is None else read_tools(tools)
    if transport is Transport.HTTP:
        check_exposure(host, token)
    if project is not None:
        if namespace:
            raise InvalidInputError(f"--project and --namespace exclude each other, got {project!r} and {namespace!r}")
        namespace = "/".join(find_project(project))
    # What hooks never keep, secrets and private passages, a model may hand over as well.
    served: dict[str, Any] = {"tools": described, "clean": None if project is None else clean}
    with open_store(path, namespace, encoder=encoder, create=True, timezone=timezone) as memory:
        if transport is Transport.STDIO:
            with _ended_by_interrupt(memory):
                run_server(memory, **served)
            return
        url = f"http://{host}:{port}/mcp"
        if as_json:
            print_json_line({"url": url})
        else:
            ERR.print(f"serving {show_place(path)} at {url}")
        run_server(memory, transport, host=host, port=port, token=token, hosts=allow_host or (), **served)


@contextmanager
def _ended_by_interrupt(memory: Memory) -> Iterator[None]:
    """Let Ctrl-C end the process at once; a server over stdio would first wait for one more line of its input."""

    def end(*_: object) -> None:
        try:
            memory.close()
        finally:
            os._exit(INTERRUPTED)

    former = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)
