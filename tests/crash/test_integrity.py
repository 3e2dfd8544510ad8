"""Every flipped bit in what is kept for long is found, and mended where it can be."""

from __future__ import annotations

import random
import struct
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from support import WordEncoder, write_session_weights

from agent_memory import Memory
from agent_memory.encoders import CompactSessionEncoder
from agent_memory.storage.sqlite import checksums, schema
from agent_memory.storage.sqlite.database import SqliteDatabase
from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.storage.sqlite.upkeep import find_altered

FLIPS = 40
"""Bits flipped in each column of each table."""

COLUMNS = sorted(
    {(table, column) for (table, _), columns in checksums.COVERED.items() for column in columns}
    | set(checksums.COVERED)
)
SUMS = {column for _, column in checksums.COVERED}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_session_weights(tmp_path_factory.mktemp("weights") / "session.safetensors")


def open_(folder, weights):
    encoder = WordEncoder()
    return Memory(folder, encoder=encoder, session_encoder=CompactSessionEncoder(encoder, weights))


def fill(folder, weights):
    """Write rows of every kind: versions, superseded and expiring entries, sessions, two generations, a rotation."""
    with open_(folder, weights) as memory:
        for number in range(24):
            memory.add(
                f"naïve note {number} über {'x' * number}",
                key=f"k{number}",
                session="chat" if number % 2 else None,
                speaker=("ann", "żółw", None)[number % 3],
                importance=(None, 0.1, 1)[number % 3],
                metadata={"number": number, "tags": ["é", "b"]} if number % 4 else {},
                expires_at=datetime(2099, 1, 1, tzinfo=UTC) if number % 5 == 0 else None,
            )
        memory.add("a long note about many things " * 60, key="long", session="chat")
        memory.update("long", text="another long note with other words " * 50)
        memory.update("k3", text="note 3 in other words")
        memory.update("k4", metadata={"changed": True})
        memory.supersede("k6", "k7")
        memory.schedule("purge", "every 1h")
        memory.schedule("backup", "0 3 * * *", options={"folder": str(folder.parent / "b"), "keep": 3})
        memory.pause_schedule("purge")
        memory.reindex(rotation="fit", session_encoder=None)
        assert memory.check().problems == ()
    return folder


@pytest.fixture(scope="module")
def pristine(tmp_path_factory, weights):
    return fill(tmp_path_factory.mktemp("pristine") / "store", weights)


@pytest.fixture
def database(pristine):
    database = SqliteDatabase(pristine / "memory.db", lock_timeout_s=5)
    yield database
    database.close()


def flipped(value, rng):
    """Return a value with one bit flipped, and how SQL takes it."""
    if value is None:
        return rng.choice([(0, "?"), ("", "?"), (b"", "?"), (1.5, "?")])
    if isinstance(value, int):
        return value ^ 1 << rng.randrange(62), "?"
    if isinstance(value, float):
        bits = struct.unpack("<q", struct.pack("<d", value))[0] ^ 1 << rng.randrange(63)
        return struct.unpack("<d", struct.pack("<q", bits))[0], "?"
    data = bytearray(value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value)
    if not data:
        return b"\0", "CAST(? AS TEXT)" if isinstance(value, str) else "?"
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data), "CAST(? AS TEXT)" if isinstance(value, str) else "?"


def flip_once(connection, table, column, rng):
    """Flip one bit of a column in a random row; returns whether SQLite took it."""
    rows = connection.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall()
    rowid, value = rng.choice(rows)
    changed, how = flipped(value, rng)
    try:
        connection.execute(f'UPDATE "{table}" SET "{column}" = {how} WHERE rowid = ?', (changed, rowid))
    except sqlite3.IntegrityError:  # a key that is taken, or two live generations
        return False
    return True


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda part: part)
def test_every_flipped_bit_is_found(database, table, column):
    rng = random.Random(f"{table}.{column}")
    done = 0
    with database.connections.raw() as raw:
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("BEGIN IMMEDIATE")
        connection = _Beside(raw)
        assert find_altered(connection) == []
        for _ in range(20 * FLIPS):
            raw.execute("SAVEPOINT flip")
            if flip_once(raw, table, column, rng):
                assert find_altered(connection)
                done += 1
            raw.execute("ROLLBACK TO flip")
            if done == FLIPS:
                break
        raw.execute("ROLLBACK")
    assert done == FLIPS


