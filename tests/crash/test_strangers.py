"""Nothing of a stranger acts: not what is in the schema of a store, backup or import, no schedule, link or name."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import shutil
import struct
import tempfile
import time
from pathlib import Path

import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, Memory, StorageError
from agent_memory.reports import JobState
from agent_memory.storage.sqlite import known
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.copying import read_store_id
from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.storage.sqlite.migrate import REVISIONS, check_revision, ensure_schema
from agent_memory.storage.sqlite.slots import driver

DATA = Path(__file__).parents[1] / "data"


def open_(folder, **options):
    return Memory(folder, encoder=WordEncoder(), **options)


@pytest.fixture(scope="module")
def backup(tmp_path_factory):
    """A sound backup."""
    home = tmp_path_factory.mktemp("gift")
    with open_(home / "store") as memory:
        memory.add("one", key="one", session="s")
        memory.schedule("purge", "every 1h")
        memory.backup(home / "gift.db")
    return home / "gift.db"


def execute(path, *statements):
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA foreign_keys = OFF")
    for statement in statements:
        connection.executescript(statement)
    connection.commit()
    connection.close()


def rewrite(name, before, after):
    """Return statements that edit the SQL of an object behind SQLite's back."""
    edited = f"UPDATE sqlite_master SET sql = replace(sql, '{before}', '{after}') WHERE name = '{name}'"
    return "PRAGMA writable_schema = ON", edited, "PRAGMA writable_schema = RESET"


