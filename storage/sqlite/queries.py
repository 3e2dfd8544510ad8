"""The query log in SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from sqlalchemy import and_, delete, func, insert, select, text
from typing_extensions import override

from agent_memory.storage.operations import Queries
from agent_memory.storage.records import Generation, LoggedQuery
from agent_memory.storage.sqlite.conditions import in_namespace
from agent_memory.storage.sqlite.schema import UtcTime, erasures, queries
from agent_memory.storage.sqlite.slots import Group
from agent_memory.storage.sqlite.values import decode_namespace, encode_namespace
from agent_memory.types import Namespace


class SqliteQueries(Group, Queries):
    """``Queries`` in SQLite."""

    @override
    def append(self, given: Sequence[LoggedQuery], *, keep: int) -> None:
        # A process may have kept them in memory since before something was forgotten that they could find.
        latest = select(func.max(erasures.c.made_at, type_=UtcTime)).where(erasures.c.made_at <= datetime.now(UTC))
        forgotten = self._connection.execute(latest).scalar()
        rows = [
            {
                "namespace": encode_namespace(one.namespace),
                "asked_at": one.asked_at,
                "k": one.k,
                "fingerprint": one.fingerprint,
                "dtype": one.dtype,
                "vector": one.vector,
                "digest": one.digest,
                "text": one.text,
            }
            for one in given[-keep:]
            if forgotten is None or one.asked_at > forgotten
        ]
        if rows:
            self._connection.execute(insert(queries), rows)
        oldest = select(queries.c.id).order_by(queries.c.id.desc()).limit(1).offset(keep - 1).scalar_subquery()
        self._connection.execute(delete(queries).where(queries.c.id < oldest))

    @override
    def read_vectors(self, generation: Generation, limit: int) -> list[bytes]:
        here = and_(queries.c.fingerprint == generation.fingerprint, queries.c.dtype == generation.dtype)
        newest = select(queries.c.vector).where(here, func.length(queries.c.vector) == generation.vector_bytes)
        newest = newest.group_by(queries.c.vector).order_by(func.max(queries.c.id).desc())
        return list(self._connection.execute(newest.limit(limit)).scalars())

    @override
    def read_texts(self, limit: int) -> list[str]:
        newest = select(queries.c.text).where(queries.c.text.is_not(None))
        newest = newest.group_by(queries.c.text).order_by(func.max(queries.c.id).desc())
        return list(self._connection.execute(newest.limit(limit)).scalars())

    @override
    def count(self, namespace: Namespace) -> int:
        query = select(func.count()).select_from(queries).where(in_namespace(queries.c.namespace, namespace))
        return int(self._connection.execute(query).scalar_one())

    @override
    def clear_about(self, namespaces: Iterable[Namespace]) -> int:
        below = set(namespaces)
        above = {one[:depth] for one in below for depth in range(len(one) + 1)}

        def is_about(asked: Namespace) -> bool:
            return asked in above or any(asked[:depth] in below for depth in range(len(asked) + 1))

        # Decided here: a condition for each of a thousand namespaces is more than SQLite takes in one statement.
        known = self._connection.execute(select(queries.c.namespace).distinct()).scalars().all()
        doomed = [value for value in known if is_about(decode_namespace(value))]
        return self._delete_asked(doomed)

    def _delete_asked(self, namespaces: Sequence[str]) -> int:
        """Delete the queries that were asked in namespaces, as stored; returns how many."""
        gone = text("DELETE FROM queries WHERE namespace IN (SELECT value FROM json_each(:doomed))")
        return int(self._connection.execute(gone, {"doomed": json.dumps(namespaces)}).rowcount)

    @override
    def clear(self, namespace: Namespace) -> int:
        return int(
            self._connection.execute(delete(queries).where(in_namespace(queries.c.namespace, namespace))).rowcount
        )
