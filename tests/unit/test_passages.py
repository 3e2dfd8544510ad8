"""Long texts: what is said anywhere in them is found, shown and forgotten like a text of its own."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import WordEncoder

from agent_memory import Config, Memory, format_hits
from agent_memory.formats.passages import excerpt_passage, split_passages
from agent_memory.integrations._mcp_pages import ranked
from agent_memory.live.rows import RowView, evolve_passages, find_extras, measure_luck, select_extras

FACT = "The spare key hides under the blue flowerpot."
QUESTION = "spare key hides under blue flowerpot"
NOTES = ["Bob likes tea", "The launch moved to June", "a blue car was parked here", "Ann works at the library"]


def make_filler(sentences, seed=0):
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 5_000, (sentences, 9))
    return " ".join("Word" + " word".join(map(str, row)) + "." for row in words.tolist())


def make_long(fact=FACT, *, before=240, after=240, seed=0):
    return f"{make_filler(before, seed)} {fact} {make_filler(after, seed + 1)}"


def count_rows(memory, table="passages"):
    with memory._store.read() as tx:
        return tx.connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one()


def read_passages(memory, key="long"):
    with memory._store.read() as tx:
        ids = tx.entries.select_ids_by_key(memory.namespace, [key], tx.entries.find_newest((), key)[1].updated_at)
        return tx.passages.read(tx.generations.live(), list(ids.values()))[0]


@pytest.fixture
def memory(tmp_path):
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add_many(NOTES)
        yield memory


# --- found and shown ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["dense", "hybrid", "lexical"])
def test_a_fact_in_the_middle_of_37000_characters_is_the_first_hit(memory, mode):
    text = make_long()
    assert 30_000 < len(text)
    memory.add(text, key="long")
    hit = memory.recall(QUESTION, k=5, mode=mode)[0]
    assert hit.entry.key == "long" and hit.entry.text == text
    start, stop = hit.passage
    assert FACT in hit.text[start:stop]
    assert stop - start <= 400


def test_the_default_encoder_finds_it_too(tmp_path):
    talk = ["The committee discussed the budget again. ", "Figures for the northern region were read out. "]
    talk += ["Somebody asked whether the projector could be repaired before Thursday. "]
    filler = "".join(talk[number % 3] for number in range(120))
    with Memory(tmp_path, encoder=None) as memory:
        memory.add_many(["Bob likes tea.", "The launch moved to June.", "Ann works at the library."])
        memory.add(f"{filler}{FACT} {filler}", key="long")
        hit = memory.recall("Where is the spare key hidden?", k=5, mode="dense")[0]
    assert hit.entry.key == "long" and FACT in hit.text[slice(*hit.passage)]


@pytest.mark.parametrize(
    ("fact", "question", "notes"),
    [
        (
            "The wifi password of the summer house is kestrel-44.",
            "What is the wifi password of the summer house?",
            ["The wifi at the office is slow on Mondays.", "Summer houses are expensive.", "Ann forgot her password."],
        ),
        (
            "Invoice 7731 was paid by Mrs Okafor in June.",
            "Who paid invoice 7731?",
            ["Invoices are due in thirty days.", "Mrs Smith paid for lunch.", "June is hot."],
        ),
        (
            "The spare key lies under the blue flower pot.",
            "Where is the spare key?",
            ["The key of the piano is broken.", "Spare tyres are in the car.", "Flowers need water."],
        ),
    ],
)
def test_notes_that_share_a_word_do_not_come_before_the_fact_in_a_long_text(tmp_path, fact, question, notes):
    lines = [
        f"Chapter {number}. The caravan went on, and the traders spoke of prices of salt." for number in range(400)
    ]
    lines.insert(200, fact)
    with Memory(tmp_path) as memory:
        memory.add("\n\n".join(lines), key="long")
        memory.add_many({"text": note} for note in notes)
        hits = memory.recall(question, explain=True)
        assert [hits[0].entry.key, fact in format_hits(hits[:1])] == ["long", True]
        assert hits[0].trace["lexical"]["share"] > 0.5
        assert [(hit.entry.key, hit.score) for hit in memory.recall(question)] == [
            (hit.entry.key, hit.score) for hit in hits
        ]


def test_a_prompt_shows_the_part_that_answers_with_its_surroundings(memory):
    memory.add(make_long(), key="long")
    hits = memory.recall(QUESTION, k=5)
    for most in (400, 1_000, 4_000, 20_000):
        block = format_hits(hits, max_chars=most)
        assert FACT in block and len(block) <= most
    assert "Bob likes tea" in format_hits(hits)  # there is room for the others


def test_a_prompt_shows_a_long_text_whole_where_it_fits(memory):
    text = make_long(before=10, after=10)
    memory.add(text, key="long")
    assert text in format_hits(memory.recall(QUESTION, k=1), max_chars=5_000)


def test_tools_of_agents_show_the_part_that_answers(memory):
    memory.add(make_long(), key="long")
    hit = memory.recall(QUESTION)[0]
    shown = ranked(hit)
    assert FACT in shown["text"] and len(shown["text"]) <= 4_000
    assert hit.text[slice(*shown["passage"])] == hit.text[slice(*hit.passage)]


def test_why_names_the_passage(memory):
    memory.add(make_long(), key="long")
    hit = memory.recall(QUESTION)[0]
    trace = memory.why(QUESTION, "long")
    assert trace.returned and f"characters {hit.passage[0]} to {hit.passage[1]}" in trace.reason
    assert tuple(trace.detail["passage"]) == hit.passage
    explained = memory.recall(QUESTION, explain=True)[0]
    assert explained.trace["tiers"][0]["rank"] == 1


def test_a_long_text_with_the_callers_vector_is_shown_by_its_words(memory):
    vector = WordEncoder().encode_documents(["something else"])[0]
    memory.add(make_long(), key="long", vector=vector)
    assert count_rows(memory) == 0
    hit = next(hit for hit in memory.recall(QUESTION, k=5) if hit.entry.key == "long")
    assert FACT in hit.text[slice(*hit.passage)]
    assert FACT in format_hits([hit])


def test_a_vector_that_comes_later_brings_those_of_the_passages(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add_many(NOTES)
        memory.add(make_long(), key="long", vector="later")
        memory._later.finish()
        hit = memory.recall(QUESTION, mode="dense")[0]
        assert hit.entry.key == "long" and FACT in hit.text[slice(*hit.passage)]


def test_short_texts_are_as_they_were(tmp_path):
    encoder = WordEncoder()
    texts = [make_filler(count) for count in (1, 5, 12)]
    with Memory(tmp_path, encoder=encoder) as memory:
        memory.add_many(texts)
        assert encoder.encoded == texts and count_rows(memory) == 0
        assert all(hit.passage is None for hit in memory.recall(texts[1], k=3))


def test_nothing_is_encoded_twice_or_in_large_batches(tmp_path):
    batches, reports = [], []

    class Counting(WordEncoder):
        def encode_documents(self, texts, *, progress=None):
            batches.append(list(texts))
            return super().encode_documents(texts, progress=progress)

    text = make_long(before=3_000, after=3_000)
    with Memory(tmp_path, encoder=Counting()) as memory:
        memory.add(text, key="long", progress=lambda done, total: reports.append((done, total)))
    assert max(map(len, batches)) <= 512 and sum(len(piece) for batch in batches for piece in batch) < 1.25 * len(text)
    assert len(batches) == len(reports) > 1 and reports[-1][0] == reports[-1][1] == sum(map(len, batches))


# --- one hit of its entry ------------------------------------------------------------------------------------------


def test_k_hits_are_k_entries_even_if_one_has_hundreds_of_passages(memory):
    memory.add(" ".join([FACT] * 900), key="long")
    for mode in ("dense", "hybrid"):
        for exact in (False, True):
            hits = memory.recall(QUESTION, k=5, mode=mode, exact=exact)
            assert len({hit.entry.key for hit in hits}) == 5
    assert len(memory.recall_many([QUESTION, "tea"], k=5, mode="dense")[0]) == 5


def test_filters_and_namespaces_hold_for_passages(memory):
    for number in range(6):
        name = ("team", str(number % 2))
        memory.add(make_long(seed=number), key=f"long{number}", namespace=name, metadata={"n": number}, speaker="ann")
    hits = memory.recall(QUESTION, k=10, where={"n": {"$gte": 3}})
    assert {hit.entry.key for hit in hits} == {"long3", "long4", "long5"}
    assert all(FACT in hit.text[slice(*hit.passage)] for hit in hits)
    hits = memory.recall(QUESTION, k=10, namespace=("team", "1"), mode="dense")
    assert {hit.entry.key for hit in hits} == {"long1", "long3", "long5"}
    assert all(hit.score > 0.2 for hit in hits)
    assert memory.recall(QUESTION, k=10, where={"n": 99}) == []


def test_the_best_row_decides_as_if_all_were_compared(tmp_path):
    from agent_memory.index import IndexOptions, TieredIndex

    rng = np.random.default_rng(5)
    index = TieredIndex(96, (64, 96), options=IndexOptions(exact_below=0))
    first = 1 << 62
    counts = rng.integers(0, 40, 400)
    ids = [np.arange(1, 401)] + [first + (n << 20) + np.arange(c) for n, c in enumerate(counts, start=1)]
    ids = np.concatenate(ids)
    rows = rng.standard_normal((len(ids), 96)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index.add(ids, rows)
    index.maintain()
    view = RowView(index.view(), select_extras(index.ids()))
    owners = np.where(ids >= first, (ids - first) >> 20, ids)
    for allowed in (None, np.arange(50, 90), np.array([3, 7, 9_999])):
        for query in rng.standard_normal((5, 96)).astype(np.float32):
            best = np.full(401, -np.inf)
            np.maximum.at(best, owners, rows @ (query / np.linalg.norm(query)))
            best[1:] -= measure_luck(counts)
            inside = best if allowed is None else np.where(np.isin(np.arange(401), allowed), best, -np.inf)
            wanted = [n for n in np.argsort(-inside)[:10].tolist() if inside[n] > -np.inf]
            found = view.search(query[None], 10, allowed=allowed, exact=True, explain=True)
            assert found.ids[0][found.ids[0] >= 0].tolist() == wanted
            assert np.allclose(found.scores[0][: len(wanted)], inside[wanted], atol=2e-3)
            assert set(wanted) <= set(found.traces[0][-1].ids.tolist())
            scored = dict(
                zip(*(one.tolist() for one in view.score(query, np.array([*wanted[::-1], 9_999]))), strict=True)
            )
            assert scored == dict(zip(wanted, found.scores[0].tolist(), strict=False))


def test_rows_of_passages_are_found_by_their_entries():
    first = 1 << 62
    extras = np.array([first + (3 << 20), first + (3 << 20) + 1, first + (9 << 20)])
    assert find_extras(extras, np.array([9, 4, 3])).tolist() == [extras[2], extras[0], extras[1]]
    assert find_extras(extras, np.array([], np.int64)).tolist() == []
    assert sorted(find_extras(extras, np.array([9, 4, 2, 7])).tolist()) == extras[2:].tolist()
    assert find_extras(extras, np.array([1, 4, 2, 10])).tolist() == []


# --- what happens to an entry happens to its passages ----------------------------------------------------------------


def test_an_update_brings_other_passages_or_none(memory):
    memory.add(make_long(), key="long")
    memory.recall(QUESTION)
    memory.update("long", text=make_long("Marbles roll across purple velvet.", before=400, after=10, seed=7))
    assert memory.recall("marbles roll across purple velvet", mode="dense")[0].entry.key == "long"
    assert memory.recall(QUESTION, mode="dense")[0].score < 0.4
    memory.update("long", text="short now")
    assert memory.recall("marbles roll across purple velvet", mode="dense")[0].score < 0.4
    assert memory.recall("short now", mode="dense")[0].passage is None
    memory.update("long", text=make_long())
    assert FACT in format_hits(memory.recall(QUESTION, k=1))
    memory.update("long", metadata={"seen": True})
    assert FACT in format_hits(memory.recall(QUESTION, k=1, where={"seen": True}))
    assert memory.check().ok


def test_former_versions_answer_as_of_their_time(memory):
    entry = memory.add(make_long(), key="long")
    memory.update("long", text=make_long("Marbles roll across purple velvet.", seed=9))
    hit = memory.recall(QUESTION, as_of=entry.updated_at, mode="dense")[0]
    assert hit.entry.key == "long" and FACT in hit.text[slice(*hit.passage)]
    assert [len(version.text) > 1_000 for version in memory.history("long")] == [True, True]


def test_a_superseded_entry_is_not_found_by_its_passages(memory):
    memory.add(make_long(), key="long")
    memory.add("the key is gone", key="new")
    memory.recall(QUESTION)
    memory.supersede("long", "new")
    assert all(hit.entry.key != "long" for hit in memory.recall(QUESTION, k=10))
    assert memory.check().ok


def test_nothing_of_a_forgotten_passage_is_left(tmp_path):
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add_many(NOTES)
        text = make_long("zebraqq crosses the quaggaqq.")
        memory.add(text, key="long", session="s")
        memory.add(text + " more", key="long", session="s")
        memory.recall("zebraqq", k=2)
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.recall("zebraqq")
        passages = read_passages(memory)
        rows = [row.astype("<f2").tobytes() for row in (*passages.vectors, passages.static)]
        rows += [row.astype("<f2").tobytes() for row in evolve_passages(passages)]
        receipt = memory.forget("long")
        assert receipt.pending == () and receipt.vectors > 200 and count_rows(memory) == 0
        for path in [path for path in (tmp_path / "store").rglob("*") if path.is_file()]:
            content = path.read_bytes()
            assert b"zebraqq" not in content and not any(row in content for row in rows), path
        assert [hit.entry.text for hit in memory.recall("zebraqq crosses", k=9) if "zebraqq" in hit.text] == []
        assert memory.check().ok


def test_a_snapshot_keeps_passages(tmp_path, caplog):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add_many(NOTES)
        memory.add(make_long(), key="long")
        before = memory.recall(QUESTION, k=5, mode="dense")
    with caplog.at_level("INFO", "agent_memory"), Memory(tmp_path, encoder=WordEncoder()) as memory:
        after = memory.recall(QUESTION, k=5, mode="dense")
        memory.update("long", text="nothing of it")
        assert memory.recall(QUESTION, mode="dense")[0].score < 0.4
        assert memory.check().ok
    assert [(hit.entry.key, hit.passage) for hit in after] == [(hit.entry.key, hit.passage) for hit in before]
    assert "rebuilding" not in caplog.text


def test_another_process_follows(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as one, Memory(tmp_path, encoder=WordEncoder()) as other:
        one.add_many(NOTES)
        other.recall(QUESTION)
        one.add(make_long(), key="long")
        assert other.recall(QUESTION, mode="dense")[0].entry.key == "long"
        one.update("long", text=make_long("Marbles roll.", before=2, after=100))
        assert other.recall(QUESTION, mode="dense")[0].score < 0.4
        one.forget("long")
        assert all(hit.passage is None for hit in other.recall(QUESTION, k=9))
        assert other.check().ok


def test_a_reindex_takes_passages_along(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder(96)) as memory:
        memory.add_many(NOTES)
        memory.add(make_long(), key="long", session="s")
        memory.update("long", speaker="ann")
        count = len(read_passages(memory).spans)
        memory.reindex(encoder=WordEncoder(128, name="wider"))
        assert read_passages(memory).vectors.shape == (count, 128)
        assert FACT in format_hits(memory.recall(QUESTION, k=1, mode="dense"))
        memory.reindex(rotation="fit")
        assert FACT in format_hits(memory.recall(QUESTION, k=1, mode="dense"))
        memory.reindex(tiers=(32, 128))
        assert FACT in format_hits(memory.recall(QUESTION, k=1, mode="dense"))
        memory.add(make_long("Marbles roll across purple velvet.", seed=3), key="new")
        memory.rollback()
        for words in (QUESTION, "marbles roll across purple velvet"):
            hit = memory.recall(words, mode="dense")[0]
            assert hit.passage is not None and hit.score > 0.2
        assert memory.check().ok


def test_exports_and_backups_bring_passages_back(tmp_path, memory):
    memory.add(make_long(), key="long")
    memory.export(tmp_path / "all.jsonl")
    memory.backup(tmp_path / "all.db")
    Memory.restore(tmp_path / "all.db", tmp_path / "restored")
    with Memory(tmp_path / "restored", encoder=WordEncoder()) as restored:
        assert FACT in format_hits(restored.recall(QUESTION, k=1, mode="dense"))
    with Memory(tmp_path / "imported", encoder=WordEncoder()) as imported:
        imported.import_(tmp_path / "all.jsonl")
        assert FACT in format_hits(imported.recall(QUESTION, k=1, mode="dense"))
        assert read_passages(imported).spans == read_passages(memory).spans


@pytest.mark.parametrize("column", ["vectors", "spans"])
def test_damaged_passages_are_found_and_encoded_again(tmp_path, memory, column):
    memory.add(make_long(), key="long")
    whole = read_passages(memory)
    with memory._store.write() as tx:
        tx.connection.exec_driver_sql(f"UPDATE passages SET {column} = zeroblob(length({column}))")
    assert any("long" in problem for problem in memory.check().problems)
    report = memory.check(repair=True)
    assert any("long" in line for line in report.repaired) and memory.check().ok
    assert read_passages(memory).spans == whole.spans
    assert FACT in format_hits(memory.recall(QUESTION, k=1, mode="dense"))


def test_damaged_passages_are_encoded_again_by_a_reindex(memory):
    memory.add(make_long(), key="long")
    right = read_passages(memory).vectors
    with memory._store.write() as tx:
        tx.connection.exec_driver_sql("UPDATE passages SET vectors = zeroblob(length(vectors))")
    memory.reindex(tiers=(48, 96))
    np.testing.assert_array_equal(read_passages(memory).vectors, right)


def test_one_segment_of_a_session_whatever_its_length(tmp_path):
    with Memory(tmp_path, encoder=None) as memory:
        memory.add("So, where did we hide it?", session="s", speaker="Ann")
        memory.add("It was years ago. " * 100 + FACT + " Or so I think. " * 100, session="s", speaker="Ben", key="long")
        memory.add("Good to know.", session="s", speaker="Ann")
        assert count_rows(memory, "vectors WHERE latents IS NOT NULL") == 3
        passages = read_passages(memory)
        assert passages.evolved is not None
        moved = evolve_passages(passages)
        assert not np.allclose(moved, passages.vectors) and np.allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-5)
        hit = memory.recall("Where is the spare key?", session="s", k=1)[0]
        assert FACT in hit.text[slice(*hit.passage)]
        # What was evolved with a forgotten segment is evolved again, here as in a store that never knew it.
        memory.forget(memory.entries(session="s")[0].key)
        assert not np.array_equal(evolve_passages(read_passages(memory)), moved)
        score = memory.recall("Where is the spare key?", session="s", k=1)[0].score
        assert memory.check().ok
    with Memory(tmp_path, encoder=None) as memory:
        assert memory.recall("Where is the spare key?", session="s", k=1)[0].score == pytest.approx(score, abs=1e-4)


def test_many_long_texts_are_written_in_several_transactions(tmp_path):
    done = []
    with Memory(tmp_path, encoder=WordEncoder(), config=Config(batch_size=64)) as memory:
        memory.add_many([make_filler(400, seed) for seed in range(8)], progress=lambda *now: done.append(now))
    assert len(done) > 2


# --- where texts are cut ---------------------------------------------------------------------------------------------


def verify_spans(text, spans, size=400):
    at = 0
    for start, stop in spans:
        piece = text[start:stop]
        assert piece == piece.strip() != "" and len(piece.encode("utf-8", "surrogatepass")) <= size
        assert not text[at:start].strip()
        at = max(at, stop)
    assert not text[at:].strip()
    assert all(one[0] < other[0] and one[1] < other[1] for one, other in pairwise(spans))


TEXTS = {
    "a line without spaces": "a" * 1_000_000,
    "mostly blank": "x" + " \n\t" * 100_000 + "y",
    "blank lines": "\n" * 100_000 + "end",
    "Chinese": "我养了一只猫。它喜欢吃鱼。" * 500,
    "Chinese without stops": "我养了一只猫" * 1_000,
    "emoji": "👩‍👩‍👧‍👦🏽😀" * 1_000,
    "flags": "🇩🇪🇫🇷" * 1_000,
    "combining": "e\u0301" * 5_000,
    "JSON on one line": json.dumps([{"name": f"n{n}", "tags": ["a", "b"]} for n in range(2_000)]),
    "JSON": json.dumps([{"name": f"n{n}", "tags": ["a", "b"]} for n in range(500)], indent=2),
    "code": Path(__file__).read_text("utf-8"),
    "dots": "." * 50_000,
    "brackets": "]" * 50_000,
    "lone surrogates": "\ud800" * 5_000,
    "line ends of Windows": "One line of text.\r\n" * 1_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_every_kind_are_cut_within_bounds(name):
    spans = split_passages(TEXTS[name])
    verify_spans(TEXTS[name], spans)
    assert len(spans) > 1 or name == "blank lines"


def test_no_character_is_cut_in_two():
    for name in ("emoji", "flags", "combining"):
        for start, stop in split_passages(TEXTS[name]):
            piece = TEXTS[name][start:stop]
            assert piece[0] not in "\u200d\u0301\U0001f3fd" and piece[-1] != "\u200d", name


def test_code_and_paragraphs_are_cut_at_their_seams():
    code = "\n\n".join(f"def f{n}(x):\n    if x:\n        return {n}\n    return f{n}(x - 1)" for n in range(100))
    assert all(code[start:stop].startswith("def ") for start, stop in split_passages(code))
    talk = "\n\n".join(make_filler(4, seed) for seed in range(40))
    assert all(talk[stop : stop + 2] in ("\n\n", "") for _, stop in split_passages(talk))
    data = json.dumps([{"name": f"person {n}", "city": f"town {n}"} for n in range(300)])
    assert sum(data[start] in "{[" for start, _ in split_passages(data)) > 0.9 * len(split_passages(data))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40) | st.sampled_from(list(TEXTS.values())).map(lambda t: t[:700]), max_size=12))
def test_any_text_is_cut_within_bounds(parts):
    text = "".join(parts)
    spans = split_passages(text)
    verify_spans(text, spans, 1_000)
    for span in spans:
        for most in (10, 200, 5_000):
            assert len(excerpt_passage(text, span, most)) <= max(most, 3)
