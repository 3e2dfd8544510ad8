"""Segments: the entries of a session in their places, with their latents and evolved vectors."""

from __future__ import annotations

import pytest
from conformance.samples import (
    LATENTS_BYTES,
    NOW,
    at,
    begin,
    begin_live,
    latents,
    make_draft,
    make_segment,
    put,
    read_vectors,
    stored,
    supersede,
    unit_vector,
)

from agent_memory.storage.records import ANY, Condition


class SegmentContract:
    """What ``Sessions`` reads and writes of segments, and ``Entries.find_neighbours``."""

    @pytest.fixture
    def ids(self, database):
        """Entries a, b, c of session s, and d, e of session t."""
        begin_live(database)
        return put(database, *(make_segment(key) for key in "abc"), *(make_segment(key, "t") for key in "de"))

    def test_segments_are_read_from_an_entry_on_in_their_order(self, database, ids):
        put(database, make_segment("b", speaker="Ann", event_time=at(-1)), make_draft("c", session="s", vector=None))
        put(database, make_draft("bare", session="s", vector=None))
        [superseded] = put(database, make_segment("z"))
        supersede(database, superseded, ids[0])
        with database.read() as tx:
            live, head = tx.generations.live(), tx.sessions.find_head((), "s")
            found = list(tx.sessions.select_segments_from(live, head.id, ids[1]))
        assert [one.id for one in found] == ids[1:3]
        assert (found[0].text, found[0].speaker, found[0].time) == ("text of b", "Ann", at(-1))
        assert found[0].static == stored("text of b")

    def test_a_long_session_is_read_whole(self, database):
        ids = put(database, *(make_segment(f"k{number}") for number in range(1_234)))
        with database.read() as tx:
            live, head = tx.generations.live(), tx.sessions.find_head((), "s")
            assert [one.id for one in tx.sessions.select_segments_from(live, head.id, 0)] == ids
            assert len(tx.sessions.find_sessions(ids)) == 1_234
            every = tx.sessions.select_last_segments(live, head.id, None, ANY)
            assert [one.id for one in every] == ids

    def test_the_last_segments_have_the_places_of_their_keys(self, database, ids):
        put(database, make_segment("b", text="changed"), minutes=2)
        supersede(database, ids[2], ids[4], minutes=3)
        with database.read() as tx:
            live, head = tx.generations.live(), tx.sessions.find_head((), "s")

            def read(minutes, count=None):
                condition = Condition(state="as_of", moment=at(minutes))
                return [one.text for one in tx.sessions.select_last_segments(live, head.id, count, condition)]

            assert read(1) == ["text of a", "text of b", "text of c"]
            assert read(1, 2) == ["text of b", "text of c"]
            assert read(2) == ["text of a", "changed", "text of c"]
            assert read(3) == ["text of a", "changed"]
            assert read(-1) == read(3, 0) == []

    def test_neighbours_are_those_said_right_before_and_after(self, database, ids):
        [other] = put(database, make_draft("other"))
        with database.read() as tx:
            found = tx.entries.find_neighbours([*ids, other, 99])
        assert found == {
            ids[0]: [ids[1]],
            ids[1]: [ids[0], ids[2]],
            ids[2]: [ids[1]],
            ids[3]: [ids[4]],
            ids[4]: [ids[3]],
        }

    def test_a_former_version_has_the_neighbours_of_its_place(self, database, ids):
        [last] = put(database, make_segment("f"))
        put(database, make_segment("b", text="changed"), minutes=1)
        supersede(database, ids[2], ids[4], minutes=2)
        with database.read() as tx:
            [archived] = set(tx.entries.select_ids(ANY).tolist()) - {*ids, last}
            found = tx.entries.find_neighbours([archived, ids[2], last])
        assert found == {archived: [ids[0], last], ids[2]: [ids[1], last], last: [ids[1]]}

    def test_what_a_session_holds_from_an_entry_on_is_who_spoke_and_when(self, database):
        who = [("Ann", 0), ("Bob", 1), ("Ann", 2), (None, 2)]
        ids = put(database, *(make_segment(f"k{n}", speaker=name, event_time=at(m)) for n, (name, m) in enumerate(who)))
        supersede(database, put(database, make_segment("z", speaker="Zoe"))[0], ids[0])
        with database.read() as tx:
            head = tx.sessions.find_head((), "s")
            assert tx.sessions.select_seen_from(head.id, ids[2]) == ({"Ann", None}, {at(2)})
            assert tx.sessions.select_seen_from(head.id, 0)[0] == {"Ann", "Bob", None}

    def test_entries_are_told_their_sessions(self, database, ids):
        others = put(database, make_draft("alone"), make_segment("old"))
        supersede(database, others[1], ids[0])
        with database.read() as tx:
            heads = [tx.sessions.find_head((), name).id for name in "st"]
            found = tx.sessions.find_sessions([ids[4], *others, ids[0], 99])
        assert sorted(found) == [(heads[0], ids[0]), (heads[1], ids[4])]

    def test_the_last_latents_are_read_oldest_first(self, database, ids):
        put(database, make_draft("f", session="s"), make_segment("g"), make_draft("bare", session="s", vector=None))
        with database.read() as tx:
            live, head = tx.generations.live(), tx.sessions.find_head((), "s")
            assert tx.sessions.read_last_latents(live, head.id, 2) == [None, latents("g")]
            every = [*map(latents, "abc"), None, latents("g")]
            assert tx.sessions.read_last_latents(live, head.id, 99) == every
            assert tx.sessions.read_last_latents(live, head.id, 2, before=ids[2]) == [latents("a"), latents("b")]
            assert tx.sessions.read_last_latents(live, head.id, 9, before=ids[0]) == []

    def test_latents_of_what_was_superseded_are_left_out(self, database, ids):
        supersede(database, ids[1], ids[4])
        put(database, make_segment("a", text="changed"))
        with database.read() as tx:
            live, head = tx.generations.live(), tx.sessions.find_head((), "s")
            assert tx.sessions.read_last_latents(live, head.id, 9) == [latents("a"), latents("c")]

    def test_evolved_vectors_are_searched_and_static_ones_kept(self, database, ids):
        with database.write() as tx:
            live = tx.generations.live()
            tx.sessions.store(live, [(ids[0], stored("new"), latents("new")), (99, stored("x"), latents("x"))])
            assert read_vectors(tx, live, ids[:2]) == {
                ids[0]: unit_vector("new").tolist(),
                ids[1]: unit_vector("b evolved").tolist(),
            }
            assert read_vectors(tx, live, ids[:1], static=True) == {ids[0]: unit_vector("text of a").tolist()}
            head = tx.sessions.find_head((), "s")
            assert tx.sessions.read_last_latents(live, head.id, 9)[0] == latents("new")

    def test_what_other_generations_made_of_a_session_is_dropped_from_an_entry_on(self, database, ids):
        with database.write() as tx:
            live, building = tx.generations.live(), begin(tx)
            tx.vectors.copy(live, building, ids)
            head = tx.sessions.find_head((), "s")
            tx.sessions.clear_others(live, head.id, ids[1])
            assert tx.sessions.read_last_latents(building, head.id, 9) == [latents("a"), None, None]
            assert tx.sessions.read_last_latents(live, head.id, 9) == list(map(latents, "abc"))
            assert read_vectors(tx, building, ids[1:4]) == {
                ids[1]: unit_vector("text of b").tolist(),
                ids[2]: unit_vector("text of c").tolist(),
                ids[3]: unit_vector("d evolved").tolist(),
            }

    def test_the_first_segment_of_each_session_that_was_not_evolved_is_found(self, database, ids):
        with database.read() as tx:
            live = tx.generations.live()
            heads = [tx.sessions.find_head((), name).id for name in "st"]
            assert tx.sessions.find_unevolved(live, LATENTS_BYTES) == {}
            assert tx.sessions.find_unevolved(live, LATENTS_BYTES + 1) == {heads[0]: ids[0], heads[1]: ids[3]}
        more = put(database, make_draft("f", session="s"), make_draft("g", session="s"), make_draft("alone"))
        with database.write() as tx:
            tx.sessions.store(live, [(ids[4], stored("e")[1:], latents("e"))])
            assert tx.sessions.find_unevolved(live, LATENTS_BYTES) == {heads[0]: more[0], heads[1]: ids[4]}
            assert tx.sessions.find_unevolved(live, LATENTS_BYTES, heads[1]) == {heads[1]: ids[4]}
            tx.drafts.supersede(ids[4], ids[3], NOW)
            assert tx.sessions.find_unevolved(live, LATENTS_BYTES, heads[1]) == {}
            assert tx.sessions.find_unevolved(begin(tx), LATENTS_BYTES) == {}
