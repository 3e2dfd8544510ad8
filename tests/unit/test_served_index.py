"""The index on the server: the answers of the tiers of a process, in one statement."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from support import WordEncoder, python

from agent_memory import Config, Memory
from agent_memory.errors import ExtensionError, InvalidInputError, StorageError
from agent_memory.live import served, served_view
from agent_memory.storage.postgres import near_index

ROWS = 1_200
WORDS = "red green blue cat dog house moves likes paris rome train boat tea cup door key".split()


@pytest.fixture(scope="session")
def extended(postgres):
    """The server, with pgvector in its database."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    return postgres


@pytest.fixture
def open_both(extended, url):
    """Opens a store twice: searched in the process, and on the server."""
    opened = []

    def open_(encoder=None, **options):
        options = {"encoder": encoder or WordEncoder(), "session_encoder": None, **options}
        for index in ("local", "server"):
            opened.append(Memory(url, config=Config(index=index, lock_timeout_s=10), **options))
        return opened[-2:]

    yield open_
    for memory in opened:
        memory.close()


def list_hits(hits):
    return [(hit.entry.key, pytest.approx(hit.score, abs=2e-4)) for hit in hits]


def assert_same(local, server, query, **options):
    expected = local.recall(query, **options)
    assert list_hits(server.recall(query, **options)) == list_hits(expected), (query, options)
    return expected


def make_texts(count, seed=3):
    random = np.random.default_rng(seed)
    return [" ".join([*random.choice(WORDS, 4), f"w{number % 97}"]) for number in range(count)]


# --- what is refused -------------------------------------------------------------------------------------------


def test_a_folder_has_no_index_on_a_server_and_nothing_is_made(folder):
    with pytest.raises(InvalidInputError, match="'server'.*PostgreSQL"):
        Memory(folder, encoder=WordEncoder(), config=Config(index="server"))
    assert not folder.exists()


@pytest.mark.parametrize("version", [None, "0.8.3"])
def test_a_server_without_pgvector_or_with_an_old_one_is_refused_before_anything_is_written(postgres, version):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bare")
        connection.execute("CREATE DATABASE bare")
    with psycopg.connect(postgres.url("bare"), autocommit=True) as connection:
        if version is not None:
            connection.execute("CREATE EXTENSION vector")
            connection.execute("UPDATE pg_extension SET extversion = %s WHERE extname = 'vector'", (version,))
        with pytest.raises(ExtensionError, match=r"pgvector.*0\.8\.4") as refused:
            Memory(postgres.url("bare"), encoder=WordEncoder(), config=Config(index="server"))
        assert (refused.value.extension, refused.value.found, refused.value.needed) == ("pgvector", version, "0.8.4")
        found = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'agent_memory'").fetchone()
        assert found == (0,)


def test_pgvector_in_a_schema_of_its_own_is_found(postgres):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS apart")
        connection.execute("CREATE DATABASE apart")
    with psycopg.connect(postgres.url("apart"), autocommit=True) as connection:
        connection.execute('CREATE SCHEMA "Odd ones"')
        connection.execute('CREATE EXTENSION vector SCHEMA "Odd ones"')
    with Memory(postgres.url("apart"), encoder=WordEncoder(), config=Config(index="server")) as memory:
        memory.add("red cat", key="a")
        assert memory.recall("cat")[0].entry.key == "a"


def test_vectors_of_too_many_dimensions_are_refused_and_the_message_says_how_many(extended, url):
    with Memory(url, encoder=WordEncoder(4_096), session_encoder=None, config=Config(index="server")) as memory:
        memory.add("red cat")
        with pytest.raises(InvalidInputError, match=r"4000 dimensions.*4096"):
            memory.recall("cat")


def test_the_address_may_say_where_vectors_are_searched_as_commands_need(open_both, url):
    local, _ = open_both()
    local.add("red cat", key="a")
    for tail, layout in (("&index=server", "server, exact"), ("&index=local", "exact")):
        with Memory(url + tail, encoder=WordEncoder(), session_encoder=None) as memory:
            assert memory.recall("cat")[0].entry.key == "a"
            assert memory.stats().index["plan"]["layout"] == layout
    for tail in ("&index=", "&index=both", "&index=local&index=server"):
        with pytest.raises(InvalidInputError, match="index"):
            Memory(url + tail, encoder=WordEncoder())


