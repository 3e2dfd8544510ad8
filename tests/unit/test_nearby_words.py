"""In a session, the words of a question count for the turns around those that hold them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from support import WordEncoder

from agent_memory import Config
from agent_memory.recall.ranking import IN_SESSION, LEXICAL_WEIGHT, NEARBY_TURNS, PLAIN, UNREAD, Candidate, lend_words

QUERY = "Which harbour did Wilhelmina choose?"


class Alike(WordEncoder):
    """Finds every text equally close, so that words decide."""

    def encode_documents(self, texts, *, progress=None):
        return super().encode_documents(["omega"] * len(texts), progress=progress)


@pytest.fixture
def memory(open_memory):
    """A session whose turn 10 names what is asked about."""
    memory = open_memory(encoder=Alike())
    memory.add_many(make_turns("s"))
    return memory


# No two share most of their words: none looks like an update of another.
FILLERS = (
    "apple brick cloud daisy eagle flint grape hedge ivory jelly knoll lemon maple nylon olive pearl quilt raven slate "
    "tulip"
).split()


def make_turns(session, **more):
    texts = [f"omega {word}" for word in FILLERS]
    texts[10] = "Wilhelmina had to choose a harbour"
    return [{"text": text, "key": f"{session}{at}", "session": session} | more for at, text in enumerate(texts)]


def trace_by_key(memory, query=QUERY, **options):
    return {hit.entry.key: hit.trace for hit in memory.recall(query, k=60, explain=True, **options)}


def test_words_count_for_three_turns_on_either_side_and_no_further(memory):
    traces = trace_by_key(memory, session="s")
    share = traces["s10"]["lexical"]["share"]
    lent = {key for key, trace in traces.items() if trace["nearby"]["key"] == "s10"}
    assert lent == {"s7", "s8", "s9", "s11", "s12", "s13"}
    assert all(
        traces[key]["nearby"] == {"share": share, "adds": IN_SESSION.nearby * share, "key": "s10"} for key in lent
    )
    assert traces["s10"]["nearby"]["key"] is None and traces["s10"]["nearby"]["share"] == share
    assert traces["s6"]["nearby"] == traces["s14"]["nearby"] == {"share": 0.0, "adds": 0.0, "key": None}


def test_the_parts_that_are_shown_add_up_to_the_score(memory):
    for hit in memory.recall(QUERY, session="s", k=20, explain=True):
        trace = hit.trace
        adds = [trace[part]["adds"] for part in ("lexical", "nearby", "neighbour", "time")]
        parts = (
            trace["trust"] * trace["dense"]
            + sum(adds)
            + trace["importance"]
            + trace["speaker"]
            + trace["recency"]
            + trace["newer"]
        )
        assert hit.score == trace["score"] == pytest.approx(parts, abs=1e-9)


def test_a_turn_that_answers_ranks_above_one_elsewhere(memory):
    ranks = {hit.entry.key: hit.rank for hit in memory.recall(QUERY, session="s", k=20)}
    assert ranks["s10"] == 1
    assert {ranks[f"s{at}"] for at in (7, 8, 9, 11, 12, 13)} == set(range(2, 8))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"session": "s", "as_of": datetime(2100, 1, 1, tzinfo=UTC)},
        {"session": "s", "mode": "dense"},
        {"session": "s", "mode": "lexical"},
    ],
    ids=["no session", "as of a time", "by meaning", "by words"],
)
def test_all_else_is_ranked_as_before(memory, options):
    for trace in trace_by_key(memory, **options).values():
        assert trace["nearby"] == {"share": 0.0, "adds": 0.0, "key": None}
        assert trace["lexical"]["adds"] == LEXICAL_WEIGHT * trace["lexical"]["share"]


def test_the_setting_turns_it_off(open_memory):
    memory = open_memory(encoder=Alike(), config=Config(nearby_words=False))
    memory.add_many(make_turns("s"))
    assert {trace["nearby"]["adds"] for trace in trace_by_key(memory, session="s").values()} == {0.0}


def test_words_of_a_script_that_the_encoder_cannot_read_lend_as_well(open_memory):
    encoder = Alike()
    encoder.scripts = ("GREEK",)
    memory = open_memory(encoder=encoder)
    memory.add_many(make_turns("s"))
    traces = trace_by_key(memory, "今天天气 harbour", session="s")
    assert {trace["trust"] for trace in traces.values()} == {UNREAD}
    assert {key for key, trace in traces.items() if trace["nearby"]["key"] == "s10"} >= {"s7", "s13"}


def test_nearness_is_that_of_the_session_however_sessions_are_mixed(open_memory):
    memory = open_memory(encoder=Alike())
    for one, other in zip(make_turns("s"), make_turns("t"), strict=True):
        memory.add_many([one, other])
    lent = {key for key, trace in trace_by_key(memory, session="s").items() if trace["nearby"]["key"] == "s10"}
    assert lent == {"s7", "s8", "s9", "s11", "s12", "s13"}


def test_sessions_of_one_name_in_several_namespaces_do_not_lend_to_each_other(open_memory):
    memory = open_memory(encoder=Alike())
    for place in ("a", "b"):
        memory.add_many(make_turns("s", namespace=(place,)))
    assert {trace["nearby"]["adds"] for trace in trace_by_key(memory, session="s").values()} == {0.0}
    assert len({trace["nearby"]["key"] for trace in trace_by_key(memory, session="s", namespace=("a",)).values()}) == 2


def test_what_a_filter_hides_lends_nothing_and_is_not_named(open_memory):
    memory = open_memory(encoder=Alike())
    memory.add_many([turn | {"metadata": {"n": at}} for at, turn in enumerate(make_turns("s"))])
    traces = trace_by_key(memory, session="s", where={"n": {"$ne": 10}})
    assert len(traces) == 19
    assert {trace["nearby"]["key"] for trace in traces.values()} == {None}


def test_what_was_forgotten_lends_nothing(memory):
    memory.forget("s10")
    assert {trace["nearby"]["adds"] for trace in trace_by_key(memory, session="s").values()} == {0.0}


def test_one_question_many_and_why_agree(memory):
    alone = memory.recall(QUERY, session="s", k=20)
    [together] = memory.recall_many([QUERY], session="s", k=20)
    assert [(hit.entry.key, hit.score) for hit in together] == [(hit.entry.key, hit.score) for hit in alone]
    for hit in alone:
        assert memory.why(QUERY, hit.entry.key, session="s", k=20).score == hit.score


def test_lending_equals_looking_at_every_turn():
    rng = np.random.default_rng(0)
    for size in (1, 2, 5, 40):
        turns = np.sort(rng.choice(200, size, replace=False)).astype(np.int64)
        shares = {int(one): float(rng.random()) for one in rng.choice(200, 60, replace=False)}
        candidates = {int(one): Candidate(int(one)) for one in rng.choice(200, 80, replace=False)}
        lend_words(candidates, turns, shares)
        order = turns.tolist()
        for entry_id, candidate in candidates.items():
            if entry_id not in order:
                assert (candidate.nearby, candidate.weights) == (0.0, PLAIN)
                continue
            at = order.index(entry_id)
            around = order[max(0, at - NEARBY_TURNS) : at + NEARBY_TURNS + 1]
            assert candidate.weights is IN_SESSION
            assert candidate.nearby == max(shares.get(turn, 0.0) for turn in around)
            if candidate.nearby_id is not None:
                assert shares[candidate.nearby_id] == candidate.nearby > shares.get(entry_id, 0.0)


def test_lending_among_nothing_changes_nothing():
    candidate = Candidate(1)
    lend_words({1: candidate}, np.empty(0, np.int64), {1: 0.5})
    lend_words({}, np.array([1]), {1: 0.5})
    lend_words({1: candidate}, np.array([1]), {})
    assert candidate.score == 0.0
