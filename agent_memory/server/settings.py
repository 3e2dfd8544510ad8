"""Settings of a server, with defaults."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """What a server listens on, and what it allows.

    Attributes:
        host: Address to listen on; any but a local one needs keys.
        port: Port to listen on.
        hosts: Further Host headers to answer to, with their port unless it is the scheme's own.
        origins: Origins of web pages that may call the server (CORS); none but its own otherwise.
        require_keys: Whether requests need a key, also from this machine. They do as soon as there is a key.
        workers: Number of processes.
        threads: Number of threads a process answers requests in.
        max_waiting: Requests that may wait for a thread; later ones get 503.
        max_body_bytes: Size of a request, except an import.
        max_import_bytes: Size of an import.
        max_answer_bytes: Size of an answer, except an export, a backup and an answer of one item.
        max_items: Items in a page, and keys or queries in a request.
        timeout_s: Seconds that a request may take. Longer work is answered with 202 and an operation.
        receive_s: Seconds within which a client must send its request, headers and body each, and take the next part of
            an answer.
        idle_s: Seconds that a connection may be idle between requests.
        grace_s: Seconds that requests under way get to end when the server is told to stop.
        max_streams: Clients that may follow the events of one process.
        rate_per_minute: Requests a minute in the namespace of a key; None for no limit. A key may have its own.
        max_entries: Entries in the namespace of a key; None for no limit. A key may have its own.
        reranker: Folder of the cross-encoder that searches may ask for; None for the embedded one.
        ledger: Folder of the server's own records: keys, audit log, replies. None for that of the store; a store on
            PostgreSQL has none.
        otel: Whether to write spans of OpenTelemetry.
        otel_content: Whether spans hold content; None for what the environment says, see ``telemetry.tracing``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(default=7700, ge=0, le=65535)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    require_keys: bool = False
    workers: int = Field(default=1, ge=1, le=64)
    threads: int = Field(default=16, ge=1, le=256)
    max_waiting: int = Field(default=256, ge=1)
    max_body_bytes: int = Field(default=8 << 20, ge=1024)
    max_import_bytes: int = Field(default=4 << 30, ge=1024)
    max_answer_bytes: int = Field(default=16 << 20, ge=1024)
    max_items: int = Field(default=1_000, ge=1, le=10_000)
    timeout_s: float = Field(default=30.0, gt=0, le=3600)
    receive_s: float = Field(default=20.0, gt=0, le=3600)
    idle_s: float = Field(default=60.0, gt=0, le=86_400)
    grace_s: float = Field(default=30.0, gt=0, le=3600)
    max_streams: int = Field(default=100, ge=1)
    rate_per_minute: int | None = Field(default=None, ge=1)
    max_entries: int | None = Field(default=None, ge=1)
    reranker: str | None = None
    ledger: str | None = None
    otel: bool = False
    otel_content: bool | None = None