# --- the same answers ------------------------------------------------------------------------------------------


def test_it_answers_as_the_tiers_of_a_process_do_through_the_life_of_a_memory(open_both, monkeypatch):
    monkeypatch.setattr(served, "MOST_NEW", 6)
    local, server = open_both()
    texts = make_texts(36)
    for number, text in enumerate(texts):
        session = f"s{number % 4}" if number % 3 else None
        local.add(
            text, key=f"k{number}", session=session, namespace=("a", f"n{number % 2}"), metadata={"n": number % 5}
        )
        if number % 7 == 0:
            assert_same(local, server, text, k=4)
    between = datetime.now(UTC)
    long = ". ".join(" ".join(one) for one in np.array(WORDS * 60).reshape(-1, 8))
    local.add(long, key="long", metadata={"n": 1})
    local.update("k3", text="the boat has a red door now", namespace=("a", "n1"))
    server.supersede("k5", "k7", namespace=("a", "n1"))
    local.forget("k8", namespace=("a", "n0"))
    asked = [{}, {"k": 40}, {"where": {"n": 1}}, {"mode": "dense"}, {"exact": True}, {"namespace": ("a", "n1")}]
    asked += [{"session": "s1"}, {"as_of": between}, {"where": {"n": {"$gte": 2}}, "namespace": ("a",), "k": 30}]
    for options in asked:
        assert_same(local, server, "red door boat", **options)
    server.reindex(encoder=WordEncoder(128))
    assert_same(*open_both(WordEncoder(128)), "red cat", k=20)
    server.rollback()
    assert_same(local, server, "tea cup", k=20)
    server.collect_generations(grace=timedelta(0))
    with server._store.read() as tx:
        raw, schema = tx.connection.raw.raw, server._store.database.connections.schema
        assert len(near_index.list_tables(raw, schema)) == 1
    assert server.check().problems == ()
    assert server.maintenance().findings["recall"] == 1


def test_sessions_move_vectors_on_the_server_too(open_both):
    local, server = open_both(session_encoder="auto")
    for number, text in enumerate(("So, what would you like?", "A new pair of shoes.", "For your birthday, then.")):
        local.add(text, key=f"k{number}", session="gift", speaker="Ann")
    server.recall("shoes")
    server.add("And a cake with candles.", key="k3", session="gift", speaker="Ben")
    for query in ("What would Ben like for his birthday?", "cake"):
        assert_same(local, server, query, session="gift")
    server.save_snapshot()
    server.forget("k1")
    assert_same(local, server, "What would Ben like for his birthday?", session="gift")
    assert server.check().problems == ()


def test_half_and_single_precision_both_answer(open_both):
    class Precise(WordEncoder):
        @property
        def spec(self):
            return replace(super().spec, dtype="float32")

    local, server = open_both(Precise())
    local.add_many({"text": text, "key": f"k{number}"} for number, text in enumerate(make_texts(50)))
    assert_same(local, server, "red cat paris", k=20)
    with server._store.read() as tx:
        assert tx.generations.live().dtype == "float32"
    server.reindex(encoder=WordEncoder())
    assert_same(*open_both(), "red cat paris", k=20)


# --- the approximate index -------------------------------------------------------------------------------------


class TailEncoder(WordEncoder):
    """Texts that begin with "tail" have no direction in the first 64 dimensions."""

    def encode_documents(self, texts, *, progress=None):
        vectors = super().encode_documents(texts, progress=progress)
        vectors[[text.startswith("tail") for text in texts], :64] = 0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def large(extended):
    """A store with an approximate index, opened twice, for all these tests: it takes seconds to make."""
    place = extended.url(schema="large")
    local, server = (
        Memory(place, encoder=TailEncoder(), session_encoder=None, config=Config(index=index))
        for index in ("local", "server")
    )
    local.add_many(
        {"text": text, "key": f"k{number}", "metadata": {"n": number % 3, "rare": number % 300}}
        for number, text in enumerate(make_texts(ROWS))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "EXACT_BELOW", 1_000)
        server.recall("red cat")
        yield local, server
    local.close()
    server.close()


