"""Maintenance says what a store needs, does it, and changes no answer."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from support import WordEncoder, add_expired

from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.upkeep import maintenance as upkeep_rules
from agent_memory.writing import mentions


def list_names(report):
    return [action.name for action in report.actions]


def fill(memory, count=200):
    memory.add_many({"text": f"note {number} about topic {number % 7}", "key": str(number)} for number in range(count))


def test_a_new_store_needs_nothing(memory):
    fill(memory)
    report = memory.maintenance(dry_run=True)
    assert report.actions == () and not report.done
    assert report.findings["rows"] == report.findings["changes"] == 200
    assert report.findings["tier_recall"][96] == 1
    assert memory.maintenance(dry_run=False).actions == ()


def test_an_empty_store_can_be_looked_at(memory):
    assert memory.maintenance(dry_run=False).actions == ()


def test_what_is_found_is_done(memory, monkeypatch, folder):
    monkeypatch.setattr(upkeep_rules, "KEPT_CHANGES", 100)
    for name in ("_WAL_BYTES", "_FREE_SHARE", "_FREE_BYTES"):
        monkeypatch.setattr(upkeep_rules, name, 0)
    for start in range(0, 200, 10):
        memory.add_many({"text": f"note {n} about topic {n % 7}", "key": str(n)} for n in range(start, start + 10))
    monkeypatch.setattr(upkeep_rules, "_SEGMENTS", 1)
    add_expired(memory, "old", key="old")
    memory.reindex(tiers=(48, 96))
    memory.forget(where={"none": {"$exists": False}})
    fill(memory, 120)
    add_expired(memory, "old", key="old")
    memory.recall("note")
    memory._store.index.save()
    looked = memory.maintenance(dry_run=True)
    assert {"purge", "lexical", "changes", "vacuum", "log"} <= set(list_names(looked))
    assert all(action.seconds >= 0 and not action.result for action in looked.actions)
    done = memory.maintenance(dry_run=False)
    assert list_names(done) == list_names(looked) and all(action.result for action in done.actions)
    again = memory.maintenance(dry_run=True)
    assert not {"purge", "lexical", "changes", "vacuum"} & set(list_names(again))
    assert again.findings["changes"] < looked.findings["changes"]
    assert memory.recall("note 33 about topic 5", k=1)[0].entry.key == "33"
    assert memory.check().ok


def test_a_log_that_grew_behind_a_reader_is_cut_when_the_reader_has_gone(memory):
    from agent_memory.storage.sqlite.connections import LOG_BYTES

    log = memory.path / "memory.db-wal"
    vector = np.ones(96, np.float32)

    def write(times):
        for number in range(times):
            memory.add("x" * 500_000 + str(number), key=str(number), vector=vector)

    write(2)
    with memory._store.database.connections.raw() as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM entries").fetchone()
        write(32)
        assert log.stat().st_size > 1.2 * LOG_BYTES
    write(10)
    assert log.stat().st_size <= LOG_BYTES


def test_a_vacuum_leaves_no_log_of_its_size(memory, monkeypatch):
    for name in ("_FREE_SHARE", "_FREE_BYTES"):
        monkeypatch.setattr(upkeep_rules, name, 0)
    for number in range(24):
        memory.add("x" * 500_000 + str(number), key=str(number), vector=np.ones(96, np.float32))
    memory.forget("3")
    report = memory.maintenance(dry_run=False, only=["vacuum"])
    assert [action.result for action in report.actions] == ["done"]
    assert (memory.path / "memory.db-wal").stat().st_size == 0
    assert memory.stats().entries == 23


def test_only_what_was_asked_for(memory):
    fill(memory, 5)
    add_expired(memory, "old")
    assert list_names(memory.maintenance(dry_run=False, only=["log"])) == []
    assert memory.stats().expired == 1


@pytest.mark.parametrize("snapshot", [True, False])
def test_an_index_older_than_the_change_log_is_rebuilt(memory, open_memory, snapshot):
    fill(memory, 50)
    behind = open_memory()
    behind.recall("note")
    if snapshot:
        behind.close()
    memory.add_many({"text": f"later {number}", "key": f"l{number}"} for number in range(50))
    memory.forget("3")
    connection = sqlite3.connect(memory.path / "memory.db")
    connection.execute("DELETE FROM changes WHERE seq < (SELECT max(seq) FROM changes)")
    connection.commit()
    connection.close()
    if snapshot:
        behind = open_memory()
    assert behind.recall("later 7", k=1)[0].entry.key == "l7"
    assert "3" not in {hit.entry.key for hit in behind.recall("note 3 about topic 3", k=100)}
    assert behind.check().ok


def test_new_numbers_follow_the_pruned_ones(memory):
    fill(memory, 50)
    assert memory._store.database.prune_changes(10_000) == 49
    memory.add("afterwards", key="after")
    assert memory.stats().seq == 51
    assert memory.recall("afterwards", k=1)[0].entry.key == "after"
    memory.reindex(encoder=WordEncoder(64, name="others"))
    assert memory.recall("afterwards", k=1)[0].entry.key == "after"
    assert memory.check().ok


def test_entries_from_before_texts_were_read_for_times_are_read(memory, open_memory, folder, monkeypatch):
    monkeypatch.setattr(mentions, "_PAGE_ROWS", 2)
    said = datetime(2024, 5, 3, tzinfo=UTC)
    memory.add_many({"text": "In Rome next Friday.", "key": str(number), "event_time": said} for number in range(5))
    memory.close()
    database = sqlite3.connect(folder / "memory.db")
    database.execute("DELETE FROM mentions")
    database.execute("INSERT INTO meta (name, value) SELECT 'mentions', max(id) FROM entries")
    database.commit()
    database.close()
    memory = open_memory()
    memory.add("In Rome next Friday.", key="new", event_time=said)

    def find_dated():
        hits = memory.recall("Who is in Rome on 10 May 2024?", k=10, explain=True)
        return {hit.entry.key for hit in hits if hit.trace["time"]["adds"] > 0}

    assert find_dated() == {"new"}
    [needed] = memory.maintenance(dry_run=True).actions
    assert needed.reason == "5 entries were never read for times"
    assert [action.result for action in memory.maintenance(dry_run=False).actions] == ["5 texts read"]
    assert find_dated() == {"new", *"01234"}
    assert memory.maintenance(dry_run=True).actions == ()