ACT = "BEGIN DELETE FROM entries WHERE id = NEW.entry_id; END"
HOSTILE = {
    "a trigger": (f"CREATE TRIGGER evil AFTER INSERT ON vectors {ACT}",),
    "a trigger with the name of a table": (f"CREATE TRIGGER leases_ AFTER INSERT ON vectors {ACT}",),
    "a trigger before": ("CREATE TRIGGER t BEFORE DELETE ON entries BEGIN SELECT RAISE(IGNORE); END",),
    "a trigger on an update of a column": (
        "CREATE TRIGGER t AFTER UPDATE OF text ON entries BEGIN UPDATE entries SET text = OLD.text; END",
    ),
    "a trigger on words": (
        *("PRAGMA writable_schema = ON",),
        "INSERT INTO sqlite_master VALUES ('trigger', 't', 'lexical_docsize', 0, 'CREATE TRIGGER t AFTER DELETE ON "
        "lexical_docsize BEGIN DELETE FROM entries; END')",
    ),
    "a view": ("CREATE VIEW evil AS SELECT * FROM entries",),
    "a view of the name of a table": ("DROP TABLE queries; CREATE VIEW queries AS SELECT * FROM entries",),
    "a view with a trigger in the place of a table": (
        "ALTER TABLE leases RENAME TO l; CREATE VIEW leases AS SELECT * FROM l;"
        "CREATE TRIGGER t INSTEAD OF INSERT ON leases BEGIN DELETE FROM entries; END",
    ),
    "a table more": ("CREATE TABLE evil (x)",),
    "a table less": ("DROP TABLE queries",),
    "an index more": ("CREATE INDEX evil ON entries (speaker)",),
    "an index less": ("DROP INDEX ux_generations_live",),
    "an index over an expression": ("CREATE INDEX evil ON entries (abs(importance))",),
    "an index over a part": ("CREATE UNIQUE INDEX evil ON entries (speaker) WHERE namespace = ''",),
    "an index with another order": (
        "DROP INDEX ix_sessions_name; CREATE INDEX ix_sessions_name ON sessions (name DESC)",
    ),
    "a unique index in the place of another": (
        "DROP INDEX ix_sessions_name; CREATE UNIQUE INDEX ix_sessions_name ON sessions (name)",
    ),
    "a column more": ("ALTER TABLE entries ADD COLUMN evil",),
    "a column renamed": ("ALTER TABLE jobs RENAME COLUMN error TO mistake",),
    "a computed column": ("ALTER TABLE entries ADD COLUMN evil AS (hex(zeroblob(1000000000)))",),
    "a column less": ("ALTER TABLE queries DROP COLUMN text",),
    "a constraint": (
        "DROP TABLE leases; CREATE TABLE leases (name TEXT NOT NULL CHECK (name != 'jobs'), holder TEXT NOT NULL, "
        "expires_at INTEGER NOT NULL, PRIMARY KEY (name))",
    ),
    "a constraint by hand": rewrite("queries", "text TEXT", "text TEXT CHECK (load_extension(1))"),
    "a default": rewrite("entries", "speaker TEXT", "speaker TEXT DEFAULT (randomblob(9))"),
    "another collation": rewrite("entries", "text TEXT NOT NULL", "text TEXT COLLATE NOCASE NOT NULL"),
    "another conflict": rewrite("queries", "PRIMARY KEY (id)", "PRIMARY KEY (id) ON CONFLICT IGNORE"),
    "a table without row numbers": (
        "DROP TABLE leases; CREATE TABLE leases (name TEXT NOT NULL, holder TEXT NOT NULL, "
        "expires_at INTEGER NOT NULL, PRIMARY KEY (name)) WITHOUT ROWID",
    ),
    "a foreign key that deletes": rewrite(
        "entries", "REFERENCES sessions (id)", "REFERENCES sessions (id) ON DELETE CASCADE"
    ),
    "a foreign key more": rewrite("queries", "id INTEGER NOT NULL", "id INTEGER NOT NULL REFERENCES entries (id)"),
    "a space that is none": rewrite("queries", "namespace TEXT", "namespace\u00a0TEXT"),
    "a comment": rewrite("queries", "k INTEGER", "k /* */ INTEGER"),
    "another module": ("CREATE VIRTUAL TABLE evil USING rtree(id, a, b)",),
    "another full-text index": ("CREATE VIRTUAL TABLE evil USING fts5(text, content=entries)",),
    "a full-text index over a table of one's own": rewrite("lexical", "content=''''", "content=''entries''"),
    "a shadow table with a column more": ("CREATE TABLE lexical_content (id, c0)",),
    "a statistics table that is none": (
        "PRAGMA writable_schema = ON",
        "INSERT INTO sqlite_master VALUES ('view', 'sqlite_stat1', 'sqlite_stat1', 0, 'CREATE VIEW sqlite_stat1 AS "
        "SELECT 1 AS tbl, 2 AS idx, 3 AS stat')",
    ),
    "one table upon another": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET rootpage = (SELECT rootpage FROM sqlite_master WHERE name = 'entries') "
        "WHERE name = 'queries'",
    ),
    "SQL that is bytes": (
        "PRAGMA writable_schema = ON",
        "UPDATE sqlite_master SET sql = CAST(sql || ' ' AS BLOB) WHERE name = 'queries'",
    ),
    "no table but a view": (
        "PRAGMA writable_schema = ON",
        "DELETE FROM sqlite_master",
        "INSERT INTO sqlite_master VALUES ('view', 'entries', 'entries', 0, 'CREATE VIEW entries AS SELECT 1')",
    ),
    "two revisions": ("CREATE TABLE v (x); DROP TABLE v; INSERT INTO alembic_version VALUES ('0001')",),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_with_another_schema_is_neither_opened_nor_restored(tmp_path, backup, what):
    folder = tmp_path / "store"
    folder.mkdir()
    shutil.copy(backup, folder / "memory.db")
    shutil.copy(backup, tmp_path / "gift.db")
    for path in (folder / "memory.db", tmp_path / "gift.db"):
        execute(path, *HOSTILE[what])
    before = (folder / "memory.db").read_bytes()
    with pytest.raises(StorageError):
        open_(folder)
    assert (folder / "memory.db").read_bytes() == before, "a refused file is not touched"
    with pytest.raises(StorageError):
        Memory.restore(tmp_path / "gift.db", tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_the_error_names_the_object(tmp_path, backup):
    shutil.copy(backup, tmp_path / "gift.db")
    execute(tmp_path / "gift.db", f"CREATE TRIGGER evil AFTER INSERT ON vectors {ACT}")
    with pytest.raises(StorageError, match=r"gift\.db .* the trigger 'evil'"):
        Memory.restore(tmp_path / "gift.db", tmp_path / "restored")


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_former_schema_is_compared_before_it_is_migrated(tmp_path, revision):
    content = gzip.decompress((DATA / f"store-{revision}.db.gz").read_bytes())
    (tmp_path / "memory.db").write_bytes(content)
    execute(tmp_path / "memory.db", f"CREATE TRIGGER evil AFTER INSERT ON vectors {ACT}")
    with pytest.raises(StorageError, match="'evil'"):
        open_(tmp_path)
    connection = sqlite3.connect(tmp_path / "memory.db")
    assert connection.execute("SELECT version_num FROM alembic_version").fetchone() == (revision,)
    connection.close()


@pytest.mark.parametrize("revision", REVISIONS)
def test_the_known_schemas_are_what_the_migrations_make(tmp_path, revision):
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "agent_memory.storage.sqlite:migrations")
    connections = Connections(tmp_path / "memory.db", lock_timeout_s=5)
    with connections.write() as connection:
        config.attributes["connection"] = connection.full
        command.upgrade(config, revision)
        objects = known.read_objects(driver(connection))
        assert known.find_difference(objects, revision) is None
        others = [other for other in REVISIONS if known.known_objects(other) != known.known_objects(revision)]
        assert len(others) == len(REVISIONS) - 1
        assert all(known.find_difference(objects, other) is not None for other in others)
    connections.close()
    if revision != REVISIONS[-1]:
        (tmp_path / "fixture.db").write_bytes(gzip.decompress((DATA / f"store-{revision}.db.gz").read_bytes()))
        check_revision(tmp_path / "fixture.db", tmp_path / "fixture.db")