class _Beside:
    """What ``driver`` asks of a connection, for one of the driver's own."""

    def __init__(self, raw):
        self.connection = self
        self.driver_connection = raw


@pytest.mark.parametrize("column", [name for table, name in COLUMNS if table == "entries" and name not in SUMS])
def test_check_names_the_entry_whose_field_has_changed(tmp_path, weights, column):
    folder = tmp_path / "store"
    with open_(folder, weights) as memory:
        for number in range(6):
            memory.add(f"note {number}", key=f"k{number}", session="s", speaker="ann", importance=0.5)
    value = {"session_id": 2, "superseded_by": 1, "namespace": "x", "id": 77, "superseded_at": 5}.get(column)
    connection = sqlite3.connect(folder / "memory.db")
    was = connection.execute(f'SELECT "{column}" FROM entries WHERE id = 3').fetchone()[0]
    changed = value or (was + "x" if isinstance(was, str) else b"y" + was[1:] if isinstance(was, bytes) else 4.0e15)
    changed = int(changed) if isinstance(changed, float) and column != "importance" else changed
    if column == "metadata":
        changed = '{"a":1}'
    connection.execute(f'UPDATE entries SET "{column}" = ? WHERE id = 3', (changed,))
    connection.commit()
    connection.close()
    with open_(folder, weights) as memory:
        key = changed if column == "key" else "k2"
        problems = memory.check().problems
        assert any(repr(key) in problem and "checksum" in problem for problem in problems), problems
        again = memory.check(repair=True)
        if column in ("text", "content_hash"):
            assert again.ok and memory.check().problems == ()
        else:
            assert not again.ok and any(repr(key) in line for line in memory.check().problems)


def test_a_lost_field_is_sound_again_once_the_entry_is_written_or_forgotten(tmp_path, weights):
    folder = tmp_path / "store"
    with open_(folder, weights) as memory:
        for number in range(6):
            memory.add(f"note {number}", key=f"k{number}", metadata={"number": number})
    connection = sqlite3.connect(folder / "memory.db")
    connection.execute("""UPDATE entries SET metadata = '{"number":7}' WHERE id IN (1, 2, 3, 4)""")
    connection.commit()
    connection.close()
    with open_(folder, weights) as memory:
        assert len(memory.check().problems) == 4
        # Neither supersession nor repair hides what was lost.
        memory.supersede("k2", "k5")
        assert len(memory.check(repair=True).problems) == 4
        memory.forget("k0")
        memory.update("k1", metadata={"number": 1})  # its former version stays, and stays marked
        assert [line.split(":")[0] for line in memory.check().problems] == [
            "entry 'k2'",
            "entry 'k3'",
            "entry 'k1'",
        ]
        memory.forget("k1")
        memory.forget("k3")
        assert [line.split(":")[0] for line in memory.check().problems] == ["entry 'k2'"]


def vectors_of(folder, column):
    connection = sqlite3.connect(folder / "memory.db")
    found = dict(connection.execute(f"SELECT entry_id, {column} FROM vectors"))
    connection.close()
    return found


@pytest.mark.parametrize("column", ["static", "evolved", "latents", "checksum", "evolved_checksum"])
def test_flipped_vectors_are_mended_to_what_they_were(tmp_path, weights, column):
    folder = tmp_path / "store"
    with open_(folder, weights) as memory:
        for number in range(12):
            memory.add(f"note {number} of {number % 3}", key=f"k{number}", session="chat")
        found = [(hit.entry.key, hit.score) for hit in memory.recall("note 6 of 0")]
    before = {name: vectors_of(folder, name) for name in ("static", "evolved", "latents")}
    connection = sqlite3.connect(folder / "memory.db")
    for entry_id in (3, 7, 12):
        value = connection.execute(f"SELECT {column} FROM vectors WHERE entry_id = ?", (entry_id,)).fetchone()[0]
        changed, _ = flipped(value, random.Random(entry_id))
        connection.execute(f"UPDATE vectors SET {column} = ? WHERE entry_id = ?", (changed, entry_id))
    connection.commit()
    connection.close()
    with open_(folder, weights) as memory:
        assert len(memory.check().problems) >= 3
        assert memory.check(repair=True).ok
        assert memory.check().problems == ()
        assert [(hit.entry.key, hit.score) for hit in memory.recall("note 6 of 0")] == found
    after = {name: vectors_of(folder, name) for name in before}
    assert after["static"] == before["static"]
    for name in ("evolved", "latents"):
        for entry_id, data in before[name].items():
            np.testing.assert_allclose(
                np.frombuffer(after[name][entry_id], np.float16), np.frombuffer(data, np.float16), atol=2e-3
            )


