"""Stores that former versions of the package wrote open without loss; the files were written by those versions."""

from __future__ import annotations

import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import alembic.command
import pytest
from support import WordEncoder, python

from agent_memory import Memory
from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.storage.sqlite.migrate import REVISIONS

DATA = Path(__file__).parents[1] / "data"
FORMER = REVISIONS[:-1]


def put(folder, revision):
    folder.mkdir()
    (folder / "memory.db").write_bytes(gzip.decompress((DATA / f"store-{revision}.db.gz").read_bytes()))


def verify(folder):
    with Memory(folder, encoder=WordEncoder(8)) as memory:
        assert [entry.key for entry in memory.entries()] == ["a", "b", "c"]
        entry = memory.get("a")
        assert (entry.text, entry.session, entry.speaker, entry.importance) == ("red cat", "s1", "ann", 0.5)
        assert entry.metadata == {"topic": "pets"}
        assert memory.get("c").event_time == datetime(2024, 5, 1, tzinfo=UTC)
        assert [version.text for version in memory.history("b")] == ["blue dog", "blue old dog"]
        assert memory.recall("green house", k=1)[0].entry.key == "c"
        assert memory.check().ok
        memory.add("still writable", key="e")
        assert memory.recall("still writable", k=1)[0].entry.key == "e"
        memory.forget("e")


@pytest.mark.parametrize("revision", FORMER)
def test_a_store_of_every_former_schema_opens_without_loss(tmp_path, revision):
    put(tmp_path / "store", revision)
    verify(tmp_path / "store")
    connection = sqlite3.connect(tmp_path / "store" / "memory.db")
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (REVISIONS[-1],)
    connection.close()


POINTS = ["migration-before-commit", "before-commit", "migration-after-commit"]
KILLS = [(revision, point) for revision in FORMER for point in POINTS]
KILLS += [(revision, "words-after-commit") for revision in FORMER if revision < "0008"]  # which writes words again


@pytest.mark.parametrize(("revision", "point"), KILLS)
def test_killed_while_migrating(tmp_path, revision, point):
    put(tmp_path / "store", revision)
    code = "import sys; from support import WordEncoder; from agent_memory import Memory;"
    code += "Memory(sys.argv[1], encoder=WordEncoder(8))"
    child = python(code, tmp_path / "store", env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    verify(tmp_path / "store")


def test_stores_that_are_made_at_once_do_not_mix_their_migrations(tmp_path, monkeypatch):
    running, most, upgrade = [], [], alembic.command.upgrade

    def watched(*given):
        running.append(1)
        most.append(len(running))
        time.sleep(0.05)
        try:
            upgrade(*given)
        finally:
            running.pop()

    monkeypatch.setattr(alembic.command, "upgrade", watched)

    def make(number):
        with Memory(tmp_path / f"store{number}", encoder=WordEncoder()) as memory:
            memory.add("kept")
            return memory.check().ok

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(make, range(4)))
    assert most == [1] * 4
