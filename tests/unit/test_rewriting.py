"""The full-text index of a store that was written by other rules is written again, wherever a process is killed."""

from __future__ import annotations

import json

import pytest
from support import WordEncoder, python
from typer.testing import CliRunner

from agent_memory import Memory
from agent_memory.cli.app import app
from agent_memory.errors import SchemaTooNewError, StorageError
from agent_memory.storage.sqlite import connections, lexical, rewriting
from agent_memory.storage.sqlite.database import SqliteDatabase
from agent_memory.storage.sqlite.driver import sqlite3

TEXTS = ["我养了一只猫", "แมวของฉันชื่อมะลิ", "Мы поставили ёлку", "two dogs", "Wir haben zwei Häuser in der Stadt"]
FOUND = {"猫": 0, "มะลิ": 1, "елка": 2, "dog": 3, "Haus": 4}
OPEN = (
    "import sys; from support import WordEncoder; from agent_memory import Memory;"
    "from agent_memory.storage.sqlite import lexical; lexical.PAGE_ROWS = 2;"
    "Memory(sys.argv[1], encoder=WordEncoder(8))"
)


def run_sql(folder, statement, *values):
    connection = sqlite3.connect(folder / "memory.db")
    rows = connection.execute(statement, values).fetchall()
    connection.commit()
    connection.close()
    return rows


def read_note(folder):
    rows = run_sql(folder, "SELECT value FROM meta WHERE name = 'words'")
    return json.loads(rows[0][0]) if rows else None


def write_note(folder, **changes):
    run_sql(folder, "UPDATE meta SET value = ? WHERE name = 'words'", json.dumps(read_note(folder) | changes))


@pytest.fixture
def folder(tmp_path):
    """A store whose rows were written by other rules: nothing of them can be found."""
    with Memory(tmp_path / "store", encoder=WordEncoder(8)) as memory:
        memory.add_many([{"text": text, "key": str(number)} for number, text in enumerate(TEXTS)])
        memory.add("three dogs", key="3")
        memory.add(TEXTS[3], key="3")
    folder = tmp_path / "store"
    run_sql(folder, "INSERT INTO lexical(lexical) VALUES ('delete-all')")
    run_sql(folder, "INSERT INTO lexical(rowid, terms) SELECT id, 'former' FROM entries WHERE superseded_at IS NULL")
    write_note(folder, rules=0)
    return folder


def verify(folder):
    with Memory(folder, encoder=WordEncoder(8)) as memory:
        found = {word: [hit.entry.key for hit in memory.recall(word, mode="lexical")] for word in FOUND}
        assert found == {word: [str(number)] for word, number in FOUND.items()}
        assert memory.recall("former", mode="lexical") == []
        assert memory.check().ok
        for number in range(len(TEXTS)):
            memory.forget(str(number))
        assert memory.check().ok
    rules, stemmers = rewriting.read_own_rules()
    assert read_note(folder) == {"rules": rules, "stemmers": stemmers, "after": None}


def test_opening_a_store_writes_its_rows_again(folder):
    verify(folder)


def test_rows_of_other_stemmers_are_written_again(folder):
    write_note(folder, rules=rewriting.RULES, stemmers="1.0.0")
    verify(folder)


@pytest.mark.parametrize(("point", "after"), [("words-before-commit", None), ("words-after-commit", 2)])
def test_killed_half_way_the_next_open_goes_on_where_it_stopped(folder, monkeypatch, point, after):
    child = python(OPEN, folder, env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    assert read_note(folder)["after"] == after
    monkeypatch.setattr(lexical, "PAGE_ROWS", 2)
    said = []
    database = SqliteDatabase(folder / "memory.db", lock_timeout_s=5)
    database.prepare(lambda *progress: said.append(progress))
    database.close()
    assert said == [(number, 5) for number in ((2, 4, 5) if after is None else (4, 5))]
    verify(folder)


def test_two_processes_share_the_work(folder):
    children = [python(OPEN, folder) for _ in range(3)]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    verify(folder)


def test_any_command_goes_on(folder, monkeypatch):
    monkeypatch.setattr(lexical, "PAGE_ROWS", 2)
    write_note(folder, rules=rewriting.RULES, after=2)
    run_sql(folder, "INSERT INTO lexical(lexical) VALUES ('delete-all')")
    database = SqliteDatabase(folder / "memory.db", lock_timeout_s=5)
    with database.connections.write() as connection:
        lexical.insert_page(connection, 0)
    database.close()
    CliRunner().invoke(app, ["get", "3", "-p", str(folder)])  # it ends with an error: the encoder is the test's
    assert read_note(folder)["after"] is None
    verify(folder)


def test_a_reader_that_cannot_go_on_is_told_what_to_do(folder, monkeypatch):
    write_note(folder, rules=rewriting.RULES, after=2)
    monkeypatch.setattr(connections, "is_writable", lambda path: False)
    with pytest.raises(StorageError, match="read-only, and its full-text index is being rewritten: open it once where"):
        Memory(folder, encoder=WordEncoder(8))


def test_a_reader_of_rows_by_former_rules_is_warned(folder, monkeypatch, caplog):
    monkeypatch.setattr(connections, "is_writable", lambda path: False)
    with Memory(folder, encoder=WordEncoder(8)) as memory:
        assert memory.get("0").text == TEXTS[0]
    assert "has a full-text index by former rules" in caplog.text
    assert read_note(folder)["rules"] == 0


def test_rows_of_a_newer_version_are_left_alone(folder):
    write_note(folder, rules=rewriting.RULES + 1, after=None)
    with pytest.raises(SchemaTooNewError, match=f"rules {rewriting.RULES + 1}"):
        Memory(folder, encoder=WordEncoder(8))
    assert run_sql(folder, "SELECT count(*) FROM lexical WHERE lexical MATCH 'former'") == [(5,)]


@pytest.mark.parametrize("value", ["", "[]", "{}", '{"rules": "x", "stemmers": "", "after": null}', "{'"])
def test_a_damaged_note_is_an_error(folder, value):
    run_sql(folder, "UPDATE meta SET value = ? WHERE name = 'words'", value)
    with pytest.raises(StorageError, match="state of the full-text index is damaged"):
        Memory(folder, encoder=WordEncoder(8))


def test_a_restored_copy_that_was_made_half_way_goes_on(folder, tmp_path):
    write_note(folder, rules=rewriting.RULES, after=0)
    database = SqliteDatabase(folder / "memory.db", lock_timeout_s=5)
    (tmp_path / "copy").mkdir()
    database.copy_to(tmp_path / "copy" / "memory.db", None)
    database.close()
    run_sql(tmp_path / "copy", "INSERT INTO lexical(lexical) VALUES ('delete-all')")
    verify(tmp_path / "copy")
