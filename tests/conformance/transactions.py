"""Transactions: one state for a reader, all or nothing for a writer, one writer at a time."""

from __future__ import annotations

import threading

import pytest
from conformance.samples import (
    NOW,
    at,
    begin,
    begin_live,
    current,
    find_keys,
    find_words,
    latents,
    make_draft,
    put,
    read_store,
    stored,
)

from agent_memory.errors import ClosedError, LockTimeoutError, NotFoundError, StorageError
from agent_memory.reports import JobState, Schedule
from agent_memory.storage.records import LoggedQuery, StoredVectors


class Interrupted(BaseException):
    """Not an Exception, like KeyboardInterrupt."""


def write_everything(tx, ids):
    """Change all that a transaction can change."""
    live = tx.generations.live()
    session = tx.sessions.find_head((), "s")
    tx.drafts.put(
        [make_draft("a", "never said before", session="s"), make_draft("new")], live.id, at(5), keep_versions=3
    )
    tx.drafts.supersede(ids[1], ids[2], at(5))
    tx.drafts.remove([ids[3]])
    tx.drafts.mend({ids[4]: ("text of e", StoredVectors(stored("other")))}, live.id)
    tx.changes.log([ids[2]], "put")
    tx.sessions.store(live, [(ids[0], stored("evolved"), latents("new"))])
    tx.sessions.move_head(session.id, tx.changes.last_seq() + 1)
    building = begin(tx, files={"model": b"weights"}, fingerprint="f2")
    tx.vectors.copy(live, building, ids)
    tx.vectors.store(building.id, [(entry, stored("x")) for entry in tx.vectors.select_texts(ids)])
    tx.generations.swap(building.id, at(5))
    tx.generations.condemn_former(at(5))
    tx.generations.drop_next(live.id, 0, 2)
    query = LoggedQuery(namespace=(), asked_at=NOW, k=1, fingerprint="f1", dtype="float16", vector=b"", text="q")
    tx.queries.append([query], keep=10)
    tx.jobs.create("reindex", {}, NOW)
    tx.jobs.set_state(1, JobState.FAILED, at(5), "no")
    tx.leases.acquire("work", "somebody", NOW)
    tx.schedules.put(Schedule(name="nightly", kind="maintain", trigger="every 1d"), NOW)
    tx.lexical.rebuild()


