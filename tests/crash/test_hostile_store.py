"""A store folder from a stranger runs no code, writes nothing outside, and gives answers or typed errors."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from support import WordEncoder, python

from agent_memory import Memory
from agent_memory.storage.sqlite.driver import sqlite3

TEXTS = [f"note {number} about topic {number % 7}" for number in range(60)]
DATA = Path(__file__).parents[1] / "data"

# Does all that a user does with a store, in a separate process, so that a crash is noticed.
USE = """
import sys
from datetime import timedelta
from support import WordEncoder
from agent_memory import AgentMemoryError, Memory

def attempt(call):
    try:
        call()
    except AgentMemoryError as error:
        print(type(error).__name__, str(error)[:200])

encoder = WordEncoder()
try:
    memory = Memory(sys.argv[1], encoder=encoder)
except AgentMemoryError as error:
    print(type(error).__name__, str(error)[:200])
    print("ended")
    raise SystemExit
for call in (
    lambda: memory.recall("note 3 about topic 3"),
    lambda: memory.recall("note", mode="lexical"),
    lambda: memory.entries(),
    lambda: memory.sessions(),
    lambda: memory.stats(),
    lambda: memory.add("a new one", key="new"),
    lambda: memory.update("1", text="changed"),
    lambda: memory.generations(),
    lambda: memory.jobs(),
    lambda: memory.schedules(),
    lambda: memory.maintenance(dry_run=True),
    lambda: memory.check(repair=True),
    lambda: memory.reindex(tiers=(48, 96)),
    lambda: memory.rollback(),
    lambda: memory.collect_generations(grace=timedelta(0)),
    lambda: memory.backup(sys.argv[1] + "-copy.db"),
    lambda: memory.run_job("maintain"),
    lambda: memory.forget("2"),
    lambda: memory.close(),
):
    attempt(call)
