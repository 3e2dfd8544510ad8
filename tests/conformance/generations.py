"""Generations: begun, swapped in, retired, dropped; and the change log that indexes follow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conformance.samples import (
    DIMENSION,
    NOW,
    at,
    begin,
    begin_live,
    make_draft,
    put,
    remove,
    stored,
)

from agent_memory.errors import StorageError
from agent_memory.reports import GenerationInfo, GenerationState
from agent_memory.storage.records import ANY


def states_of(database):
    """The state of every generation, by id."""
    with database.read() as tx:
        return {one.id: str(one.state) for one in tx.generations.list_all()}


class GenerationContract:
    """``Generations``."""

    def test_a_generation_is_read_back_as_it_was_begun(self, database):
        with database.write() as tx:
            assert tx.generations.live() is None
            encoder, session_encoder = {"name": "words", "é": [1, {"a": None}]}, {"name": "evo", "fingerprint": "x"}
            begun = begin(tx, GenerationState.LIVE, encoder=encoder, session_encoder=session_encoder, dtype="float32")
        with database.read() as tx:
            live = tx.generations.live()
            assert live == begun
            assert tx.generations.find_in_state("live") == [begun]
        assert (live.encoder, live.session_encoder) == (encoder, session_encoder)
        assert (live.fingerprint, live.dimension, live.tiers, live.dtype) == (
            "f1",
            DIMENSION,
            (4, DIMENSION),
            "float32",
        )
        assert live.vector_bytes == 4 * DIMENSION

    def test_there_is_one_live_generation(self, database):
        live = begin_live(database)
        with pytest.raises(StorageError), database.write() as tx:
            begin(tx, GenerationState.LIVE)
        with database.read() as tx:
            assert tx.generations.live() == live
            assert len(tx.generations.list_all()) == 1

    def test_every_generation_has_an_identity_of_its_own(self, database):
        seen = {begin_live(database).identity}
        for minutes in range(3):
            with database.write() as tx:
                seen.add(begin(tx, now=at(minutes)).identity)
            self.drop_all_but_live(database)
        assert len(seen) == 4

    def drop_all_but_live(self, database):
        with database.write() as tx:
            for one in tx.generations.list_all():
                tx.generations.condemn(one.id)
            for generation_id in tx.generations.list_condemned():
                while tx.generations.drop_next(generation_id, 0, 100) is not None:
                    pass

    def test_files_belong_to_their_generation(self, database):
        with database.write() as tx:
            first = begin(tx, files={"model": b"\x00weights", "empty": b""})
            second = begin(tx, files={"model": b"others"})
            assert tx.generations.read_file(first.id, "model") == b"\x00weights"
            assert tx.generations.read_file(first.id, "empty") == b""
            assert tx.generations.read_file(second.id, "model") == b"others"
            assert tx.generations.read_file(second.id, "empty") is tx.generations.read_file(99, "model") is None

    def test_facts_about_generations_are_listed_the_oldest_first(self, database):
        put(database, make_draft("a"), make_draft("b"))
        with database.write() as tx:
            building = begin(tx, fingerprint="f2", encoder={"name": "others"}, now=at(3))
            tx.vectors.store(building.id, [(tx.vectors.select_texts([1])[0], stored("x"))])
            tx.generations.swap(building.id, at(4))
        with database.read() as tx:
            infos = tx.generations.list_all()
        expected = GenerationInfo(
            id=infos[0].id,
            state=GenerationState.FORMER,
            encoder="words",
            fingerprint="f1",
            dimension=DIMENSION,
            tiers=(4, DIMENSION),
            dtype="float16",
            vectors=2,
            created_at=NOW,
            retired_at=at(4),
        )
        new = {"id": building.id, "state": GenerationState.LIVE, "encoder": "others", "fingerprint": "f2", "vectors": 1}
        assert infos == [expected, replace(expected, **new, created_at=at(3), retired_at=None)]

    def test_a_swap_puts_one_in_the_place_of_the_other_and_back(self, database):
        live = begin_live(database)
        with database.write() as tx:
            building = begin(tx)
        for target, former, minutes in ((building, live, 1), (live, building, 2)):
            with database.write() as tx:
                tx.generations.swap(target.id, at(minutes))
            with database.read() as tx:
                assert tx.generations.live() == target
                assert tx.generations.find_in_state("former") == [former]
                assert {one.id: one.retired_at for one in tx.generations.list_all()} == {
                    target.id: None,
                    former.id: at(minutes),
                }

    def test_only_what_is_built_or_former_can_become_live(self, database):
        live = begin_live(database)
        with database.write() as tx:
            dropping = begin(tx)
            tx.generations.condemn(dropping.id)
        for target in (dropping.id, 99):
            with pytest.raises(StorageError), database.write() as tx:
                tx.generations.swap(target, NOW)
        with database.write() as tx:
            tx.generations.swap(live.id, NOW)
            assert [one.retired_at for one in tx.generations.list_all()] == [None, None]
        assert states_of(database) == {live.id: "live", dropping.id: "dropping"}

    def test_the_one_retired_or_begun_last_comes_first(self, database):
        live = begin_live(database)
        with database.write() as tx:
            begun = [begin(tx) for _ in range(4)]
            tx.generations.swap(begun[0].id, at(1))
            tx.generations.swap(begun[1].id, at(2))
            tx.generations.swap(live.id, at(3))
            former = [one.id for one in tx.generations.find_in_state(GenerationState.FORMER)]
            building = [one.id for one in tx.generations.find_in_state(GenerationState.BUILDING)]
            assert former == [begun[1].id, begun[0].id]
            assert building == [begun[3].id, begun[2].id]
            assert [one.id for one in tx.generations.find_in_state("building", "former")] == former + building
            assert tx.generations.find_in_state() == []

    def test_former_generations_are_condemned_once_their_time_is_over(self, database):
        live = begin_live(database)
        with database.write() as tx:
            others = [begin(tx) for _ in range(2)]
            tx.generations.swap(others[0].id, at(1))
            tx.generations.swap(others[1].id, at(2))
            assert tx.generations.condemn_former(at(0.5)) == 0
            assert tx.generations.condemn_former(at(1)) == 1
            assert tx.generations.list_condemned() == [live.id]
            assert tx.generations.condemn_former(at(9)) == 1
            assert tx.generations.condemn_former(at(9)) == 0
        assert states_of(database) == {live.id: "dropping", others[0].id: "dropping", others[1].id: "live"}

    def test_the_live_generation_cannot_be_condemned(self, database):
        live = begin_live(database)
        with database.write() as tx:
            building = begin(tx)
            for generation_id in (live.id, building.id, building.id, 99):
                tx.generations.condemn(generation_id)
        assert states_of(database) == {live.id: "live", building.id: "dropping"}

    def test_a_condemned_generation_is_dropped_a_little_at_a_time(self, database):
        ids = put(database, *(make_draft(f"k{number}") for number in range(10)))
        with database.write() as tx:
            live, doomed = tx.generations.live(), begin(tx, files={"model": b"weights"})
            tx.vectors.copy(live, doomed, ids)
            tx.generations.condemn(doomed.id)
        steps, after = [], 0
        while after is not None:
            with database.write() as tx:
                after = tx.generations.drop_next(doomed.id, after, 4)
                steps.append((after, [one.vectors for one in tx.generations.list_all()]))
        assert steps == [(ids[3], [10, 6]), (ids[7], [10, 2]), (ids[9], [10, 0]), (None, [10])]
        with database.read() as tx:
            assert tx.generations.read_file(doomed.id, "model") is None
            assert tx.generations.list_condemned() == []
            assert len(tx.vectors.read(live, ids)[0]) == 10


class ChangeContract:
    """``Changes``, and ``Database.prune_changes``."""

    def test_a_fresh_log_is_empty_and_reaches_back_to_everything(self, database):
        with database.read() as tx:
            assert (tx.changes.first_seq(), tx.changes.last_seq()) == (None, 0)
            assert tx.changes.reach_back_to(0)
            assert tx.changes.ids_since(0).tolist() == []
        assert database.prune_changes(100) == 0

    def test_changes_are_numbered_without_gaps_and_name_each_entry_once(self, database):
        ids = put(database, make_draft("a"), make_draft("b"))
        with database.write() as tx:
            assert tx.changes.log([ids[1], ids[1], ids[0]], "put") == [3, 4, 5]
            assert tx.changes.log([], "put") == []
            assert tx.changes.list_since(2, 2) == [(3, ids[1], "put"), (4, ids[1], "put")]
            assert tx.changes.list_since(5, 10) == []
            assert tx.changes.ids_since(2).dtype == "int64"
            assert sorted(tx.changes.ids_since(2).tolist()) == ids
            assert tx.changes.ids_since(4).tolist() == ids[:1]

    def test_a_pruned_log_says_how_far_it_reaches_back(self, database):
        ids = put(database, *(make_draft(f"k{number}") for number in range(10)))
        assert database.prune_changes(4) == 4
        with database.read() as tx:
            assert (tx.changes.first_seq(), tx.changes.last_seq()) == (5, 10)
            assert tx.changes.reach_back_to(4) and not tx.changes.reach_back_to(3)
            assert sorted(tx.changes.ids_since(4).tolist()) == ids[4:]
        assert database.prune_changes(4) == 0
        assert database.prune_changes(10_000) == 5
        with database.read() as tx:
            assert (tx.changes.first_seq(), tx.changes.last_seq()) == (10, 10)
            assert tx.changes.reach_back_to(9) and not tx.changes.reach_back_to(8)

    def test_numbers_of_changes_never_come_back(self, database):
        ids = put(database, make_draft("a"), make_draft("b"))
        remove(database, *ids)
        database.prune_changes(10_000)
        put(database, make_draft("c"))
        with database.read() as tx:
            assert tx.changes.last_seq() == 5
            assert tx.entries.select_ids(ANY).tolist() == tx.changes.ids_since(4).tolist()
