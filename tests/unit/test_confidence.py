"""A memory that does not know says so: confidence of hits, evidence of answers, and what is cut by them."""

from __future__ import annotations

import numpy as np
import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, Memory, format_hits
from agent_memory.evaluation.reliability import Answer, measure_reliability
from agent_memory.formats.prompt import estimate_tokens
from agent_memory.recall.confidence import FEATURES, parse_calibration, read_calibrations
from agent_memory.records import Entry, Hit, Hits

FACTS = (
    "Alice moved to Berlin in May.",
    "Bob likes green tea.",
    "The project deadline is on the 12th of June.",
    "Carol's sister studies physics in Vienna.",
    "We decided to use PostgreSQL for billing.",
    "The dentist appointment was moved to Tuesday.",
    "Dave broke his arm while skiing.",
    "The new office has twelve desks.",
    "Erin adopted a grey kitten called Moss.",
    "The train to Porto leaves at nine.",
)
KNOWN = (
    ("Where does Alice live?", FACTS[0]),
    ("Which database do we use for billing?", FACTS[4]),
    ("What is Erin's cat called?", FACTS[8]),
    ("When does the train leave?", FACTS[9]),
)
UNKNOWN = (
    "What is the boiling point of tungsten?",
    "Who won the chess world championship in 1972?",
    "What is Frank's favourite opera?",
    "How do I fix a flat tyre?",
)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    with Memory(tmp_path_factory.mktemp("known") / "store") as memory:
        memory.add_many(FACTS)
        yield memory


def confidences(hits):
    return [hit.confidence for hit in hits]


@pytest.mark.parametrize(("question", "fact"), KNOWN)
def test_what_is_known_is_answered_with_strong_evidence(known, question, fact):
    hits = known.recall(question)
    assert (hits.evidence, hits[0].text) == ("strong", fact)
    assert hits[0].confidence > 0.7 > max(confidences(hits)[1:])


@pytest.mark.parametrize("question", UNKNOWN)
def test_what_is_not_known_has_no_strong_evidence_and_no_sure_hit(known, question):
    hits = known.recall(question)
    assert hits.evidence in ("weak", "none") and len(hits) == 5
    assert known.recall(question, min_confidence=0.7) == []


def test_an_empty_memory_has_no_evidence(memory, known):
    assert memory.recall("Where does Alice live?").evidence == "none"
    assert known.recall("Where does Alice live?", where={"year": 1999}).evidence == "none"
    assert known.recall("xyzzy", mode="lexical").evidence == "none"


def test_evidence_does_not_depend_on_k_nor_on_the_least_confidence(known):
    for question in [question for question, _ in KNOWN] + list(UNKNOWN):
        for mode in ("hybrid", "dense", "lexical"):
            answers = [
                known.recall(question, k=k, mode=mode, min_confidence=floor) for k in (1, 3, 10) for floor in (0, 0.9)
            ]
            assert len({hits.evidence for hits in answers}) == 1


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_the_least_confidence_leaves_out_exactly_what_has_less(known, mode):
    hits = known.recall("Where does Alice live?", k=10, mode=mode)
    assert all(0 < chance < 1 for chance in confidences(hits))
    for floor in (*confidences(hits), 1.0):
        left = known.recall("Where does Alice live?", k=10, mode=mode, min_confidence=floor)
        assert [hit.entry.key for hit in left] == [hit.entry.key for hit in hits if hit.confidence >= floor]
        assert [hit.rank for hit in left] == list(range(1, len(left) + 1))


def test_several_questions_at_once_have_the_same_confidence(known):
    questions = [question for question, _ in KNOWN] + list(UNKNOWN)
    together = known.recall_many(questions, min_confidence=0.1)
    apart = [known.recall(question, min_confidence=0.1) for question in questions]
    assert [hits.evidence for hits in together] == [hits.evidence for hits in apart]
    # Many texts may be encoded in another way than one: to a cosine of 0.9999, as encoders promise, not to the bit.
    for mine, other in zip(together, apart, strict=True):
        assert confidences(mine) == pytest.approx(confidences(other), abs=1e-2)


def test_a_confidence_is_explained_by_its_parts(known):
    hit = known.recall("Where does Alice live?", explain=True)[0]
    part = hit.trace["confidence"]
    assert part["chance"] == hit.confidence and tuple(part["from"]) == FEATURES
    calibration = read_calibrations()["hybrid", known.encoder.spec.fingerprint]
    again = calibration.rate(np.array([list(part["from"].values())], np.float32))
    assert again[0] == pytest.approx(hit.confidence, abs=1e-5)


def test_why_says_what_would_have_been_needed(known):
    key = known.recall(UNKNOWN[0])[0].entry.key
    trace = known.why(UNKNOWN[0], key, min_confidence=0.6)
    assert (trace.returned, trace.stage) == (False, "confidence")
    assert trace.reason.startswith("its confidence is 0.") and "min_confidence 0.60" in trace.reason
    needed = trace.detail["needed"]
    assert needed["confidence"] == 0.6 and trace.detail["dense"] < needed["cosine"] <= 1
    assert f"{needed['cosine']:.2f}" in trace.reason
    assert known.why(KNOWN[0][0], known.recall(KNOWN[0][0])[0].entry.key, min_confidence=0.6).returned


