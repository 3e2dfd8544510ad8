"""Session encoding in the store: what is written with entries, read in recalls, and replayed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from support import WordEncoder, python, write_session_weights

from agent_memory import Config, Memory
from agent_memory.encoders import CompactSessionEncoder, SessionSegment, encode_session
from agent_memory.errors import EncoderMismatchError, InvalidInputError, StorageError
from agent_memory.storage.sqlite.driver import sqlite3

START = datetime(2024, 5, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_session_weights(tmp_path_factory.mktemp("weights") / "session.safetensors")


@pytest.fixture
def opened(tmp_path, weights):
    """Open a store by name, as often as wanted."""
    memories = []

    def open_(name="store"):
        encoder = WordEncoder()
        memories.append(
            Memory(tmp_path / name, encoder=encoder, session_encoder=CompactSessionEncoder(encoder, weights))
        )
        return memories[-1]

    yield open_
    for memory in memories:
        memory.close()


def make_turn(number, text=None):
    return {
        "text": text or f"turn {number} about topic {number % 3}",
        "key": f"k{number}",
        "session": "chat",
        "speaker": ("ann", "bob")[number % 2],
        "event_time": START + timedelta(hours=7 * number),
    }


def read_derived(memory):
    """What the live generation holds of sessions for the current entries, by key."""
    with sqlite3.connect(memory.path / "memory.db") as connection:
        rows = connection.execute(
            "SELECT key, evolved, latents FROM entries JOIN vectors ON entry_id = entries.id "
            "JOIN generations ON generations.id = generation_id WHERE superseded_at IS NULL AND state = 'live'"
        ).fetchall()
    connection.close()
    return {key: (evolved, latents) for key, evolved, latents in rows}


def test_stored_vectors_are_those_of_the_session_encoder(opened):
    memory = opened()
    for number in range(9):
        memory.add(**make_turn(number))
    encoder = memory.session_encoder
    static = memory.vectors([f"k{number}" for number in range(9)])
    segments = [
        SessionSegment(
            static=static[f"k{number}"],
            text=make_turn(number)["text"],
            speaker=make_turn(number)["speaker"],
            time=make_turn(number)["event_time"],
        )
        for number in range(9)
    ]
    evolved, latents, _ = encode_session(encoder, segments, encoder.empty_memory())
    stored = read_derived(memory)
    for number in range(9):
        assert stored[f"k{number}"][0] == evolved[number].astype("<f2").tobytes()
        assert stored[f"k{number}"][1] == latents[number].astype("<f2").tobytes()
    assert stored["k0"][0] == static["k0"].astype("<f2").tobytes()
    assert stored["k5"][0] != static["k5"].astype("<f2").tobytes()


def test_entries_without_a_session_stay_static(opened):
    memory = opened()
    memory.add("alone", key="a")
    assert read_derived(memory) == {"a": (None, None)}


def test_a_batch_gives_the_same_bits_as_single_adds(opened):
    one, many, batches = opened("one"), opened("many"), opened("batches")
    for number in range(12):
        one.add(**make_turn(number))
    many.add_many([make_turn(number) for number in range(12)])
    batches.add_many([make_turn(number) for number in range(5)])
    batches.add_many([make_turn(number) for number in range(5, 12)])
    assert read_derived(one) == read_derived(many) == read_derived(batches)


@pytest.mark.parametrize("forgotten", [0, 3, 11])
def test_forgetting_leaves_nothing_behind(opened, forgotten):
    whole, never = opened("whole"), opened("never")
    for number in range(12):
        whole.add(**make_turn(number))
        if number != forgotten:
            never.add(**make_turn(number))
    before = read_derived(whole)
    assert whole.forget(f"k{forgotten}") == 1
    assert read_derived(whole) == read_derived(never)
    assert forgotten == 11 or before.items() - read_derived(whole).items() != {f"k{forgotten}"}


def test_forgetting_by_filter_replays_every_session_it_touches(opened):
    whole, never = opened("whole"), opened("never")
    for number in range(8):
        for session in ("x", "y"):
            item = make_turn(number) | {
                "session": session,
                "key": f"{session}{number}",
                "metadata": {"odd": number % 2},
            }
            whole.add(**item)
            if number % 2 == 0:
                never.add(**item)
    assert whole.forget(where={"odd": 1}) == 8
    assert read_derived(whole) == read_derived(never)


def test_editing_replays_what_follows(opened):
    edited, written = opened("edited"), opened("written")
    for number in range(8):
        edited.add(**make_turn(number))
        written.add(**make_turn(number, "something else entirely" if number == 2 else None))
    edited.update("k2", text="something else entirely")
    assert read_derived(edited) == read_derived(written)


def test_a_change_that_the_encoder_does_not_see_replays_nothing(opened):
    memory = opened()
    for number in range(4):
        memory.add(**make_turn(number))
    before, seq = read_derived(memory), memory.stats().seq
    memory.update("k1", metadata={"a": 1})
    assert read_derived(memory) == before
    assert memory.stats().seq == seq + 1


def test_adding_under_a_known_key_replays(opened):
    again, written = opened("again"), opened("written")
    for number in range(6):
        again.add(**make_turn(number))
        written.add(**make_turn(number, "a new saying" if number == 1 else None))
    again.add_many([make_turn(1, "a new saying")])
    assert read_derived(again) == read_derived(written)


def test_superseding_takes_the_old_entry_out_of_its_session(opened):
    memory, never = opened("memory"), opened("never")
    for number in range(6):
        memory.add(**make_turn(number))
        if number != 1:
            never.add(**make_turn(number))
    memory.supersede("k1", "k5")
    assert read_derived(memory) == read_derived(never)


def test_a_session_goes_on_in_another_process(opened, weights, tmp_path):
    here, there = opened("here"), opened("there")
    for number in range(5):
        here.add(**make_turn(number))
        there.add(**make_turn(number))
    script = f"""
