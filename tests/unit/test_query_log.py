"""The query log: off by default, bounded, harmless to recalls, and replayed by dry runs."""

from __future__ import annotations

import hashlib
import os
import time

import numpy as np
import pytest
from support import WordEncoder, python

from agent_memory import Config, ReplaySource
from agent_memory.index import IndexOptions
from agent_memory.recall import query_log as rules
from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.upkeep import rehearsal

TEXTS = [f"note {number} about topic {number % 7}" for number in range(60)]


def fill(memory):
    memory.add_many({"text": text, "key": str(number)} for number, text in enumerate(TEXTS))


def rows(folder, columns="namespace, k, digest, text"):
    connection = sqlite3.connect(folder / "memory.db")
    found = connection.execute(f"SELECT {columns} FROM queries ORDER BY id").fetchall()
    connection.close()
    return found


def open_logged(open_memory, kept=5, text="none", **options):
    return open_memory(config=Config(query_log=kept, query_text=text, lock_timeout_s=5), **options)


def test_no_queries_are_kept_by_default(memory, folder):
    fill(memory)
    memory.recall("note 3")
    memory.close()
    assert rows(folder) == []


def test_the_latest_queries_are_kept_as_vectors_without_their_words(open_memory, folder):
    memory = open_logged(open_memory)
    fill(memory)
    for number in range(9):
        memory.recall(f"secret {number}", k=number + 1)
    memory.recall("words alone", mode="lexical")
    memory.why("secret", "3")
    memory.close()
    assert rows(folder) == [("", k, None, None) for k in (5, 6, 7, 8, 9)]
    (vector,) = rows(folder, "vector")[-1]
    wanted = WordEncoder().encode_queries(["secret 8"])[0].astype("<f2").tobytes()
    assert vector == wanted
    assert not any(b"secret" in file.read_bytes() for file in folder.glob("memory.db*"))
    other = open_logged(open_memory, kept=3)
    other.recall_many(["one", "two"])
    other.close()
    assert [row[1] for row in rows(folder)] == [9, 5, 5]


@pytest.mark.parametrize("kept", ["hash", "plain"])
def test_query_texts_are_kept_only_as_configured(open_memory, folder, kept):
    memory = open_logged(open_memory, text=kept)
    memory.add("a note")
    memory.recall("what was it")
    memory.recall(np.ones(96, np.float32))
    memory.close()
    digest, text = (hashlib.sha256(b"what was it").digest(), None) if kept == "hash" else (None, "what was it")
    assert rows(folder) == [("", 5, digest, text), ("", 5, None, None)]


