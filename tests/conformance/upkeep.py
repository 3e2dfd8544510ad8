"""Upkeep: figures of the database, and what keeps it small and fast without changing what it says."""

from __future__ import annotations

import pytest
from conformance.samples import (
    NOW,
    at,
    current,
    find_faults,
    find_keys,
    find_words,
    make_draft,
    make_segment,
    put,
    read_store,
    remove,
    supersede,
)

from agent_memory.errors import ClosedError, StorageError


class UpkeepContract:
    """``Transaction.measure``, and the second half of ``Database``."""

    @pytest.fixture
    def ids(self, database):
        """A store that has seen every kind of write, over several transactions."""
        ids = put(database, *(make_segment(f"k{number}", text=f"word{number} " * 50) for number in range(60)))
        for number in range(0, 60, 6):
            put(database, make_draft(f"k{number}", f"another{number}", expires_at=at(number)), minutes=1)
        supersede(database, ids[1], ids[2], minutes=2)
        remove(database, *ids[40:50])
        return [*ids[:40], *ids[50:]]

    def test_figures_count_rows_versions_and_changes(self, database, ids):
        with database.read() as tx:
            state = tx.measure(at(20))
            assert (state.rows, state.former) == (58, 9)
            assert state.expired == len(tx.entries.select_expired_ids(at(20))) == 4
            assert state.changes == tx.changes.last_seq()
            assert tx.measure(at(-1)).expired == 0
        assert min(state.page_bytes, state.pages, state.lexical_segments) > 0
        assert min(state.free_pages, state.wal_bytes) >= 0
        assert database.size_bytes() > 60 * 50

    def test_upkeep_changes_nothing_that_is_said(self, database, ids, reopen):
        before = read_store(database)
        assert database.merge_lexical() >= 1
        assert database.truncate_log() in (True, False)
        assert database.vacuum() in (True, False)
        assert read_store(database) == before
        assert read_store(reopen()) == before
        assert find_faults(database) == []

    def test_merging_leaves_few_segments_and_finds_the_same(self, database, ids):
        with database.read() as tx:
            before = tx.measure(NOW).lexical_segments
        words = {word: find_words(database, word) for word in ("word7", "another6", "word41", "word1")}
        assert words == {"word7": [ids[7]], "another6": [ids[6]], "word41": [], "word1": []}
        database.merge_lexical()
        with database.read() as tx:
            assert 1 <= tx.measure(NOW).lexical_segments <= min(before, 2)
        assert words == {word: find_words(database, word) for word in words}

    def test_pruning_leaves_the_last_change_and_all_entries(self, database, ids):
        before = read_store(database)
        last = before["seqs"][1]
        assert database.prune_changes(last) == last - 1
        after = read_store(database)
        assert after["seqs"] == (last, last)
        assert {part: after[part] for part in before if part not in ("seqs", "changes")} == {
            part: before[part] for part in before if part not in ("seqs", "changes")
        }

    def test_a_reader_keeps_its_state_while_the_database_is_kept_up(self, database, ids, reopen):
        other = reopen(lock_timeout_s=0.05)
        with database.read() as tx:
            before = tx.entries.select(current())
            put(other, make_draft("new"))
            other.merge_lexical()
            other.prune_changes(10)
            other.truncate_log()
            other.vacuum()
            assert tx.entries.select(current()) == before
            assert tx.changes.first_seq() == 1
        assert "new" in find_keys(database, current())

    def test_a_copy_is_taken_while_the_database_is_in_use(self, database, ids, reopen, tmp_path):
        target, steps = tmp_path / "copy", []
        with database.read() as tx:
            rows = tx.measure(NOW).rows
        with reopen().write() as tx:
            tx.drafts.put([make_draft("uncommitted")], tx.generations.live().id, NOW, keep_versions=0)
            assert database.copy_to(target, lambda done, total: steps.append((done, total))) == rows
        assert target.stat().st_size > 0
        assert steps and steps[-1][0] == steps[-1][1]
        assert all(0 <= done <= total for done, total in steps)

    def test_a_copy_that_cannot_be_written_is_an_error(self, database, ids, tmp_path):
        with pytest.raises(StorageError):
            database.copy_to(tmp_path / "nowhere" / "copy", None)

    def test_a_closed_database_is_not_kept_up(self, database, ids, tmp_path):
        database.close()
        calls = [
            database.merge_lexical,
            database.truncate_log,
            database.vacuum,
            lambda: database.prune_changes(1),
            lambda: database.copy_to(tmp_path / "copy", None),
        ]
        for call in calls:
            with pytest.raises(ClosedError):
                call()
