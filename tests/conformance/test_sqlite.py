"""SQLite keeps the storage contract."""

from __future__ import annotations

import shutil

import pytest
from conformance.contracts import list_tests
from conformance.samples import make_draft, make_segment, put, read_store

from agent_memory.storage.sqlite.database import SqliteDatabase


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A prepared store to copy: migrations take longer than most tests."""
    path = tmp_path_factory.mktemp("template") / "memory.db"
    database = SqliteDatabase(path, lock_timeout_s=5)
    database.prepare()
    database.close()
    return path


@pytest.fixture
def open_file(tmp_path, template):
    """Opens a prepared store by its path; all are closed at the end."""
    shutil.copyfile(template, tmp_path / "memory.db")
    opened = []

    def open_(path, lock_timeout_s=5):
        database = SqliteDatabase(path, lock_timeout_s=lock_timeout_s)
        opened.append(database)
        database.prepare()
        return database

    yield open_
    for database in opened:
        database.close()


@pytest.fixture
def reopen(open_file, tmp_path):
    def reopen_(*, lock_timeout_s=5):
        return open_file(tmp_path / "memory.db", lock_timeout_s)

    return reopen_


@pytest.fixture
def database(reopen):
    return reopen()


globals().update(list_tests())


class TestFiles:
    def test_a_copy_is_a_store_that_says_the_same(self, database, open_file, tmp_path):
        put(database, make_segment("a"), make_draft("b"))
        put(database, make_draft("a", "new"))
        database.copy_to(tmp_path / "copy.db", None)
        assert read_store(open_file(tmp_path / "copy.db")) == read_store(database)

    def test_a_file_that_somebody_reads_is_neither_cut_nor_rewritten(self, database, reopen):
        hasty = reopen(lock_timeout_s=0.05)
        put(database, make_draft("a"))
        with database.read() as tx:
            tx.changes.last_seq()
            put(hasty, make_draft("b"))
            assert hasty.truncate_log() is False
        assert hasty.truncate_log() is True
        with database.write():
            assert hasty.vacuum() is False
        assert hasty.vacuum() is True

    def test_the_size_is_that_of_the_store_and_of_nothing_beside_it(self, database, tmp_path):
        before = database.size_bytes()
        (tmp_path / "memory.db.bak").write_bytes(bytes(1 << 20))
        assert database.size_bytes() == before
