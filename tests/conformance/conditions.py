"""Reading entries: every condition against what it means in Python, over a few hundred rows."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from conformance.oracle import satisfies
from conformance.samples import MANY, NOW, at, begin_live, current, find_words, make_draft, put, remove, supersede

from agent_memory.errors import InvalidInputError
from agent_memory.storage.filters import parse_filter
from agent_memory.storage.records import ANY, UNSUPERSEDED, Condition
from agent_memory.storage.sqlite import internal

NAMESPACES = [(), ("a",), ("a", "b"), ("a", "b", "c"), ("ab",), ("a ",), ("é",), ("a", "\U0001f600")]
INSIDE = [("@internal",), ("a", "@internal"), ("a", "@internal", "c"), ("é", "b", "@internal")]
NAMESPACES += [*INSIDE, ("@INTERNAL",), ("me@internal",), ("a", "@internals")]
SESSIONS = [None, "one", "two", "One"]
SPEAKERS = [None, "ann", "Ann", "Bo b"]
MOMENTS = [at(minutes) for minutes in (-1, 0, 0.5, 1, 2, 3, 4, 5, 6, 7, 30)]
WORDS = ["river", "mountain", "lake"]

FIELDS = {
    "namespace": NAMESPACES,
    "where": [parse_filter(where) for where in ({}, {"n": 1}, {"n": {"$gt": 1}}, {"t": {"$ne": "x"}}, {"t": ["x"]})],
    "key": [None, "k1", "k2", "k33", "K1", "nothing"],
    "session": [*SESSIONS, "nobody"],
    "speaker": [*SPEAKERS, "nobody"],
    "since": [None, *MOMENTS],
    "until": [None, *MOMENTS],
    "spans": [None, (), ((at(0), at(3)),), ((at(-1), at(0)), (at(5), at(30)))],
    "superseded": [False, True],
    "internal": [False, True],
}
STATES = [(state, moment) for state in ("current", "as_of", "expired") for moment in MOMENTS]
STATES += [("unsuperseded", None), ("any", None)]


def draw_draft(draw, number, key=None):
    """A draft with everything in it that a condition can ask for."""
    metadata = {"n": draw.choice([0, 1, 2.5, True]), "t": draw.choice(["x", "y", ["x"], None])}
    return make_draft(
        f"k{number}" if key is None else key,
        f"{draw.choice(WORDS)} {draw.choice(WORDS)} {number % 90}",
        namespace=draw.choice(NAMESPACES),
        session=draw.choice(SESSIONS),
        speaker=draw.choice(SPEAKERS),
        metadata={name: value for name, value in metadata.items() if draw.random() < 0.8},
        event_time=draw.choice([None, *MOMENTS]),
        expires_at=draw.choice([None, None, None, *MOMENTS]),
        importance=draw.choice([None, 0.5]),
    )


def draw_condition(draw):
    """A condition in which every field may be set."""
    state, moment = draw.choice(STATES)
    chosen = {name: draw.choice(values) for name, values in FIELDS.items() if draw.random() < 0.3}
    return Condition(state=state, moment=moment, **chosen)


class ConditionContract:
    """``Condition``, as all of ``Entries`` reads it."""

    @pytest.fixture
    def rows(self, database):
        """(id, entry) of 200 entries, some replaced, superseded by others or removed, and of their versions."""
        draw = random.Random(7)
        begin_live(database)
        drafts = [draw_draft(draw, number) for number in range(200)]
        places = [(draft.namespace, draft.key) for draft in drafts]
        ids = put(database, *drafts)
        for minutes in (1, 2, 2, 3):
            again = [draw.randrange(200) for _ in range(15)]
            changed = [replace(draw_draft(draw, number), namespace=places[number][0]) for number in again]
            put(database, *changed, minutes=minutes)
        with database.write() as tx:
            for old, new in itertools.pairwise(draw.sample(ids, 31)):
                tx.drafts.supersede(old, new, at(draw.choice([4, 5])))
        put(database, *(replace(draw_draft(draw, number), namespace=places[number][0]) for number in range(0, 30, 2)))
        remove(database, *draw.sample(ids, 10))
        with database.read() as tx:
            rows = tx.entries.select(ANY)
        assert len(rows) > 200
        return rows

    def test_each_field_alone_chooses_in_each_state_what_it_says(self, database, rows):
        with database.read() as tx:
            for (state, moment), (name, values) in itertools.product([*STATES[:-2:4], *STATES[-2:]], FIELDS.items()):
                for value in values:
                    condition = Condition(state=state, moment=moment, **{name: value})
                    expected = [entry_id for entry_id, entry in rows if satisfies(condition, entry)]
                    assert sorted(tx.entries.select_ids(condition).tolist()) == expected, condition

    def test_all_fields_together_choose_what_satisfies_each(self, database, rows):
        draw = random.Random(8)
        found = 0
        with database.read() as tx:
            for _ in range(200):
                condition = draw_condition(draw)
                expected = [(entry_id, entry) for entry_id, entry in rows if satisfies(condition, entry)]
                assert tx.entries.select(condition) == expected, condition
                found += bool(expected)
        assert found > 70

    def test_every_way_of_reading_agrees_on_a_condition(self, database, rows):
        draw = random.Random(9)
        with database.read() as tx:
            for _ in range(60):
                condition = draw_condition(draw)
                expected = [(entry_id, entry) for entry_id, entry in rows if satisfies(condition, entry)]
                namespaces = {entry.namespace for _, entry in expected}
                texts = {(entry.namespace, entry.text) for _, entry in expected}
                assert tx.entries.count(condition) == len(expected)
                assert tx.entries.count_distinct(condition) == (len(namespaces), len(texts))
                assert tx.entries.list_namespaces(condition) == sorted(namespaces)
                for entry_id, entry in draw.sample(rows, 3):
                    assert tx.entries.matches(entry_id, condition) is satisfies(condition, entry)
                self._compare_sessions(tx.entries.list_sessions(condition), [entry for _, entry in expected])

    def _compare_sessions(self, sessions, entries):
        groups = {}
        for entry in entries:
            if entry.session is not None:
                groups.setdefault((entry.namespace, entry.session), []).append(entry.event_time)
        found = {(one.namespace, one.name): (one.entries, one.first_event, one.last_event) for one in sessions}
        assert found == {place: (len(times), min(times), max(times)) for place, times in groups.items()}
        assert len(sessions) == len(found)

    def test_pages_put_together_are_the_whole(self, database, rows):
        condition = Condition(state="unsuperseded", namespace=("a",))
        with database.read() as tx:
            whole = tx.entries.select(condition)
            assert len(whole) > 40
            pages, after = [], 0
            while page := tx.entries.select(condition, after_id=after, limit=7):
                assert len(page) <= 7
                pages += page
                after = page[-1][0]
            assert pages == whole
            assert [tx.entries.select(condition, offset=n, limit=1) for n in (0, 5)] == [[whole[0]], [whole[5]]]
            assert tx.entries.select(condition, offset=3) == whole[3:]
            assert tx.entries.select(condition, after_id=whole[9][0], offset=2, limit=3) == whole[12:15]
            assert tx.entries.select(condition, limit=0) == tx.entries.select(condition, offset=10_000) == []

    def test_words_are_found_in_exactly_the_entries_that_satisfy_the_condition(self, database, rows):
        draw = random.Random(10)
        for _ in range(60):
            condition, word = draw_condition(draw), draw.choice(WORDS)
            expected = [
                entry_id
                for entry_id, entry in rows
                if entry.superseded_at is None and word in entry.text.split() and satisfies(condition, entry)
            ]
            assert find_words(database, word, condition) == expected, condition

    def test_an_open_condition_is_what_every_current_entry_satisfies(self):
        assert current().is_open
        assert not any(condition.is_open for condition in (ANY, UNSUPERSEDED, current().former(), current(key="k")))
        assert current(internal=False).is_open
        narrowing = {name: values[-1] for name, values in FIELDS.items() if name != "internal"}
        assert not any(current(**{name: value}).is_open for name, value in narrowing.items())

    @pytest.mark.parametrize("state", ["current", "as_of", "expired"])
    def test_a_state_of_a_moment_is_refused_without_one(self, state):
        with pytest.raises(InvalidInputError, match=state):
            Condition(state=state)


class EntryContract:
    """What ``Entries`` reads without a condition."""

    def test_entries_are_fetched_by_id_whatever_their_state(self, database):
        ids = put(database, make_draft("a"), make_draft("b", expires_at=at(-1)), make_draft("c"))
        supersede(database, ids[2], ids[0])
        with database.read() as tx:
            found = tx.entries.fetch([*ids, 99, -1])
            assert {entry_id: entry.key for entry_id, entry in found.items()} == dict(zip(ids, "abc", strict=True))
            assert tx.entries.fetch([]) == {}

    def test_lists_of_ids_may_be_of_any_length(self, database):
        ids = put(database, make_draft("a", session="s"), make_draft("b", session="s"))
        many = list(range(MANY))
        with database.read() as tx:
            live = tx.generations.live()
            assert list(tx.entries.fetch(many)) == ids
            assert [row[0] for row in tx.entries.select_circumstances(many)] == ids
            assert tx.entries.find_neighbours(many) == {ids[0]: [ids[1]], ids[1]: [ids[0]]}
            assert tx.vectors.read(live, np.arange(MANY))[0].tolist() == ids
            assert list(tx.vectors.read_stored(live, many)) == ids
            assert [entry.id for entry in tx.vectors.select_texts(many)] == ids
            assert tx.vectors.select_missing_among(live.id, many) == []
            assert len(tx.vectors.find_faults(live, many)) == MANY - 2
            assert [pair[1] for pair in tx.sessions.find_sessions(many)] == ids
            assert list(tx.entries.select_by_key((), [f"k{number}" for number in range(2_000)] + ["a"], NOW)) == ["a"]
        assert remove(database, *many) == 2

    def test_keys_are_looked_up_in_exactly_one_namespace(self, database):
        drafts = [make_draft(key, namespace=scope) for scope in ((), ("n",), ("n", "m")) for key in ("a", "b")]
        drafts.append(make_draft("old", namespace=("n",), expires_at=at(1)))
        ids = put(database, *drafts)
        with database.read() as tx:
            assert tx.entries.select_ids_by_key(("n",), ["a", "b", "old", "z"], at(1)) == {"a": ids[2], "b": ids[3]}
            assert tx.entries.select_ids_by_key(("n",), ["old"], NOW) == {"old": ids[6]}
            found = tx.entries.select_by_key(("n",), ["b", "A"], NOW)
            assert {key: entry.namespace for key, entry in found.items()} == {"b": ("n",)}
            assert tx.entries.select_by_key(("n",), [], NOW) == {}

    def test_places_are_looked_up_in_many_namespaces_at_once(self, database):
        scopes = [(f"n{number}",) for number in range(600)]  # more than one statement takes
        ids = put(database, *[make_draft("a", namespace=scope) for scope in scopes])
        put(database, make_draft("old", namespace=("n1",), expires_at=at(1)))
        places = [*((scope, "a") for scope in scopes), (("n1",), "old"), (("n1",), "z"), (("n1", "m"), "a"), ((), "a")]
        with database.read() as tx:
            assert sorted(tx.entries.select_ids_at(places, NOW))[:600] == ids
            found = tx.entries.select_at(places, at(2))
            assert [found[scope, "a"][0] for scope in scopes] == ids
            assert found[("n5",), "a"][1].namespace == ("n5",)
            assert set(found) == set(places[:600])
            assert set(tx.entries.select_newest(places)) == set(places[:601])
            assert (tx.entries.select_at([], NOW), tx.entries.select_newest([])) == ({}, {})

    def test_expired_ones_are_listed_over_all_namespaces(self, database):
        drafts = [
            make_draft(key, namespace=(key,), expires_at=at(minutes))
            for key, minutes in zip("abc", (1, 2, 3), strict=True)
        ]
        ids = put(database, *drafts, make_draft("d"), make_draft("e", expires_at=at(1)))
        supersede(database, ids[4], ids[3])
        with database.read() as tx:
            assert sorted(tx.entries.select_expired_ids(at(2))) == ids[:2]

    @pytest.mark.parametrize("few", [1, 1_000])
    def test_those_of_internal_namespaces_are_listed(self, database, monkeypatch, few):
        monkeypatch.setattr(internal, "_STEPS", internal._STEPS.replace("1000", str(few)))
        monkeypatch.setattr(internal, "_FEW", few)
        with database.read() as tx:
            assert tx.entries.select_internal_ids() == []
        ids = put(database, *(make_draft(f"k{number}", namespace=one) for number, one in enumerate(NAMESPACES)))
        expected = [entry for entry, one in zip(ids, NAMESPACES, strict=True) if one in INSIDE]
        with database.read() as tx:
            assert sorted(tx.entries.select_internal_ids()) == expected
            assert tx.entries.select_internal_ids([*ids[:9], 10**6]) == [one for one in expected if one in ids[:9]]
        supersede(database, expected[0], expected[1])
        with database.read() as tx:
            assert sorted(tx.entries.select_internal_ids()) == expected[1:]
            assert sorted(tx.entries.select_internal_ids(ids)) == expected[1:]

    def test_texts_are_read_in_pages_with_all_versions(self, database):
        ids = put(database, make_draft("a"), make_draft("b", expires_at=at(-1)))
        put(database, make_draft("a", "second"))
        with database.read() as tx:
            rows = tx.entries.select_texts(after_id=0, limit=10)
            assert [row[1:3] for row in rows] == [("a", "second"), ("b", "text of b"), ("a", "text of a")]
            assert [row[0] for row in rows] == [*ids, max(tx.entries.select_ids(ANY).tolist())]
            assert len({row[3] for row in rows}) == 3
            assert tx.entries.select_texts(after_id=ids[0], limit=1) == rows[1:2]

    def test_circumstances_are_event_time_importance_and_speaker(self, database):
        ids = put(
            database,
            make_draft("a", event_time=at(-9), importance=0.25),
            make_draft("b"),
            make_draft("c", speaker="Assistant"),
        )
        rows = [(ids[0], at(-9), 0.25, None), (ids[1], NOW, None, None), (ids[2], NOW, None, "Assistant")]
        with database.read() as tx:
            assert sorted(tx.entries.select_circumstances([*ids, 77])) == rows
            assert tx.entries.select_circumstances([*ids, 77], important=True) == rows[:1]
            assert tx.entries.select_circumstances([*ids, 77], important=True, speakers=("bot", "assistant")) == [
                rows[0],
                rows[2],
            ]

    def test_sessions_are_listed_in_the_order_they_began(self, database):
        put(database, *(make_draft(f"k{number}", session=name) for number, name in enumerate(("z", "a", "m", "a"))))
        put(database, make_draft("k0", session="z"), make_draft("other", session="b"))
        with database.read() as tx:
            assert [one.name for one in tx.entries.list_sessions(current())] == ["z", "a", "m", "b"]