class TransactionContract:
    """``Database.read``, ``write`` and ``close``."""

    @pytest.fixture
    def ids(self, database):
        begin_live(database)
        ids = put(database, *(make_draft(key, session="s", latents=latents(key)) for key in "abcde"))
        with database.write() as tx:
            tx.jobs.create("purge", {"done": 1}, NOW)
        return ids

    def test_a_reader_sees_one_state_while_another_writes(self, database, reopen):
        put(database, make_draft("a"))
        writer = reopen()
        with database.read() as tx:
            before = tx.entries.count(current()), tx.changes.last_seq()
            put(writer, make_draft("b"), make_draft("a", "another text"))
            assert (tx.entries.count(current()), tx.changes.last_seq()) == before
            assert [entry.text for _, entry in tx.entries.select(current())] == ["text of a"]
            assert tx.lexical.search(tx.lexical.parse("another"), limit=9) == {}
            assert tx.generations.list_all()[0].vectors == 1
        assert find_keys(database, current()) == ["a", "b"]

    def test_a_reader_is_not_held_up_by_a_writer_and_sees_nothing_uncommitted(self, database, reopen):
        put(database, make_draft("a"))
        reader = reopen()
        with database.write() as tx:
            tx.drafts.put([make_draft("b")], tx.generations.live().id, NOW, keep_versions=0)
            assert find_keys(reader, current()) == ["a"]
        assert find_keys(reader, current()) == ["a", "b"]

    def test_a_writer_sees_what_it_wrote(self, database):
        with database.write() as tx:
            generation = begin(tx, "live")
            [(entry_id, entry)] = tx.drafts.put([make_draft("a")], generation.id, NOW, keep_versions=0).entries
            assert tx.entries.find((), "a", NOW) == (entry_id, entry)
            assert list(tx.lexical.search(tx.lexical.parse("text"), limit=1)) == [entry_id]
            assert tx.changes.ids_since(0).tolist() == [entry_id]

    def test_a_committed_write_is_there_for_another_process(self, database, reopen):
        put(database, make_draft("a"))
        assert read_store(reopen()) == read_store(database)

    @pytest.mark.parametrize("error", [ValueError, Interrupted, NotFoundError])
    def test_a_write_that_raises_leaves_nothing_behind(self, database, reopen, ids, error):
        before = read_store(database)
        with pytest.raises(error), database.write() as tx:
            write_everything(tx, ids)
            raise error("stop")
        assert read_store(database) == before
        assert read_store(reopen()) == before

    def test_that_write_would_have_changed_all_of_it(self, database, ids):
        before = read_store(database)
        with database.write() as tx:
            write_everything(tx, ids)
        after = read_store(database)
        assert [part for part in before if before[part] == after[part]] == []
        assert after["words"]["never"] and not before["words"]["never"]

    def test_ids_and_changes_are_numbered_on_after_a_write_that_raised(self, database):
        [first] = put(database, make_draft("a"))
        with pytest.raises(ValueError, match="stop"), database.write() as tx:
            tx.drafts.put([make_draft("b")], tx.generations.live().id, NOW, keep_versions=0)
            raise ValueError("stop")
        [second] = put(database, make_draft("c"))
        assert second > first
        with database.read() as tx:
            assert tx.changes.ids_since(1).tolist() == [second]

    def test_a_transaction_inside_another_is_its_own(self, database):
        put(database, make_draft("a"))
        with database.write() as tx:
            live = tx.generations.live()
            tx.drafts.put([make_draft("b")], live.id, NOW, keep_versions=0)
            assert find_keys(database, current()) == ["a"]
            with pytest.raises(StorageError), database.write(wait_s=0.05):
                pass
            tx.drafts.put([make_draft("c")], live.id, NOW, keep_versions=0)
        with database.read() as tx:
            assert tx.entries.count(current()) == 3
            put(database, make_draft("d"))
            assert tx.entries.count(current()) == 3
        assert find_keys(database, current()) == ["a", "b", "c", "d"]

    def test_a_writer_waits_no_longer_than_it_was_told(self, database, reopen):
        other = reopen()
        with database.write():
            with pytest.raises(LockTimeoutError), other.write(wait_s=0.05):
                pass
        put(other, make_draft("a"))

    def test_a_writer_waits_as_long_as_its_database_says(self, database, reopen):
        hasty = reopen(lock_timeout_s=0.05)
        assert hasty.lock_timeout_s == 0.05
        with database.write(), pytest.raises(LockTimeoutError) as caught, hasty.write():
            pass
        assert caught.value.timeout_s == 0.05

    def test_a_writer_gets_its_turn_once_the_other_is_done(self, database, reopen):
        put(database, make_draft("a"))
        other = reopen(lock_timeout_s=60)
        thread = threading.Thread(target=put, args=(other, make_draft("b")))
        with database.write() as tx:
            thread.start()
            tx.drafts.put([make_draft("c")], tx.generations.live().id, NOW, keep_versions=0)
        thread.join(60)
        assert find_keys(database, current()) == ["a", "c", "b"]

    def test_threads_and_processes_write_one_after_the_other(self, database, reopen):
        begin_live(database)
        found = []

        def write(opened, name):
            for number in range(5):
                found.extend(put(opened, make_draft(f"{name}-{number}", session="s")))

        places = [database, database, reopen(lock_timeout_s=60), reopen(lock_timeout_s=60)]
        threads = [threading.Thread(target=write, args=(place, name)) for name, place in enumerate(places)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert len(set(found)) == 20
        with database.read() as tx:
            assert tx.changes.last_seq() == 20
            assert sorted(tx.changes.ids_since(0).tolist()) == sorted(found)
            head = tx.sessions.find_head((), "s")
            assert head.seq == 20
            assert len(tx.sessions.read_last_latents(tx.generations.live(), head.id, 99)) == 20

    def test_preparing_again_changes_nothing(self, database, reopen, ids):
        before = read_store(database)
        reopen().prepare()
        database.prepare()
        assert read_store(database) == before

    def test_a_closed_database_says_so(self, database):
        put(database, make_draft("a"))
        database.assert_open()
        database.close()
        database.close()
        for call in (database.assert_open, database.merge_lexical, database.vacuum):
            with pytest.raises(ClosedError):
                call()
        for call in (database.read, database.write):
            with pytest.raises(ClosedError), call():
                pass

    def test_closing_or_abandoning_one_leaves_the_other_open(self, database, reopen):
        other, third = reopen(), reopen()
        [entry_id] = put(other, make_draft("a"))
        database.close()
        third.abandon()
        assert find_words(other, "text") == [entry_id]

    def test_a_fresh_store_is_empty_and_can_be_written(self, database):
        assert not database.read_only
        assert any(character.isdigit() for character in database.describe())
        with database.read() as tx:
            assert tx.generations.live() is None
            assert (tx.changes.first_seq(), tx.changes.last_seq()) == (None, 0)
            assert tx.entries.count(current()) == 0
            assert tx.measure(NOW).rows == 0
            assert tx.find_faults() + tx.lexical.find_faults() == []