def test_many_rows_get_an_approximate_index_that_a_recall_names(large):
    local, server = large
    plan = server.stats().index["plan"]
    assert plan["layout"] == "server"
    assert plan["recall"] >= 0.98
    tiers = server.recall("red cat w7", explain=True)[0].trace["tiers"]
    assert [tier["dimension"] for tier in tiers] == [64, 96]
    assert tiers[0]["candidates"] >= plan["coarse_candidates"] >= 100
    found = [
        len(
            {key for key, *_ in list_hits(local.recall(text, k=10, mode="dense"))}
            & {key for key, *_ in list_hits(server.recall(text, k=10, mode="dense"))}
        )
        for text in make_texts(20, seed=9)
    ]
    assert sum(found) / 200 > 0.9
    assert_same(local, server, "red cat w7", k=10, exact=True, mode="dense")
    dropped = server.why("red cat w7", _find_dropped(server, "red cat w7"))
    assert dropped.stage == "tier 64"


def _find_dropped(memory, query):
    """Return the key of an entry that the approximate index does not hand on."""
    near = {hit.entry.key for hit in memory.recall(query, k=1_000, mode="dense", exact=True)}
    return next(key for key in (f"k{number}" for number in range(ROWS)) if key not in near)


def test_filters_hold_however_rare_or_common_their_entries_are(large, monkeypatch):
    local, server = large
    monkeypatch.setattr(served_view, "FEW", 100)
    for where, count in (({"rare": 77}, 4), ({"n": 1}, 400), ({"n": {"$in": [0, 1]}}, 800)):
        for k in (1, 10, 600):
            hits = server.recall("boat tea w9", where=where, k=k, mode="dense")
            assert len(hits) == min(k, count)
            names = list(where)
            assert all(hit.entry.metadata[names[0]] in (77, 0, 1) for hit in hits)
    assert_same(local, server, "boat tea w9", where={"rare": 77}, mode="dense")


def test_what_an_index_has_too_few_of_is_searched_exactly(large, monkeypatch):
    local, server = large
    monkeypatch.setattr(served_view, "FEW", 0)
    assert_same(local, server, "door key", where={"rare": 3}, k=5, mode="dense")


def test_vectors_that_are_zero_in_the_first_dimensions_are_found_and_may_ask(large, extended):
    local, server = large
    texts = [f"tail {text}" for text in make_texts(60, seed=5)]
    ids = server.add_many({"text": text, "key": f"t{number}"} for number, text in enumerate(texts))
    try:
        server.save_snapshot()
        assert server.recall("boat", explain=True)[0].trace["tiers"][0]["dimension"] == 64
        for text, expected in [(texts[7], "t7"), (texts[50], "t50")]:
            assert assert_same(local, server, text, k=10, mode="dense", exact=True)[0].entry.key == expected
            assert assert_same(local, server, text, k=1, mode="dense")[0].entry.key == expected
        asked = server.encoder.encode_queries([texts[7].removeprefix("tail ")])[0]
        nearest = [hit.entry.key for hit in server.recall(asked, k=60, exact=True)]
        assert [key for key in nearest if key.startswith("t")]  # of words in common, in the other dimensions
        found = {hit.entry.key for hit in server.recall(asked, k=60)}
        assert {key for key in nearest if key.startswith("t")} <= found
        with psycopg.connect(extended.url(schema=None), autocommit=True) as connection:
            connection.execute("SET search_path TO large, public")
            asked_for = "SELECT relname FROM pg_class WHERE relname LIKE 'nearest%flat'"
            (name,) = connection.execute(asked_for).fetchone()
            connection.execute(f"DROP INDEX {name}")
            connection.execute("UPDATE alembic_version SET version_num = '0005'")  # as an earlier version left it
            open_prepared("large", extended)
            assert connection.execute(asked_for).fetchone() == (name,)
    finally:
        for entry in ids:
            server.forget(entry.key)


