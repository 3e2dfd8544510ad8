"""Sessions: their heads, segments and latents, and what a write makes of the evolved vectors behind it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from conformance.samples import (
    NOW,
    at,
    begin_live,
    current,
    make_draft,
    make_segment,
    put,
    remove,
    stored,
    supersede,
)

from agent_memory.records import Session
from agent_memory.storage.records import Condition


def find_dirty(database, *drafts, minutes=0):
    """Write drafts; returns the first entry of each session to be evolved again, by the session's name."""
    with database.write() as tx:
        names = {tx.sessions.find_head((), name).id: name for name in "st" if tx.sessions.find_head((), name)}
        written = tx.drafts.put(drafts, tx.generations.live().id, at(minutes), keep_versions=9)
        names |= {tx.sessions.find_head((), name).id: name for name in "st" if tx.sessions.find_head((), name)}
        return {names[session_id]: entry_id for session_id, entry_id in written.dirty.items()}


class SessionContract:
    """``Sessions``, and ``Written.dirty`` and ``Removed.dirty``."""

    @pytest.fixture
    def ids(self, database):
        """Entries a, b, c of session s, and d, e of session t."""
        begin_live(database)
        return put(database, *(make_segment(key) for key in "abc"), *(make_segment(key, "t") for key in "de"))

    def head_of(self, database, name, namespace=()):
        with database.read() as tx:
            return tx.sessions.find_head(namespace, name)

    # --- heads -------------------------------------------------------------------------------------------

    def test_a_session_begins_with_its_first_entry_and_ends_with_its_last(self, database):
        assert self.head_of(database, "s") is None
        ids = put(database, make_segment("a"), make_segment("b"))
        assert self.head_of(database, "s").seq == 2
        assert self.head_of(database, "s", ("n",)) is None
        remove(database, ids[0])
        assert self.head_of(database, "s").seq == 3
        remove(database, ids[1])
        assert self.head_of(database, "s") is None

    def test_whatever_enters_leaves_or_changes_a_session_moves_its_head(self, database, ids):
        writes = [
            lambda: put(database, make_segment("f")),
            lambda: put(database, make_segment("a", vector=None, metadata={"n": 1})),
            lambda: put(database, make_draft("f", session="t")),
            lambda: put(database, make_draft("c", session=None)),
            lambda: supersede(database, ids[1], ids[4]),
            lambda: put(database, make_segment("g"), make_segment("h")),
            lambda: remove(database, ids[0]),
        ]
        seen = [self.head_of(database, "s")]
        for write in writes:
            write()
            seen.append(self.head_of(database, "s"))
        assert {head.id for head in seen} == {seen[0].id}
        assert [head.seq for head in seen] == sorted({head.seq for head in seen})
        assert len(seen) == 1 + len(writes)

    def test_other_sessions_keep_their_heads(self, database, ids):
        before = self.head_of(database, "t")
        put(database, make_segment("f"), make_draft("alone"))
        remove(database, ids[0])
        assert self.head_of(database, "t") == before

    def test_a_head_moves_to_the_change_it_is_told(self, database, ids):
        with database.write() as tx:
            head = tx.sessions.find_head((), "s")
            tx.sessions.move_head(head.id, tx.changes.log(ids[:2], "put")[-1])
        assert self.head_of(database, "s") == replace(head, seq=7)

    def test_a_session_is_found_in_its_namespace_or_as_the_only_one_below(self, database):
        places = [(("n",), "s"), (("n", "m"), "s"), (("n", "m"), "deep"), (("n", "o"), "two"), (("n", "p"), "two")]
        put(database, *(make_draft(f"k{n}", session=name, namespace=scope) for n, (scope, name) in enumerate(places)))
        with database.read() as tx:
            heads = [tx.sessions.find_head(scope, name).id for scope, name in places]
            assert len(set(heads)) == 5
            assert [tx.sessions.find_only(*place) for place in places] == heads
            assert tx.sessions.find_only(("n",), "deep") == tx.sessions.find_only((), "deep") == heads[2]
            assert tx.sessions.find_only((), "two") is None
            assert tx.sessions.find_only((), "s") is None
            assert tx.sessions.find_only(("x",), "s") is None
            asked = [((), "s"), (("n",), "s"), (("n", "m"), "s"), ((), "deep"), (("x",), "s"), ((), "unheard of")]
            assert [tx.sessions.count_named(*place) for place in asked] == [2, 2, 1, 1, 0, 0]
            names = [(one.namespace, one.name) for one in tx.entries.list_sessions(current(namespace=("n", "m")))]
        assert names == places[1:3]

    def test_a_session_counts_what_it_holds(self, database):
        put(database, make_draft("a", session="s", event_time=at(-5)), make_draft("b", session="s", event_time=at(5)))
        with database.read() as tx:
            expected = Session(name="s", namespace=(), entries=2, first_event=at(-5), last_event=at(5))
            assert tx.entries.list_sessions(current()) == [expected]

    # --- what must be evolved again ----------------------------------------------------------------------

    def test_a_segment_that_brings_its_evolved_vector_leaves_its_session_clean(self, database, ids):
        assert find_dirty(database, make_segment("f"), make_draft("alone")) == {}

    def test_a_segment_without_one_makes_its_session_dirty_from_there(self, database, ids):
        drafts = [
            make_segment("f"),
            make_draft("g", session="s"),
            make_draft("h", session="s"),
            make_draft("i", session="t"),
        ]
        assert find_dirty(database, *drafts) == {"s": ids[-1] + 2, "t": ids[-1] + 4}

    @pytest.mark.parametrize(
        "changed",
        [
            {"text": "new", "vector": stored("new")},
            {"speaker": "Ann"},
            {"event_time": at(-7)},
            {"vector": stored("text of b")},
        ],
    )
    def test_a_segment_that_a_session_encoder_sees_otherwise_makes_it_dirty(self, database, ids, changed):
        draft = make_draft("b", session="s", vector=None, event_time=NOW)
        assert find_dirty(database, replace(draft, **changed), minutes=1) == {"s": ids[1]}

    def test_a_change_that_no_session_encoder_sees_leaves_it_clean(self, database, ids):
        draft = make_draft("b", session="s", vector=None, event_time=NOW, metadata={"n": 1}, importance=1.0)
        assert find_dirty(database, draft, minutes=1) == {}

    def test_a_segment_that_moves_makes_both_sessions_dirty(self, database, ids):
        assert find_dirty(database, make_draft("b", session="t", vector=None)) == {"s": ids[1], "t": ids[1]}
        assert find_dirty(database, make_draft("c", vector=None)) == {"s": ids[2]}

    def test_removing_makes_dirty_from_the_first_that_is_gone(self, database, ids):
        put(database, make_draft("alone"))
        with database.write() as tx:
            heads = [tx.sessions.find_head((), name).id for name in "st"]
            removed = tx.drafts.remove([ids[2], ids[1], ids[4]])
        assert removed.dirty == {heads[0]: ids[1], heads[1]: ids[4]}

    def test_superseding_says_which_session_was_left(self, database, ids):
        assert supersede(database, ids[1], ids[4]) == self.head_of(database, "s").id
        [alone] = put(database, make_draft("alone"))
        assert supersede(database, alone, ids[4]) is None

    # --- the past ----------------------------------------------------------------------------------------

    def test_a_session_is_unchanged_until_the_first_entry_since(self, database, ids):
        later = put(database, make_segment("f"), make_segment("g"), minutes=5)
        with database.read() as tx:
            head = tx.sessions.find_head((), "s")
            assert tx.sessions.find_unchanged_until(head.id, at(2)) == later[0]
            assert tx.sessions.find_unchanged_until(head.id, at(5)) > later[1]
            assert tx.sessions.find_unchanged_until(head.id, at(-1)) <= ids[0]

    @pytest.mark.parametrize(
        "change",
        [
            lambda database, ids: put(database, make_segment("b", text="changed"), minutes=5),
            lambda database, ids: supersede(database, ids[1], ids[4], minutes=5),
            lambda database, ids: put(database, make_segment("b", session="t"), minutes=5),
        ],
        ids=["replaced", "superseded", "moved"],
    )
    def test_a_session_whose_past_was_changed_says_so(self, database, ids, change):
        change(database, ids)
        with database.read() as tx:
            head = tx.sessions.find_head((), "s")
            assert tx.sessions.find_unchanged_until(head.id, at(2)) is None
            assert tx.sessions.find_unchanged_until(head.id, at(5)) > ids[2]

    def test_a_session_in_which_something_had_expired_says_so(self, database, ids):
        put(database, make_segment("f", expires_at=at(3)))
        with database.read() as tx:
            head = tx.sessions.find_head((), "s")
            assert tx.sessions.find_unchanged_until(head.id, at(2)) > ids[2]
            assert tx.sessions.find_unchanged_until(head.id, at(3)) is None

    def test_whatever_is_said_to_be_unchanged_is_what_was_there_then(self, database):
        draw = random.Random(3)
        begin_live(database)
        told = 0
        for minutes in range(30):
            key, name = f"k{draw.randrange(15)}", draw.choice("sst")
            expires_at = draw.choice([None, None, None, at(draw.randrange(60))])
            [entry_id] = put(
                database, make_segment(key, name, expires_at=expires_at), minutes=minutes, keep_versions=minutes % 2
            )
            if draw.random() < 0.1:
                remove(database, entry_id)
            with database.read() as tx:
                live, head = tx.generations.live(), tx.sessions.find_head((), "s")
                for moment in map(at, range(-1, minutes + 1, 3)) if head else ():
                    until = tx.sessions.find_unchanged_until(head.id, moment)
                    if until is None:
                        continue
                    told += 1
                    then = tx.sessions.select_last_segments(
                        live, head.id, None, Condition(state="as_of", moment=moment)
                    )
                    now = [one for one in tx.sessions.select_segments_from(live, head.id, 0) if one.id < until]
                    assert then == now
        assert told > 30