from support import WordEncoder
from agent_memory import Memory
from agent_memory.encoders import CompactSessionEncoder
encoder = WordEncoder()
sessions = CompactSessionEncoder(encoder, {str(weights)!r})
with Memory({str(there.path)!r}, encoder=encoder, session_encoder=sessions) as m:
    m.add('said over there', session='chat', speaker='bob', key='k5', event_time='2024-05-09T00:00:00Z')
"""
    with python(script) as process:
        assert process.wait() == 0, process.stderr.read()
    here.add("said over there", session="chat", speaker="bob", key="k5", event_time="2024-05-09T00:00:00Z")
    for memory in (here, there):
        memory.add(**make_turn(6))
    assert read_derived(here) == read_derived(there)


def test_two_writers_of_one_session_agree_with_one(opened):
    first, second, alone = opened("shared"), opened("shared"), opened("alone")
    first.add(**make_turn(0))
    alone.add(**make_turn(0))
    prepare = first._store.space.sessions.prepare

    def overtaken(*arguments):
        prepared = prepare(*arguments)
        first._store.space.sessions.prepare = prepare
        second.add(**make_turn(1))
        return prepared

    first._store.space.sessions.prepare = overtaken
    first.add(**make_turn(2))
    for number in (1, 2):
        alone.add(**make_turn(number))
    assert read_derived(first) == read_derived(alone)


def vector_of(memory, session="chat", as_of=None):
    """The vector that a recall in a session searches with."""
    found = {}
    sessions = memory._store.space.sessions
    original = sessions.evolve_query

    def spy(*arguments, **options):
        found["vector"] = original(*arguments, **options)
        return found["vector"]

    sessions.evolve_query = spy
    memory.recall("what about topic 1", session=session, as_of=as_of, mode="dense")
    del sessions.evolve_query
    return found.get("vector")


def test_the_same_question_changes_with_the_session(opened):
    memory = opened()
    memory.add(**make_turn(0))
    first = vector_of(memory)
    memory.add(**make_turn(1))
    second = vector_of(memory)
    assert not np.allclose(first, second)
    static = memory.encoder.encode_queries(["what about topic 1"])[0]
    assert np.array_equal(vector_of(memory, session="another"), static)


def test_as_of_reads_the_latent_memory_of_that_moment(opened):
    memory = opened()
    moments, vectors = [], []
    for number in range(12):
        entry = memory.add(**make_turn(number))
        moments.append(entry.created_at)
        vectors.append(vector_of(memory))
    memory.update("k3", text="quite another thing")
    for moment, vector in zip(moments, vectors, strict=True):
        assert np.array_equal(vector_of(memory, as_of=moment), vector)
    assert np.array_equal(vector_of(memory, as_of=moments[1]), vectors[1])


def test_as_of_replays_only_what_has_changed_since(opened, monkeypatch):
    memory = opened()
    moments = [memory.add(**make_turn(number)).created_at for number in range(6)]
    now = vector_of(memory)
    embed = CompactSessionEncoder.embed_segment
    replayed = []
    monkeypatch.setattr(
        CompactSessionEncoder, "embed_segment", lambda *given: (replayed.append(given[1].text), embed(*given))[1]
    )
    assert np.array_equal(vector_of(memory, as_of=moments[-1]), now)
    assert not replayed
    memory.update("k2", text="quite another thing")
    replayed.clear()
    assert np.array_equal(vector_of(memory, as_of=moments[-1]), now)
    assert len(replayed) == 6
    memory.forget("k4")
    replayed.clear()
    present = vector_of(memory)
    assert np.array_equal(vector_of(memory, as_of=datetime.now(UTC)), present)
    assert not replayed


def test_sessions_of_one_name_in_several_namespaces(opened):
    memory = opened()
    memory.add("alpha", session="chat", namespace=("a",))
    static = memory.encoder.encode_queries(["what about topic 1"])[0]
    assert not np.array_equal(vector_of(memory), static)
    memory.add("beta", session="chat", namespace=("b",))
    assert np.array_equal(vector_of(memory), static)


def test_the_session_encoder_of_a_store_is_recorded(opened, tmp_path, weights):
    opened().add(**make_turn(0))
    path = tmp_path / "store"
    with pytest.raises(EncoderMismatchError, match="session encoder"):
        Memory(path, encoder=WordEncoder(), session_encoder=None)
    with Memory(tmp_path / "plain", encoder=WordEncoder()) as plain:
        assert plain.session_encoder is None
        plain.add(**make_turn(0))
    encoder = WordEncoder()
    with pytest.raises(EncoderMismatchError, match="session encoder"):
        Memory(tmp_path / "plain", encoder=encoder, session_encoder=CompactSessionEncoder(encoder, weights))


@pytest.mark.parametrize("given", ["evo", 3, CompactSessionEncoder])
def test_objects_that_are_no_session_encoder_are_refused(tmp_path, given):
    with pytest.raises(InvalidInputError, match="session_encoder"):
        Memory(tmp_path, encoder=WordEncoder(), session_encoder=given)


def test_damaged_latents_are_found_and_mended(opened):
    memory = opened()
    for number in range(7):
        memory.add(**make_turn(number))
    sound = read_derived(memory)
    with sqlite3.connect(memory.path / "memory.db") as connection:
        connection.execute("UPDATE vectors SET latents = x'00' WHERE entry_id = 6")
        connection.execute("UPDATE vectors SET evolved = NULL WHERE entry_id = 3")
    connection.close()
    with pytest.raises(StorageError, match="check"):
        memory.add(**make_turn(7))
    assert any("session" in problem for problem in memory.check().problems)
    assert memory.check(repair=True).ok
    assert read_derived(memory) == sound
    assert memory.check().problems == ()


def test_a_mended_text_replays_its_session(opened):
    memory = opened()
    for number in range(7):
        memory.add(**make_turn(number))
    sound = read_derived(memory)
    with sqlite3.connect(memory.path / "memory.db") as connection:
        connection.execute("UPDATE vectors SET static = x'00', evolved = x'00' WHERE entry_id = 2")
    connection.close()
    assert memory.check(repair=True).ok
    assert read_derived(memory) == sound


def test_the_embedded_encoders_go_together(tmp_path):
    with Memory(tmp_path) as memory:
        assert memory.session_encoder.spec.name == "compact"
        memory.add("Where shall we eat?", session="s", speaker="Ann")
        memory.add("The Italian place.", session="s", speaker="Bob")
        assert memory.recall("restaurant", session="s", k=1)
    with Memory(tmp_path) as memory:
        assert memory.session_encoder.spec.name == "compact"
    with Memory(tmp_path / "minilm", encoder="minilm") as memory:
        assert memory.session_encoder is None


def replay_all(memory):
    """What a store that was written from the start with the memory's encoders would hold."""
    segments = [
        SessionSegment(static=static, text=entry.text, speaker=entry.speaker, time=entry.event_time)
        for entry in memory.entries(session="chat")
        for static in [memory.vectors([entry.key])[entry.key]]
    ]
    encoder = memory.session_encoder
    evolved, latents, _ = encode_session(encoder, segments, encoder.empty_memory())
    keys = [entry.key for entry in memory.entries(session="chat")]
    rows = zip(keys, evolved, latents, strict=True)
    return {key: (one.astype("<f2").tobytes(), two.astype("<f2").tobytes()) for key, one, two in rows}