def open_prepared(schema, server):
    Memory(server.url(schema=schema), encoder=TailEncoder(), session_encoder=None).close()


# --- forgetting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", ["few", "many"])
def test_what_is_forgotten_is_in_no_file_of_the_server_but_its_log(extended, request, rows):
    memory = request.getfixturevalue("large")[1] if rows == "many" else request.getfixturevalue("open_both")()[1]
    memory.add_many({"text": text, "key": f"z{number}"} for number, text in enumerate(make_texts(40)))
    memory.add("vexillologe zanzibarquux", key="secret")
    memory.recall("cat")
    memory.save_snapshot()
    with psycopg.connect(extended.url(schema=None), autocommit=True) as connection:
        connection.execute(f"SET search_path TO {memory._store.database.connections.schema}, public")
        table, whole, prefix = connection.execute(
            "SELECT 'nearest_' || generation_id, halfvec_send(vector), "
            "halfvec_send(l2_normalize(subvector(vector, 1, 64)::halfvec(64))) "
            "FROM nearest, nearest_1 WHERE entry_id = (SELECT id FROM entries WHERE key = 'secret')"
        ).fetchone()
        traces = [np.frombuffer(one[4:], ">f2").astype("<f2").tobytes()[:60] for one in (whole, prefix)]
        connection.execute("CHECKPOINT")
        assert all(_find_files(extended, [one]) for one in (traces if rows == "many" else traces[:1]))
        receipt = memory.forget("secret")
        assert receipt.pending == ()
        connection.execute("CHECKPOINT")
        assert _find_files(extended, traces) == []
        assert connection.execute(f"SELECT count(*) FROM {table} WHERE row_id < 0").fetchone() == (0,)
    assert memory.recall("zanzibarquux", k=3, mode="dense")[0].entry.key != "secret"
    assert memory.stats().index["plan"]["layout"] == ("server" if rows == "many" else "server, exact")


def _find_files(server, traces):
    files = [path for path in (server.folder / "data" / "base").rglob("*") if path.is_file()]
    return [path for path in files if any(one in path.read_bytes() for one in traces)]


def test_rows_that_leave_room_are_written_again_and_the_index_is_made_by_maintenance(large, monkeypatch):
    _, server = large
    monkeypatch.setattr(near_index, "_POINTER", -40)  # more rows a page than there are
    assert server.forget("k1").pending == ()
    assert server.recall("red cat", explain=True)[0].trace["tiers"][0]["dimension"] == 96
    assert [action.name for action in server.maintenance().actions if action.name == "index"] == ["index"]
    assert server.recall("red cat", explain=True)[0].trace["tiers"][0]["dimension"] == 64


# --- other processes -------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from support import WordEncoder
from agent_memory import Config, Memory
from agent_memory.live import served
served._STEP = 20
steps = []
def die(name):
    steps.append(name)
    if name == "nearest-step" and steps.count(name) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
