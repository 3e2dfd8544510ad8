"""The full-text index: what is found, how it scores, and that it follows every write."""

from __future__ import annotations

import numpy as np
import pytest
from conformance.samples import (
    at,
    current,
    find_faults,
    find_words,
    make_draft,
    put,
    read_store,
    remove,
    supersede,
)

from agent_memory.storage.records import Condition

TEXTS = [
    "the harbour was quiet and the boats lay still",
    "a boat left the harbour at dawn",
    "harbour harbour harbour harbour",
    "dawn came late over the hills in winter",
    "winter on the coast is long, and the boats stay in the harbour until dawn",
    "nothing of that kind",
    *(f"filler number {number} without any of those words" for number in range(20)),
]


class LexicalContract:
    """``Lexical``."""

    @pytest.fixture
    def ids(self, database):
        return put(database, *(make_draft(f"k{number}", text) for number, text in enumerate(TEXTS)))

    def test_a_word_finds_every_entry_that_holds_it_and_no_other(self, database, ids):
        assert find_words(database, "harbour") == [ids[number] for number in (0, 1, 2, 4)]
        assert find_words(database, "dawn hills") == [ids[number] for number in (1, 3, 4)]
        assert find_words(database, "nowhere") == find_words(database, "") == find_words(database, "?!") == []

    def test_a_speaker_is_a_word_of_the_entry(self, database):
        ids = put(database, make_draft("a", "I was there", speaker="Marguerite"), make_draft("b", "I was not"))
        assert find_words(database, "marguerite") == ids[:1]

    def test_words_are_cut_to_the_same_stems_in_every_back_end(self, database):
        """Porter's stemmer has versions that differ: in short words, and in -bli and -logi."""
        texts = {"us": "tell us", "u": "u turn", "bli": "that is possible", "logi": "an apology"}
        ids = dict(zip(texts, put(database, *(make_draft(key, text) for key, text in texts.items())), strict=True))
        assert find_words(database, "us") == [ids["us"]]
        assert find_words(database, "possibly") == [ids["bli"]]
        assert find_words(database, "apologies") == [ids["logi"]]
        with database.read() as tx:
            [rows] = tx.lexical.read_all_terms()
        assert {"us", "u", "possibl", "apolog"} <= set(rows.vocabulary)

    @pytest.mark.parametrize(
        ("text", "query"),
        [
            ("We met in BERLIN", "berlin"),
            ("we met in berlin", "BERLIN"),
            ("a café by the river", "cafe"),
            ("two dogs in the garden", "dog"),
            ("one dog in the garden", "dogs"),
            ("she was walking home", "walk"),
            ("私は東京に住んでいます", "東京"),
            ("它们在北京大学学习", "北京大学"),
            ("서울특별시에 삽니다", "서울"),
            ("call 555-1234 today", "1234"),
        ],
    )
    def test_words_are_compared_without_case_accents_and_endings(self, database, text, query):
        ids = put(database, make_draft("a", text), make_draft("b", "something else altogether"))
        assert find_words(database, query) == ids[:1]

    def test_a_quoted_phrase_is_found_as_a_whole(self, database):
        ids = put(database, make_draft("a", "the red door is open"), make_draft("b", "the door was never red"))
        with database.read() as tx:
            query = tx.lexical.parse('which "red door" is it')
            assert tx.lexical.find_matched(query, ids[0])[0] == "red door"
            assert "red door" not in tx.lexical.find_matched(query, ids[1])
            scores = tx.lexical.search(query, limit=2)
            assert scores[ids[0]] > scores[ids[1]]

    @pytest.mark.parametrize(
        "query",
        [
            '"',
            '""" OR "',
            "harbour AND",
            "NEAR(harbour dawn)",
            "terms:harbour",
            "harbour*",
            "-harbour",
            "^",
            "'",
            "\x00",
            "%_",
        ],
    )
    def test_no_query_is_read_as_a_query_language(self, database, ids, query):
        with database.read() as tx:
            found = tx.lexical.search(tx.lexical.parse(query), limit=99)
        assert (len(found) >= 4) == ("harbour" in query)

    def test_scores_lie_between_0_and_1_and_fall(self, database, ids):
        for words in (
            "harbour",
            "harbour dawn",
            "filler",
            "number without those words",
            "winter coast boats dawn",
            " ".join(TEXTS),
        ):
            with database.read() as tx:
                query = tx.lexical.parse(words)
                assert len(query.weights) == len(query.phrases) > 0
                assert list(query.weights) == sorted(query.weights, reverse=True)
                assert query.best > 0
                scores = list(tx.lexical.search(query, limit=99).values())
            assert scores == sorted(scores, reverse=True)
            assert all(0 <= score <= 1 for score in scores)

    def test_a_text_that_holds_more_of_the_words_scores_more(self, database):
        texts = ["oak ash elm", "oak ash fir", "oak yew fir", "yew fir box", *(f"filler {n} more" for n in range(12))]
        ids = put(database, *(make_draft(f"k{number}", text) for number, text in enumerate(texts)))
        with database.read() as tx:
            scores = tx.lexical.search(tx.lexical.parse("oak ash elm"), limit=9)
        assert list(scores) == ids[:3]
        assert 1 >= scores[ids[0]] > scores[ids[1]] > scores[ids[2]] > 0

    def test_a_rare_word_weighs_more_than_a_common_one(self, database):
        texts = ["oak ash", *(f"ash {n}" for n in range(5)), "elm box", *(f"filler {n}" for n in range(12))]
        ids = put(database, *(make_draft(f"k{number}", text) for number, text in enumerate(texts)))
        with database.read() as tx:
            query = tx.lexical.parse("ash elm nothing")
            scores = tx.lexical.search(query, limit=9)
            assert tx.lexical.find_matched(query, ids[6]) == ["elm"]
        assert len(query.phrases) == 2
        assert scores[ids[6]] > scores[ids[1]]

    def test_a_repeated_word_scores_more_but_never_beyond_1(self, database, ids):
        with database.read() as tx:
            scores = tx.lexical.search(tx.lexical.parse("harbour"), limit=9)
        assert max(scores, key=scores.__getitem__) == ids[2]
        assert scores[ids[2]] <= 1

    def test_a_condition_chooses_among_the_entries_and_leaves_their_scores(self, database):
        places = [("a",), ("b",), ("a", "c")]
        texts = [f"harbour {'dawn ' * (number % 5)} {number}" for number in range(60)]
        put(database, *(make_draft(f"k{n}", text, namespace=places[n % 3]) for n, text in enumerate(texts)))
        with database.read() as tx:
            query = tx.lexical.parse("harbour dawn")
            everywhere = tx.lexical.search(query, limit=99)
            here = tx.lexical.search(query, limit=99, condition=current(namespace=("a",)))
            assert len(everywhere) == 60
            assert list(here.items()) == [pair for pair in everywhere.items() if pair[0] % 3 != 2]
            for limit in (1, 7, 40, 41):
                best = tx.lexical.search(query, limit=limit, condition=current(namespace=("a",)))
                assert list(best.items()) == list(here.items())[:limit]

    def test_equal_scores_come_by_id(self, database):
        ids = put(database, *(make_draft(f"k{number}", "the same text") for number in range(9)), make_draft("z"))
        with database.read() as tx:
            assert list(tx.lexical.search(tx.lexical.parse("same"), limit=5)) == ids[:5]

    def test_the_index_follows_every_write(self, database):
        ids = put(database, *(make_draft(key, f"word{key} common", expires_at=at(1)) for key in "abcd"))
        put(database, make_draft("a", "changed common"))
        supersede(database, ids[1], ids[2])
        remove(database, ids[3])
        assert [find_words(database, f"word{key}") for key in "abcd"] == [[], [], [ids[2]], []]
        assert find_words(database, "changed") == [ids[0]]
        assert find_words(database, "common") == [ids[0], ids[2]]
        assert find_words(database, "common", current(2)) == [ids[0]]
        assert find_faults(database) == []

    def test_texts_outside_of_the_index_are_scored_with_its_weights(self, database, ids):
        put(database, make_draft("k0", "changed"))
        with database.read() as tx:
            query = tx.lexical.parse("harbour dawn")
            former, [once, thrice, none] = (
                tx.entries.fetch(ids[2:6]),
                [tx.entries.fetch([ids[number]])[ids[number]] for number in (1, 2, 5)],
            )
            scores = tx.lexical.score_texts(query, {7: once, 8: thrice, 9: none})
            assert scores.keys() == {7, 8}
            assert 1 >= scores[7] > scores[8] > 0
            assert tx.lexical.score_texts(query, {4: former[ids[2]]})[4] == scores[8]
            assert tx.lexical.score_texts(query, {}) == {}
            assert tx.lexical.score_texts(tx.lexical.parse("nowhere"), {7: once}) == {}

    def test_the_average_length_counts_the_terms_of_current_entries(self, database):
        with database.read() as tx:
            assert tx.lexical.measure_average() == 0
        put(database, make_draft("a", "one two three"), make_draft("b", "one"))
        with database.read() as tx:
            assert tx.lexical.measure_average() == 2
        put(database, make_draft("a", " ".join(f"word{number}" for number in range(299))))
        with database.read() as tx:
            assert tx.lexical.measure_average() == 150

    def test_words_written_in_a_transaction_are_found_in_it(self, database, ids):
        with database.write() as tx:
            new = [make_draft(f"new {number}", "lighthouse") for number in range(40)]
            written = tx.drafts.put(new, tx.generations.live().id, at(1), keep_versions=0)
            query = tx.lexical.parse("lighthouse harbour")
            found = tx.lexical.search(query, limit=99)
            assert found.keys() >= {entry_id for entry_id, _ in written.entries}
            assert all(0 <= score <= 1 for score in found.values())

    @pytest.mark.parametrize("unreadable", [False, True])
    def test_a_rebuilt_index_answers_as_before(self, database, ids, unreadable):
        supersede(database, ids[3], ids[4])
        put(database, make_draft("k1", "a boat came back", speaker="Ann"))
        before = read_store(database)
        with database.write() as tx:
            tx.lexical.rebuild(unreadable=unreadable)
        assert read_store(database) == before
        assert find_faults(database) == []

    def test_the_terms_of_entries_find_what_the_index_finds(self, database, ids):
        supersede(database, ids[3], ids[4])
        put(database, make_draft("k1", "boats came back", speaker="Ann"), make_draft("ja", "私は東京に住んでいます"))
        with database.read() as tx:
            pages = list(tx.lexical.read_all_terms())
            held = {entry_id: terms for page in pages for entry_id, terms in list_terms(page)}
            assert sorted(held) == sorted(tx.entries.select_ids(Condition(state="unsuperseded")).tolist())
            counts = _Counts(held)
            for text in ("harbour dawn", "boats", "running fillers", "東京", "ann back", "nowhere", ""):
                plain, counted = tx.lexical.parse(text), tx.lexical.parse(text, counts=counts)
                assert (plain.phrases, plain.weights, plain.best) == (counted.phrases, counted.weights, counted.best)
                assert counted.words == plain.words and plain.terms is None
                found = tx.lexical.search(plain, limit=99)
                assert found.keys() == {one for one, terms in held.items() if set(counted.terms) & set(terms)}
            assert tx.lexical.parse('"boats came"', counts=counts).terms is None

    def test_the_terms_of_some_entries_are_those_among_all(self, database, ids):
        supersede(database, ids[3], ids[4])
        with database.read() as tx:
            everything = dict(one for page in tx.lexical.read_all_terms() for one in list_terms(page))
            some = dict(list_terms(tx.lexical.read_terms(np.array([ids[5], ids[0], ids[3], 2**40]))))
            assert some == {number: everything[number] for number in (ids[0], ids[5])}
            assert list_terms(tx.lexical.read_terms(np.empty(0, np.int64))) == []
            assert tx.lexical.rules == tx.lexical.rules != ""


def list_terms(page):
    """Return (id, terms) of each entry of a page."""
    ends = np.cumsum(page.lengths).tolist()
    numbers = page.numbers.tolist()
    return [
        (entry_id, [page.vocabulary[number] for number in numbers[end - length : end]])
        for entry_id, length, end in zip(page.ids.tolist(), page.lengths.tolist(), ends, strict=True)
    ]


class _Counts:
    def __init__(self, held):
        self._held = held

    def __len__(self):
        return len(self._held)

    def count(self, terms):
        return sum(not set(terms).isdisjoint(theirs) for theirs in self._held.values())
