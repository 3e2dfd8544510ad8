"""Facts that change: what a later entry updates is reported, marked and ranked behind it, and never deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent_memory import Memory
from agent_memory.live.stale import Statement
from agent_memory.records import Entry
from agent_memory.storage.words.terms import choose_words, list_first_forms

BEGUN = datetime(2024, 1, 1, tzinfo=UTC)


def statement(text: str, day: int = 0, speaker: str | None = None) -> Statement:
    time = BEGUN + timedelta(days=day)
    return Statement(Entry(key=text, text=text, speaker=speaker, event_time=time, created_at=time, updated_at=time))


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    with Memory(tmp_path_factory.mktemp("stale") / "store") as opened:
        yield opened


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("I live in Berlin.", "I live in Rome."),
        ("My favourite colour is blue.", "My favourite colour is green."),
        ("The meeting is on Monday.", "The meeting is on Tuesday."),
        ("Bob's phone number is 555-1234.", "Bob's phone number is 555-9876."),
        ("I am vegetarian.", "I am not vegetarian any more."),
        ("I have two children.", "I have three children."),
        ("I live in Paris.", "I moved from Paris to London."),
        ("Ich wohne in Berlin.", "Ich wohne in Hamburg."),
        ("J'habite à Paris.", "J'habite à Lyon."),
    ],
)
def test_another_value_of_the_same_is_an_update(memory, before, after):
    scope = (before,)
    first = memory.add(before, namespace=scope)
    assert first.may_supersede == ()
    assert memory.add(after, namespace=scope).may_supersede == (first.key,)
    assert {entry.text for entry in memory.entries(namespace=scope)} == {before, after}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("My dog is called Rex.", "My cat is called Tom."),
        ("Have a nice day.", "Have a great day!"),
        ("I like tea.", "I like coffee too."),
        ("Where do I live in Berlin?", "Where do I live in Rome?"),
        ("I live in Berlin.", "I live in Berlin."),
        ("I live in Berlin.", "I live in Berlin, near the park."),
    ],
)
def test_what_is_said_beside_or_again_is_none(memory, before, after):
    scope = ("beside", before, after)
    memory.add(before, namespace=scope)
    assert memory.add(after, namespace=scope).may_supersede == ()


def test_nobody_updates_what_another_said_or_another_tenant_holds(memory):
    memory.add("I live in Berlin.", speaker="alice", namespace=("who", "a"))
    assert memory.add("I live in Rome.", speaker="bob", namespace=("who", "a")).may_supersede == ()
    assert memory.add("I live in Rome.", speaker="alice", namespace=("who", "b")).may_supersede == ()


def test_entries_that_are_added_together_update_each_other(memory):
    first, second = memory.add_many(
        [{"text": "My dog is called Rex.", "key": "rex"}, {"text": "My dog is called Bello.", "key": "bello"}]
    )
    assert (first.may_supersede, second.may_supersede) == ((), ("rex",))


def test_what_happened_earlier_updates_nothing_though_it_is_added_later(memory):
    scope = ("order",)
    memory.add("I live in Rome.", event_time="2024-05-01", namespace=scope)
    assert memory.add("I live in Berlin.", event_time="2023-05-01", namespace=scope).may_supersede == ()


def test_a_forgotten_entry_is_named_nowhere(memory):
    scope = ("forgotten",)
    memory.add("The code is 1111.", key="old", namespace=scope)
    memory.forget(key="old", namespace=scope)
    later = memory.add("The code is 2222.", namespace=scope)
    assert later.may_supersede == ()
    assert [hit.stale_by for hit in memory.recall("What is the code?", namespace=scope)] == [None]


def test_the_latest_value_comes_first_and_the_former_one_is_marked(memory):
    scope = ("home",)
    for day, (key, text) in enumerate(
        [("berlin", "Alice lives in Berlin."), ("rome", "Alice lives in Rome."), ("dog", "Alice has a dog.")]
    ):
        memory.add(text, key=key, event_time=BEGUN + timedelta(days=day), namespace=scope)
    hits = memory.recall("Does Alice live in Berlin?", namespace=scope, explain=True)
    assert [(hit.entry.key, hit.stale_by) for hit in hits][:2] == [("rome", None), ("berlin", "rome")]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert hits[0].trace["newer"] > 0


@pytest.mark.parametrize(
    ("before", "after", "question"),
    [
        ("My flight leaves at 3 pm.", "My flight leaves at 5 pm.", "When does my flight leave?"),
        ("My boss is Anna.", "My boss is Peter.", "Who is my boss?"),
        ("My salary is 1000 euros.", "My salary is 2000 euros.", "What is my salary?"),
    ],
)
def test_the_latest_value_is_no_less_sure_and_stays_first_when_it_is_read_again(memory, before, after, question):
    scope = ("sure", before)
    memory.add(before, key="old", namespace=scope, event_time=BEGUN)
    memory.add(after, key="new", namespace=scope, event_time=BEGUN + timedelta(days=1))
    for rerank in (None, "default"):
        first, second = memory.recall(question, namespace=scope, k=2, rerank=rerank)
        assert (first.entry.key, second.entry.key, second.stale_by) == ("new", "old", "new")
        assert first.confidence >= second.confidence
        sure = memory.recall(question, namespace=scope, min_confidence=second.confidence, rerank=rerank)
        assert sure[0].entry.key == "new"


def test_a_question_about_the_past_leaves_the_former_value_first_but_marks_it(memory):
    scope = ("past",)
    memory.add("Alice lives in Berlin.", key="berlin", event_time="2023-01-01", namespace=scope)
    memory.add("Alice lives in Rome.", key="rome", event_time="2024-01-01", namespace=scope)
    hits = memory.recall("Did Alice live in Berlin before?", namespace=scope)
    assert [(hit.entry.key, hit.stale_by) for hit in hits] == [("berlin", "rome"), ("rome", None)]


def test_what_is_true_again_is_not_stale(memory):
    scope = ("again",)
    for year, (key, place) in enumerate([("a", "Berlin"), ("b", "Rome"), ("c", "Berlin")], start=2021):
        memory.add(f"Alice lives in {place}.", key=key, event_time=f"{year}-01-01", namespace=scope)
    hits = memory.recall("Where does Alice live now?", namespace=scope)
    assert hits[0].entry.key == "c"
    assert {hit.entry.key: hit.stale_by for hit in hits} == {"a": None, "b": "c", "c": None}


def test_a_chain_of_values_leads_to_the_last(memory):
    scope = ("chain",)
    for year, place in enumerate(["Berlin", "Rome", "Oslo"], start=2021):
        memory.add(f"Alice lives in {place}.", key=place, event_time=f"{year}-01-01", namespace=scope)
    hits = memory.recall("Where does Alice live?", namespace=scope)
    assert hits[0].entry.key == "Oslo"
    assert {hit.entry.key: hit.stale_by for hit in hits} == {"Berlin": "Oslo", "Rome": "Oslo", "Oslo": None}


def test_meaning_alone_marks_and_does_not_rank(memory):
    scope = ("dense",)
    memory.add("Alice lives in Berlin.", key="berlin", event_time="2023-01-01", namespace=scope)
    memory.add("Alice lives in Rome.", key="rome", event_time="2024-01-01", namespace=scope)
    hits = memory.recall("Alice lives in Berlin.", mode="dense", namespace=scope)
    assert [(hit.entry.key, hit.stale_by) for hit in hits] == [("berlin", "rome"), ("rome", None)]
    assert hits[0].score > hits[1].score


def test_a_bulk_load_reports_nothing(memory):
    items = [{"text": f"The code is {number}.", "key": str(number)} for number in range(70)]
    assert all(entry.may_supersede == () for entry in memory.add_many(items, session=None))


def test_long_texts_say_too_much_to_be_updated():
    long = " ".join(f"word{number}" for number in range(60))
    assert not statement(f"{long} Berlin").updates(statement(f"{long} Rome"))
    again = "Alice lives there. " * 200
    assert not statement(f"{again} Berlin").updates(statement(f"{again} Rome"))


def test_rankings_for_several_k_agree(memory):
    scope = ("paged",)
    memory.add_many(
        [
            {"text": f"The code of the gate is {number}.", "key": f"g{number}", "namespace": scope}
            for number in range(30)
        ]
    )
    whole = [hit.entry.key for hit in memory.recall("What is the code of the gate?", k=30, namespace=scope)]
    for k in (1, 5, 21):
        assert [hit.entry.key for hit in memory.recall("What is the code of the gate?", k=k, namespace=scope)] == whole[
            :k
        ]


@pytest.mark.parametrize("mode", ["hybrid", "lexical"])
def test_who_names_the_former_value_finds_it_first(memory, mode):
    scope = ("named", mode)
    memory.add("My flight leaves at 3 pm.", key="old", event_time="2024-05-01", namespace=scope)
    memory.add("My flight leaves at 5 pm.", key="new", event_time="2024-05-02", namespace=scope)
    named, open_ = (
        [hit.entry.key for hit in memory.recall(question, mode=mode, namespace=scope)]
        for question in ("Which flight leaves at 3 pm?", "When does my flight leave?")
    )
    assert (named[0], open_[0]) == ("old", "new")


@pytest.mark.parametrize(
    "text",
    [
        "Alice lives in Porto now, no longer in Berlin.",
        "It is what it is",
        'She said "see you at nine" and left',
        "don't, can't: rock'n'roll at 9:30, 3.11.7 and foo_bar",
        "Die Häuser in Köln sind teuer und die Miete auch",
        "Ich habe gestern mit Anna in der Stadt gesprochen und dann haben wir gegessen",
        "我养了一只猫",
        "word " * 400 + "last",
        "",
        "!!!",
    ],
)
def test_words_that_are_compared_are_those_that_would_be_searched_for(text):
    assert list_first_forms(text) == frozenset(word.forms[0][0] for word in choose_words(text, tuple))
