from __future__ import annotations

import json

import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, NotFoundError
from agent_memory.evaluation.datasets import _compute_figures, evaluate
from agent_memory.evaluation.plots import plot_vectors


def write(path, lines):
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")


@pytest.fixture
def conversations(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    texts = ["my cat is called Tom", "nice", "my dog is called Rex", "what is my cat called"]
    segments = [{"idx": number, "speaker": "ann", "time": "", "text": text} for number, text in enumerate(texts)]
    other = [{"idx": 0, "speaker": "bob", "time": "", "text": "my cat is called Kim"}]
    write(folder / "conversations.jsonl", [{"id": "a", "segments": segments}, {"id": "b", "segments": other}])
    write(
        folder / "queries.jsonl",
        [
            {"id": "1", "conv_id": "a", "query": "my cat called Tom", "evidence": [0], "category": "fact"},
            {"id": "2", "conv_id": "b", "query": "my cat called Tom", "evidence": [0], "category": "fact"},
            {"id": "3", "conv_id": "a", "query": "nothing such", "evidence": [], "category": "none"},
            {
                "id": "4",
                "conv_id": "a",
                "query": "what is my cat called",
                "evidence": [0],
                "category": "need_memory",
                "source_idx": 3,
            },
        ],
    )
    return folder


def test_figures_of_known_rankings():
    figures = _compute_figures(["x", "a", "y", "b"], ["a", "b"])
    assert figures["recall@1"] == 0
    assert figures["recall@5"] == 100
    expected = (1 / 1.5849625 + 1 / 2.3219281) / (1 + 1 / 1.5849625)
    assert figures["nDCG@10"] == pytest.approx(100 * expected)


def test_conversations_are_asked_one_by_one_and_the_source_is_hidden(conversations, tmp_path):
    encoder = WordEncoder()
    modes = ["dense", "lexical", "hybrid"]
    result = evaluate(conversations, modes=modes, cache=tmp_path / "cache", encoder=encoder)
    assert result.entries == 5
    assert list(result.scores) == modes
    for score in result.scores.values():
        assert score.queries == 3
        assert score.micro["recall@1"] == 100
        assert set(score.categories) == {"fact", "need_memory"}
    encoder.encoded.clear()
    again = evaluate(conversations, modes=["dense"], cache=tmp_path / "cache", encoder=encoder)
    assert again.scores["dense"].micro == result.scores["dense"].micro
    assert "my dog is called Rex" not in encoder.encoded


def test_what_is_found_is_ranked_again_without_each_part_of_the_score(conversations, tmp_path):
    result = evaluate(conversations, cache=tmp_path / "cache", encoder=WordEncoder(), ablate=True)
    assert {"all parts", "without meaning", "without words", "without times"} <= set(result.ablation)
    whole = evaluate(conversations, modes=["hybrid+session"], cache=tmp_path / "cache", encoder=WordEncoder())
    assert result.ablation["all parts"].micro == whole.scores["hybrid+session"].micro


def test_passages(tmp_path):
    folder = tmp_path / "passages"
    folder.mkdir()
    write(folder / "passages.jsonl", [{"id": f"p{n}", "doc": "d", "idx": n, "text": f"passage {n}"} for n in range(30)])
    write(folder / "queries.jsonl", [{"id": "q", "query": "passage 7", "positives": ["p7"], "category": "x"}])
    result = evaluate(folder, modes=["hybrid"], cache=tmp_path, encoder=WordEncoder())
    assert result.scores["hybrid"].macro["recall@1"] == 100


def test_missing_and_malformed_files(conversations, tmp_path):
    with pytest.raises(NotFoundError):
        evaluate(tmp_path / "missing", modes=["dense"], cache=tmp_path, encoder=WordEncoder())
    (conversations / "queries.jsonl").write_text("{")
    with pytest.raises(InvalidInputError, match="line 1"):
        evaluate(conversations, modes=["dense"], cache=tmp_path, encoder=WordEncoder())
    (conversations / "queries.jsonl").write_text("")
    with pytest.raises(InvalidInputError, match="no question"):
        evaluate(conversations, modes=["dense"], cache=tmp_path, encoder=WordEncoder())


def test_vectors_are_compared_at_every_tier(conversations, tmp_path):
    result = evaluate(conversations, cache=tmp_path / "cache", encoder=WordEncoder(), vectors=True)
    assert result.scores == {}
    assert list(result.vectors) == ["static", "average"]
    for found in result.vectors.values():
        assert list(found) == [64, 96]
        assert {score.queries for score in found.values()} == {3}
        assert {score.p50_ms for score in found.values()} == {None}
    # The only turn that is a question is hidden, and so is everything after it.
    assert result.vectors["static"][96].categories["need_memory"]["recall@5"] == 100


def test_a_moving_average_finds_the_answer_after_its_question(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    texts = ["alpha beta gamma", "omega", *(f"filler{n} alpha" for n in range(30))]
    segments = [{"idx": n, "speaker": "ann", "time": "", "text": text} for n, text in enumerate(texts)]
    write(folder / "conversations.jsonl", [{"id": "a", "segments": segments}])
    query = {"id": "1", "conv_id": "a", "query": "beta gamma", "evidence": [1], "category": "x"}
    write(folder / "queries.jsonl", [query])
    result = evaluate(folder, cache=tmp_path / "cache", encoder=WordEncoder(), vectors=True)
    assert result.vectors["average"][96].micro["nDCG@10"] > result.vectors["static"][96].micro["nDCG@10"]
    assert result.vectors["static"][96].micro["recall@1"] == 0


def test_evolved_vectors_and_the_session_mode(conversations, tmp_path):
    modes = ["dense", "dense+session"]
    result = evaluate(conversations, modes=modes, cache=tmp_path / "cache", vectors=True)
    assert list(result.vectors) == ["static", "average", "evolved", "sessionless"]
    assert list(result.vectors["evolved"]) == [64, 256, 768]
    evolved, static = result.vectors["evolved"][768].micro, result.vectors["static"][768].micro
    assert result.scores["dense"].micro["recall@1"] == pytest.approx(static["recall@1"])
    assert evolved.keys() == static.keys()
    assert list(result.scores) == modes
    plot_vectors([result], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_cache_of_a_file_that_was_changed_is_filled_again(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    texts = {"a": "The kitten is grey", "b": "The boat is blue", "c": "The oven is broken"}
    write(folder / "queries.jsonl", [{"query": "kitten grey", "positives": ["a"]}])

    def measure(texts):
        write(folder / "passages.jsonl", [{"id": key, "text": text} for key, text in texts.items()])
        result = evaluate(folder, modes=["lexical", "lexical+session"], cache=tmp_path / "cache", encoder=WordEncoder())
        return result.entries, *(score.micro["recall@1"] for score in result.scores.values())

    assert measure(texts) == (3, 100, 100)
    assert measure({**texts, "a": texts["b"], "b": texts["a"]}) == (3, 0, 0)
    assert measure({"a": texts["a"]}) == (1, 100, 100)


@pytest.mark.parametrize(
    "line", [{"query": "x"}, {"query": 5, "evidence": [0], "conv_id": "a"}, {"evidence": [0], "conv_id": "a"}]
)
def test_a_question_of_another_form_is_named(conversations, tmp_path, line):
    write(conversations / "queries.jsonl", [line])
    with pytest.raises(InvalidInputError, match=r"queries\.jsonl, question 1"):
        evaluate(conversations, modes=["lexical"], cache=tmp_path / "cache", encoder=WordEncoder())


@pytest.mark.parametrize("line", [{"id": "a"}, {"id": "a", "text": None}, {"text": "x"}])
def test_a_passage_of_another_form_is_named(tmp_path, line):
    write(tmp_path / "passages.jsonl", [line])
    write(tmp_path / "queries.jsonl", [{"query": "x", "positives": ["a"]}])
    with pytest.raises(InvalidInputError, match=r"passages\.jsonl, passage 1"):
        evaluate(tmp_path, modes=["lexical"], cache=tmp_path / "cache", encoder=WordEncoder())


def test_a_limit_takes_as_many_questions_as_there_are(conversations, tmp_path):
    for limit, taken in ((2, 2), (9, 3)):
        options = {"cache": tmp_path / "cache", "encoder": WordEncoder(), "limit": limit}
        assert evaluate(conversations, modes=["lexical"], **options).scores["lexical"].queries == taken
    with pytest.raises(InvalidInputError, match="limit"):
        evaluate(conversations, modes=["lexical"], cache=tmp_path / "cache", encoder=WordEncoder(), limit=0)