def test_a_change_of_layout_keeps_evolved_vectors(opened):
    memory = opened()
    memory.add_many([make_turn(number) for number in range(9)])
    before = read_derived(memory)
    memory.reindex(tiers=(32, 96))
    assert read_derived(memory) == before == replay_all(memory)
    assert memory.check().problems == ()


def test_a_store_takes_up_a_session_encoder_and_gives_it_up(tmp_path, weights):
    encoder = WordEncoder()
    with Memory(tmp_path / "s", encoder=encoder) as memory:
        memory.add_many([make_turn(number) for number in range(9)])
        static = vector_of(memory)
        memory.reindex(session_encoder=CompactSessionEncoder(encoder, weights))
        assert read_derived(memory) == replay_all(memory)
        assert not np.array_equal(vector_of(memory), static)
        memory.add(**make_turn(9))
        assert read_derived(memory) == replay_all(memory)
        memory.reindex(session_encoder=None)
        assert set(read_derived(memory).values()) == {(None, None)}
        assert np.array_equal(vector_of(memory), static)


def test_rolling_back_evolves_what_has_changed_since(opened):
    memory = opened()
    memory.add_many([make_turn(number) for number in range(9)])
    memory.reindex(tiers=(32, 96))
    memory.forget("k2")
    memory.update("k5", text="said otherwise")
    memory.add(**make_turn(9))
    assert read_derived(memory) == replay_all(memory)
    memory.rollback()
    assert read_derived(memory) == replay_all(memory)
    assert memory.check().problems == ()
    hits = memory.recall("said otherwise", session="chat", k=1, mode="dense")
    assert hits[0].entry.key == "k5"


