"""PostgreSQL keeps the storage contract."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from conformance.contracts import list_tests
from conformance.samples import find_faults, find_words, make_draft, make_segment, put, read_store

from agent_memory.storage.postgres.connections import get_raw
from agent_memory.storage.postgres.database import PostgresDatabase
from agent_memory.storage.postgres.migrate import REVISIONS
from agent_memory.storage.postgres.migrations import versions
from agent_memory.storage.sqlite.database import SqliteDatabase
from agent_memory.storage.sqlite.schema import metadata

_EMPTY = """
TRUNCATE meta, totals, sessions, entries, mentions, generations, assets, vectors, passages, changes, jobs, queries,
    schedules, erasures, copies, leases, lexical, nearest, ranges RESTART IDENTITY;
INSERT INTO meta SELECT * FROM public.meta; INSERT INTO totals SELECT * FROM public.totals;
"""


@pytest.fixture(scope="session")
def prepared(postgres):
    """The address of a prepared store that is emptied after each test: migrations take longer than most tests."""
    address = postgres.url(schema="conformance")
    database = PostgresDatabase(address, lock_timeout_s=5)
    database.prepare()
    database.close()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for table in ("meta", "totals"):
            connection.execute(f"CREATE TABLE public.{table} AS SELECT * FROM conformance.{table}")
    return address


@pytest.fixture
def reopen(postgres, prepared):
    """Opens the store; all connections to it are closed at the end."""
    opened = []

    def reopen_(*, lock_timeout_s=5):
        database = PostgresDatabase(prepared, lock_timeout_s=lock_timeout_s)
        opened.append(database)
        database.prepare()
        return database

    yield reopen_
    for database in opened:
        database.close()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("SET search_path TO conformance")
        connection.execute(_EMPTY)


@pytest.fixture
def database(reopen):
    return reopen()


def test_the_tables_are_those_of_sqlite_with_the_same_columns(postgres, prepared):
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'conformance'"
    with psycopg.connect(postgres.url()) as connection:
        found = set(connection.execute(query))
    expected = {(table.name, column.name) for table in metadata.tables.values() for column in table.columns}
    assert expected <= found
    assert {table for table, _ in found - expected} == {
        "alembic_version",
        "lexical",
        "nearest",
        "ranges",
        "scopes",
        "totals",
    }


def test_every_migration_is_a_revision_that_is_known():
    files = sorted(Path(versions.__file__).parent.glob("[0-9]*.py"))
    assert tuple(file.name[:4] for file in files) == REVISIONS


globals().update(list_tests())


class TestServed:
    def test_a_copy_is_a_store_on_sqlite_that_says_the_same(self, database, tmp_path):
        put(database, make_segment("a"), make_draft("b"))
        put(database, make_draft("a", "new"))
        database.copy_to(tmp_path / "copy.db", None)
        copy = SqliteDatabase(tmp_path / "copy.db", lock_timeout_s=5)
        try:
            copy.prepare()
            assert read_store(copy) == read_store(database)
        finally:
            copy.close()

    def test_words_that_an_earlier_version_has_stemmed_otherwise_are_written_again(self, database, reopen):
        ids = put(database, make_draft("a", "quite possibly"), make_draft("b", "of the two of us"))
        with database.connections.write() as link:
            raw = get_raw(link)
            raw.execute("UPDATE alembic_version SET version_num = '0004'")
            for number, terms in zip(ids, (["quit", "possibli"], ["two", "u"]), strict=True):
                raw.execute("UPDATE lexical SET terms = %s WHERE entry_id = %s", (terms, number))
        assert find_words(database, "possible") == find_words(database, "us") == []
        again = reopen()
        again.prepare()
        assert (find_words(again, "possible"), find_words(again, "us")) == ([ids[0]], [ids[1]])
        assert find_faults(again) == []

    def test_tables_that_somebody_reads_are_not_rewritten(self, database, reopen):
        hasty = reopen(lock_timeout_s=0.05)
        put(database, make_draft("a"))
        with database.read() as tx:
            tx.changes.last_seq()
            tx.entries.fetch([1])
            assert hasty.vacuum() is False
        assert hasty.vacuum() is True
