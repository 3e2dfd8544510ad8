"""Index files may be damaged in any way: the answers stay right, and check says what was wrong."""

from __future__ import annotations

import itertools
import logging
import os
import shutil

import pytest
from support import WordEncoder

from agent_memory import Config, Memory, StorageError
from agent_memory.storage.sqlite.driver import sqlite3

TEXTS = [f"note {number} about topic {number % 7}" for number in range(300)]


def make(folder, texts=TEXTS):
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": text, "key": str(number)} for number, text in enumerate(texts))
        memory.recall("note")
    files = sorted(path for path in (folder / "index").rglob("*") if path.is_file())
    assert files
    return files


def answers(folder):
    with Memory(folder, encoder=WordEncoder()) as memory:
        return [hit.entry.key for number in range(0, 300, 20) for hit in memory.recall(TEXTS[number], k=3)]


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)


def flip_first(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 0x01
    path.write_bytes(data)


def garble(path):
    path.write_bytes(os.urandom(path.stat().st_size))


def grow(path):
    path.write_bytes(path.read_bytes() * 2)


def replace_by_folder(path):
    path.unlink()
    path.mkdir()


def link_outside(path):
    secret = path.parent.parent.parent / "elsewhere"
    secret.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(secret)


DAMAGES = [truncate, empty, flip, flip_first, garble, grow, os.unlink, replace_by_folder, link_outside]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_every_index_file_may_be_damaged(tmp_path, damage, caplog):
    pristine = tmp_path / "pristine"
    files = make(pristine)
    expected = answers(pristine)
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        damage(folder / file.relative_to(pristine))
        with caplog.at_level(logging.WARNING, logger="agent_memory"):
            assert answers(folder) == expected, file.name
        with Memory(folder, encoder=WordEncoder()) as memory:
            assert memory.check(repair=True).ok
            assert memory.check().problems == ()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_check_finds_and_repairs_damaged_index_files(tmp_path, damage):
    files = make(tmp_path / "store")
    damage(max(files, key=lambda file: file.stat().st_size))
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        assert not memory.check().ok
        assert memory.check(repair=True).ok
        assert memory.check().problems == ()


def test_missing_index_folder(tmp_path):
    make(tmp_path / "store")
    expected = answers(tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "index")
    assert answers(tmp_path / "store") == expected


def test_the_index_folder_of_another_store_is_ignored(tmp_path):
    make(tmp_path / "mine")
    make(tmp_path / "theirs", [text.replace("note", "different") for text in reversed(TEXTS)])
    expected = answers(tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "index")
    shutil.copytree(tmp_path / "theirs" / "index", tmp_path / "mine" / "index")
    assert answers(tmp_path / "mine") == expected


def test_index_files_swapped_with_each_other(tmp_path):
    pristine = tmp_path / "pristine"
    files = make(pristine)
    expected = answers(pristine)
    for number, (first, second) in enumerate(itertools.pairwise(files)):
        folder = tmp_path / str(number)
        shutil.copytree(pristine, folder)
        shutil.copy(first, folder / second.relative_to(pristine))
        shutil.copy(second, folder / first.relative_to(pristine))
        assert answers(folder) == expected, (first.name, second.name)


def test_an_older_database_put_back_under_a_newer_index(tmp_path):
    folder = tmp_path / "store"
    make(folder, TEXTS[:100])
    shutil.copy(folder / "memory.db", tmp_path / "backup.db")
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"later {number}", "key": f"later{number}"} for number in range(50))
        memory.recall("later")
    shutil.copy(tmp_path / "backup.db", folder / "memory.db")
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"other {number}", "key": f"other{number}"} for number in range(200))
        assert all(not hit.entry.key.startswith("later") for hit in memory.recall("later 3", k=300))
        assert len(memory.recall("later 3", k=300)) == 300
        assert memory.recall("other 7", k=1)[0].entry.key == "other7"
        assert memory.check().ok


