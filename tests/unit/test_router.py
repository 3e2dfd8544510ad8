"""A router picks among routes, learns from corrections, says "none of these", and keeps what it knows in a memory."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from support import WordEncoder

from agent_memory import AsyncMemory, InvalidInputError, Memory, NotFoundError, Router
from agent_memory.routing.router import MIN_CONFIDENCE

DATA = Path(__file__).parents[1] / "data" / "routes.tsv"
ROUTES = {
    "send_email": ["Sends an e-mail to people.", "Write to Petra that the contract is signed"],
    "set_alarm": "Wakes a person at a given time.",
    "play_music": "Plays songs, albums or radio stations.",
}


def names(choices):
    return [choice.name for choice in choices]


def route_all(router, texts, k=5, min_confidence=0.0):
    """Route texts that are encoded together, which is quicker."""
    return [router.route_vector(vector, k, min_confidence) for vector in router._kept.encoder.encode_queries(texts)]


@pytest.fixture(scope="module")
def tools():
    rows = [line.split("\t") for line in DATA.read_text("utf-8").splitlines() if not line.startswith("#")]
    return [row for row in rows if row[2] != "-"], [text for row in rows if row[2] == "-" for text in row[4:]]


@pytest.fixture(scope="module")
def many(tools):
    return Router(routes={name: description for _, _, name, description, *_ in tools[0]})


def test_the_right_one_of_two_hundred_tools_is_among_the_first_five(tools, many):
    expected = [row[2] for row in tools[0]]
    plain = [names(found) for found in route_all(many, [row[4] for row in tools[0]])]
    assert np.mean([found[0] == name for found, name in zip(plain, expected, strict=True)]) >= 0.9
    assert np.mean([name in found for found, name in zip(plain, expected, strict=True)]) >= 0.97
    oblique = [names(found) for found in route_all(many, [row[5] for row in tools[0]])]
    assert np.mean([name in found for found, name in zip(oblique, expected, strict=True)]) >= 0.56


def test_texts_for_no_tool_get_none(tools, many):
    assert np.mean([not found for found in route_all(many, tools[1], min_confidence=MIN_CONFIDENCE)]) >= 0.9
    answered = route_all(many, [row[4] for row in tools[0]], min_confidence=MIN_CONFIDENCE)
    right = [names(found)[:1] == [row[2]] for found, row in zip(answered, tools[0], strict=True)]
    assert np.mean(right) >= 0.8


def test_the_coarse_tier_finds_what_a_comparison_with_all_finds(tools, many):
    table = many._kept.read()
    vectors = many._kept.encoder.encode_queries([row[4] for row in tools[0]])
    whole = [table.lines[int(place)].route for place in (vectors @ table.vectors.T).argmax(axis=1)]
    assert np.mean([table.search(v, 1)[0].route == name for v, name in zip(vectors, whole, strict=True)]) >= 0.98


def test_choices_say_what_they_rest_on():
    found = Router(routes=ROUTES).route("Wake me at half past five", 2)
    assert names(found)[0] == "set_alarm" and [choice.rank for choice in found] == [1, 2]
    assert found[0].sentence == "Wakes a person at a given time."
    assert 1 >= found[0].confidence > found[1].confidence >= 0 and found[0].score > found[1].score


def test_one_route_alone_can_be_refused_too():
    router = Router(routes={"set_alarm": "Wakes a person at a given time."})
    assert names(router.route("Wake me at half past five")) == ["set_alarm"]
    assert router.route("Who painted the Night Watch?") == []
    assert Router().route("anything") == []


def test_a_correction_counts_at_once_for_what_is_nearly_the_same(many, tools):
    router = Router(routes={name: description for _, _, name, description, *_ in tools[0]})
    text, close = "It's far too stuffy in here", "It is really stuffy in here"
    assert names(router.route(close, 1, 0)) != ["close_blinds"]
    router.feedback(text, "close_blinds")
    assert names(router.route(text)[:1]) == names(router.route(close)[:1]) == ["close_blinds"]
    router.feedback(text, "set_thermostat")
    assert names(router.route(close)[:1]) == ["set_thermostat"]
    assert text in router.routes["set_thermostat"] and text not in router.routes["close_blinds"]


def test_corrections_of_some_texts_leave_the_others_alone(tools, many):
    router = Router(routes={name: description for _, _, name, description, *_ in tools[0]})
    expected, plain, other = ([row[column] for row in tools[0]] for column in (2, 4, 6))

    def hit(texts):
        found = route_all(router, texts)
        return np.mean([name in names(each) for each, name in zip(found, expected, strict=True)])

    before = hit(plain), hit(other)
    for row in tools[0][::4]:
        router.feedback(row[5], row[2])
    assert hit(plain) >= before[0] - 0.01 and hit(other) >= before[1] - 0.03


def test_none_of_these_is_an_answer_that_can_be_learned(tools, many):
    router = Router(routes=ROUTES)
    assert names(router.route("Play the violin for me yourself"))[:1] == ["play_music"]
    router.feedback("Play the violin for me yourself", None)
    assert router.route("Play the violin for me yourself") == []
    assert names(router.route("Play the violin for me yourself", min_confidence=0))[:1] == ["play_music"]
    assert names(router.route("Play some songs"))[:1] == ["play_music"]
    router.feedback("Play the violin for me yourself", "play_music")
    assert names(router.route("Play the violin for me yourself"))[:1] == ["play_music"]


def test_new_descriptions_take_the_place_of_old_ones_and_learned_texts_stay():
    router = Router(routes=ROUTES)
    router.feedback("Something by Nina Simone", "play_music")
    router.add({"play_music": ["Starts the record player."]})
    assert router.routes["play_music"] == ["Something by Nina Simone", "Starts the record player."]
    router.remove("play_music")
    assert list(router.routes) == ["send_email", "set_alarm"]
    with pytest.raises(NotFoundError, match="play_music"):
        router.remove("play_music")
    with pytest.raises(NotFoundError, match="play_music"):
        router.feedback("x y", "play_music")


def test_a_memory_keeps_routes_and_corrections(folder):
    with Memory(folder) as memory:
        router = Router(memory, ROUTES)
        router.feedback("It is so quiet here", "play_music")
        router.feedback("Do you dream?", None)
        expected = router.route("It is so quiet here")
    with Memory(folder) as memory:
        router = Router(memory)
        assert set(router.routes) == set(ROUTES)
        assert names(router.route("It is so quiet here")) == names(expected)
        assert router.route("It is so quiet here")[0].score == pytest.approx(expected[0].score, abs=1e-3)
        assert router.route("Do you dream?") == []
        assert memory.recall("quiet", namespace=("elsewhere",)) == []


def test_the_sentences_of_a_router_come_back_from_no_recall(place):
    with Memory(place) as memory:
        router = Router(memory, ROUTES)
        router.feedback("It is so quiet here", "play_music")
        assert memory.recall("Plays songs, albums or radio stations.") == []
        assert memory.entries() == [] and memory.topics().entries == memory.stats().entries == 0
        memory.add("The radio is broken.")
        for mode in ("hybrid", "dense", "lexical"):
            assert [hit.text for hit in memory.recall("It is so quiet, plays the radio?", mode=mode)] == [
                "The radio is broken."
            ]
        assert memory.namespaces() == [()] and memory.namespaces(namespace=("routes",)) == []
        assert len(memory.entries(namespace=("routes", "@internal"))) == 5
        assert memory.forget(everything=True) == 6 and router.routes == {}


def test_sentences_that_an_earlier_version_kept_in_sight_are_moved(folder):
    with Memory(folder) as memory:
        Router(memory, ROUTES, namespace=("tools",)).feedback("Do you dream?", None)
        moved = {entry.key: entry for entry in memory.entries(namespace=("tools", "@internal"))}
        memory.forget(everything=True)
        memory.add_many(
            {"text": one.text, "key": key, "metadata": one.metadata, "namespace": ("tools",)}
            for key, one in moved.items()
        )
        memory.add_many({"text": f"a person's own {at}", "namespace": at} for at in (("tools",), ("tools", "below")))
        for _ in range(2):
            router = Router(memory, namespace=("tools",))
            assert set(router.routes) == set(ROUTES) and router.route("Do you dream?") == []
            assert {entry.text[:14] for entry in memory.entries()} == {"a person's own"}
            assert {entry.key for entry in memory.entries(namespace=("tools", "@internal"))} == set(moved)


@pytest.mark.parametrize("namespace", ["routes", b"routes", (), ("",), (None,), None, 5])
def test_a_namespace_that_is_none_is_refused(folder, namespace):
    with Memory(folder) as memory, pytest.raises(InvalidInputError, match="namespace"):
        Router(memory, ROUTES, namespace=namespace)


def test_another_opening_sees_changes_at_its_next_call(folder):
    with Memory(folder) as one, Memory(folder) as other:
        mine, theirs = Router(one, ROUTES), Router(other)
        assert set(theirs.routes) == set(ROUTES)
        theirs.feedback("It is so quiet here", "play_music")
        assert names(mine.route("It is so quiet here"))[:1] == ["play_music"]
        theirs.remove("play_music")
        assert "play_music" not in names(mine.route("It is so quiet here", min_confidence=0))
        other.forget(everything=True, namespace=("routes",))
        assert mine.route("Wake me at six") == [] and mine.routes == {}


def test_other_entries_of_the_memory_neither_matter_nor_cost_a_new_reading(folder):
    with Memory(folder) as memory:
        memory.add("Plays songs all day long.")
        router = Router(memory, ROUTES)
        table = router._kept.read()
        memory.add("Wakes a person at a given time.", session="chat")
        assert router._kept.read() is table
        assert set(router.routes) == set(ROUTES)
        memory.add("A stranger's entry", namespace=("routes", "below"))
        assert set(router.routes) == set(ROUTES)


def test_routes_follow_a_memory_to_another_encoder(folder):
    with Memory(folder, encoder=WordEncoder(96)) as memory:
        router = Router(memory, {"music": "plays songs", "alarm": "wakes people"})
        assert names(router.route("plays songs"))[:1] == ["music"]
        memory.reindex(encoder=WordEncoder(48, name="shorter"))
        assert names(router.route("wakes people"))[:1] == ["alarm"]
        assert router._kept.read().vectors.shape == (2, 48)


def test_two_routers_in_one_memory_are_apart(folder):
    with Memory(folder) as memory:
        tools, skills = Router(memory, ROUTES), Router(memory, {"cook": "Prepares meals."}, namespace=("skills",))
        assert set(tools.routes) == set(ROUTES) and set(skills.routes) == {"cook"}
        with pytest.raises(InvalidInputError, match="namespace of their own"):
            Router(memory, namespace=())


def test_threads_learn_and_ask_at_once():
    router = Router(WordEncoder(), {f"route {at}": f"word{at} thing" for at in range(20)})
    failed = []

    def work(at):
        try:
            for turn in range(20):
                router.feedback(f"other{at} text{turn}", f"route {at}")
                assert names(router.route(f"other{at} text{turn}", 1, 0)) == [f"route {at}"]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and sum(map(len, router.routes.values())) == 20 + 80


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ({"a": ""}, "sentence 1 of route 'a'"),
        ({"a": []}, "a sentence or a list"),
        ({"a": ["fine", 7]}, "sentence 2 of route 'a'"),
        ({"a": None}, "a sentence or a list"),
        ({"": "x"}, "the name of a route"),
        ({7: "x"}, "the name of a route"),
        (["a"], "routes must be a mapping"),
    ],
)
def test_unusable_routes_are_refused_and_nothing_is_written(routes, message):
    router = Router(routes={"fine": "Is fine."})
    with pytest.raises(InvalidInputError, match=message):
        router.add({"new": "Is new.", **routes} if isinstance(routes, dict) else routes)
    assert list(router.routes) == ["fine"]


def test_unusable_questions_are_refused():
    router = Router(routes=ROUTES)
    for arguments in ({"text": ""}, {"text": 7}, {"text": "x", "k": 0}, {"text": "x", "min_confidence": 2}):
        with pytest.raises(InvalidInputError):
            router.route(**arguments)
    with pytest.raises(InvalidInputError):
        router.feedback(" ", None)


def test_a_memory_that_is_not_open_here_is_refused_by_name(folder):
    async def refuse():
        async with AsyncMemory(folder) as other:
            with pytest.raises(InvalidInputError, match="source must be an open Memory or an encoder, got AsyncMemory"):
                Router(other, {"email": "Sends an e-mail."})
            assert await other.entries() == []

    asyncio.run(refuse())
