"""Published benchmarks: small invented files of each format, read as they are, run, and written as a card."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib.util import find_spec

import pytest
from support import WordEncoder
from typer.testing import CliRunner

from agent_memory import InvalidInputError, NotFoundError
from agent_memory.cli.evaluation import app
from agent_memory.evaluation.benchmark import run_benchmark
from agent_memory.evaluation.card import format_card, write_card
from agent_memory.evaluation.published import parse_evidence, read_benchmark
from agent_memory.evaluation.ranking import estimate, measure_ranking


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def say(speaker, number, text, **more):
    return {"speaker": speaker, "dia_id": number, "text": text, **more}


@pytest.fixture
def locomo(tmp_path):
    conversation = {
        "speaker_a": "Ann",
        "speaker_b": "Bob",
        "session_2_date_time": "9:05 am on 11 June, 2023",
        "session_2": [say("Bob", "D2:1", "The violin lesson is on Tuesday"), say("Ann", "D2:2", "Good luck then")],
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            say("Ann", "D1:1", "We adopted a grey kitten"),
            say("Bob", "D1:2", "", blip_caption="a kitten asleep in a guitar case"),
            say("Ann", "D1:3", "  "),
        ],
    }
    qa = [
        {"question": "Who adopted a grey kitten?", "answer": "Ann", "evidence": ["D1:1"], "category": 4},
        {"question": "When is the violin lesson?", "evidence": ["D2:1; D1:2"], "category": 2},
        {"question": "What slept in a guitar case?", "evidence": ["D:1:02"], "category": 1},
        {"question": "Is the kitten old?", "evidence": ["D"], "category": 3},
        {"question": "Who sings?", "evidence": [], "category": 5},
        {"question": "Who wished good luck?", "evidence": ["D2:2", "D9:9"], "category": 5},
    ]
    return write(tmp_path / "locomo.json", [{"sample_id": "conv-1", "conversation": conversation, "qa": qa}])


@pytest.fixture
def realtalk(tmp_path):
    turns = [
        {"clean_text": "I baked rye bread", "speaker": "Emi", "date_time": "29.12.2023, 21:47:45", "dia_id": "D1:1"},
        {
            "clean_text": "",
            "speaker": "Kai",
            "date_time": "29.12.2023, 21:48",
            "dia_id": "D1:2",
            "image_caption": "rye",
        },
        {"clean_text": "Tomorrow I ski", "speaker": "Kai", "date_time": "some day", "dia_id": "D1:3"},
    ]
    qa = [{"question": "Which bread was baked?", "answer": "rye", "evidence": ["D1:1", "D1:2"], "category": 1}]
    return write(tmp_path / "chat.json", {"name": {"speaker_1": "Emi"}, "session_1": turns, "qa": qa})


@pytest.fixture
def longmemeval(tmp_path):
    def ask(name, **more):
        return {
            "question_id": name,
            "question_type": "single-session-user",
            "question": "Which lamp did I order?",
            "question_date": "2023/05/30 (Tue) 23:40",
            "haystack_session_ids": ["s1", "s2", "s1"],
            "haystack_dates": ["2023/05/20 (Sat) 02:21", "2023/05/21 (Sun) 10:00", "2023/05/22 (Mon) 10:00"],
            "haystack_sessions": [
                [
                    {"role": "user", "content": "I ordered a brass lamp", "has_answer": True},
                    {"role": "assistant", "content": "Noted, a lamp"},
                ],
                [{"role": "user", "content": "The weather is mild", "has_answer": False}],
                [{"role": "user", "content": "Thanks again"}],
            ],
            "answer_session_ids": ["s1"],
            **more,
        }

    unlabelled = [[{"role": "user", "content": "I ordered a brass lamp"}], [], []]
    rows = [ask("q1"), ask("q2_abs"), ask("q3", haystack_sessions=unlabelled), ask("q4", answer_session_ids=[])]
    return write(tmp_path / "longmemeval_s.json", rows)


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "scifact"
    documents = [
        {"_id": "1", "title": "Bees", "text": "Bees sense magnetic fields"},
        {"_id": "2", "title": "", "text": "Bees dance to point at flowers"},
        {"_id": "3", "title": "", "text": " "},
        {"_id": "4", "title": "Moss", "text": "Moss grows in shade"},
    ]
    queries = [{"_id": "a", "text": "How do bees point at flowers?"}, {"_id": "b", "text": "unjudged"}]
    write(folder / "corpus.jsonl", "\n".join(map(json.dumps, documents)))
    write(folder / "queries.jsonl", "\n".join(map(json.dumps, queries)))
    write(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\nb\t1\t1\n")
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\na\t2\t2\na\t1\t1\na\t4\t0\na\t99\t1\n")
    return folder


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("D1:3", ["D1:3"]),
        ("D8:6; D9:17", ["D8:6", "D9:17"]),
        ("D9:1 D4:4 D4:6", ["D9:1", "D4:4", "D4:6"]),
        ("D:11:26", ["D11:26"]),
        ("D30:05", ["D30:5"]),
        ("d2:1,D2:1", ["D2:1"]),
        ("(D1:2)", ["D1:2"]),
        ("D", []),
        ("", []),
        (None, []),
        (7, []),
        (["D1:1", "D1:1;D2:2", None], ["D1:1", "D2:2"]),
    ],
)
def test_evidence_is_understood_however_it_is_written(written, meant):
    assert parse_evidence(written) == meant


def test_locomo_is_read_as_it_is_published(locomo):
    benchmark = read_benchmark("locomo", locomo)
    (haystack,) = benchmark.haystacks
    assert [turn.id for turn in haystack.turns] == ["D1:1", "D1:2", "D2:1", "D2:2"]
    assert haystack.turns[1].text == "[picture: a kitten asleep in a guitar case]"
    assert haystack.turns[0].time == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    assert haystack.turns[2].time == datetime(2023, 6, 11, 9, 5, tzinfo=UTC)
    found = [(q.category, set(q.turns), q.sessions) for q in haystack.questions]
    assert found == [
        ("single-hop", {"D1:1"}, {"D1"}),
        ("temporal", {"D2:1", "D1:2"}, {"D1", "D2"}),
        ("multi-hop", {"D1:2"}, {"D1"}),
        ("adversarial", {"D2:2"}, {"D2"}),
    ]
    assert +benchmark.notes == {
        "turns without usable text": 1,
        "evidence strings mended": 2,
        "evidence strings that name no turn": 1,
        "evidence that is no turn of the conversation": 1,
        "questions without evidence, left out": 1,
        "questions without evidence, for confidence alone": 1,
    }


def test_realtalk_is_read_as_it_is_published(realtalk):
    benchmark = read_benchmark("realtalk", realtalk)
    (haystack,) = benchmark.haystacks
    assert haystack.turns[0].time == datetime(2023, 12, 29, 21, 47, 45, tzinfo=UTC)
    assert haystack.turns[1].time == datetime(2023, 12, 29, 21, 48, tzinfo=UTC)
    assert (haystack.turns[2].time, benchmark.notes["times that could not be read"]) == (None, 1)
    assert haystack.turns[1].text == "[picture: rye]"
    assert set(haystack.questions[0].turns) == {"D1:1", "D1:2"}


def test_longmemeval_is_read_as_it_is_published(longmemeval):
    benchmark = read_benchmark("longmemeval", longmemeval)
    first, unanswerable, second = benchmark.haystacks
    assert (unanswerable.questions, [q.id for q in unanswerable.unanswered]) == ((), ["q2_abs"])
    assert [turn.id for turn in first.turns] == ["0:s1:0", "0:s1:1", "1:s2:0", "2:s1:0"]
    assert set(first.questions[0].turns) == {"0:s1:0"} and first.questions[0].sessions == {"0:s1", "2:s1"}
    assert first.questions[0].time == datetime(2023, 5, 30, 23, 40, tzinfo=UTC)
    assert (second.questions[0].id, dict(second.questions[0].turns)) == ("q3", {})
    assert benchmark.notes["questions without evidence, left out"] == 1
    assert benchmark.notes["questions without evidence, for confidence alone"] == 1
    assert benchmark.notes["questions whose turns are not labelled"] == 1


def test_beir_is_read_as_it_is_published(beir):
    benchmark = read_benchmark("beir", beir)
    (haystack,) = benchmark.haystacks
    assert haystack.turns[0].text == "Bees Bees sense magnetic fields"
    assert [(q.id, q.turns) for q in haystack.questions] == [("a", {"2": 2.0, "1": 1.0})]
    assert +benchmark.notes == {"documents without usable text": 1, "evidence that is no document": 1}


@pytest.mark.parametrize("format", ["locomo", "realtalk", "longmemeval"])
@pytest.mark.parametrize("content", ["{", "[]", "7", "[1]", '[{"qa": []}]', '[{"conversation": {"session_1": [3]}}]'])
def test_a_file_of_another_form_is_refused(tmp_path, format, content):
    with pytest.raises(InvalidInputError, match="strange"):
        read_benchmark(format, write(tmp_path / "strange.json", content))


@pytest.mark.parametrize("line", ["a\t2", "a\t2\tmany", "a 2 1", "a\t2\tinf"])
def test_judgements_of_another_form_are_refused(beir, line):
    write(beir / "qrels" / "test.tsv", f"query-id\tcorpus-id\tscore\n{line}\n")
    with pytest.raises(InvalidInputError):
        read_benchmark("beir", beir)


def test_what_is_not_there_is_named(tmp_path, beir, locomo):
    with pytest.raises(NotFoundError, match="nowhere"):
        read_benchmark("locomo", tmp_path / "nowhere.json")
    write(beir / "qrels" / "dev.tsv", "query-id\tcorpus-id\tscore\n")
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(NotFoundError, match=r"test\.tsv"):
        read_benchmark("beir", beir)
    with pytest.raises(InvalidInputError, match="locomo"):
        read_benchmark("msmarco", locomo)


def test_two_turns_of_one_name_are_refused(tmp_path):
    turns = [say("Ann", "D1:1", "one"), say("Ann", "D1:1", "two")]
    path = write(tmp_path / "twice.json", [{"conversation": {"session_1": turns}, "qa": []}])
    with pytest.raises(InvalidInputError, match="2 turns"):
        read_benchmark("locomo", path)


def test_a_limit_spreads_over_all_questions(locomo, longmemeval):
    assert [q.id for q in read_benchmark("locomo", locomo, limit=2).haystacks[0].questions] == ["conv-1:1", "conv-1:3"]
    limited = read_benchmark("longmemeval", longmemeval, limit=1)
    assert [h.id for h in limited.haystacks] == ["q1", "q2_abs"]  # without the second, nothing could be found out
    assert read_benchmark("longmemeval", longmemeval, limit=9).notes == read_benchmark("longmemeval", longmemeval).notes
    rows = json.loads(longmemeval.read_text())
    many = [{**rows[0], "question_id": f"q{n}"} for n in range(150)]
    many += [{**rows[1], "question_id": f"q{n}_abs"} for n in range(30)]
    limited = read_benchmark("longmemeval", write(longmemeval, many), limit=100)
    assert limited.questions == 100
    assert limited.notes["questions without evidence, for confidence alone"] == 20
    assert sum(len(haystack.unanswered) for haystack in limited.haystacks) == 20


@pytest.mark.parametrize("format", ["locomo", "realtalk", "longmemeval"])
def test_a_mark_of_byte_order_is_passed_over(format, request):
    path = request.getfixturevalue(format)
    expected = read_benchmark(format, path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_benchmark(format, path) == expected


def test_blank_lines_are_passed_over(beir):
    expected = read_benchmark("beir", beir)
    for file in (beir / "corpus.jsonl", beir / "queries.jsonl", beir / "qrels" / "test.tsv"):
        file.write_text(file.read_text() + "\n \n")
    assert read_benchmark("beir", beir) == expected


def test_evidence_that_is_nested_deeply_and_files_that_are_folders_are_refused(locomo, beir):
    sample = json.loads(locomo.read_text())[0]
    sample["qa"][0]["evidence"] = json.loads("[" * 900 + "]" * 900)
    with pytest.raises(InvalidInputError):
        read_benchmark("locomo", write(locomo, [sample]))
    (beir / "corpus.jsonl").unlink()
    (beir / "corpus.jsonl").mkdir()
    with pytest.raises(InvalidInputError):
        read_benchmark("beir", beir)


def test_a_category_that_is_no_unicode_ends_no_run(longmemeval, tmp_path):
    rows = json.loads(longmemeval.read_text())
    rows[0]["question_type"] = "half a pair \ud800"
    card = run_benchmark(read_benchmark("longmemeval", write(longmemeval, rows)), encoder=WordEncoder())
    assert write_card(card, tmp_path / "card")


def test_what_is_found_can_be_read_again(longmemeval):
    card = run_benchmark(read_benchmark("longmemeval", longmemeval), modes=["lexical", "lexical+rerank"])
    assert {"lexical", "lexical+rerank"} <= card.outcomes["turn"].keys()


def test_figures_of_a_known_ranking():
    figures = measure_ranking(["x", "a", "y", "b"], {"a": 1.0, "b": 1.0, "c": 1.0})
    assert (figures["hit@1"], figures["any@5"], figures["all@10"], figures["MRR"]) == (0, 100, 0, 50)
    assert figures["recall@10"] == pytest.approx(200 / 3)
    assert measure_ranking(["a", "b"], {"a": 2.0, "b": 1.0})["NDCG@10"] == 100
    assert measure_ranking(["b", "a"], {"a": 2.0, "b": 1.0})["NDCG@10"] < 90
    assert set(measure_ranking([], {"a": 1.0}).values()) == {0.0}


def test_intervals_narrow_as_questions_are_added():
    few = estimate([{"hit@1": 100.0 * (i % 2)} for i in range(10)])["hit@1"]
    many = estimate([{"hit@1": 100.0 * (i % 2)} for i in range(1000)])["hit@1"]
    assert few.mean == many.mean == 50
    assert few.low < many.low < 50 < many.high < few.high
    assert estimate([{"hit@1": 100.0}])["hit@1"].low == 100
    assert estimate([{"hit@1": 0.0}, {"hit@1": 100.0}]) == estimate([{"hit@1": 0.0}, {"hit@1": 100.0}])


def test_each_level_and_way_has_its_figures(locomo):
    card = run_benchmark(read_benchmark("locomo", locomo), modes=["hybrid", "lexical"], encoder=WordEncoder())
    assert list(card.outcomes) == ["turn", "session"]
    assert list(card.outcomes["turn"]) == ["hybrid", "lexical", "hybrid dated", "lexical dated"]
    outcome = card.outcomes["turn"]["lexical"]
    assert (outcome.questions, outcome.overall["any@5"].mean, outcome.overall["all@10"].mean) == (4, 100, 75)
    assert sorted(outcome.categories) == ["adversarial", "multi-hop", "single-hop", "temporal"]
    assert outcome.categories["single-hop"]["hit@1"].mean == 100
    with pytest.raises(InvalidInputError, match="psychic"):
        run_benchmark(read_benchmark("locomo", locomo), modes=["psychic"], encoder=WordEncoder())


def test_sessions_are_scored_where_turns_are_not_labelled(longmemeval):
    card = run_benchmark(read_benchmark("longmemeval", longmemeval), modes=["hybrid"], encoder=WordEncoder())
    assert (card.outcomes["turn"]["hybrid"].questions, card.outcomes["session"]["hybrid"].questions) == (1, 2)


def test_peers_rank_the_same_turns(locomo, beir):
    for format, path in (("locomo", locomo), ("beir", beir)):
        card = run_benchmark(read_benchmark(format, path), encoder=WordEncoder(), peers=True)
        turns = card.outcomes["turn"]
        assert {"bm25", "minilm", "average"} <= set(turns)
        assert turns["bm25"].overall["any@5"].mean == 100 and turns["minilm"].overall["any@5"].mean == 100
        assert ("chroma" in turns) != ("chroma" in card.missing)


def test_a_missing_peer_is_named_and_the_others_run(locomo, monkeypatch):
    from agent_memory.evaluation import peers

    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    card = run_benchmark(read_benchmark("locomo", locomo), encoder=WordEncoder(), peers=True)
    assert set(card.missing) == {"bm25", "chroma"} and "pip install" in card.missing["bm25"]
    assert {"minilm", "average"} <= set(card.outcomes["turn"])


def test_a_question_without_a_known_word_finds_nothing_by_bm25(beir):
    assert find_spec("bm25s")
    write(beir / "queries.jsonl", json.dumps({"_id": "a", "text": "zzz"}))
    card = run_benchmark(read_benchmark("beir", beir), encoder=WordEncoder(), peers=True)
    assert card.outcomes["turn"]["bm25"].overall["any@10"].mean == 0


def test_the_card_has_every_figure_and_what_was_left_out(locomo, tmp_path):
    card = run_benchmark(read_benchmark("locomo", locomo), encoder=WordEncoder())
    page, figures, plot = write_card(card, tmp_path / "card")
    assert plot.read_bytes().startswith(b"\x89PNG")
    text = page.read_text(encoding="utf-8")
    assert "## By turn" in text and "## By session" in text and "![" in text
    assert "* evidence strings mended: 2" in text
    read = json.loads(figures.read_text(encoding="utf-8"))
    assert read["outcomes"]["turn"]["hybrid"]["overall"]["MRR"]["mean"] <= 100
    assert set(read["outcomes"]["session"]["hybrid dated"]["categories"]) == {
        "single-hop", "temporal", "multi-hop", "adversarial",
    }  # fmt: skip


def test_a_name_of_a_category_cannot_break_the_table(longmemeval):
    rows = json.loads(longmemeval.read_text())
    rows[0]["question_type"] = "a | b\n<script>"
    write(longmemeval, rows)
    card = run_benchmark(read_benchmark("longmemeval", longmemeval), encoder=WordEncoder())
    assert "| a \\| b &lt;script>" in format_card(card)


def test_one_command_reads_runs_and_writes(locomo, beir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    done = run(app, ["eval", "--format", "locomo", str(locomo), "--encoder", "minilm", "--mode", "lexical"])
    assert done.exit_code == 0, done.output
    assert "by turn, 4 questions" in done.output
    assert {file.name for file in (tmp_path / "locomo-card").iterdir()} == {"card.md", "card.json", "card.png"}
    options = ["--json", "--card", "here", "--mode", "lexical", "--limit", "1"]
    done = run(app, ["eval", "--format", "beir", str(beir), *options])
    assert json.loads(done.stdout)[0]["questions"] == 1 and (tmp_path / "here" / "card.md").is_file()
    (tmp_path / "other").mkdir()
    other = (tmp_path / "other" / "locomo.json").write_bytes(locomo.read_bytes()) and "other/locomo.json"
    run(app, ["eval", "--format", "locomo", str(locomo), other, "--mode", "lexical"])
    assert (tmp_path / "locomo-2-card" / "card.md").is_file()
    for wrong in (["eval", str(beir), "--peers"], ["eval", "--format", "beir", str(beir), str(beir), "--card", "x"]):
        assert isinstance(run(app, wrong).exception, InvalidInputError)


def test_a_few_strange_lines_do_not_end_a_run(locomo):
    sample = json.loads(locomo.read_text())[0]
    sample["sample_id"] = "a name\nof two lines" * 100
    turns = sample["conversation"]["session_1"]
    turns += [say("x" * 600, "D1:4", "A long name"), say("Ann", "D1:5", "half a pair \ud800"), say(None, "D1:6", "0")]
    sample["qa"] += [
        {"question": "a" * 10_001, "evidence": ["D1:1"]},
        {"question": " ", "evidence": ["D1:1"]},
        {"question": "Who has a long name?", "evidence": 7},
        {"question": "Who has a long name?", "evidence": "D1:4", "category": None},
    ]
    benchmark = read_benchmark("locomo", write(locomo, sample))
    assert benchmark.notes["turns without usable text"] == 2
    assert benchmark.notes["questions that cannot be asked, left out"] == 2
    card = run_benchmark(benchmark, modes=["lexical"], encoder=WordEncoder())
    assert card.outcomes["turn"]["lexical"].categories["None"]["hit@1"].mean == 100