def test_damaged_vector_and_text_are_found_and_mended(tmp_path):
    folder = tmp_path / "store"
    make(folder, TEXTS[:20])
    shutil.rmtree(folder / "index")
    with sqlite3.connect(folder / "memory.db") as connection:
        connection.execute("UPDATE vectors SET static = zeroblob(3) WHERE entry_id = 2")
        connection.execute("UPDATE vectors SET static = zeroblob(length(static)) WHERE entry_id = 3")
        connection.execute("DELETE FROM vectors WHERE entry_id = 4")
        connection.execute("UPDATE entries SET text = 'edited by hand' WHERE id = 5")
    connection.close()
    with Memory(folder, encoder=WordEncoder()) as memory:
        with pytest.raises(StorageError, match="entry 2"):
            memory.recall("note")
        report = memory.check()
        assert [problem.split(":")[0] for problem in report.problems] == [
            "entry '1'",
            "entry '2'",
            "entry '3'",
            "entry '4'",
        ]
        assert not report.ok
        assert memory.check(repair=True).ok
        assert memory.check().problems == ()
        assert memory.recall("edited by hand", k=1)[0].entry.key == "4"
        assert [hit.entry.key for hit in memory.recall("edited", mode="lexical")] == ["4"]
        assert len(memory.recall("note", k=50)) == 20


def test_damaged_database_is_a_typed_error_and_is_not_touched(tmp_path):
    folder = tmp_path / "store"
    make(folder, TEXTS[:50])
    database = folder / "memory.db"
    database.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StorageError):
        Memory(folder, encoder=WordEncoder())
    assert database.read_bytes() == b"no database at all" * 1000


def test_another_sqlite_file_is_refused_untouched(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    with sqlite3.connect(folder / "memory.db") as connection:
        connection.execute("CREATE TABLE recipes (name)")
    connection.close()
    before = (folder / "memory.db").read_bytes()
    with pytest.raises(StorageError, match="not a store of agent-memory"):
        Memory(folder, encoder=WordEncoder())
    assert (folder / "memory.db").read_bytes() == before


def test_broken_pages_inside_the_database_are_reported(tmp_path):
    folder = tmp_path / "store"
    make(folder, TEXTS)
    database = folder / "memory.db"
    data = bytearray(database.read_bytes())
    for start in range(5 * 8192, len(data) - 8192, 8192):
        data[start : start + 64] = os.urandom(64)
    database.write_bytes(data)
    try:
        with Memory(folder, encoder=WordEncoder(), config=Config(lock_timeout_s=1)) as memory:
            assert not memory.check().ok
    except StorageError:
        pass


def take_out(connection):
    """As if the rows had never been indexed."""
    for number in (3, 4):
        terms = TEXTS[number - 1]
        connection.execute("INSERT INTO lexical(lexical, rowid, terms) VALUES ('delete', ?, ?)", (number, terms))


def put_in(connection):
    connection.execute("INSERT INTO lexical(rowid, terms) VALUES (9999, 'note of nobody')")


def empty_segments(connection):
    connection.execute("INSERT INTO lexical(lexical) VALUES ('delete-all')")
    connection.executemany("INSERT INTO lexical_docsize(id, sz) VALUES (?, x'05')", [(id_,) for id_ in range(1, 51)])


def lose_sizes(connection):
    connection.execute("DELETE FROM lexical_docsize WHERE id BETWEEN 10 AND 12")


def garble_segments(connection):
    rows = connection.execute("SELECT id, length(block) FROM lexical_data WHERE id > 10").fetchall()
    connection.executemany("UPDATE lexical_data SET block = randomblob(?) WHERE id = ?", [row[::-1] for row in rows])


def lose_structure(connection):
    connection.execute("DELETE FROM lexical_data WHERE id = 10")


BROKEN = [take_out, put_in, empty_segments, lose_sizes, garble_segments, lose_structure]


@pytest.mark.parametrize("breaking", BROKEN, ids=lambda breaking: breaking.__name__)
def test_a_broken_full_text_index_is_found_and_mended(tmp_path, breaking):
    folder = tmp_path / "store"
    make(folder, TEXTS[:50])
    connection = sqlite3.connect(folder / "memory.db")
    breaking(connection)
    connection.commit()
    connection.close()
    with Memory(folder, encoder=WordEncoder()) as memory:
        report = memory.check()
        assert not report.ok and any("full-text index" in problem for problem in report.problems)
        assert memory.check().problems == report.problems  # looking changes nothing
        assert memory.check(repair=True).ok
        assert memory.check().problems == ()
        for number in (2, 3, 11):
            assert memory.recall(TEXTS[number], mode="lexical", k=1)[0].entry.key == str(number)
        assert memory.recall("nobody", mode="lexical") == []
        assert len(memory.recall("note", mode="lexical", k=60)) == 50
        assert memory.forget("3") == 1
        memory.supersede("5", "6")
        memory.add("!!!", key="wordless")
        assert memory.check().problems == ()