def test_a_recall_neither_waits_for_a_writer_nor_loses_the_queries(open_memory, folder, monkeypatch):
    memory = open_logged(open_memory)
    fill(memory)
    monkeypatch.setattr(rules, "_EVERY_S", 0.0)
    memory.recall("first")  # from here on every recall tries to write
    writer = sqlite3.connect(folder / "memory.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    memory._queries._next = 0.0
    started = time.perf_counter()
    for number in range(8):
        assert len(memory.recall(f"asked {number}")) == 5
    assert time.perf_counter() - started < 2  # lock_timeout_s is 5
    assert rows(folder) == []
    writer.execute("ROLLBACK")
    writer.close()
    memory.recall("at last")
    assert len(rows(folder)) == 5
    with memory._store.database.connections.read() as connection:  # other writes are as patient as before
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000


FULL = """
import resource, signal, sys
from support import WordEncoder
from agent_memory import Config, Memory
from agent_memory.recall import query_log

query_log._EVERY_S = 0.0
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
memory = Memory(sys.argv[1], encoder=WordEncoder(), config=Config(query_log=10_000))
memory.add("before", key="before")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
for number in range(600):
    assert memory.recall(f"before {number}", k=1)[0].entry.key == "before"
pending = len(memory._queries._pending)
assert pending > 100, pending
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
memory.close()
print("sound")
"""


def test_a_full_disk_does_not_keep_recall_from_answering(folder):
    child = python(FULL, folder)
    output, errors = child.communicate(timeout=120)
    assert (child.returncode, output) == (0, "sound\n"), errors
    assert len(rows(folder)) == 600


def test_forgetting_everything_and_clearing_keep_to_their_scope(open_memory, folder):
    root = open_logged(open_memory, kept=100)
    fill(root)
    for scope in (("acme",), ("acme", "ann"), ("acme2",)):
        memory = open_logged(open_memory, kept=100, namespace=scope)
        memory.add("something")
        memory.recall("asked here")
        memory.close()
    root.recall("below", namespace=("acme", "ann"))
    assert root.maintenance(dry_run=True).findings["queries"] == 4
    root.recall("not written yet", namespace=("acme", "ann"))
    acme = open_logged(open_memory, namespace=("acme",))
    acme.recall("not written yet")
    assert root.clear_queries(namespace=("acme", "ann")) == 3
    assert acme.forget(everything=True) == 2
    assert [row[0] for row in rows(folder)] == ["acme2\x1f"]
    root.close()
    acme.close()
    assert [row[0] for row in rows(folder)] == ["acme2\x1f"]


def test_maintenance_replays_the_latest_queries(open_memory):
    memory = open_logged(open_memory, kept=100)
    fill(memory)
    for number in range(12):
        memory.recall(f"topic {number % 4}")
    found = memory.maintenance(dry_run=True).replay
    assert (found.source, found.queries, found.entries) == (ReplaySource.QUERIES, 4, 60)
    assert found.recall_before == found.recall_after == 1
    assert found.index_bytes_after > 60 * 96 * 2 and found.build_seconds > 0 and found.ms_after > 0
    memory.save_snapshot()
    assert 0.5 < memory.stats().snapshot_bytes / found.index_bytes_after < 2
    assert memory.maintenance(dry_run=False).replay is None
    memory.clear_queries()
    assert memory.maintenance(dry_run=True).replay.source is ReplaySource.ENTRIES


def test_a_dry_run_shows_that_a_layout_loses_what_is_asked_for():
    """The first tiers of the new layout are blind to what tells the answers apart; a sample stands for many."""
    generator = np.random.default_rng(5)
    scale = np.r_[np.full(64, 0.005), np.ones(64)].astype(np.float32)
    vectors, questions = (generator.standard_normal((count, 128), np.float32) * scale for count in (3_000, 20))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    options = IndexOptions()

    def build(tiers, whole):
        ids = np.arange(3_000)
        sizes = {"options": options, "whole": whole}
        return rehearsal.build_trial(ids, vectors, questions, tiers=tiers, dtype="float16", **sizes)

    small = rehearsal.compare(build((128,), 3_000), build((16, 64, 128), 3_000), ReplaySource.QUERIES)
    assert small.recall_before == small.recall_after == 1  # so few are searched exactly with any tiers
    large = rehearsal.compare(build((128,), 50_000), build((16, 64, 128), 50_000), ReplaySource.QUERIES)
    assert large.recall_before == 1 and large.recall_after < 0.5
    assert large.index_bytes_before > 50_000 * 128 * 2 > small.index_bytes_before


def test_a_rotation_is_tried_with_the_queries_rotated(open_memory):
    memory = open_logged(open_memory, kept=100)
    fill(memory)
    for number in range(5):
        memory.recall(f"topic {number}")
    report = memory.reindex(rotation="fit", dry_run=True)
    assert (report.replay.source, report.replay.queries) == (ReplaySource.QUERIES, 5)
    assert report.agreement > 0.9  # a rotation keeps every angle, up to ties
    memory.reindex(rotation="fit")
    assert memory.maintenance(dry_run=True).replay.source is ReplaySource.ENTRIES  # those queries were of another space
    memory.rollback()
    assert memory.maintenance(dry_run=True).replay.queries == 5


@pytest.mark.parametrize(("text", "source"), [("none", ReplaySource.ENTRIES), ("plain", ReplaySource.TEXTS)])
def test_another_encoder_needs_the_words(open_memory, text, source):
    memory = open_logged(open_memory, kept=100, text=text)
    fill(memory)
    for number in range(5):
        memory.recall(f"topic {number}")
    other = WordEncoder(64, name="others")
    report = memory.reindex(encoder=other, dry_run=True)
    assert (report.replay.source, report.replay.queries) == (source, 5 if text == "plain" else 60)
    assert ("topic 3" in other.encoded) == (text == "plain")
    assert 0 < report.agreement <= 1 and report.replay.entries == 60


def test_a_query_log_from_a_stranger_does_no_harm(open_memory, folder):
    memory = open_logged(open_memory, kept=100)
    fill(memory)
    memory.recall("topic 3")
    memory.close()
    connection = sqlite3.connect(folder / "memory.db")
    row = "SELECT namespace, asked_at, k, fingerprint, dtype"
    nan = np.full(96, np.nan, "<f2").tobytes()
    for blob in (os.urandom(7), nan, bytes(192)):
        into = "INSERT INTO queries (namespace, asked_at, k, fingerprint, dtype, vector)"
        connection.execute(f"{into} {row}, ? FROM queries LIMIT 1", (blob,))
    connection.commit()
    connection.close()
    again = open_logged(open_memory)
    assert again.maintenance(dry_run=True).replay.queries == 1
    assert again.clear_queries() == 4
