"""``serve`` and ``keys``: the memory over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.keeping import keep_helper
from agent_memory.cli.running import new_group
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    ERR,
    EncoderOption,
    JsonLinesOption,
    JsonOption,
    NamespaceOption,
    PathOption,
    moment,
    print_json,
    print_json_line,
    print_table,
    printable,
    require_store,
    say,
    show_place,
)
from agent_memory.errors import InvalidInputError, MissingDependencyError

if TYPE_CHECKING:
    from agent_memory.storage.sqlite.ledger import Ledger

LedgerOption = Annotated[
    str | None,
    typer.Option(
        "--ledger",
        metavar="FOLDER",
        help="Folder of the server's keys and records; that of the store if left out. PostgreSQL needs one.",
    ),
]

app = typer.Typer()
keys = new_group("Make, list and revoke the keys of a store's server.")


@app.command(epilog="Example: agent-memory serve --path ./my-agent")
def serve(
    path: PathOption = DEFAULT_PATH,
    host: Annotated[str, typer.Option(help="Address to listen on; any but a local one needs keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 for a free one.")] = 7700,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Further Host header to answer to, such as memory.example.org.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="Origin of web pages that may call it, such as https://app.example.org.")
    ] = None,
    require_keys: Annotated[bool, typer.Option("--require-keys", help="Need keys, even before one exists.")] = False,
    workers: Annotated[int, typer.Option(help="Number of processes.")] = 1,
    rate: Annotated[int | None, typer.Option(help="Requests a minute in the namespace of a key.")] = None,
    max_entries: Annotated[int | None, typer.Option(help="Entries in the namespace of a key.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a request may take.")] = 30.0,
    gather_ms: Annotated[
        float, typer.Option(help="Milliseconds within which questions are encoded together; 0 for each by itself.")
    ] = 2.0,
    reranker: Annotated[
        str | None,
        typer.Option(help="Folder of the cross-encoder that searches may ask for; else the embedded one."),
    ] = None,
    ledger: LedgerOption = None,
    otel: Annotated[
        bool, typer.Option("--otel", help="Send OpenTelemetry spans, to where OTEL_EXPORTER_OTLP_ENDPOINT says.")
    ] = False,
    otel_content: Annotated[
        bool | None, typer.Option("--otel-content/--no-otel-content", help="Tell texts and questions in spans.")
    ] = None,
    socket_only: Annotated[
        bool, typer.Option("--socket-only", help="No port: only help the commands that are run on this store.")
    ] = False,
    until_closed: Annotated[bool, typer.Option(hidden=True, help="End when standard input does.")] = False,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Serve the memory over HTTP: REST at /v1, MCP at /mcp, and the inspector for a browser at /.

    The commands of this machine that name the same folder are then answered by it as well, in a blink.
    """
    if socket_only:
        _help_commands(path, encoder, as_json=as_json, until_closed=until_closed)
        return
    _need_server()
    from pydantic import ValidationError

    from agent_memory.config import Config
    from agent_memory.server.run import serve as run
    from agent_memory.server.settings import Settings

    try:
        settings = Settings(
            host=host,
            port=port,
            hosts=tuple(allow_host or ()),
            origins=tuple(allow_origin or ()),
            require_keys=require_keys,
            workers=workers,
            rate_per_minute=rate,
            max_entries=max_entries,
            timeout_s=timeout,
            reranker=reranker,
            ledger=ledger,
            otel=otel,
            otel_content=otel_content,
        )
        config = Config(gather_ms=gather_ms)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidInputError(f"{first['loc'][0]}: {first['msg']}, got {first['input']!r}") from error

    def announce(url: str) -> None:
        if as_json:
            print_json_line({"url": url})
        else:
            ERR.print(printable(f"serving {show_place(path)} at {url}"))

    scope = _split(namespace)
    place = _parse_place(path)
    with keep_helper(place, encoder):
        run(place, settings, namespace=scope, encoder=encoder, config=config, announce=announce)


