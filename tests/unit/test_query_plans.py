"""Filters and look-ups use indexes, according to SQLite's query plans."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from agent_memory.recall.request import make_condition
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.conditions import compile_condition
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.migrate import ensure_schema
from agent_memory.storage.sqlite.schema import entries

NOW = datetime(2025, 1, 1, tzinfo=UTC)


@pytest.fixture
def plan(tmp_path):
    database = Connections(tmp_path / "memory.db", lock_timeout_s=1)
    ensure_schema(database)

    def explained(condition):
        statement = select(entries.c.id).where(compile_condition(condition))
        sql = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        with database.read() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
        return " | ".join(row[3] for row in rows)

    yield explained
    database.close()


@pytest.mark.parametrize(
    ("condition", "index"),
    [
        (make_condition(("acme",), NOW), "ux_entries_key (namespace>? AND namespace<?)"),
        (make_condition((), NOW, key="k"), "ux_entries_key (namespace=? AND key=?)"),
        (make_condition((), NOW, session="s"), "ix_entries_session (session_id=?)"),
        (make_condition((), NOW, since=NOW), "ix_entries_event_time (event_time>?)"),
        (make_condition((), NOW, since=NOW, until=NOW), "ix_entries_event_time (event_time>? AND event_time<?)"),
        (Condition(state="expired", moment=NOW), "ix_entries_expires_at (expires_at<?)"),
        (Condition(state="unsuperseded", spans=((NOW, NOW),)), "ix_entries_event_time (event_time>? AND event_time<?)"),
    ],
)
def test_conditions_are_index_searches(plan, condition, index):
    assert index in plan(condition)
    assert "SCAN entries" not in plan(condition)
    assert "SCAN sessions" not in plan(condition)