def test_a_damaged_vector_is_not_copied_into_another_generation(tmp_path):
    folder = tmp_path / "store"
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"note {number} of {number % 3}", "key": str(number)} for number in range(30))
        right = memory.vectors(["6"])["6"]
    connection = sqlite3.connect(folder / "memory.db")
    static = bytearray(connection.execute("SELECT static FROM vectors WHERE entry_id = 7").fetchone()[0])
    static[21] ^= 0x80
    connection.execute("UPDATE vectors SET static = ? WHERE entry_id = 7", (bytes(static),))
    connection.commit()
    connection.close()
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.reindex(tiers=(48, 96))
        np.testing.assert_array_equal(memory.vectors(["6"])["6"], right)


def test_a_hit_that_is_not_what_was_written_is_logged(tmp_path, caplog):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("the launch is in May", key="launch", metadata={"month": 5})
        memory.recall("launch")
        assert not caplog.records
    connection = sqlite3.connect(tmp_path / "memory.db")
    connection.execute("""UPDATE entries SET metadata = '{"month":4}'""")
    connection.commit()
    connection.close()
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        assert memory.recall("launch")[0].entry.key == "launch"
    assert any("'launch'" in record.getMessage() and "checksum" in record.getMessage() for record in caplog.records)


def test_every_writer_keeps_checksums_right(tmp_path, weights):
    """Random calls of all kinds; what they leave behind is as they wrote it."""
    rng = random.Random(7)
    memory = open_(tmp_path / "store", weights)
    keys = [f"k{number}" for number in range(12)]

    def item(key):
        return {
            "text": f"note {rng.randrange(99)} " * rng.choice([1, 1, 1, 150]),
            "key": key,
            "session": rng.choice([None, "a", "b"]),
            "speaker": rng.choice([None, "ann"]),
            "importance": rng.choice([None, 1, 0.25]),
            "metadata": rng.choice([{}, {"n": 1.5, "t": "ü"}]),
            "expires_at": datetime.now(UTC) + timedelta(seconds=0.05) if rng.random() < 0.2 else None,
        }

    def supersede():
        old, new = rng.sample([entry.key for entry in memory.entries()] or keys, 2)
        memory.supersede(old, new)

    calls = [
        lambda: memory.add(**item(rng.choice(keys))),
        lambda: memory.add_many([item(key) for key in rng.sample(keys, 4)]),
        lambda: memory.update(rng.choice(keys), metadata={"again": rng.random()}),
        lambda: memory.update(rng.choice(keys), text=rng.choice(["changed", "other words " * 150]), speaker="bob"),
        supersede,
        lambda: memory.forget(rng.choice(keys)),
        memory.purge_expired,
        lambda: memory.recall("note 5", session="a"),
        lambda: memory.reindex(tiers=rng.choice([(96,), (48, 96), (32, 64, 96)])),
        memory.rollback,
        lambda: memory.collect_generations(grace=timedelta(0)),
        lambda: memory.schedule("purge", rng.choice(["every 1h", "every 2h"])),
        lambda: memory.pause_schedule("purge", paused=rng.random() < 0.5),
        lambda: memory.maintenance(),
    ]
    refused = set()
    try:
        for number in range(300):
            call = rng.choice(calls)
            try:
                call()
            except (ValueError, LookupError, RuntimeError) as error:
                refused.add(type(error).__name__)
            with memory._store.read() as tx:
                assert tx.find_altered() == [], (number, calls.index(call))
    finally:
        memory.close()
    assert refused <= {"NotFoundError", "InvalidInputError", "ValueError"}


def test_what_is_covered_is_all_that_a_table_has():
    for table in {table for table, _ in checksums.COVERED}:
        covered = {column for (name, _), columns in checksums.COVERED.items() if name == table for column in columns}
        assert covered == set(schema.metadata.tables[table].c.keys()) - SUMS


def test_a_checksum_does_not_depend_on_the_version_of_python():
    values = ("a", 1, None, 0.5, b"\x00\xff", "żółw \U0001fae8 \udc80\n")
    assert checksums.checksum(values) == 2684506776
    assert checksums.checksum((1, 2, b"abc", None), 2) == 319767016
