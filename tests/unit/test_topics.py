"""What entries are about: groups that are stable, words that tell them apart, and near-duplicates."""

import numpy as np
import pytest
from support import add_expired

from agent_memory import InvalidInputError, Memory, Topics
from agent_memory.recall.duplicates import find_leaders

FOOD = [
    "Alice bakes bread with rye flour.",
    "The soup needs more salt.",
    "Bob fries onions in butter.",
    "We eat pasta with tomatoes tonight.",
    "Carol makes cheese from goat milk.",
    "Dinner is fish with potatoes.",
]
CODE = [
    "The parser crashes on empty files.",
    "Tests of the compiler fail on Windows.",
    "A bug in the lexer was fixed.",
    "The function returns a wrong integer.",
    "The program leaks memory in a loop.",
    "Python code needs type hints.",
]
TRIP = [
    "The train to Lisbon leaves at noon.",
    "Our flight to Rome was cancelled.",
    "The hotel in Porto has a pool.",
    "She booked a bus to Madrid.",
    "Our passports expire before the journey.",
    "The ferry to Palermo takes a night.",
]


@pytest.fixture
def memory(folder):
    with Memory(folder) as memory:
        memory.add_many([*FOOD, *CODE, *TRIP])
        yield memory


def texts_of(memory, topic):
    return {memory.get(key, namespace=namespace).text for namespace, key in topic.members}


def test_what_belongs_together_is_together(memory):
    topics = memory.topics(k=3)
    assert {frozenset(texts_of(memory, topic)) for topic in topics} == {frozenset(each) for each in (FOOD, CODE, TRIP)}
    assert topics.entries == 18 and [topic.size for topic in topics] == [6, 6, 6]
    code = next(topic for topic in topics if CODE[0] in texts_of(memory, topic))
    assert {entry.text for entry in code.examples} <= set(CODE) and len(code.examples) == 3
    assert 0 < code.cohesion <= 1 and len(set(code.words)) == 6
    assert all(any(word in text.lower() for text in CODE) for word in code.words)
    assert not {"the", "in", "on", "a"} & set(code.words)


def test_the_same_entries_give_the_same_topics_in_any_process(memory, folder):
    first = memory.topics()
    assert memory.topics() == first and len(first) == 2  # 18 entries bear no more
    memory.close()
    with Memory(folder) as again:
        assert again.topics() == first


def test_new_entries_join_and_former_topics_stay(memory):
    before = memory.topics(k=3)
    memory.add("He boils rice with beans and butter.", key="rice")
    memory.add_many([f"The violin plays a slow melody in bar {number}." for number in (1, 2, 3)])
    memory.forget(next(topic for topic in before if CODE[0] in texts_of(memory, topic)).members[0][1])
    after = memory.topics(previous=before)
    assert {topic.name for topic in before} < {topic.name for topic in after}
    names = {member: topic.name for topic in after for member in topic.members}
    for topic in before:
        assert {names[member] for member in topic.members if member in names} == {topic.name}
    assert sum(topic.size for topic in after) == after.entries == 18 + 1 + 3 - 1
    music = [topic for topic in after if topic.name not in {each.name for each in before}]
    assert any("violin" in text for topic in music for text in texts_of(memory, topic))
    assert memory.topics(previous=after) == after


def test_near_duplicates_are_listed_and_nothing_is_merged(memory):
    memory.add("The soup needs more salt!", key="twin")
    memory.add("The soup needs more salt.", key="same")
    topics = memory.topics(k=3)
    assert [[entry.text for entry in group] for group in topics.duplicates] == [
        ["The soup needs more salt.", "The soup needs more salt!", "The soup needs more salt."]
    ]
    assert len(memory.entries()) == 20
    food = next(topic for topic in topics if topic.size == 8)
    assert len({entry.text for entry in food.examples}) == len(food.examples)


def test_filters_namespaces_and_what_cannot_be_recalled(folder):
    with Memory(folder) as memory:
        memory.add("Bob likes tea.", metadata={"kind": "food"}, key="same", namespace=("a",))
        memory.add("Ann codes.", metadata={"kind": "work"}, key="same", namespace=("b",))
        memory.add("No vector has this.", vector=False)
        add_expired(memory, "This is over.")
        old = memory.add("Carl drinks milk.", key="former")
        memory.update(old.key, text="Carl drinks juice.")
        assert memory.topics().entries == 3
        (topic,) = memory.topics(where={"kind": "food"})
        assert topic.members == ((("a",), "same"),)
        assert memory.topics(namespace=("b",)).entries == 1
        assert memory.topics(where={"kind": "none"}) == [] and memory.topics(session="x").duplicates == ()


def test_few_entries_and_more_topics_than_entries(folder):
    with Memory(folder) as memory:
        assert memory.topics() == []
        memory.add("Bob likes tea.")
        assert [topic.size for topic in memory.topics(k=5)] == [1]
        memory.add("Bob likes tea.")
        assert sum(topic.size for topic in memory.topics(k=2)) == 2


def test_unusable_arguments_are_refused(memory):
    for arguments in ({"k": 0}, {"k": 1.5}, {"k": "3"}, {"previous": []}, {"k": 2, "previous": Topics()}):
        with pytest.raises(InvalidInputError):
            memory.topics(**arguments)


def lead_by_comparing_each_with_each(vectors, threshold):
    leaders = np.arange(len(vectors))
    for row, likeness in enumerate(vectors @ vectors.T):
        twins = np.flatnonzero(likeness[:row] >= threshold)
        if len(twins):
            leaders[row] = leaders[twins[0]]
    return leaders


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.006, 0.01])
@pytest.mark.parametrize("count", [1, 2, 700, 3000])
def test_the_duplicates_are_those_that_comparing_each_with_each_finds(count, noise):
    rng = np.random.default_rng(count)
    base = rng.standard_normal((max(1, count // 3), 768)) * np.linspace(3, 0.3, 768)
    vectors = base[rng.integers(len(base), size=count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors += rng.standard_normal(vectors.shape) * noise * rng.random((count, 1))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    found = find_leaders(vectors, 0.97)
    assert found.tolist() == lead_by_comparing_each_with_each(vectors, 0.97).tolist()
    assert count < 700 or 1 < len(set(found.tolist())) < count


def test_a_chain_of_duplicates_has_one_leader_and_equal_vectors_are_one():
    angles = np.arccos(0.98) * np.arange(5)
    chain = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(5)]).astype(np.float32)
    other = np.array([[0, 0, 1]], np.float32)
    vectors = np.concatenate([chain, other, chain[:1], other])
    assert find_leaders(vectors, 0.97).tolist() == [0, 0, 0, 0, 0, 5, 0, 5]