def test_what_sqlite_itself_adds_is_no_difference(tmp_path):
    with open_(tmp_path) as memory:
        memory.add("one", key="one")
    execute(tmp_path / "memory.db", "ANALYZE", "VACUUM")
    with open_(tmp_path) as memory:
        assert memory.get("one").text == "one"
    connections = Connections(tmp_path / "memory.db", lock_timeout_s=5)
    ensure_schema(connections)
    connections.close()


def test_a_temporary_trigger_ends_with_its_connection(tmp_path, backup):
    shutil.copy(backup, tmp_path / "memory.db")
    connection = sqlite3.connect(tmp_path / "memory.db")
    connection.execute("CREATE TEMP TRIGGER t AFTER INSERT ON main.entries BEGIN DELETE FROM entries; END")
    connection.commit()
    with open_(tmp_path) as memory:
        memory.add("two", key="two")
        assert memory.get("two").text == "two"
    connection.close()


def write_journal(path, names):
    """Write a hot rollback journal of no pages that belongs to a transaction over several databases."""
    magic = bytes.fromhex("d9d505f920a163d7")
    head = magic + struct.pack(">IIIII", 0, 1, path.stat().st_size // 8192, 512, 8192)
    name = str(names).encode()
    tail = struct.pack(">I", 0x40000000 // 8192 + 1) + name
    tail += struct.pack(">II", len(name), sum(name) & 0xFFFFFFFF) + magic
    path.with_name(path.name + "-journal").write_bytes(head.ljust(512, b"\0") + tail)


def test_a_journal_that_names_another_file_deletes_nothing(tmp_path, backup):
    """SQLite 3.40 deletes the file, 3.53 does not."""
    (tmp_path / "store").mkdir()
    (tmp_path / "victim").write_text("precious")
    database = tmp_path / "store" / "memory.db"
    shutil.copy(backup, database)
    write_journal(database, tmp_path / "victim")
    with pytest.raises(StorageError, match="names another file"):
        open_(tmp_path / "store")
    with pytest.raises(StorageError, match="names another file"):
        Memory.restore(backup, tmp_path / "store", replace=True)
    assert (tmp_path / "victim").read_text() == "precious"


FOREIGN = {
    "a view": ("mem0", "CREATE VIEW history AS SELECT load_extension('/tmp/evil') AS memory_id"),
    "a computed column": (
        "mem0",
        "CREATE TABLE history (memory_id, new_memory AS (hex(zeroblob(1000000000))), is_deleted, event, updated_at)",
    ),
    "a virtual table": ("mem0", "CREATE VIRTUAL TABLE history USING fts5(memory_id, new_memory)"),
    "a view of one table": (
        "chroma",
        "CREATE TABLE collections (id, name); CREATE TABLE segments (id, collection);"
        "CREATE TABLE embeddings (id, embedding_id, created_at, segment_id);"
        "CREATE VIEW embedding_metadata AS SELECT id, 'chroma:document' AS key FROM embeddings",
    ),
    "a recursive view": (
        "langgraph",
        "CREATE VIEW store AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT 'a' AS prefix, i AS key, '{}' AS value, '' AS created_at FROM n",
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_what_stands_for_a_table_in_another_systems_file_is_not_read(tmp_path, what):
    source, script = FOREIGN[what]
    execute(tmp_path / "theirs.db", script)
    before = (tmp_path / "theirs.db").read_bytes()
    with open_(tmp_path / "store") as memory:
        with pytest.raises(InvalidInputError, match="lacks the tables"):
            memory.import_(tmp_path / "theirs.db", source=source)
        assert memory.entries() == []
    assert (tmp_path / "theirs.db").read_bytes() == before


def test_triggers_of_another_systems_file_do_not_act(tmp_path):
    name = tmp_path / "history.db"
    name.write_bytes(gzip.decompress((DATA / "mem0-2.2.1-history.db.gz").read_bytes()))
    execute(name, "CREATE TRIGGER t AFTER INSERT ON history BEGIN DELETE FROM history; END")
    before = name.read_bytes()
    with open_(tmp_path / "store") as memory:
        assert memory.import_(name, source="mem0") == 2
    assert name.read_bytes() == before


# --- schedules and backup folders -------------------------------------------------------------------------


def plant(path, folder, name="x", **columns):
    """Put a schedule into a database as a stranger would."""
    options = json.dumps({"folder": str(folder), "keep": 1})
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM schedules")
    values = {"name": name, "kind": "backup", "trigger": "every 1d", "options": options, "paused": 0, "created_at": 0}
    values |= columns
    marks = ", ".join("?" * len(values))
    names = ", ".join(f'"{column}"' for column in values)
    connection.execute(f"INSERT INTO schedules ({names}) VALUES ({marks})", tuple(values.values()))
    connection.commit()
    connection.close()


def wait_for_job(memory, kind):
    for _ in range(200):
        if found := [job for job in memory.jobs() if job.kind == kind and job.finished_at is not None]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError("nothing was done")


def test_schedules_and_jobs_do_not_come_along_with_a_restore(tmp_path, backup):
    shutil.copy(backup, tmp_path / "gift.db")
    plant(tmp_path / "gift.db", tmp_path / "outside")
    execute(
        tmp_path / "gift.db",
        "INSERT INTO jobs (kind, state, progress, created_at, updated_at) VALUES ('reindex', 'running', '{}', 0, 0)",
        "INSERT INTO leases VALUES ('jobs', 'nobody', 9223372036854775807)",
    )
    Memory.restore(tmp_path / "gift.db", tmp_path / "mine")
    with open_(tmp_path / "mine") as memory:
        assert memory.schedules() == [] and memory.jobs() == []
        memory.schedule("purge", "every 1d")
    with open_(tmp_path / "mine", maintenance="background") as memory:
        assert wait_for_job(memory, "purge").state is JobState.DONE  # no lease of a stranger is in the way
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("spelling", ["absolute", "relative", "link", "home"])
def test_a_schedule_of_a_copied_store_writes_nowhere(tmp_path, backup, spelling, caplog, monkeypatch):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "memory-of-Thomas.db").write_text("precious")
    folder = tmp_path / "mine"
    folder.mkdir()
    shutil.copy(backup, folder / "memory.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (folder / "backups").symlink_to(outside)
    named = {"absolute": outside, "relative": "outside", "link": folder / "backups", "home": "~/outside"}[spelling]
    plant(folder / "memory.db", named, seal=secrets.token_hex(32))
    with open_(folder) as memory:
        assert [one.made_here for one in memory.schedules()] == [False]
    with open_(folder, maintenance="background") as memory:
        job = wait_for_job(memory, "backup")
    assert job.state is JobState.FAILED and "not scheduled here" in job.error
    assert any("not scheduled here" in record.getMessage() for record in caplog.records)
    assert os.listdir(outside) == ["memory-of-Thomas.db"]


def test_a_schedule_is_done_where_it_was_made_and_nowhere_else(tmp_path):
    mine = tmp_path / "mine"
    with open_(mine) as memory:
        memory.add("one")
        memory.schedule("backup", "every 1d", options={"folder": str(tmp_path / "backups")})
    shutil.copytree(mine, tmp_path / "copy")
    with open_(mine, maintenance="background") as memory:
        assert wait_for_job(memory, "backup").state is JobState.DONE
    assert len(os.listdir(tmp_path / "backups")) == 1
    with open_(tmp_path / "copy", maintenance="background") as memory:
        assert wait_for_job(memory, "backup").state is JobState.FAILED
        memory.schedule("backup", "every 1d", options={"folder": str(tmp_path / "others")})
        assert [one.made_here for one in memory.schedules()] == [True]
    assert len(os.listdir(tmp_path / "backups")) == 1
    # One's own seal does not make another folder one's own.
    connection = sqlite3.connect(mine / "memory.db")
    options = json.dumps({"folder": str(tmp_path / "elsewhere")})
    connection.execute("UPDATE schedules SET options = ?, last_run_at = NULL", (options,))
    connection.commit()
    connection.close()
    with open_(mine) as memory:
        assert [one.made_here for one in memory.schedules()] == [False]


def test_a_relative_folder_is_the_one_of_the_moment_it_was_scheduled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_(tmp_path / "store") as memory:
        assert memory.schedule("backup", "every 1d", options={"folder": "b"}).options["folder"] == str(tmp_path / "b")


def test_stores_that_share_a_folder_keep_each_others_backups(tmp_path):
    shared = tmp_path / "shared"
    for side in "ab":
        with open_(tmp_path / side) as memory:
            memory.add("text", key=side)
            for _ in range(4):
                memory.run_job("backup", options={"folder": str(shared), "keep": 2})
    found = []
    for path in shared.iterdir():
        connection = sqlite3.connect(path)
        found += connection.execute("SELECT key FROM entries").fetchall()
        connection.close()
    assert sorted(found) == [("a",), ("a",), ("b",), ("b",)]


def test_keep_deletes_nothing_but_backups_of_this_store(tmp_path):
    shared = tmp_path / "shared"
    options = {"folder": str(shared), "keep": 1}
    with open_(tmp_path / "mine") as memory, open_(tmp_path / "theirs") as other:
        memory.add("mine")
        other.add("theirs")
        memory.run_job("backup", options=options)
        (first,) = shared.iterdir()
        stem = first.name.partition("T")[0].rsplit("-", 1)[0]
        other.backup(shared / f"{stem}-20010101T000000000001.db")  # their content under our name
        (shared / f"{stem}-20010101T000000000002.db").write_text("no database")
        (shared / f"{stem}-20010101T000000000003.db").symlink_to(first)
        (shared / f"{stem}-20010101T000000000004.db").mkdir()
        os.mkfifo(shared / f"{stem}-20010101T000000000005.db")
        shutil.copy(first, shared / f"{stem}-of-Thomas.db")  # our content under their name
        shutil.copy(first, shared / "memory-20010101T000000000006.db")
        shutil.copy(first, tmp_path / "hostile.db")
        execute(tmp_path / "hostile.db", "CREATE TABLE more (x)")
        shutil.move(tmp_path / "hostile.db", shared / f"{stem}-20010101T000000000007.db")
        before = set(os.listdir(shared)) - {first.name}
        for _ in range(3):
            memory.run_job("backup", options=options)
    left = set(os.listdir(shared))
    assert before <= left and len(left) == len(before) + 1 and first.name not in left


def test_a_restored_store_has_an_id_of_its_own_unless_it_replaces_itself(tmp_path):
    with open_(tmp_path / "store") as memory:
        memory.add("one")
        memory.backup(tmp_path / "copy.db")
    with open_(tmp_path / "other") as memory:
        memory.add("two")
    mine, other = (read_store_id(tmp_path / name / "memory.db") for name in ("store", "other"))
    assert mine == read_store_id(tmp_path / "copy.db") != other
    Memory.restore(tmp_path / "copy.db", tmp_path / "new")
    Memory.restore(tmp_path / "copy.db", tmp_path / "store", replace=True)
    Memory.restore(tmp_path / "copy.db", tmp_path / "other", replace=True)
    ids = [read_store_id(tmp_path / name / "memory.db") for name in ("new", "store", "other")]
    assert ids[1] == mine and len({*ids, other}) == 4 and None not in ids


# --- a store's own files as targets -----------------------------------------------------------------------


@pytest.fixture
def full(tmp_path):
    """A store with an index on disk, and links to it."""
    with open_(tmp_path / "store") as memory:
        memory.add("one", key="one")
        memory.recall("one")
    (tmp_path / "by-link").symlink_to(tmp_path / "store")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path)
    os.link(tmp_path / "store" / "memory.db", tmp_path / "hard.db")
    (rows,) = (tmp_path / "store" / "index").rglob("ids.bin")
    os.link(rows, tmp_path / "hard.bin")
    return tmp_path


OWN = [
    "store/memory.db",
    "store/memory.db-wal",
    "store/memory.db-shm",
    "store/memory.db-journal",
    "store/MEMORY.DB",
    "store/Memory.db-WAL",
    "store/../store/memory.db",
    "store/./memory.db",
    "by-link/memory.db",
    "deep/up/store/memory.db",
    "deep/up/by-link/memory.db-wal",
    "hard.db",
    "hard.bin",
    "store/index",
    "store/index/new.db",
    "store/index/deep/new.db",
    "by-link/index/new.db",
    "store/.memory.db.0123456789ab.part",
    "store",
    "by-link",
    ".",
    "store/",
]


@pytest.mark.parametrize("target", OWN)
@pytest.mark.parametrize("relative", [False, True])
def test_a_stores_own_files_are_no_targets(full, target, relative, monkeypatch):
    monkeypatch.chdir(full)
    path = target if relative else str(full / target)
    with open_(full / "store") as memory:
        for write in (memory.backup, memory.export):
            with pytest.raises(InvalidInputError):
                write(path)
        memory.add("two", key="two")
    with open_(full / "store") as memory:
        assert [entry.key for entry in memory.entries()] == ["one", "two"]
        assert memory.check().ok


@pytest.mark.parametrize(
    "source", ["store/memory.db", "by-link/memory.db", "hard.db", "link.db", "store/../store/memory.db"]
)
def test_a_store_is_not_restored_from_itself(full, source):
    (full / "link.db").symlink_to(full / "store" / "memory.db")
    with pytest.raises(InvalidInputError):
        Memory.restore(full / source, full / "store", replace=True)
    with open_(full / "store") as memory:
        assert memory.get("one").text == "one"


def test_a_link_of_the_targets_name_is_replaced_not_followed(full):
    (full / "victim").write_text("precious")
    with open_(full / "store") as memory:
        for write, name in ((memory.backup, "b"), (memory.export, "e")):
            for number, place in enumerate((full / "victim", full / "store" / "memory.db", full / "nowhere")):
                link = full / f"{name}{number}"
                link.symlink_to(place)
                assert write(link) == 1
                assert link.is_file() and not link.is_symlink()
        memory.add("two", key="two")
    assert (full / "victim").read_text() == "precious" and not (full / "nowhere").exists()
    with open_(full / "store") as memory:
        assert memory.check().ok and len(memory.entries()) == 2


def test_pipes_devices_and_folders_are_no_targets(full):
    os.mkfifo(full / "pipe")
    with open_(full / "store") as memory:
        for target in (full / "pipe", "/dev/null", "/dev/full", full / "deep", full / "by-link", "/"):
            for write in (memory.backup, memory.export):
                with pytest.raises(InvalidInputError):
                    write(target)
    assert Path("/dev/null").is_char_device()


def test_a_restore_goes_through_no_link_inside_of_the_folder(full):
    with open_(full / "store") as memory:
        memory.backup(full / "copy.db")
    outside = Path(tempfile.mkdtemp(dir=full))
    (outside / "precious").write_text("precious")
    target = full / "target"
    target.mkdir()
    (target / "index").symlink_to(outside)
    assert Memory.restore(full / "copy.db", target) == 1
    with open_(target) as memory:
        memory.recall("one")
    assert os.listdir(outside) == ["precious"] and not (target / "index").is_symlink()
    for tail in ("", "-wal", "-journal"):
        linked = full / f"linked{tail}"
        linked.mkdir()
        (linked / f"memory.db{tail}").symlink_to(outside / "precious")
        with pytest.raises(StorageError):
            Memory.restore(full / "copy.db", linked, replace=True)
    assert (outside / "precious").read_text() == "precious"


def test_a_journal_that_was_left_in_the_folder_does_not_change_what_is_restored(full):
    with open_(full / "store") as memory:
        memory.backup(full / "copy.db")
    target = full / "target"
    target.mkdir()
    size = (full / "copy.db").stat().st_size // 8192
    head = bytes.fromhex("d9d505f920a163d7") + struct.pack(">IIIII", 1, 0, size, 512, 8192)
    page = struct.pack(">I", size) + bytes(8192) + struct.pack(">I", 0)
    (target / "memory.db-journal").write_bytes(head.ljust(512, b"\0") + page)
    assert Memory.restore(full / "copy.db", target) == 1
    with open_(target) as memory:
        assert memory.check().ok and memory.get("one").text == "one"


@pytest.mark.parametrize("path", ["", "a\0b", "~nobody-of-that-name/x", 7])
def test_unusable_paths_are_typed_errors(full, path):
    with open_(full / "store") as memory:
        for write in (memory.backup, memory.export):
            with pytest.raises(InvalidInputError):
                write(path)
    with pytest.raises(InvalidInputError):
        Memory.restore(path, full / "new")


def test_a_restore_into_a_linked_folder_is_one_into_what_it_links_to(full):
    with open_(full / "store") as memory:
        memory.backup(full / "copy.db")
    (full / "real").mkdir()
    (full / "alias").symlink_to(full / "real")
    assert Memory.restore(full / "copy.db", full / "alias") == 1
    assert (full / "alias").is_symlink() and (full / "real" / "memory.db").is_file()