def _help_commands(path: str, encoder: str | None, *, as_json: bool, until_closed: bool) -> None:
    from agent_memory.agents.hook import run_resident
    from agent_memory.cli.app import app as whole
    from agent_memory.cli.helper import run

    def announce(place: Path) -> None:
        if as_json:
            print_json_line({"socket": str(place)})
        else:
            ERR.print(printable(f"helping the commands of {path} at {place}"))

    command, lifeline = typer.main.get_group(whole), 0 if until_closed else None
    place = _parse_place(path)
    if isinstance(place, str):
        raise InvalidInputError("--socket-only helps the commands of a folder, and this store has none")
    run(place, command, run_resident, encoder=encoder, lifeline=lifeline, announce=announce)


def _parse_place(path: str) -> Path | str:
    from agent_memory.inputs import parse_place  # NumPy comes with it, which --help can do without

    return parse_place("path", path)


def _split(namespace: str) -> tuple[str, ...]:
    from agent_memory.inputs import parse_namespace

    return parse_namespace(tuple(namespace.split("/")) if namespace else ())


def _need_server() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "FastAPI", "server") from error


@contextmanager
def _open_ledger(path: str, given: str | None) -> Iterator[Ledger]:
    from agent_memory.files import make_folder
    from agent_memory.server.serving import find_ledger
    from agent_memory.storage.sqlite.ledger import open_ledger

    folder = find_ledger(_parse_place(path), given)
    if given is None:
        require_store(path)
    else:
        make_folder(folder)
    with open_ledger(folder) as ledger:
        yield ledger


@keys.command(epilog="Example: agent-memory keys create --namespace acme/user-42 --role writer")
def create(
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    role: Annotated[str, typer.Option(help="reader, writer or admin.")] = "reader",
    name: Annotated[str, typer.Option(help="What it is for.")] = "",
    expires_at: Annotated[str | None, typer.Option(help="When it stops working, ISO 8601.")] = None,
    rate: Annotated[int | None, typer.Option(help="Requests a minute in its namespace.")] = None,
    max_entries: Annotated[int | None, typer.Option(help="Entries that its namespace may hold.")] = None,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key, and print it: it is kept as a hash, and cannot be shown again."""
    _need_server()
    from agent_memory.server.keys import create_key

    with _open_ledger(path, ledger) as opened:
        key, text = create_key(
            opened,
            namespace=_split(namespace),
            role=role,
            name=name,
            expires_at=expires_at,
            rate_per_minute=rate,
            max_entries=max_entries,
        )
    say({"key": key, "text": text}, text, as_json=as_json)


@keys.command("list", epilog="Example: agent-memory keys list")
def list_(path: PathOption = DEFAULT_PATH, ledger: LedgerOption = None, as_json: JsonOption = False) -> None:
    """List the keys, without their secret part."""
    with _open_ledger(path, ledger) as opened:
        found = opened.list_keys()
    if as_json:
        print_json(found)
        return
    now = datetime.now(UTC)
    from rich.table import Table

    table = Table("id", "name", "namespace", "role", "made", "state", box=None)
    for key in found:
        state = "works"
        if key.revoked_at is not None:
            state = f"revoked {moment(key.revoked_at)}"
        elif key.expires_at is not None:
            state = f"{'expired' if key.expires_at <= now else 'expires'} {moment(key.expires_at)}"
        scope = printable("/".join(key.namespace)) or "(all)"
        table.add_row(key.id, printable(key.name), scope, str(key.role), moment(key.created_at), state)
    print_table(table)


@keys.command(epilog="Example: agent-memory keys revoke 3f2a9c0d1e4b")
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, as list shows it.")],
    path: PathOption = DEFAULT_PATH,
    ledger: LedgerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: it stops working at once, also in servers that run."""
    with _open_ledger(path, ledger) as opened:
        revoked = opened.revoke_key(key, datetime.now(UTC))
    say(revoked, f"revoked {revoked.id}", as_json=as_json)
