"""Writing entries: what put, remove and mend store, number and log."""

from __future__ import annotations

from dataclasses import replace

from conformance.samples import (
    NOW,
    at,
    begin,
    begin_live,
    current,
    find_faults,
    find_keys,
    find_words,
    latents,
    make_draft,
    put,
    read_store,
    read_vectors,
    remove,
    stored,
    supersede,
    unit_vector,
)

from agent_memory.records import Entry
from agent_memory.storage.codec import content_hash
from agent_memory.storage.records import ANY, StoredVectors


class DraftContract:
    """``Drafts.put``, ``remove`` and ``mend``."""

    def test_a_draft_comes_back_as_it_was_given(self, database):
        text = 'Ünïcode \U0001f600\n"quoted" \\ %_'
        given = {"namespace": ("a", "b c"), "session": "s:1", "speaker": "Zoë", "importance": 0.25}
        times = {"event_time": at(-9).replace(microsecond=123456), "expires_at": at(90).replace(microsecond=1)}
        draft = make_draft("k/1", text, metadata={"z": 1, "a": [None, {"b": 2.5}]}, **given, **times)
        [entry_id] = put(database, draft)
        expected = Entry(
            key="k/1",
            text=text,
            metadata={"a": [None, {"b": 2.5}], "z": 1},
            created_at=NOW,
            updated_at=NOW,
            **given,
            **times,
        )
        with database.read() as tx:
            assert tx.entries.find(("a", "b c"), "k/1", NOW) == (entry_id, expected)
            assert tx.entries.fetch([entry_id])[entry_id].event_time.utcoffset().total_seconds() == 0

    def test_an_entry_happened_when_it_was_written_unless_it_says_otherwise(self, database):
        put(database, make_draft("a"), make_draft("b", event_time=at(-3)), minutes=2)
        with database.read() as tx:
            assert [entry.event_time for _, entry in tx.entries.select(current(2))] == [at(2), at(-3)]

    def test_what_put_returns_is_what_is_read(self, database):
        begin_live(database)
        with database.write() as tx:
            drafts = [make_draft("b", session="s"), make_draft("a", metadata={"x": 1}), make_draft("b", "again")]
            written = tx.drafts.put(drafts, tx.generations.live().id, NOW, keep_versions=3)
        assert [entry.key for _, entry in written.entries] == ["b", "a", "b"]
        with database.read() as tx:
            assert dict(written.entries) == tx.entries.fetch([entry_id for entry_id, _ in written.entries])
            assert [entry.text for _, entry in written.entries] == ["again", "text of a", "again"]

    def test_putting_and_removing_nothing_changes_nothing(self, database):
        begin_live(database)
        before = read_store(database)
        assert put(database) == []
        assert remove(database) == remove(database, 5) == 0
        assert read_store(database) == before

    def test_a_key_that_several_drafts_share_ends_as_the_last_of_them(self, database):
        ids = put(database, make_draft("a", "one"), make_draft("b"), make_draft("a", "two"), make_draft("a", "three"))
        assert ids[0] == ids[2] == ids[3] < ids[1]
        assert find_words(database, "three") == [ids[0]]
        assert find_words(database, "one") == find_words(database, "two") == []
        with database.read() as tx:
            assert tx.entries.count(ANY) == tx.changes.last_seq() == 2

    def test_a_key_names_another_entry_in_each_namespace(self, database):
        scopes = [(), ("a",), ("a", "b"), ("ab",)]
        ids = put(database, *(make_draft("k", namespace=scope) for scope in scopes))
        put(database, make_draft("k", "new", namespace=("a",)))
        with database.read() as tx:
            found = [tx.entries.find(scope, "k", NOW) for scope in scopes]
        assert [entry_id for entry_id, _ in found] == ids
        assert [entry.text for _, entry in found] == ["text of k", "new", "text of k", "text of k"]

    def test_a_replaced_entry_keeps_its_id_its_place_and_its_creation(self, database):
        ids = put(database, make_draft("a"), make_draft("b"))
        assert put(database, make_draft("a", "new", metadata={"n": 1}), minutes=3) == ids[:1]
        with database.read() as tx:
            entry = tx.entries.find((), "a", at(3))[1]
            assert (entry.created_at, entry.updated_at, entry.event_time) == (NOW, at(3), at(3))
            assert entry.metadata == {"n": 1}
        assert find_keys(database, current(3)) == ["a", "b"]

    def test_an_expired_entry_that_is_replaced_begins_again(self, database):
        put(database, make_draft("a", expires_at=at(2)))
        put(database, make_draft("a"), minutes=2)
        with database.read() as tx:
            assert tx.entries.find((), "a", at(2))[1].created_at == at(2)

    def test_a_duplicate_names_the_oldest_entry_with_its_text_in_its_namespace(self, database):
        begin_live(database)
        put(database, make_draft("other", "same", namespace=("n",)), make_draft("first", "same"))
        put(database, make_draft("zeroth", "same"))
        with database.write() as tx:
            drafts = [
                make_draft("second", "same"),
                make_draft("x", "twin"),
                make_draft("y", "twin"),
                make_draft("first", "same"),
            ]
            written = tx.drafts.put(drafts, tx.generations.live().id, NOW, keep_versions=0)
        assert [entry.duplicate_of for _, entry in written.entries] == ["first", None, "x", None]

    def test_a_generated_key_is_written_without_a_look(self, database):
        ids = put(database, make_draft("a", generated=True), make_draft("b", generated=True))
        assert len(set(ids)) == 2
        assert find_keys(database, current()) == ["a", "b"]

    def test_ids_never_come_back(self, database):
        seen = put(database, *(make_draft(key) for key in "abc"))
        for _ in range(3):
            seen += (put(database, make_draft("a", "version")), put(database, make_draft("d")))[1]
            with database.read() as tx:
                everything = tx.entries.select_ids(ANY).tolist()
            remove(database, *everything)
            [new] = put(database, make_draft("e"))
            assert new > max(everything)
            seen.append(new)
        assert len(set(seen)) == len(seen)

    def test_each_write_logs_a_change_for_each_row(self, database):
        ids = put(database, *(make_draft(key) for key in "abc"))
        with database.read() as tx:
            assert (tx.changes.first_seq(), tx.changes.last_seq()) == (1, 3)
            assert sorted(tx.changes.ids_since(0).tolist()) == ids
        put(database, make_draft("b", "new"))
        supersede(database, ids[0], ids[2])
        with database.read() as tx:
            assert tx.changes.last_seq() == 5
            assert sorted(tx.changes.ids_since(3).tolist()) == ids[:2]
            assert tx.changes.ids_since(5).tolist() == []
            [archived] = set(tx.entries.select_ids(ANY).tolist()) - set(ids)
        assert remove(database, ids[1]) == 1
        with database.read() as tx:
            assert sorted(tx.changes.ids_since(5).tolist()) == [ids[1], archived]

    def test_a_removed_key_goes_with_its_versions_vectors_and_words(self, database):
        ids = put(database, make_draft("a", "one"), make_draft("b", "one"), make_draft("a", "other", namespace=("n",)))
        put(database, make_draft("a", "two"))
        put(database, make_draft("a", "three"))
        assert remove(database, ids[0], ids[0], 99) == 1
        with database.read() as tx:
            assert tx.entries.select_ids(ANY).tolist() == ids[1:]
            assert tx.generations.list_all()[0].vectors == 2
            assert tx.entries.list_versions((), "a") == []
        assert find_words(database, "one two three other") == ids[1:]
        assert find_faults(database) == []

    def test_removing_a_former_version_alone_leaves_its_key(self, database):
        [entry_id] = put(database, make_draft("a", "one", session="s"))
        put(database, make_draft("a", "two", session="s"))
        with database.write() as tx:
            [archived] = set(tx.entries.select_ids(ANY).tolist()) - {entry_id}
            removed = tx.drafts.remove([archived])
        assert (removed.keys, removed.rows, removed.vectors, removed.dirty) == (0, 1, 1, {})
        assert list(removed.dirty_past.values()) == [entry_id]
        assert removed.scopes == {()}
        assert find_keys(database, ANY) == ["a"]
        assert find_words(database, "one two") == [entry_id]
        assert find_faults(database) == []

    def test_many_entries_are_removed_at_once(self, database):
        ids = put(database, *(make_draft(f"k{number}", "same", session="s") for number in range(1_200)))
        put(database, *(make_draft(f"k{number}", "new") for number in range(0, 1_200, 100)))
        assert remove(database, *ids[1:]) == 1_199
        assert find_keys(database, ANY) == ["k0", "k0"]
        assert find_faults(database) == []

    def test_a_new_vector_replaces_those_of_all_generations(self, database):
        [entry_id] = put(database, make_draft("a"))
        with database.write() as tx:
            live, building = tx.generations.live(), begin(tx)
            tx.vectors.copy(live, building, [entry_id])
        put(database, make_draft("a", "new"), keep_versions=0)
        with database.read() as tx:
            assert read_vectors(tx, live, [entry_id]) == {entry_id: unit_vector("new").tolist()}
            assert [entry.id for entry in tx.vectors.select_missing(building.id, after=0, limit=None)] == [entry_id]

    def test_a_draft_without_a_vector_keeps_those_that_are_stored(self, database):
        [entry_id] = put(database, make_draft("a"))
        with database.write() as tx:
            live, building = tx.generations.live(), begin(tx)
            tx.vectors.copy(live, building, [entry_id])
        put(database, make_draft("a", vector=None, metadata={"n": 1}))
        with database.read() as tx:
            for generation in (live, building):
                assert read_vectors(tx, generation, [entry_id]) == {entry_id: unit_vector("text of a").tolist()}

    def test_an_entry_that_leaves_its_session_keeps_nothing_of_it(self, database):
        draft = make_draft("a", session="s", evolved=stored("evolved"), latents=latents("a"))
        [entry_id] = put(database, draft)
        with database.write() as tx:
            live = tx.generations.live()
            tx.vectors.copy(live, begin(tx), [entry_id])
        put(database, replace(draft, session=None, vector=None, evolved=None, latents=None))
        with database.read() as tx:
            for generation in tx.generations.find_in_state("live", "building"):
                assert read_vectors(tx, generation, [entry_id]) == {entry_id: unit_vector("text of a").tolist()}

    def test_mending_stores_checksum_and_vector_again(self, database):
        ids = put(database, make_draft("a", vector=b"short"), make_draft("b", vector=stored("b") * 2), make_draft("c"))
        put(
            database,
            make_draft("d", vector=unit_vector("d").astype("<f2").tobytes()[::-1]),
            make_draft("e", vector=None),
        )
        with database.write() as tx:
            live, building = tx.generations.live(), begin(tx)
            tx.vectors.copy(live, building, ids)
            assert sorted(tx.vectors.find_faults(live, [*ids, 4, 5])) == [1, 2, 4, 5]
            texts = {1: "text of a", 2: "text of b"}
            found = {number: (text, StoredVectors(stored(text))) for number, text in texts.items()}
            tx.drafts.mend(found, live.id)
            assert sorted(tx.vectors.find_faults(live, [*ids, 4, 5])) == [4, 5]
            assert read_vectors(tx, live, ids[:1]) == {ids[0]: unit_vector("text of a").tolist()}
            assert sorted(tx.vectors.find_faults(building, ids)) == ids[:2]
            assert sorted(tx.changes.ids_since(5).tolist()) == ids[:2]
            assert tx.entries.select_texts(after_id=0, limit=1)[0][3] == content_hash("text of a")