served.failpoint = die
Memory(sys.argv[1], encoder=WordEncoder(), session_encoder=None, config=Config(index="server")).recall("cat")
"""


def test_a_killed_filler_is_continued_by_the_next(open_both, url):
    local, server = open_both()
    local.add_many({"text": text, "key": f"k{number}"} for number, text in enumerate(make_texts(200)))
    child = python(KILLED, url)
    assert child.wait() == -9, child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    with server._store.read() as tx:
        state = tx.nearest.read_state(tx.generations.live())
    assert state.filled and not state.complete
    assert_same(local, server, "red cat", k=30)
    assert server.check().problems == ()


def test_threads_that_write_recall_and_take_in_at_once_find_what_they_wrote(open_both, monkeypatch):
    monkeypatch.setattr(served, "MOST_NEW", 4)
    _, server = open_both()
    server.add("the first", key="first")

    def work(name):
        for number in range(8):
            server.add(f"{name}{number} was said", key=f"{name}{number}")
            assert server.recall(f"{name}{number}", mode="dense", k=1)[0].entry.key == f"{name}{number}"
        server.forget(f"{name}0")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(server.recall("was said", k=50, mode="dense")) == 29
    assert server.check().problems == ()


def test_who_can_only_read_searches_what_others_have_filled(open_both, extended, url):
    local, server = open_both()
    local.add("red cat", key="a")
    schema = url.rpartition("schema=")[2]
    with psycopg.connect(extended.url(), autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS reader")
        connection.execute("CREATE ROLE reader LOGIN")
        connection.execute("ALTER ROLE reader SET default_transaction_read_only TO on")
        connection.execute(f"GRANT USAGE ON SCHEMA {schema} TO reader")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
    theirs = url.replace("memory@", "reader@")
    with Memory(theirs, encoder=WordEncoder(), session_encoder=None, config=Config(index="server")) as reader:
        with pytest.raises(StorageError, match="cannot fill it"):
            reader.recall("cat")
        server.recall("cat")
        with psycopg.connect(extended.url(), autocommit=True) as connection:
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader")
        assert reader.recall("cat")[0].entry.key == "a"
        local.add("blue cat", key="b")
        assert {hit.entry.key for hit in reader.recall("cat")} == {"a", "b"}
    with psycopg.connect(extended.url(), autocommit=True) as connection:
        connection.execute("DROP OWNED BY reader")
        connection.execute("DROP ROLE reader")


def test_check_finds_rows_that_others_have_changed_and_repairs_them(open_both, extended, url):
    _, server = open_both()
    server.add_many({"text": text, "key": f"k{number}"} for number, text in enumerate(make_texts(20)))
    schema = url.rpartition("schema=")[2]
    for damage in (
        "DELETE FROM nearest_1 WHERE row_id = 3",
        "UPDATE nearest_1 SET vector = (SELECT vector FROM nearest_1 WHERE row_id = 1) WHERE row_id = 2",
        "INSERT INTO nearest_1 SELECT 9999, 1, vector FROM nearest_1 WHERE row_id = 1",
    ):
        server.recall("cat")
        with psycopg.connect(extended.url(), autocommit=True) as connection:
            connection.execute(f"SET search_path TO {schema}, public")
            connection.execute(damage)
        assert "server" in server.check().problems[0]
        assert server.check(repair=True).repaired
        assert server.check().problems == ()


def test_backups_and_copies_take_no_index_along_and_make_their_own(open_both, extended, url, tmp_path):
    _, server = open_both()
    server.add_many({"text": text, "key": f"k{number}"} for number, text in enumerate(make_texts(30)))
    expected = list_hits(server.recall("red cat", k=9))
    server.backup(tmp_path / "backup.db")
    Memory.restore(tmp_path / "backup.db", tmp_path / "folder")
    target = f"{url}_copy"
    Memory.copy(url, target)
    for place, index in ((tmp_path / "folder", "local"), (target, "server")):
        with Memory(place, encoder=WordEncoder(), session_encoder=None, config=Config(index=index)) as memory:
            assert list_hits(memory.recall("red cat", k=9)) == expected
    with psycopg.connect(extended.url(), autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {target.rpartition('schema=')[2]} CASCADE")


def test_what_is_written_while_an_index_is_filled_for_a_swap_is_in_it(open_both, monkeypatch, url):
    local, server = open_both()
    server.add_many(f"red{number} dog" for number in range(40))
    keep = served.ServedIndex.keep

    def keep_and_write(self, *given):
        with Memory(url, encoder=WordEncoder(), session_encoder=None) as other:
            other.add("quick zebra", key="late")
        return keep(self, *given)

    monkeypatch.setattr(served.ServedIndex, "keep", keep_and_write)
    server.reindex(tiers=(48, 96))
    monkeypatch.undo()
    assert server.check().ok
    assert_same(local, server, "quick zebra", k=3, mode="dense")
    assert server.recall("quick zebra", k=1, mode="dense")[0].entry.key == "late"
    server.rollback()
    assert server.check().ok
