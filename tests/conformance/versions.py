"""Versions: what is replaced or superseded stays readable as of the past, as long as it is to be kept."""

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
    put,
    read_vectors,
    remove,
    supersede,
    unit_vector,
)

from agent_memory.errors import NotFoundError
from agent_memory.storage.records import ANY, Condition


def list_texts(database, key="a"):
    """The texts of all versions of a key, oldest first."""
    with database.read() as tx:
        return [entry.text for entry in tx.entries.list_versions((), key)]


def read_as_of(database, minutes):
    """What the store said so many minutes after NOW, by key."""
    with database.read() as tx:
        found = tx.entries.select(Condition(state="as_of", moment=at(minutes)))
    assert len({entry.key for _, entry in found}) == len(found)
    return {entry.key: entry.text for _, entry in found}


class VersionContract:
    """What ``Drafts.put`` archives, and ``Drafts.supersede``."""

    @pytest.fixture
    def versions(self, database):
        """Ids of ``a``, written at 0, 1, 2 and 3 minutes, and of ``b``, written at 0."""
        ids = put(database, make_draft("a", "one"), make_draft("b"))
        for minutes, text in enumerate(("two", "three", "four"), start=1):
            put(database, make_draft("a", text), minutes=minutes)
        return ids

    def test_the_store_is_read_as_of_any_moment(self, database, versions):
        for minutes, text in ((0, "one"), (0.5, "one"), (1, "two"), (2.9, "three"), (3, "four"), (9, "four")):
            assert read_as_of(database, minutes) == {"a": text, "b": "text of b"}
        assert read_as_of(database, -0.1) == {}

    def test_versions_are_listed_oldest_first_with_their_end(self, database, versions):
        assert list_texts(database) == ["one", "two", "three", "four"]
        assert list_texts(database, "never") == []
        with database.read() as tx:
            ends = [entry.superseded_at for entry in tx.entries.list_versions((), "a")]
            assert ends == [at(1), at(2), at(3), None]
            assert {entry.created_at for entry in tx.entries.list_versions((), "a")} == {NOW}

    def test_a_version_is_in_no_index_but_keeps_its_vector(self, database, versions):
        assert find_words(database, "one two three four") == versions[:1]
        with database.read() as tx:
            live = tx.generations.live()
            former = {entry_id: entry.text for entry_id, entry in tx.entries.select(ANY) if entry.superseded_at}
            assert read_vectors(tx, live, list(former)) == {}
            expected = {entry_id: unit_vector(text).tolist() for entry_id, text in former.items()}
            assert read_vectors(tx, live, list(former), former=True) == expected
            assert read_vectors(tx, live, list(former), static=True) == expected
            assert min(former) > max(versions)

    def test_the_rows_that_are_former_by_now_are_told_from_the_others(self, database, versions):
        condition = Condition(state="as_of", moment=at(2))
        with database.read() as tx:
            assert [entry.text for _, entry in tx.entries.select(condition.former())] == ["three"]

    @pytest.mark.parametrize(
        ("keep", "kept"), [(0, []), (1, ["three"]), (2, ["two", "three"]), (9, ["one", "two", "three"])]
    )
    def test_only_so_many_versions_are_kept(self, database, keep, kept):
        for minutes, text in enumerate(("one", "two", "three", "four")):
            put(database, make_draft("a", text), make_draft("b", text), minutes=minutes, keep_versions=keep)
        assert list_texts(database) == list_texts(database, "b") == [*kept, "four"]
        with database.read() as tx:
            assert tx.generations.list_all()[0].vectors == 2 * len(kept) + 2

    def test_versions_beyond_a_smaller_number_go_at_the_next_write_of_their_key(self, database, versions):
        put(database, make_draft("a", "five"), minutes=4, keep_versions=1)
        assert list_texts(database) == ["four", "five"]

    def test_find_returns_the_current_entry_or_raises(self, database, versions):
        put(database, make_draft("old", expires_at=at(5)))
        with database.read() as tx:
            assert tx.entries.find((), "a", at(5))[1].text == "four"
            assert tx.entries.find((), "old", at(4.9))[1].key == "old"
            for scope, key, moment in (((), "old", at(5)), ((), "A", at(5)), (("n",), "a", at(5))):
                with pytest.raises(NotFoundError):
                    tx.entries.find(scope, key, moment)

    def test_the_newest_row_of_a_key_is_found_current_or_not(self, database, versions):
        put(database, make_draft("old", expires_at=at(-5)))
        for superseded in (False, True):
            with database.read() as tx:
                entry_id, entry = tx.entries.find_newest((), "a")
                assert (entry_id, entry.text, entry.superseded_at is not None) == (versions[0], "four", superseded)
                assert tx.entries.find_newest((), "old")[1].key == "old"
                assert tx.entries.find_newest(("n",), "a") is None
            if not superseded:
                supersede(database, versions[0], versions[1], minutes=4)
        [again] = put(database, make_draft("a", "five"), minutes=5)
        with database.read() as tx:
            assert tx.entries.find_newest((), "a")[0] == again != versions[0]

    def test_a_superseded_entry_is_read_as_of_before_and_no_later(self, database):
        ids = put(database, make_draft("a", "one", session="s"), make_draft("b", "two"))
        session_id = supersede(database, ids[0], ids[1], minutes=2)
        assert find_keys(database, current(2)) == ["b"]
        assert read_as_of(database, 1.9) == {"a": "one", "b": "two"}
        assert read_as_of(database, 2) == {"b": "two"}
        assert find_words(database, "one") == []
        with database.read() as tx:
            assert tx.entries.fetch(ids[:1])[ids[0]].superseded_at == at(2)
            assert tx.sessions.find_head((), "s").id == session_id
        assert find_faults(database) == []

    def test_what_was_superseded_is_a_version_of_what_took_its_place(self, database):
        ids = put(database, *(make_draft(key, f"{key} one") for key in "abcd"))
        put(database, make_draft("a", "a two"), minutes=1)
        supersede(database, ids[0], ids[1], minutes=2)
        supersede(database, ids[1], ids[2], minutes=3)
        assert list_texts(database, "c") == ["a one", "b one", "c one", "a two"]
        assert list_texts(database, "a") == ["a one", "a two", "b one", "c one"], "and what became of it"
        assert list_texts(database, "b") == ["a one", "b one", "a two", "c one"]
        assert list_texts(database, "d") == ["d one"]

    def test_a_key_that_was_superseded_can_be_used_again(self, database):
        ids = put(database, make_draft("a", "one"), make_draft("b"))
        supersede(database, ids[0], ids[1], minutes=1)
        [again] = put(database, make_draft("a", "two"), minutes=2)
        assert again not in ids
        assert list_texts(database) == ["one", "two"]
        assert read_as_of(database, 1.5) == {"b": "text of b"}
        supersede(database, again, ids[1], minutes=3)
        assert list_texts(database) == ["one", "two", "text of b"]
        assert remove(database, again) == 2
        assert find_keys(database, ANY) == []

    def test_only_an_unsuperseded_entry_can_be_superseded(self, database):
        ids = put(database, make_draft("a", "one"), make_draft("b"), make_draft("c"))
        supersede(database, ids[0], ids[1])
        for old in (ids[0], 99):
            with pytest.raises(NotFoundError):
                supersede(database, old, ids[2])
        assert find_faults(database) == []

    def test_a_line_holds_all_that_rows_have_replaced_and_if_asked_what_has_replaced_them(self, database):
        a, b, c, d = put(database, *(make_draft(key) for key in "abcd"))
        put(database, make_draft("b", "b two"), minutes=1)
        with database.read() as tx:
            [former] = set(tx.entries.select_ids(ANY).tolist()) - {a, b, c, d}
        supersede(database, a, b, minutes=2)
        supersede(database, b, c, minutes=3)
        lines = {a: [a], former: [former], b: [a, b, former], c: [a, b, c, former], d: [d], 99: []}
        with database.read() as tx:
            for entry_id, line in lines.items():
                assert tx.entries.select_lineage([entry_id], later=False).tolist() == sorted(line)
                whole = lines[c] if entry_id in lines[c] else line
                assert tx.entries.select_lineage([entry_id], later=True).tolist() == sorted(whole)
            assert tx.entries.select_lineage([d, a], later=False).tolist() == [a, d]
            assert tx.entries.select_lineage([], later=True).tolist() == []

    def test_what_an_entry_superseded_stays_so_when_that_alone_is_removed(self, database):
        ids = put(database, make_draft("a"), make_draft("b"))
        supersede(database, ids[0], ids[1], minutes=1)
        with database.write() as tx:
            assert tx.drafts.remove([ids[1]]).keys == 1
        assert find_keys(database, current(2)) == []
        assert read_as_of(database, 0) == {"a": "text of a"}
        assert list_texts(database) == ["text of a"]
        assert find_faults(database) == []