def test_a_needed_value_gives_the_confidence_that_it_is_said_to_give():
    weights = {"cosine": 10.0, "best_cosine": -4.0, "words": -1.0, "best_words": 3.0}
    calibration = parse_calibration({"weights": weights, "offset": -3.0, "weak": 0.1, "strong": 0.5})
    features = dict.fromkeys(FEATURES, 0.0) | {"cosine": 0.2, "best_cosine": 0.3, "words": 0.1, "best_words": 0.1}
    for chance in (0.3, 0.7):
        for name in ("cosine", "words"):
            value = calibration.needed(features, chance, name)
            moved = features | {name: value, f"best_{name}": max(value, features[f"best_{name}"])}
            assert calibration.rate(np.array([[*moved.values()]], np.float32))[0] == pytest.approx(chance, abs=1e-3)
    falling = parse_calibration({"weights": {"cosine": -1.0}, "offset": 0.0, "weak": 0.1, "strong": 0.5})
    assert falling.needed(features, 0.9, "cosine") is None


def test_with_an_encoder_that_was_not_measured_the_words_alone_are_believed(open_memory):
    memory = open_memory(encoder=WordEncoder())
    memory.add_many(FACTS)
    hits, words = (memory.recall(KNOWN[1][0], k=3, mode=mode, explain=True) for mode in ("hybrid", "lexical"))
    lexical = read_calibrations()["lexical", "words"]
    features = np.array([[*hit.trace["confidence"]["from"].values()] for hit in hits], np.float32)
    assert confidences(hits) == pytest.approx(lexical.rate(features).tolist(), abs=1e-5)
    assert hits.evidence != "unknown" and words.evidence != "unknown"
    dense = memory.recall(KNOWN[1][0], mode="dense")
    assert (dense.evidence, set(confidences(dense))) == ("unknown", {None})
    with pytest.raises(InvalidInputError, match=r"min_confidence is 0\.5, but hits of a search by meaning with"):
        memory.recall(KNOWN[1][0], mode="dense", min_confidence=0.5)


def test_a_question_given_as_a_vector_has_no_confidence(known):
    vector = known.encoder.encode_queries(["Where does Alice live?"])[0]
    hits = known.recall(vector)
    assert (hits.evidence, set(confidences(hits))) == ("unknown", {None})
    with pytest.raises(InvalidInputError, match="a question given as a vector"):
        known.recall(vector, min_confidence=0.1)


def test_a_reindex_takes_the_calibration_of_the_new_encoder(tmp_path):
    question = KNOWN[0][0]
    with Memory(tmp_path / "store") as memory:
        memory.add_many(FACTS)
        before = memory.recall(question)
        memory.reindex(encoder=WordEncoder())
        assert memory.recall(question, mode="dense").evidence == "unknown"
        memory.reindex(encoder="default")
        after = memory.recall(question)
    assert (after.evidence, confidences(after)) == (before.evidence, pytest.approx(confidences(before), abs=1e-4))


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.5", None, True, float("nan")])
def test_a_least_confidence_that_is_no_chance_is_refused(known, value):
    with pytest.raises(InvalidInputError, match="min_confidence"):
        known.recall("Where does Alice live?", min_confidence=value)


# --- prompts ---------------------------------------------------------------------------------------------


def test_a_block_ends_where_confidence_falls_and_not_at_k(known):
    hits = known.recall("Where does Alice live?", k=10)
    assert len(hits) == 10
    assert [fact for fact in FACTS if fact in format_hits(hits, max_tokens=2_000)] == [FACTS[0]]
    assert [fact for fact in FACTS if fact in format_hits(hits)] == list(FACTS)


def test_without_evidence_there_is_no_block_of_tokens(known):
    hits = Hits(known.recall("Where does Alice live?"), evidence="none")
    assert format_hits(hits, max_tokens=500) == "" and format_hits(hits) != ""


@pytest.mark.parametrize("text", ["word " * 400, "日本語の長い文です。" * 60, "x" * 3_000, "…!?" * 300, "ответ " * 300])
@pytest.mark.parametrize("most", [120, 200, 1_000])
def test_a_block_is_never_longer_than_its_tokens(known, text, most):
    entry = known.add(text, namespace=("long",))
    hits = [Hit(entry=entry, score=1.0, rank=rank) for rank in (1, 2, 3)]
    block = format_hits(hits, max_tokens=most)
    assert block and estimate_tokens(block) <= most
    known.forget(key=entry.key, namespace=("long",))


def test_hits_without_a_confidence_are_cut_by_length_alone(known):
    entry = Entry(**{name: getattr(known.entries(limit=1)[0], name) for name in Entry.__slots__})
    hits = [Hit(entry=entry, score=1.0, rank=rank) for rank in range(1, 6)]
    assert format_hits(hits, max_tokens=2_000).count(entry.text) == 5


@pytest.mark.parametrize("most", [0, 100, -1, True, 1.5])
def test_too_few_tokens_for_any_text_are_refused(known, most):
    with pytest.raises(InvalidInputError, match="max_tokens"):
        format_hits(known.recall("Alice"), max_tokens=most)


# --- what confidences are worth ------------------------------------------------------------------------------


def test_reliability_compares_confidence_with_what_was_right():
    answers = [
        Answer(answerable=True, evidence="strong", hits=[(0.85, True), (0.85, True), (0.25, False)]),
        Answer(answerable=True, evidence="none", hits=[(0.05, True)]),
        Answer(answerable=False, evidence="none", hits=[(0.05, False)]),
        Answer(answerable=False, evidence="none", hits=[]),
        Answer(answerable=False, evidence="weak", hits=[(0.25, False)]),
    ]
    worth = measure_reliability(answers)
    assert [(one.hits, one.share) for one in worth.curve] == [(2, 0.5), (2, 0.0), (2, 1.0)]
    assert worth.error == pytest.approx((2 * 0.45 + 2 * 0.25 + 2 * 0.15) / 6)
    assert (worth.lost, worth.found_out, worth.precision, worth.strong) == (1 / 2, 2 / 3, 2 / 3, 1.0)
    nothing = measure_reliability([])
    assert (nothing.error, nothing.curve, nothing.precision) == (0.0, (), None)