def test_writes_while_a_generation_is_built_are_evolved_in_it(opened):
    memory, other = opened(), opened()
    memory.add_many([make_turn(number) for number in range(40)])
    done = []

    def meanwhile(*_):
        if not done:
            done.append(True)
            other.forget("k3")
            other.update("k20", text="said otherwise")
            other.add(**make_turn(40))

    memory.reindex(tiers=(32, 96), batch_size=8, progress=meanwhile)
    assert done
    assert read_derived(memory) == replay_all(memory)
    seen = [
        [(hit.entry.key, hit.score) for hit in each.recall("said otherwise", session="chat", mode="dense")]
        for each in (memory, other, opened())
    ]
    assert seen[0] == seen[1] == seen[2]
    assert other.check().problems == ()


class Watched(WordEncoder):
    """Notes what is encoded while somebody holds the store's write lock."""

    def __init__(self, database):
        super().__init__()
        self.database = database
        self.within = []

    def encode_documents(self, texts, *, progress=None):
        if self.database.exists():
            other = sqlite3.connect(self.database, timeout=0, isolation_level=None)
            try:
                other.execute("BEGIN IMMEDIATE")
                other.execute("ROLLBACK")
            except sqlite3.OperationalError:
                self.within += texts
            finally:
                other.close()
        return super().encode_documents(texts, progress=progress)


CHANGES = {
    "update": lambda memory: memory.update("k1", text="something else"),
    "update of what is seen": lambda memory: memory.update("k1", speaker="eve", event_time=START - timedelta(days=9)),
    "forget": lambda memory: memory.forget("k1"),
    "forget many": lambda memory: memory.forget(where={"none": {"$exists": False}}, session="other"),
    "supersede": lambda memory: memory.supersede("k1", "k5"),
    "replace": lambda memory: memory.add("in its place", key="k1"),
    "replace in a session": lambda memory: memory.add("in its place", key="k1", session="chat", speaker="eve"),
    "check": lambda memory: memory.check(repair=True),
    "reindex": None,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_nothing_is_encoded_while_the_write_lock_is_held(tmp_path, opened, weights, change):
    first = opened()
    first.add_many([make_turn(number) for number in range(8)])
    first.add_many([{**make_turn(number), "key": f"o{number}", "session": "other"} for number in range(4)])
    first.close()
    database = tmp_path / "store" / "memory.db"
    with sqlite3.connect(database) as connection:  # for check to mend
        if change is CHANGES["check"]:
            connection.execute("UPDATE vectors SET latents = x'00' WHERE entry_id = 2")
    connection.close()
    encoder = Watched(database)
    with Memory(tmp_path / "store", encoder=encoder, session_encoder=CompactSessionEncoder(encoder, weights)) as memory:
        if change is CHANGES["reindex"]:
            encoder = Watched(database)
            encoder._spec = replace(encoder.spec, revision="2")
            memory.reindex(encoder=encoder, session_encoder=CompactSessionEncoder(encoder, weights))
        else:
            change(memory)
        assert encoder.encoded and encoder.within == []
        assert memory.check().ok


def test_a_name_that_was_not_warmed_is_encoded_by_the_replay(tmp_path, opened, weights, monkeypatch):
    """The same bits whether or not names and dates were encoded ahead."""
    results = []
    for name in ("ahead", "late"):
        memory = opened(name)
        memory.add_many([make_turn(number) for number in range(8)])
        memory.close()
        if name == "late":
            monkeypatch.delattr(CompactSessionEncoder, "warm")
        again = opened(name)
        again.update("k2", text="something else", speaker="eve")
        assert again.check().ok
        results.append(read_derived(again))
    assert results[0] == results[1]


def test_an_entry_comes_back_to_a_session_of_which_only_its_oldest_version_was_left(open_memory):
    memory = open_memory(config=Config(keep_versions=1))
    for session in ("s", None, "s", "t", "s"):
        entry = memory.add(f"said in {session}", key="moving", session=session)
        assert memory.get("moving") == entry and entry.session == session
    assert [session.name for session in memory.sessions()] == ["s"]
    memory.add("said nowhere", key="moving")
    memory.add("said nowhere else", key="moving")
    assert memory.sessions() == [] and memory.check().ok
