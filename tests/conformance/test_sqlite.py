"""SQLite keeps the storage contract."""

from __future__ import annotations

import shutil

import pytest
from conformance.conditions import ConditionContract, EntryContract
from conformance.filters import FilterContract
from conformance.lexical import LexicalContract
from conformance.transactions import TransactionContract

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
def reopen(tmp_path, template):
    shutil.copyfile(template, tmp_path / "memory.db")
    opened = []

    def open_(*, lock_timeout_s=5):
        database = SqliteDatabase(tmp_path / "memory.db", lock_timeout_s=lock_timeout_s)
        opened.append(database)
        database.prepare()
        return database

    yield open_
    for database in opened:
        database.close()


@pytest.fixture
def database(reopen):
    return reopen()


class TestTransactions(TransactionContract):
    pass


class TestConditions(ConditionContract):
    pass


class TestEntries(EntryContract):
    pass


class TestFilters(FilterContract):
    pass


class TestLexical(LexicalContract):
    pass
