"""The server's own small database beside the store: keys, audit log, idempotency records and long operations.

It never holds content: no text, no metadata, no key of an entry that the caller did not choose to retry with. What a
stranger put into its schema is refused before anything is read.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Integer,
    MetaData,
    Row,
    String,
    Table,
    and_,
    create_mock_engine,
    delete,
    func,
    insert,
    select,
    update,
)

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.reports import ApiKey, AuditRecord, Operation, Role
from agent_memory.storage.operations import is_dead, new_holder
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.known import digest, read_objects
from agent_memory.storage.sqlite.migrate import enable_log
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.types import Namespace

FILE = "server.db"
"""Name of the database in the store's folder."""

KEPT_AUDIT = 100_000
"""Number of audit records kept."""

KEPT_REPLIES = timedelta(hours=24)
"""How long the answer to a request with an idempotency key is known."""

_KEPT_OPERATIONS = 1_000
_MOST_KNOWN = 1_000
_FORMAT = "1"
_RELEASED = "nobody"
_metadata = MetaData()

_facts = Table("facts", _metadata, Column("name", String, primary_key=True), Column("value", String, nullable=False))
_keys = Table(
    "keys",
    _metadata,
    Column("id", String, primary_key=True),
    Column("digest", String, nullable=False),
    Column("name", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("role", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("expires_at", String),
    Column("revoked_at", String),
    Column("rate_per_minute", Integer),
    Column("max_entries", Integer),
)
_audit = Table(
    "audit",
    _metadata,
    Column("seq", Integer, primary_key=True),
    Column("at", String, nullable=False),
    Column("key_id", String),
    Column("action", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("count", Integer),
    Column("status", Integer, nullable=False),
    sqlite_autoincrement=True,
)
_replies = Table(
    "replies",
    _metadata,
    Column("id", String, primary_key=True),
    Column("request", String, nullable=False),
    Column("plan", String, nullable=False),
    Column("result", String),
    Column("holder", String, nullable=False),
    Column("at", String, nullable=False),
)
_operations = Table(
    "operations",
    _metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("state", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("result", String),
    Column("error", String),
    Column("holder", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("finished_at", String),
)


class Ledger:
    """Keys, audit log, idempotency records and operations of the servers of one store.

    Safe to share between threads, and any number of processes may open it.

    Args:
        folder: The store's folder; it must exist.
        lock_timeout_s: Seconds a writer waits for another process.

    Raises:
        StorageError: The file is no such database, or a newer version wrote it.
    """

    def __init__(self, folder: Path, *, lock_timeout_s: float) -> None:
        self._connections = Connections(folder / FILE, lock_timeout_s=lock_timeout_s)
        self.holder = new_holder()
        self._local = threading.local()
        self._writes = 0
        try:
            self._prepare()
        except BaseException:
            self._connections.close()
            raise

    def _prepare(self) -> None:
        statements = _make_statements()
        expected = {name: digest("table", name, sql) for name, sql in statements.items()}
        if not self._connections.read_only:
            enable_log(self._connections)
            with self._connections.write() as connection:
                if not _read_schema(connection):
                    for statement in statements.values():
                        driver(connection).execute(statement)
                    connection.execute(insert(_facts).values(name="format", value=_FORMAT))
                    connection.execute(insert(_facts).values(name="secret", value=secrets.token_hex(32)))
        with self._connections.read() as connection:
            if _read_schema(connection) != expected:
                raise StorageError(f"{self._connections.path} is not as agent-memory makes it; it was not used")
            found = {row.name: row.value for row in connection.execute(select(_facts))}
        if found.get("format") != _FORMAT:
            raise StorageError(
                f"{self._connections.path} has format {found.get('format')!r}; this version reads {_FORMAT!r}"
            )
        self.secret = bytes.fromhex(found["secret"])

    def close(self) -> None:
        """Close the database."""
        self._connections.close()

    # --- keys --------------------------------------------------------------------------------------------

    def add_key(self, key: ApiKey, digest: str) -> None:
        """Store a key.

        Args:
            key: What it may do.
            digest: Hash of its secret part; the secret itself is stored nowhere.
        """
        with self._connections.write() as connection:
            connection.execute(
                insert(_keys).values(
                    id=key.id,
                    digest=digest,
                    name=key.name,
                    namespace=json.dumps(key.namespace),
                    role=str(key.role),
                    created_at=_time(key.created_at),
                    expires_at=_time(key.expires_at),
                    rate_per_minute=key.rate_per_minute,
                    max_entries=key.max_entries,
                )
            )
        self._writes += 1

    def find_key(self, key_id: str) -> tuple[ApiKey, str] | None:
        """Return (key, digest of its secret), also of one that was revoked or has expired; None if there is none."""
        return self.look_up(key_id)[1]

    def has_keys(self) -> bool:
        """Return whether a key was ever made."""
        return self.look_up(None)[0]

    def look_up(self, key_id: str | None) -> tuple[bool, tuple[ApiKey, str] | None]:
        """Return (whether a key was ever made, what ``find_key`` returns), read once as long as nobody writes.

        Every request needs it, and asks only whether somebody has written: what another process does counts at once.
        """
        version = (*self._connections.read_version(), self._writes)
        if getattr(self._local, "version", None) != version or len(self._local.known) >= _MOST_KNOWN:
            self._local.version, self._local.known = version, {}
        known: dict[str | None, tuple[bool, tuple[ApiKey, str] | None]] = self._local.known
        if key_id not in known:
            with self._connections.read() as connection:
                any_row = connection.execute(select(_keys.c.id).limit(1)).one_or_none()
                row = connection.execute(select(_keys).where(_keys.c.id == key_id)).one_or_none()
            known[key_id] = any_row is not None, None if row is None else (_to_key(row), row.digest)
        return known[key_id]

    def list_keys(self) -> list[ApiKey]:
        """Return all keys, oldest first."""
        with self._connections.read() as connection:
            return [_to_key(row) for row in connection.execute(select(_keys).order_by(_keys.c.created_at, _keys.c.id))]

    def revoke_key(self, key_id: str, now: datetime) -> ApiKey:
        """Refuse a key from now on.

        Raises:
            NotFoundError: There is no such key.
        """
        with self._connections.write() as connection:
            here = and_(_keys.c.id == key_id, _keys.c.revoked_at.is_(None))
            connection.execute(update(_keys).where(here).values(revoked_at=_time(now)))
            row = connection.execute(select(_keys).where(_keys.c.id == key_id)).one_or_none()
        self._writes += 1
        if row is None:
            raise NotFoundError(f"there is no key {key_id!r}")
        return _to_key(row)

    # --- audit -------------------------------------------------------------------------------------------

    def append_audit(self, record: AuditRecord) -> None:
        """Add a record; the oldest beyond ``KEPT_AUDIT`` are deleted."""
        with self._connections.write() as connection:
            seq = connection.execute(
                insert(_audit)
                .values(
                    at=_time(record.at),
                    key_id=record.key_id,
                    action=record.action,
                    namespace=json.dumps(record.namespace),
                    count=record.count,
                    status=record.status,
                )
                .returning(_audit.c.seq)
            ).scalar_one()
            connection.execute(delete(_audit).where(_audit.c.seq <= seq - KEPT_AUDIT))

    def list_audit(self, scope: Namespace, *, before: int | None = None, limit: int) -> list[AuditRecord]:
        """Return the records of requests in or below a namespace, newest first.

        Args:
            scope: The namespace.
            before: Only records older than the one of this number.
            limit: Maximum number of records.
        """
        query = select(_audit).order_by(_audit.c.seq.desc()).limit(limit).where(_below(_audit, scope))
        if before is not None:
            query = query.where(_audit.c.seq < before)
        with self._connections.read() as connection:
            return [
                AuditRecord(
                    seq=row.seq,
                    at=_parse(row.at),
                    key_id=row.key_id,
                    action=row.action,
                    namespace=tuple(json.loads(row.namespace)),
                    count=row._mapping["count"],
                    status=row.status,
                )
                for row in connection.execute(query)
            ]

    # --- idempotency -------------------------------------------------------------------------------------

    def begin_reply(
        self, reply_id: str, request: str, plan: Mapping[str, Any], now: datetime
    ) -> tuple[str, Mapping[str, Any], Mapping[str, Any] | None] | None:
        """Claim the carrying out of a request; returns None if this call is to do it.

        Otherwise another call has begun it: returns (request, plan, result), where result is None as long as it runs.
        A claim whose process has died is taken over: this call is to do it then, by the plan that is returned with
        ``request=""``.

        Args:
            reply_id: Identifies the caller and its idempotency key.
            request: Fingerprint of the request.
            plan: What carrying it out needs, to be the same the second time.
            now: The present.
        """
        with self._connections.write() as connection:
            connection.execute(delete(_replies).where(_replies.c.at < _time(now - KEPT_REPLIES)))
            row = connection.execute(select(_replies).where(_replies.c.id == reply_id)).one_or_none()
            if row is None:
                values = {"id": reply_id, "request": request, "plan": json.dumps(plan)}
                connection.execute(insert(_replies).values(**values, holder=self.holder, at=_time(now)))
                return None
            result = None if row.result is None else json.loads(row.result)
            if result is None and row.request == request and (row.holder == _RELEASED or is_dead(row.holder)):
                connection.execute(update(_replies).where(_replies.c.id == reply_id).values(holder=self.holder))
                return "", json.loads(row.plan), None
            return row.request, json.loads(row.plan), result

    def release_reply(self, reply_id: str) -> None:
        """Give up a claim without knowing what was done; the next call is to do it by the same plan."""
        with self._connections.write() as connection:
            connection.execute(update(_replies).where(_replies.c.id == reply_id).values(holder=_RELEASED))

    def finish_reply(self, reply_id: str, result: Mapping[str, Any] | None) -> None:
        """Record what a request came to; None deletes the claim, so that the request can be made again."""
        here = _replies.c.id == reply_id
        with self._connections.write() as connection:
            if result is None:
                connection.execute(delete(_replies).where(here))
            else:
                connection.execute(update(_replies).where(here).values(result=json.dumps(result)))

    # --- operations --------------------------------------------------------------------------------------

    def begin_operation(self, operation: Operation) -> None:
        """Record the beginning of an operation; the oldest finished ones are deleted."""
        with self._connections.write() as connection:
            connection.execute(
                insert(_operations).values(
                    id=operation.id,
                    kind=operation.kind,
                    state=operation.state,
                    namespace=json.dumps(operation.namespace),
                    done=0,
                    total=0,
                    holder=self.holder,
                    created_at=_time(operation.created_at),
                )
            )
            newest = select(_operations.c.id).order_by(_operations.c.created_at.desc()).limit(_KEPT_OPERATIONS)
            old = and_(_operations.c.finished_at.is_not(None), _operations.c.id.not_in(newest))
            connection.execute(delete(_operations).where(old))

    def record_progress(self, operation_id: str, done: int, total: int) -> None:
        """Record how far an operation is."""
        with self._connections.write() as connection:
            here = update(_operations).where(_operations.c.id == operation_id)
            connection.execute(here.values(done=done, total=total))

    def finish_operation(self, operation_id: str, *, result: object, error: Mapping[str, Any] | None) -> None:
        """Record the end of an operation: its result, or a problem."""
        values = {"state": "failed" if error else "done", "finished_at": _time(datetime.now(UTC))}
        with self._connections.write() as connection:
            here = update(_operations).where(_operations.c.id == operation_id)
            connection.execute(here.values(**values, result=json.dumps(result), error=json.dumps(error)))

    def list_operations(self, scope: Namespace, *, limit: int = 100) -> list[Operation]:
        """Return the operations in or below a namespace, newest first."""
        query = select(_operations).where(_below(_operations, scope))
        with self._connections.read() as connection:
            rows = connection.execute(query.order_by(_operations.c.created_at.desc()).limit(limit)).all()
        return [_to_operation(row) for row in rows]

    def find_operation(self, scope: Namespace, operation_id: str) -> Operation:
        """Return an operation in or below a namespace.

        Raises:
            NotFoundError: There is none of that id there.
        """
        here = and_(_operations.c.id == operation_id, _below(_operations, scope))
        with self._connections.read() as connection:
            row = connection.execute(select(_operations).where(here)).one_or_none()
        if row is None:
            raise NotFoundError(f"there is no operation {operation_id!r}")
        return _to_operation(row)


@contextmanager
def open_ledger(folder: Path, *, lock_timeout_s: float = 30.0) -> Iterator[Ledger]:
    """Open a store's ledger while the block runs."""
    ledger = Ledger(folder, lock_timeout_s=lock_timeout_s)
    try:
        yield ledger
    finally:
        ledger.close()


def _read_schema(connection: Link) -> dict[str, str]:
    """Return the digests of all that the schema holds besides SQLite's own, by name."""
    found = read_objects(driver(connection))
    own = {"sqlite_sequence"} | {f"sqlite_autoindex_{table}_1" for table in _metadata.tables}
    return {name: digest(kind, table, sql) for kind, name, table, _, sql in found if name not in own}


def _make_statements() -> dict[str, str]:
    """Return what creates each table."""
    statements: dict[str, str] = {}

    def note(statement: Any, *_: Any, **__: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
        statements[statement.element.name] = str(statement.compile(dialect=engine.dialect)).strip()

    engine = create_mock_engine("sqlite://", note)
    _metadata.create_all(engine, checkfirst=False)
    return statements


def _below(table: Table, scope: Sequence[str]) -> Any:  # noqa: ANN401 - a condition
    """Return the condition for rows whose namespace is ``scope`` or lies below it."""
    if not scope:
        return table.c.namespace.is_not(None)
    exact = json.dumps(tuple(scope))
    prefix = f"{exact[:-1]}, "
    return (table.c.namespace == exact) | (func.substr(table.c.namespace, 1, len(prefix)) == prefix)


def _to_key(row: Row[Any]) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        namespace=tuple(json.loads(row.namespace)),
        role=Role(row.role),
        created_at=_parse(row.created_at),
        expires_at=_parse(row.expires_at),
        revoked_at=_parse(row.revoked_at),
        rate_per_minute=row.rate_per_minute,
        max_entries=row.max_entries,
    )


def _to_operation(row: Row[Any]) -> Operation:
    state = row.state
    if state == "running" and is_dead(row.holder):
        state = "lost"
    return Operation(
        id=row.id,
        kind=row.kind,
        state=state,
        namespace=tuple(json.loads(row.namespace)),
        done=row.done,
        total=row.total,
        result=None if row.result is None else json.loads(row.result),
        error=None if row.error is None else json.loads(row.error),
        created_at=_parse(row.created_at),
        finished_at=_parse(row.finished_at),
    )


def _time(moment: datetime | None) -> Any:  # noqa: ANN401 - a text or None
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds")


def _parse(text: str | None) -> Any:  # noqa: ANN401 - a time or None
    return None if text is None else datetime.fromisoformat(text)
