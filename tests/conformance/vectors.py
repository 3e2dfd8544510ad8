"""Stored vectors: which are read, which are missing, and which may be stored."""

from __future__ import annotations

import numpy as np
import pytest
from conformance.samples import (
    DIMENSION,
    NOW,
    begin,
    begin_live,
    latents,
    make_draft,
    put,
    read_vectors,
    remove,
    stored,
    supersede,
    unit_vector,
)

from agent_memory.errors import StorageError
from agent_memory.storage.records import ANY, LATER, NO_VECTOR


class VectorContract:
    """``Vectors``."""

    @pytest.fixture
    def building(self, database):
        begin_live(database)
        with database.write() as tx:
            return begin(tx)

    def test_vectors_come_as_a_matrix_of_the_stored_format(self, database):
        ids = put(database, make_draft("a"), make_draft("b"), make_draft("bare", vector=None))
        with database.read() as tx:
            live = tx.generations.live()
            found, matrix = tx.vectors.read(live, np.array([*ids, 99]))
            assert (found.dtype, matrix.dtype, matrix.shape) == (np.int64, np.float16, (2, DIMENSION))
            assert read_vectors(tx, live, ids) == {
                ids[0]: unit_vector("text of a").tolist(),
                ids[1]: unit_vector("text of b").tolist(),
            }
            empty = tx.vectors.read(live, [])
            assert (empty[0].shape, empty[1].shape) == ((0,), (0, DIMENSION))

    def test_superseded_ones_are_read_only_where_they_are_asked_for(self, database):
        draft = make_draft("a", session="s", evolved=stored("evolved"), latents=latents("a"))
        ids = put(database, draft, make_draft("b"))
        supersede(database, *ids)
        with database.read() as tx:
            live = tx.generations.live()
            assert list(read_vectors(tx, live, ids)) == ids[1:]
            assert read_vectors(tx, live, ids[:1], former=True) == {ids[0]: unit_vector("evolved").tolist()}
            assert read_vectors(tx, live, ids[:1], static=True) == {ids[0]: unit_vector("text of a").tolist()}

    def test_all_searched_vectors_are_read_by_ascending_id(self, database):
        ids = put(database, *(make_draft(f"k{number}", vector=stored("same")) for number in range(2_500)))
        supersede(database, ids[7], ids[8])
        put(database, make_draft("k9", "new"), make_draft("bare", vector=None))
        with database.read() as tx:
            pages = list(tx.vectors.read_all(tx.generations.live()))
        found = np.concatenate([ids for ids, _ in pages])
        assert found.tolist() == [entry_id for entry_id in ids if entry_id != ids[7]]
        matrix = np.concatenate([matrix for _, matrix in pages])
        assert matrix.shape == (len(found), DIMENSION)
        assert np.flatnonzero((matrix != matrix[0]).any(axis=1)).tolist() == [8]

    def test_a_vector_of_a_wrong_length_is_an_error_or_left_out(self, database):
        ids = put(database, make_draft("a"), make_draft("b", vector=stored("b")[:-1]))
        with database.read() as tx:
            live = tx.generations.live()
            for options in ({}, {"former": True}, {"static": True}):
                with pytest.raises(StorageError, match=str(ids[1])):
                    tx.vectors.read(live, ids, **options)
            with pytest.raises(StorageError):
                list(tx.vectors.read_all(live))
            assert tx.vectors.read_stored(live, ids) == {ids[0]: stored("text of a")}

    def test_faults_are_found_by_entry(self, database):
        vectors = [stored("a"), stored("a") + b"\x00", None, (unit_vector("a") * 0.9).astype("<f2").tobytes()]
        vectors.append(np.full(DIMENSION, np.nan, "<f2").tobytes())
        ids = put(database, *(make_draft(f"k{number}", vector=vector) for number, vector in enumerate(vectors)))
        with database.read() as tx:
            live = tx.generations.live()
            assert sorted(tx.vectors.find_faults(live, ids)) == ids[1:]
            assert tx.vectors.find_faults(live, [*ids[:1], 99]) == {99: "missing"}
            assert tx.vectors.find_faults(live, []) == {}

    def test_stored_vectors_are_read_with_former_versions(self, database):
        [entry_id] = put(database, make_draft("a", "one", session="s", evolved=stored("e"), latents=latents("a")))
        put(database, make_draft("a", "two"))
        with database.read() as tx:
            ids = tx.entries.select_ids(ANY).tolist()
            found = tx.vectors.read_stored(tx.generations.live(), [*ids, 99])
            assert found == {entry_id: stored("two"), max(ids): stored("one")}

    def test_a_sample_is_spread_over_the_store(self, database):
        ids = put(database, *(make_draft(f"k{number}") for number in range(300)))
        remove(database, *ids[50:100])
        supersede(database, ids[0], ids[1])
        bare = put(database, make_draft("bare", vector=None))
        left = [*ids[1:50], *ids[100:]]
        with database.read() as tx:
            live = tx.generations.live()
            sample = tx.vectors.sample_ids(live, 20)
            assert sample == sorted(set(sample)) == tx.vectors.sample_ids(live, 20)
            assert 10 <= len(sample) <= 20
            assert set(sample) <= set(left)
            assert min(sample) < 60 and max(sample) > 240
            assert tx.vectors.sample_ids(live, 0) == []
            assert tx.vectors.sample_ids(live, 1_000) == left
            assert bare[0] not in tx.vectors.sample_ids(live, 290)

    def test_what_has_no_vector_in_a_generation_is_found_with_its_versions(self, database, building):
        ids = put(database, *(make_draft(key, expires_at=NOW) for key in "abc"))
        put(database, make_draft("a", "new"))
        with database.read() as tx:
            every = tx.entries.select_texts(after_id=0, limit=99)
            missing = tx.vectors.select_missing(building.id, after=0, limit=None)
            assert [(one.id, one.text) for one in missing] == [(row[0], row[2]) for row in every]
            assert tx.vectors.select_missing(building.id, after=ids[0], limit=2) == missing[1:3]
            assert tx.vectors.select_missing_among(building.id, [ids[2], ids[0], 99]) == [missing[0], missing[2]]
            assert tx.vectors.select_missing(tx.generations.live().id, after=0, limit=None) == []
            assert tx.vectors.select_missing_among(tx.generations.live().id, ids) == []
            assert tx.vectors.select_texts([ids[1], 99]) == missing[1:2]
            assert len({one.seq for one in missing[:3]}) == 3

    def test_a_vector_is_stored_only_if_the_text_has_not_changed(self, database, building):
        ids = put(database, *(make_draft(key) for key in "abcd"))
        with database.read() as tx:
            read = tx.vectors.select_missing(building.id, after=0, limit=None)
        put(database, make_draft("a", "new"))
        put(database, make_draft("b", vector=None, metadata={"n": 1}))
        remove(database, ids[2])
        with database.write() as tx:
            tx.vectors.store(building.id, [(one, stored("derived")) for one in read])
            tx.vectors.store(building.id, [])
        with database.read() as tx:
            every = tx.entries.select_ids(ANY).tolist()
            assert list(tx.vectors.read_stored(building, every)) == ids[3:]

    def test_a_vector_that_is_there_already_stays(self, database, building):
        [entry_id] = put(database, make_draft("a"))
        with database.write() as tx:
            [read] = tx.vectors.select_texts([entry_id])
            for seed in ("first", "second"):
                tx.vectors.store(building.id, [(read, stored(seed))])
            tx.vectors.copy(tx.generations.live(), building, [entry_id])
            assert tx.vectors.read_stored(building, [entry_id]) == {entry_id: stored("first")}

    @pytest.mark.parametrize("same", [True, False])
    def test_copies_hold_evolved_vectors_only_for_the_same_session_encoder(self, database, same):
        begin_live(database, session_encoder={"name": "evo"})
        ids = put(database, *(make_draft(k, session="s", evolved=stored("e"), latents=latents(k)) for k in "abc"))
        put(database, make_draft("a", "new", session="s"))
        with database.write() as tx:
            live, building = tx.generations.live(), begin(tx, session_encoder={"name": "evo" if same else "other"})
            every = tx.entries.select_ids(ANY).tolist()
            tx.vectors.copy(live, building, [*every[1:], 99])
            head = tx.sessions.find_head((), "s")
            copied = [entry_id for entry_id in every[1:] if entry_id in tx.vectors.read_stored(live, every)]
            assert sorted(tx.vectors.read_stored(building, every)) == sorted(copied)
            expected = unit_vector("e") if same else unit_vector("text of b")
            assert read_vectors(tx, building, ids[1:2]) == {ids[1]: expected.tolist()}
            assert tx.sessions.read_last_latents(building, head.id, 9) == (
                [latents("b"), latents("c")] if same else [None, None]
            )

    def test_what_has_no_vector_on_purpose_is_neither_read_nor_missing(self, database, building):
        ids = put(database, make_draft("a"), make_draft("never", vector=NO_VECTOR), make_draft("later", vector=LATER))
        with database.read() as tx:
            live = tx.generations.live()
            assert list(read_vectors(tx, live, ids)) == list(read_vectors(tx, live, ids, static=True)) == ids[:1]
            assert np.concatenate([page for page, _ in tx.vectors.read_all(live)]).tolist() == ids[:1]
            assert tx.vectors.sample_ids(live, 9) == ids[:1]
            assert tx.vectors.find_faults(live, ids) == {}
            assert tx.vectors.find_blank(live, ids) == {ids[1]: NO_VECTOR, ids[2]: LATER}
            assert tx.vectors.count_blank(live) == 2
            assert tx.vectors.select_missing(live.id, after=0, limit=None) == []
        with database.write() as tx:
            tx.vectors.copy(tx.generations.live(), building, ids)
            assert tx.vectors.find_blank(building, ids) == {ids[1]: NO_VECTOR}
            assert [entry.id for entry in tx.vectors.select_missing(building.id, after=0, limit=None)] == ids[2:]

    def test_what_is_encoded_later_is_filled_in_unless_it_has_changed(self, database):
        begin_live(database)
        ids = put(database, *(make_draft(key, vector=LATER) for key in "abc"))
        with database.write() as tx:
            live = tx.generations.live()
            assert not tx.vectors.is_awaiting()
            tx.vectors.await_later()
            tx.vectors.await_later()
            waiting = tx.vectors.select_later(live, after=0, limit=9)
            assert [entry.id for entry in waiting] == ids
            assert [entry.id for entry in tx.vectors.select_later(live, after=ids[0], limit=1)] == [ids[1]]
        put(database, make_draft("b", "changed"))
        with database.write() as tx:
            live = tx.generations.live()
            rows = [(entry, stored(f"text of {entry.id}")) for entry in waiting[:2]]
            assert tx.vectors.fill_in(live, rows) == [ids[0]]
            assert tx.vectors.fill_in(live, rows) == []
            assert not tx.vectors.end_waiting(live) and tx.vectors.is_awaiting()
            left = tx.vectors.select_later(live, after=0, limit=9)
            assert [entry.text for entry in left] == [
                "text of c",
                "text of b",
            ]  # and the former version of what changed
            assert len(tx.vectors.fill_in(live, [(entry, stored(entry.text)) for entry in left])) == 2
            assert tx.vectors.end_waiting(live) and not tx.vectors.is_awaiting()
            assert read_vectors(tx, live, ids[:1]) == {ids[0]: unit_vector(f"text of {ids[0]}").tolist()}
            assert tx.find_altered() == []

    def test_an_expiry_is_set_without_a_version(self, database):
        ids = put(database, make_draft("a"), make_draft("b"))
        with database.write() as tx:
            tx.drafts.set_expiry({ids[0]: NOW, ids[1]: None, 99: NOW})
            found = tx.entries.fetch(ids)
            assert [found[entry_id].expires_at for entry_id in ids] == [NOW, None]
            assert tx.entries.count(ANY) == 2 and tx.find_altered() == []
