"""The times that texts mention: written with entries, found by spans, gone with their entries."""

from __future__ import annotations

from datetime import timedelta

from conformance.samples import NOW, make_draft, put, remove

from agent_memory.storage.records import MENTION_RATIO, Condition

DAY = timedelta(days=1)


def span(start, days=1):
    return NOW + start * DAY, NOW + (start + days) * DAY


def mentioning(key, *spans):
    return make_draft(key, mentions=spans)


def find(database, *spans):
    with database.read() as tx:
        return set(tx.entries.select_ids(Condition(state="unsuperseded", spans=spans)).tolist())


class MentionContract:
    """``Mentions``, and ``Condition.spans``."""

    def test_mentions_come_back_as_they_were_given(self, database):
        ids = put(database, mentioning("a", span(3), span(3), span(7, 5)), mentioning("b"))
        with database.read() as tx:
            found = tx.mentions.select(ids)
            assert {entry_id: sorted(spans) for entry_id, spans in found.items()} == {ids[0]: [span(3), span(7, 5)]}
            assert tx.mentions.count_unread() == 0

    def test_entries_are_found_by_what_they_mention_unless_it_is_much_longer(self, database):
        asked = span(10)
        longest = MENTION_RATIO
        inside = mentioning("inside", span(10, 1))
        around = mentioning("around", span(10 - longest + 1, longest))
        drafts = [
            inside,
            around,
            mentioning("much longer", span(10 - longest, longest + 1)),
            mentioning("before", span(9)),
            mentioning("after", span(11)),
            mentioning("none"),
        ]
        ids = put(database, *drafts)
        assert find(database, asked) == set(ids[:2])
        assert find(database, span(8, 2), span(11)) == set(ids[1:5]), "of several spans any counts"
        assert find(database, (NOW + 5 * DAY, NOW + 9999 * DAY)) == set(ids[:5])

    def test_what_is_written_again_mentions_what_its_new_text_does(self, database):
        [first] = put(database, mentioning("a", span(3)))
        put(database, mentioning("a", span(9)))
        with database.read() as tx:
            rows = tx.entries.select_ids(Condition(state="any")).tolist()
            found = tx.mentions.select(rows)
        assert found[first] == [span(9)]
        assert [spans for entry_id, spans in found.items() if entry_id != first] == [[span(3)]]

    def test_mentions_go_with_their_entry(self, database):
        ids = put(database, mentioning("a", span(3)), mentioning("b", span(3)))
        remove(database, ids[0])
        with database.read() as tx:
            assert list(tx.mentions.select(ids)) == ids[1:]
        assert find(database, span(3)) == set(ids[1:])
