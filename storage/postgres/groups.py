"""The groups of operations in PostgreSQL: SQLite's, but for what the two engines cannot both say."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from agent_memory.storage.postgres import columns
from agent_memory.storage.postgres.conditions import Filtering
from agent_memory.storage.postgres.driver import check_names, check_nul
from agent_memory.storage.postgres.nearest import name_table
from agent_memory.storage.records import Condition, Draft, Generation, LoggedQuery, Written
from agent_memory.storage.sqlite.drafts import SqliteDrafts
from agent_memory.storage.sqlite.entries import SqliteEntries, parse_entry, select_rows
from agent_memory.storage.sqlite.erasures import SqliteErasures
from agent_memory.storage.sqlite.generations import SqliteGenerations
from agent_memory.storage.sqlite.lazy import sa, tables
from agent_memory.storage.sqlite.queries import SqliteQueries
from agent_memory.storage.sqlite.sessions import SqliteSessions
from agent_memory.storage.sqlite.slots import driver
from agent_memory.storage.sqlite.vectors import SqliteVectors

if TYPE_CHECKING:
    from agent_memory.records import Entry
    from agent_memory.storage.filters import Path
    from agent_memory.storage.numbered import Field
    from agent_memory.types import IdArray


_BOTH_WAYS = """
WITH RECURSIVE line(id) AS (
    SELECT id FROM entries WHERE id = ANY(?)
    UNION SELECT other.id FROM line CROSS JOIN LATERAL (
        SELECT former.id FROM entries former WHERE former.superseded_by = line.id
        UNION ALL SELECT one.superseded_by FROM entries one WHERE one.id = line.id AND one.superseded_by IS NOT NULL
    ) other
) SELECT id FROM line ORDER BY id
"""  # PostgreSQL takes no third part of a recursive union


class PostgresEntries(Filtering, SqliteEntries):
    """``Entries`` in PostgreSQL."""

    @override
    def read_members(self, path: Path, ids: IdArray | None = None) -> Iterator[tuple[IdArray, Sequence[Field]]]:
        return columns.read_members(self._connection, path, ids)

    @override
    def _select_filtered(
        self, condition: Condition, session_id: int | None, after_id: int, page: tuple[int, int], *, newest_first: bool
    ) -> list[tuple[int, Entry]]:
        entries = tables.entries
        query = select_rows().where(self._compile(condition), entries.c.id > sa.literal(after_id, entries.c.id.type))
        if session_id is not None:
            query = query.where(entries.c.session_id == session_id)
        query = query.order_by(entries.c.id.desc() if newest_first else entries.c.id).offset(page[1])
        rows = self._connection.execute(query if page[0] < 0 else query.limit(page[0]))
        return [(row.id, parse_entry(row)) for row in rows]

    # SQLite looks rows up in the order of their ids; here they come in any, which would make answers vary.

    @override
    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        return dict(sorted(super().fetch(ids).items()))

    @override
    def select_circumstances(
        self, ids: Sequence[int], *, important: bool = False, speakers: Collection[str] = ()
    ) -> list[tuple[int, datetime, float | None, str | None]]:
        return sorted(super().select_circumstances(ids, important=important, speakers=speakers))

    @override
    def _list_ids(self, condition: Condition, entry_id: int | None = None) -> list[int]:
        return sorted(super()._list_ids(condition, entry_id))

    @override
    def select_lineage(self, ids: Sequence[int] | IdArray, *, later: bool) -> IdArray:
        if not later:
            return super().select_lineage(ids, later=False)
        rows = driver(self._connection).execute(_BOTH_WAYS, ([int(entry_id) for entry_id in ids],)).fetchall()
        return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))


class PostgresSessions(Filtering, SqliteSessions):
    """``Sessions`` in PostgreSQL."""


class PostgresVectors(SqliteVectors):
    """``Vectors`` in PostgreSQL."""

    @override
    def _read_rows(self, query: str, generation: Generation, ids: Sequence[int] | IdArray) -> list[tuple[Any, Any]]:
        return sorted(super()._read_rows(query, generation, ids), key=itemgetter(0))

    @override
    def read_stored(self, generation: Generation, ids: Sequence[int]) -> dict[int, bytes]:
        return dict(sorted(super().read_stored(generation, ids).items()))


class PostgresGenerations(SqliteGenerations):
    """``Generations`` in PostgreSQL."""

    @override
    def drop_next(self, generation_id: int, after: int, limit: int) -> int | None:
        last = super().drop_next(generation_id, after, limit)
        if last is None:
            driver(self._connection).execute(f"DROP TABLE IF EXISTS {name_table(generation_id)}")
        return last


class PostgresDrafts(SqliteDrafts):
    """``Drafts`` in PostgreSQL."""

    @override
    def put(self, drafts: Sequence[Draft], generation_id: int, now: datetime, *, keep_versions: int) -> Written:
        for draft in drafts:  # by an update, whose fields were checked apart
            check_names(draft.namespace, draft.key, draft.session)
            check_nul(draft.key, draft.text, draft.session, draft.speaker, *draft.namespace, json=draft.metadata)
        return super().put(drafts, generation_id, now, keep_versions=keep_versions)

    @override
    def _erase_words(self) -> None:
        """Do nothing: they went with their rows, and what is left of those in pages goes with ``erase_traces``."""


class PostgresQueries(SqliteQueries):
    """``Queries`` in PostgreSQL."""

    @override
    def append(self, given: Sequence[LoggedQuery], *, keep: int) -> None:
        for one in given:
            check_nul(one.text, *one.namespace)
        super().append(given, keep=keep)

    @override
    def _delete_asked(self, namespaces: Sequence[str]) -> int:
        gone = driver(self._connection).execute("DELETE FROM queries WHERE namespace = ANY(?)", (list(namespaces),))
        return gone.rowcount


class PostgresErasures(SqliteErasures):
    """``Erasures`` in PostgreSQL."""

    @override
    def read_floor(self) -> int:
        found = (
            "SELECT coalesce(max((facts::json ->> 'seq')::bigint), 0) FROM erasures "
            "WHERE finished_at IS NOT NULL OR deferred = 0"
        )
        return int(driver(self._connection).execute(found).fetchone()[0])
