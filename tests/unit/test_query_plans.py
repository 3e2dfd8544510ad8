"""Filters and look-ups use indexes: SQLite's own plan says so."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite.database import Database
from agent_memory.storage.sqlite.migrate import ensure_schema

NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def plan(tmp_path):
    database = Database(tmp_path / "memory.db", lock_timeout_s=1)
    ensure_schema(database)

    def explained(condition):
        statement = select(reading.entries.c.id).where(condition)
        sql = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        with database.read() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
        return " | ".join(row[3] for row in rows)

    yield explained
    database.close()


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        (reading.matching(("acme",), NOW), "ux_entries_key (namespace>? AND namespace<?)"),
        (reading.matching((), NOW, key="k"), "ux_entries_key (namespace=? AND key=?)"),
        (reading.matching((), NOW, session="s"), "ix_entries_session (session_id=?)"),
        (reading.matching((), NOW, since=NOW), "ix_entries_event_time (event_time>?)"),
        (reading.matching((), NOW, since=NOW, until=NOW), "ix_entries_event_time (event_time>? AND event_time<?)"),
        (reading.expired((), NOW), "ix_entries_expires_at (expires_at<?)"),
        (reading.within([(NOW, NOW)]), "ix_entries_event_time (event_time>? AND event_time<?)"),
    ],
)
def test_conditions_are_index_searches(plan, condition, index):
    assert index in plan(condition)
    assert "SCAN entries" not in plan(condition)
    assert "SCAN sessions" not in plan(condition)