print("ended")
"""


def make(folder):
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": text, "key": str(number), "session": "s"} for number, text in enumerate(TEXTS))
        memory.recall("note")
        memory.schedule("purge", "every 1h")
        memory.run_job("verify")
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return make(tmp_path_factory.mktemp("pristine") / "store")


@pytest.fixture
def store(pristine, tmp_path):
    shutil.copytree(pristine, tmp_path / "in" / "store")
    return tmp_path / "in" / "store"


def use(store):
    """Use a store; nothing outside of its folder may change. Returns the typed errors."""
    outside = store.parent.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "precious").write_text("precious")
    child = python(USE, store)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0 and output.endswith("ended\n"), (output, errors)
    assert "Traceback" not in errors
    assert sorted(os.listdir(outside)) == ["precious"]
    assert (outside / "precious").read_text() == "precious"
    assert set(os.listdir(store.parent)) <= {"store", "store-copy.db"}
    return output


def execute(store, *statements):
    connection = sqlite3.connect(store / "memory.db")
    connection.execute("PRAGMA foreign_keys = OFF")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


ROWS = {
    "text is a number": "UPDATE entries SET text = 7 WHERE id = 3",
    "text is bytes": "UPDATE entries SET text = x'ff00fe' WHERE id = 3",
    "times are words": "UPDATE entries SET event_time = 'yesterday', created_at = x'00' WHERE id = 3",
    "times are huge": "UPDATE entries SET event_time = 9223372036854775807 WHERE id = 3",
    "times are fractions": "UPDATE entries SET updated_at = 1.5 WHERE id = 3",
    "metadata is no JSON": "UPDATE entries SET metadata = '{' WHERE id = 3",
    "metadata is a list": "UPDATE entries SET metadata = '[1]' WHERE id = 3",
    "metadata is deep": f"UPDATE entries SET metadata = '{'[' * 50_000}' WHERE id = 3",
    "key is null-like": "UPDATE entries SET key = x'00' WHERE id = 3",
    "namespace is a number": "UPDATE entries SET namespace = 5 WHERE id = 3",
    "session is gone": "UPDATE entries SET session_id = 999 WHERE id = 3",
    "ids are negative": "UPDATE entries SET id = -5 WHERE id = 3",
    "superseded in a ring": "UPDATE entries SET superseded_by = id WHERE id < 9",
    "vector is text": "UPDATE vectors SET static = 'words' WHERE entry_id = 3",
    "vector is not a number": "UPDATE vectors SET static = (SELECT replace(hex(zeroblob(96)), '00', 'ff7f'))",
    "vector is NaN": f"UPDATE vectors SET static = x'{'ff7f' * 96}' WHERE entry_id = 3",
    "vector is huge": "UPDATE vectors SET static = zeroblob(50000000) WHERE entry_id = 3",
    "changes are words": "UPDATE changes SET entry_id = 'x' WHERE seq = 3",
    "the sequence is set back": "UPDATE sqlite_sequence SET seq = 1",
    "the sequence is at the end": "UPDATE sqlite_sequence SET seq = 9223372036854775807",
    "the sequence is words": "UPDATE sqlite_sequence SET seq = 'many'",
    "dimension is huge": "UPDATE generations SET dimension = 1099511627776, tiers = '[1099511627776]'",
    "dimension is negative": "UPDATE generations SET dimension = -1, tiers = '[-1]'",
    "dimension is words": "UPDATE generations SET dimension = 'wide'",
    "tiers are words": "UPDATE generations SET tiers = '[\"a\"]'",
    "tiers are endless": "UPDATE generations SET tiers = '[1e999]'",
    "dtype is an object": "UPDATE generations SET dtype = 'object'",
    "encoder is a list": "UPDATE generations SET encoder = '[]'",
    "encoder names a module": "UPDATE generations SET encoder = '{\"name\": \"os.system\"}', fingerprint = 'x'",
    "generation began in words": "UPDATE generations SET created_at = 'then'",
    "two are live": "DROP INDEX ux_generations_live",
    "no state that is known": "UPDATE generations SET state = 'haunted'",
    "a rotation is missing": 'UPDATE generations SET encoder = \'{"name": "words", "pipeline": "+rotation-00"}\'',
    "job progress is no JSON": "UPDATE jobs SET progress = '{'",
    "job state is unknown": "UPDATE jobs SET state = 'haunted'",
    "job times are words": "UPDATE jobs SET created_at = 'then'",
    "schedule is nonsense": "UPDATE schedules SET kind = 'os.system', trigger = '* * *', options = '[]'",
    "lease is words": "INSERT INTO leases VALUES ('reindex', 'x', 'y')",
    "lease of no process": "INSERT INTO leases VALUES ('reindex', ':99999999999999999999:', 9223372036854775807)",
    "an unknown schema": "UPDATE alembic_version SET version_num = '../../../etc/passwd'",
}


@pytest.mark.parametrize("name", ROWS)
def test_crafted_rows(store, name):
    execute(store, ROWS[name])
    for keep_index in (True, False):
        if not keep_index:
            shutil.rmtree(store / "index", ignore_errors=True)
        use(store)


SCHEMA = {
    "a trigger that deletes": "CREATE TRIGGER evil AFTER INSERT ON entries BEGIN DELETE FROM vectors; END",
    "a trigger that loads": "CREATE TRIGGER evil AFTER INSERT ON changes BEGIN SELECT load_extension('/tmp/evil'); END",
    "a trigger that writes": "CREATE TRIGGER evil AFTER INSERT ON entries BEGIN SELECT writefile('/tmp/evil', 1); END",
    "a trigger without end": (
        "CREATE TRIGGER evil AFTER INSERT ON changes BEGIN INSERT INTO leases "
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 9999) SELECT i, i, i FROM n; END"
    ),
    "a view for a table": "CREATE VIEW evil AS SELECT * FROM entries",
    "a table more": "CREATE TABLE evil (x)",
}


@pytest.mark.parametrize("name", SCHEMA)
def test_crafted_schema(store, name):
    execute(store, SCHEMA[name])
    use(store)
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("table", ["entries", "vectors", "generations", "changes", "jobs", "assets", "sessions"])
def test_a_view_or_nothing_in_the_place_of_a_table(store, table):
    execute(
        store, f"ALTER TABLE {table} RENAME TO former_{table}", f"CREATE VIEW {table} AS SELECT * FROM former_{table}"
    )
    use(store)
    execute(store, f"DROP VIEW IF EXISTS {table}")
    use(store)


def test_links_in_the_place_of_files(store):
    outside = store.parent.parent / "outside"
    outside.mkdir()
    for path in sorted((store / "index").rglob("*")):
        if path.is_file():
            path.unlink()
            path.symlink_to(outside / "precious")
    use(store)


def test_the_index_folder_is_a_link_to_another_place(store):
    outside = store.parent.parent / "outside"
    outside.mkdir()
    shutil.rmtree(store / "index")
    (store / "index").symlink_to(outside)
    use(store)


def test_a_snapshot_that_claims_files_elsewhere(store):
    for manifest in (store / "index").rglob("*"):
        if manifest.is_file() and manifest.stat().st_size < 20_000:
            data = manifest.read_bytes()
            for name in (b"native", b"main", b"ids"):
                data = data.replace(name, b"../../../outside/precious"[: len(name)])
            manifest.write_bytes(data)
    use(store)


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("/tmp/agent-memory-was-unpickled",)


def test_pickles_are_never_loaded(store):
    bomb = pickle.dumps(Bomb())
    for path in (store / "index").rglob("*"):
        if path.is_file():
            path.write_bytes(bomb)
    connection = sqlite3.connect(store / "memory.db")
    connection.execute("UPDATE vectors SET static = ? WHERE entry_id = 4", (bomb,))
    add_asset = "INSERT INTO assets (generation_id, name, content) VALUES (1, 'rotation.safetensors', ?)"
    connection.execute(add_asset, (bomb,))
    facts = json.loads(connection.execute("SELECT encoder FROM generations").fetchone()[0])
    facts["pipeline"] = "+rotation-0123456789abcdef"
    connection.execute("UPDATE generations SET encoder = ?", (json.dumps(facts),))
    connection.commit()
    connection.close()
    use(store)
    assert not Path("/tmp/agent-memory-was-unpickled").exists()


@pytest.mark.parametrize("name", ["chroma-1.5.9.sqlite3.gz", "mem0-2.2.1-history.db.gz"])
def test_the_file_of_another_program_in_the_place_of_the_store(tmp_path, name):
    store = tmp_path / "in" / "store"
    store.mkdir(parents=True)
    content = gzip.decompress((DATA / name).read_bytes())
    (store / "memory.db").write_bytes(content)
    assert "StorageError" in use(store)
    assert (store / "memory.db").read_bytes() == content
