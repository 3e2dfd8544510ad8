"""Filters and look-ups use indexes, according to SQLite's query plans."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from sqlalchemy import select
from sqlalchemy.dialects import sqlite

from agent_memory.errors import StorageError
from agent_memory.recall.request import make_condition
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.conditions import compile_condition
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.migrate import ensure_schema
from agent_memory.storage.sqlite.schema import entries, generations
from agent_memory.storage.sqlite.scopes import write_condition
from agent_memory.storage.sqlite.values import ENTRIES, GENERATIONS

NOW = datetime(2025, 1, 1, tzinfo=UTC)
DAYS = [NOW + timedelta(days=number) for number in range(6)]


@pytest.fixture
def plan(tmp_path):
    database = Connections(tmp_path / "memory.db", lock_timeout_s=1)
    ensure_schema(database)

    def explained(condition):
        statement = select(entries.c.id).where(compile_condition(condition))
        sql = statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
        written, given = write_condition(condition)
        with database.read() as connection:
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}").all()
            plain = connection.raw.execute(
                f"EXPLAIN QUERY PLAN SELECT id FROM entries WHERE {written}", given
            ).fetchall()
        assert [row[3] for row in rows] == [row[3] for row in plain]
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


def fill(open_memory):
    """Add entries that conditions tell apart: current, expired, superseded; in sessions and namespaces."""
    for number, (scope, session, speaker) in enumerate(
        product([(), ("a",), ("a", "b"), ("ab",)], [None, "s", "t"], [None, "Ann"])
    ):
        one = open_memory(namespace=scope)
        when = {"event_time": DAYS[number % 5], "expires_at": "2099-01-01" if number % 3 else None}
        text = f"text {number}" + " of tomorrow" * (number % 2) + " of this week" * (number % 7 == 0)
        one.add(text, key=f"k{number}", session=session, speaker=speaker, **when)
        if number % 4 == 0:
            one.update(f"k{number}", text=f"another text {number}")


def list_conditions():
    later = datetime.now(UTC)
    for state, namespace in product(
        ["any", "unsuperseded", "current", "expired", "past", "as_of"], [(), ("a",), ("a", "b"), ("ab",), ("c",)]
    ):
        for shift in (timedelta(0), timedelta(days=40_000), timedelta(seconds=-1)):
            moment = None if state in ("any", "unsuperseded") else later + shift
            common = {"state": state, "namespace": namespace, "moment": moment}
            yield Condition(**common)
            yield Condition(**common, session="s", speaker="Ann")
            yield Condition(**common, key="k4", superseded=True)
            yield Condition(**common, since=DAYS[1], until=DAYS[3])
            yield Condition(**common, spans=((DAYS[0], DAYS[1]), (DAYS[3], DAYS[4])))
            yield Condition(**common, spans=())


def test_conditions_that_are_written_out_select_what_compiled_ones_do(open_memory):
    memory = open_memory()
    fill(open_memory)
    found = set()
    with memory._store.database.read() as tx:
        for condition in list_conditions():
            written, given = write_condition(condition)
            rows = tx.connection.raw.execute(f"SELECT id FROM entries WHERE {written}", given).fetchall()
            compiled = tx.connection.execute(select(entries.c.id).where(compile_condition(condition))).scalars().all()
            assert sorted(row[0] for row in rows) == sorted(compiled), condition
            found.add(len(compiled))
    assert len(found) > 10
    assert write_condition(make_condition((), NOW, where={"a": 1})) is None


@pytest.mark.parametrize(("table", "readers"), [(entries, ENTRIES), (generations, GENERATIONS)])
def test_columns_are_read_as_the_schema_has_them(table, readers):
    assert [column.name for column in table.c] == list(readers)
    for column, value in product(table.c, (1, 1.5, "text", b"bytes", None)):
        expected = try_to_read(lambda one, column=column: column.type.process_result_value(one, None), value)
        assert try_to_read(readers[column.name], value) == expected, column


def try_to_read(read, value):
    try:
        return read(value)
    except StorageError as error:
        return str(error)
