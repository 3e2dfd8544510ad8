"""What is asked of a server when it is first reached, and what each connection to it is set to."""

from __future__ import annotations

import select
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import psycopg
from psycopg import sql
from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.postgres.address import Address

_R = TypeVar("_R")
_SILENT = "the server does not answer"

OLDEST = 160000
"""The oldest version of PostgreSQL that is used, as ``server_version_num``."""

CLOCK = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
"""Asks what time it is on the server, in microseconds since 1970."""

_FIXED = {
    "array_nulls": "on",
    "DateStyle": "ISO",
    "extra_float_digits": "1",
    "gin_fuzzy_search_limit": "0",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
}
"""Settings that change what statements mean, or how values are written; a role or database may have others."""

_TIMELINE = (
    "SELECT CASE WHEN NOT pg_is_in_recovery() THEN left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) || ' ' || "
    "(SELECT system_identifier FROM pg_control_system()) END"
)
_PATIENCE = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4", "tcp_user_timeout": "30000"}
"""How long a silent network is waited for (seconds; the last in milliseconds), unless the address says otherwise."""

_LIMITS = ("statement_timeout", "transaction_timeout", "idle_in_transaction_session_timeout")
_ASKED = (
    *("server_version", "server_encoding", "fsync", "synchronous_commit", "transaction_read_only"),
    *("synchronous_standby_names", "session_replication_role"),
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server has answered.

    Attributes:
        version: Its version.
        read_only: Whether it is a standby, or lets this role only read.
        keeps: Whether it waits for its disk before it acknowledges a commit.
        commits: What transactions that write must set so that their commits are kept.
        waits_for: The standbys that must have a commit before it is acknowledged.
    """

    version: str
    read_only: bool
    keeps: bool
    commits: Mapping[str, str]
    waits_for: str


class Patient(psycopg.Connection[Any]):
    """A connection that waits no longer than so for an answer.

    Attributes:
        patience_s: Seconds; None for as long as it takes.
    """

    patience_s: float | None = None

    @override
    def wait(self, gen: Generator[Any, Any, _R], *args: Any, **given: Any) -> _R:
        bound = gen if self.patience_s is None else _limit(gen, self.patience_s)
        return super().wait(bound, *args, **given)

    def await_answer(self) -> None:
        """Return when an answer may be read without waiting.

        Raises:
            psycopg.OperationalError: There was none in time.
        """
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        while self.patience_s is not None and self.pgconn.is_busy():
            if not poll.poll(int(self.patience_s * 1000)):
                raise psycopg.OperationalError(_SILENT)
            self.pgconn.consume_input()


def _limit(waiting: Generator[Any, Any, _R], patience_s: float) -> Generator[Any, Any, _R]:
    """Return a generator of psycopg's that gives up after some seconds, in which it is told that nothing is ready."""
    deadline = time.monotonic() + patience_s
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError(_SILENT)
            wanted = waiting.send(ready)
    except StopIteration as end:
        return cast("_R", end.value)


def connect(address: Address) -> Patient:
    """Return a new connection, whose settings are those that the statements of this package are written for."""
    given: dict[str, Any] = {"connect_timeout": "10", "application_name": "agent-memory"}
    given |= {**_PATIENCE, **address.options}
    # Texts are sent as they are: another encoding of the client, from its environment or its role, could not hold all.
    given["client_encoding"] = "UTF8"
    raw = Patient.connect(**given, autocommit=True)
    try:
        raw.execute(
            f"SELECT {', '.join('set_config(%s, %s, false)' for _ in _FIXED)}",
            [part for pair in _FIXED.items() for part in pair],
        )
    except BaseException:
        raw.close()
        raise
    return raw


def read_timeline(raw: psycopg.Connection[Any]) -> str | None:
    """Return which cluster and timeline a primary writes: another one may lack the last commits; None if unknown."""
    try:
        row = raw.execute(_TIMELINE).fetchone()
    except psycopg.Error:  # a standby that has just been promoted, or a role that may not ask
        return None
    return None if row is None else row[0]


def lift_limits(raw: psycopg.Connection[Any], *, local: bool = False) -> None:
    """Let statements take as long as they need: those that write tables again, make an index, or migrate.

    Args:
        raw: The connection.
        local: Only until its transaction ends.
    """
    raw.execute("SELECT set_config(name, '0', %s) FROM pg_settings WHERE name = ANY(%s)", (local, list(_LIMITS)))


def look(raw: psycopg.Connection[Any], address: Address) -> Facts:
    """Ask a server what it is.

    Raises:
        StorageError: It cannot keep what is promised, or is no server but a pooler of connections.
    """
    asked = ", ".join(f"current_setting('{name}')" for name in _ASKED)
    changes = sql.Identifier(address.schema, "changes").as_string(raw)
    may_write = "coalesce(has_table_privilege(to_regclass(%s), 'INSERT'), true)"
    row = raw.execute(
        f"SELECT {asked}, pg_is_in_recovery(), pg_backend_pid(), {may_write}",
        (changes,),
    ).fetchone()
    version, encoding, fsync, commit, read_only, waits_for, role, standby, pid, writes = row or ("",) * 10
    if pid != raw.info.backend_pid:
        raise StorageError(
            f"{address.name} is a pooler of connections, such as PgBouncer: it may give each transaction "
            "another connection, and what is set for one would hold for others. Connect to the server itself"
        )
    if raw.info.server_version < OLDEST:
        raise StorageError(f"{address.name} is PostgreSQL {version}; agent-memory needs {OLDEST // 10_000} or newer")
    if encoding != "UTF8":
        raise StorageError(f"{address.name} has the encoding {encoding}; agent-memory needs UTF8")
    if role != "origin":
        raise StorageError(
            f"{address.name} sets session_replication_role = {role} for this role: what belongs to an entry would not "
            "be deleted with it. Set it to origin"
        )
    return Facts(
        version=str(version),
        read_only=bool(standby) or read_only == "on" or not writes,
        keeps=fsync == "on",
        commits={"synchronous_commit": "on"} if commit in ("off", "local") else {},
        waits_for=str(waits_for),
    )
