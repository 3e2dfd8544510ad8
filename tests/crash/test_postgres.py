"""A memory on PostgreSQL: servers that are killed, many writers, traces of what was forgotten, processes that fork."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import threading

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from conformance.samples import NOW, make_draft
from support import WordEncoder
from support_postgres import USER, Server, find_program

from agent_memory import Memory
from agent_memory.errors import AgentMemoryError, InvalidInputError, StorageError
from agent_memory.storage.postgres.database import PostgresDatabase


def open_store(url, **options):
    return Memory(url, encoder=WordEncoder(), session_encoder=None, **options)


def test_a_memory_does_on_postgresql_what_it_does_in_a_folder(url, tmp_path):
    found = []
    for place in (url, tmp_path / "store"):
        with open_store(place) as memory:
            memory.add("Alice moved to Berlin in May.", key="a", session="chat", metadata={"topic": "home", "n": 1})
            memory.add("Bob is allergic to peanuts.", key="b", metadata={"topic": "health", "n": 2.5})
            memory.add("The café is closed, said Zoë.", key="c", speaker="Ann", metadata={"topic": ["home", "town"]})
            memory.update("b", text="Bob is allergic to walnuts.")
            memory.supersede("a", "c")
            asked = ["Berlin", "what is Bob allergic to", "cafe", "nothing of the kind"]
            answers = [[(hit.entry.key, round(hit.score, 9)) for hit in memory.recall(one, k=3)] for one in asked]
            filtered = [hit.entry.key for hit in memory.recall("who", where={"topic": {"$contains": "home"}})]
            removed = memory.forget("b")
            found.append(
                (answers, filtered, int(removed), removed.rows, len(memory.entries()), memory.check().problems)
            )
    assert found[0] == found[1]
    assert found[0][1] == ["c"]


def test_a_store_is_there_for_the_next_who_opens_it_and_a_reindex_swaps_it(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store(url) as memory, open_store(url) as other:
        memory.add("The harbour was quiet.", key="a")
        assert other.recall("harbour")[0].entry.key == "a"
        other.add("The boats lay still.", key="b")
        assert {hit.entry.key for hit in memory.recall("boats harbour")} == {"a", "b"}
        memory.reindex(encoder=WordEncoder(dimension=128))
        assert memory.recall("boats")[0].entry.key == "b"
        memory.rollback()
        assert memory.recall("boats")[0].entry.key == "b"
        memory.maintenance()
    assert list(tmp_path.iterdir()) == []  # a store without a folder writes no files


def test_what_is_forgotten_is_in_no_file_of_the_server_but_its_log(postgres, url):
    words = ["zanzibarquux", "vexillologe"]
    with open_store(url, config={"query_log": False}) as memory:
        for number in range(30):
            memory.add(f"filler {number}", key=f"k{number}")
        memory.add(f"{words[0]} was said", key=words[1], session=words[1], speaker=words[1], metadata={"m": words[1]})
        assert memory.recall(words[0])[0].entry.key == words[1]
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("ANALYZE")
            connection.execute("CHECKPOINT")
        assert _find_files(postgres, words)
        receipt = memory.forget(words[1])
    assert receipt.pending == ()
    assert any("write-ahead log" in one and "out of reach" in one for one in receipt.verified)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        connection.execute("SELECT pg_stat_reset()")
    assert _find_files(postgres, words) == []


def _find_files(server, words):
    """Return the files of tables and indexes that hold one of the words."""
    files = [path for path in (server.folder / "data" / "base").rglob("*") if path.is_file()]
    return [path for path in files if any(word.encode() in path.read_bytes() for word in words)]


def test_forgetting_says_what_a_reader_of_a_former_state_keeps_and_finishes_later(postgres, url):
    with open_store(url, config={"lock_timeout_s": 0.3}) as memory:
        memory.add("The vault is behind the shelf.", key="a")
        with psycopg.connect(postgres.url()) as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            reader.execute("SELECT 1 FROM pg_class").fetchone()
            receipt = memory.forget("a")
            assert receipt.pending and "former rows" in receipt.pending[0]
            assert memory.recall("vault") == []
        memory.maintenance()
        with memory._store.read() as tx:
            assert tx.erasures.list_unfinished() == []


def test_a_reader_of_changes_misses_none_of_many_writers(url):
    database = PostgresDatabase(url, lock_timeout_s=30)
    database.prepare()
    with open_store(url) as memory:
        memory.add("begin")
    done, seen, last = threading.Event(), [], 0
    writers = [threading.Thread(target=_add_many, args=(url, name)) for name in range(6)]

    def follow():
        nonlocal last
        while True:
            over = done.is_set()
            with database.read() as tx:
                for seq, _, _ in tx.changes.list_since(last, 1_000):
                    seen.append(seq)
                    last = seq
            if over:
                return

    reader = threading.Thread(target=follow)
    reader.start()
    for thread in writers:
        thread.start()
    for thread in writers:
        thread.join(120)
    done.set()
    reader.join(60)
    with database.read() as tx:
        assert seen == list(range(1, tx.changes.last_seq() + 1))
    database.close()
    assert len(seen) == 1 + 6 * 20


def _add_many(url, name, count=20):
    with open_store(url, config={"lock_timeout_s": 60}) as memory:
        for number in range(count):
            memory.add(f"text {number} of {name}", key=f"{name}-{number}", session="shared")


@pytest.fixture(scope="module")
def own_server():
    """A server that syncs to disk, to be killed and started again."""
    server = Server()
    yield server
    server.stop()


def test_a_killed_server_has_lost_nothing_that_was_acknowledged(own_server):
    acknowledged: set[str] = set()
    url = own_server.url(schema="killed")
    with open_store(url) as memory:
        memory.add("begin", key="begin")
    for turn in range(3):
        lost = threading.Event()
        threads = [
            threading.Thread(target=_add_until_lost, args=(url, f"{turn}-{n}", acknowledged, lost)) for n in (0, 1)
        ]
        for thread in threads:
            thread.start()
        lost.wait(0.5)
        own_server.kill()
        lost.set()
        for thread in threads:
            thread.join(60)
        own_server.start()
    with open_store(url) as memory:
        keys = [entry.key for entry in memory.entries(limit=100_000)]
        assert memory.check().problems == ()
    assert len(keys) == len(set(keys))
    assert acknowledged and acknowledged <= set(keys)


def _add_until_lost(url, name, acknowledged, lost):
    with open_store(url, config={"lock_timeout_s": 5}) as memory:
        for number in range(100_000):
            try:
                memory.add(f"text {number}", key=f"{name}-{number}")
            except AgentMemoryError:
                return
            acknowledged.add(f"{name}-{number}")
            if lost.is_set():
                return


def test_a_memory_goes_on_after_the_server_was_started_again(own_server):
    with open_store(own_server.url(schema="restarted")) as memory:
        memory.add("The harbour was quiet.", key="a")
        own_server.kill()
        with pytest.raises(StorageError):
            memory.recall("harbour")
        own_server.start()
        assert memory.recall("harbour")[0].entry.key == "a"


def test_a_forked_process_has_connections_of_its_own(url):
    with open_store(url) as memory:
        memory.add("said before", key="a")
        child = os.fork()
        if not child:
            memory.add("said by the child", key="b")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        memory.add("said by the parent", key="c")
        assert {entry.key for entry in memory.entries()} == {"a", "b", "c"}


def test_a_text_with_a_nul_is_refused_before_anything_is_written(url):
    with open_store(url) as memory:
        memory.add("sound", key="a")
        for given in ({"text": "a\0b"}, {"text": "a", "metadata": {"m": "a\0b"}}):
            with pytest.raises(InvalidInputError, match="NUL"):
                memory.add(**given)
        assert len(memory.entries()) == 1
        memory.add("spelled out", metadata={"m": "\\u0000"})
        assert memory.recall("spelled", where={"m": "\\u0000"})[0].text == "spelled out"
        memory.add("written \\u0000 in JSON", key="b")
        assert memory.get("b").text == "written \\u0000 in JSON"


def test_a_store_whose_texts_spell_a_nul_out_is_copied_and_one_that_holds_one_is_refused(url, tmp_path):
    for name, text in (("spelled", "a \\u0000 b"), ("held", "a \0 b")):
        with open_store(tmp_path / name) as memory:
            memory.add(text, key="a", speaker="\\u0000", metadata={"m": "\\u0000"})
    with pytest.raises(InvalidInputError, match="NUL"):
        Memory.copy(tmp_path / "held", url)
    Memory.copy(tmp_path / "spelled", url)
    with open_store(url) as memory:
        assert memory.get("a").text == "a \\u0000 b"


def test_a_backup_is_a_store_in_a_file_that_can_be_restored(url, tmp_path):
    with open_store(url) as memory:
        memory.add("The harbour was quiet.", key="a", session="s")
        memory.add("The boats lay still.", key="b", expires_at="2099-01-01")
        expected = memory.entries()
        memory.backup(tmp_path / "backup.db")
    Memory.restore(tmp_path / "backup.db", tmp_path / "store")
    with open_store(tmp_path / "store") as memory:
        assert memory.entries() == expected
        assert memory.recall("harbour")[0].entry.key == "a"
        assert memory.check().problems == ()


def test_what_pg_dump_writes_while_others_write_is_a_store_wherever_pg_restore_puts_it(postgres, url, tmp_path):
    schema, dump, done = url.rpartition("=")[2], tmp_path / "store.dump", threading.Event()
    place = ["-h", str(postgres.folder), "-U", USER]

    def write():
        with open_store(url) as other:
            for number in range(10_000):
                other.add(f"note {number}", session="s")
                if done.is_set():
                    return

    with open_store(url) as memory, psycopg.connect(postgres.url(), autocommit=True) as connection:
        memory.add("The harbour was quiet.", key="a", session="s", metadata={"n": 1})
        writer = threading.Thread(target=write)
        writer.start()
        try:
            command = [find_program("pg_dump"), *place, "-Fc", "-n", schema, "-f", dump, "postgres"]
            subprocess.run(command, check=True, capture_output=True)
        finally:
            done.set()
            writer.join(60)
        expected = memory.get("a")
        connection.execute(f"CREATE DATABASE {schema}_restored")
        try:
            subprocess.run(
                [find_program("pg_restore"), *place, "-d", f"{schema}_restored", dump], check=True, capture_output=True
            )
            with open_store(postgres.url(f"{schema}_restored", schema=schema)) as restored:
                assert restored.get("a") == expected
                assert restored.check().problems == ()
                assert restored.recall("quiet harbour", where={"n": 1})[0].entry.key == "a"
                restored.add("The boats lay still.", key="b", session="s")
                assert restored.forget("a").pending == ()
                assert restored.check().problems == ()
        finally:
            connection.execute(f"DROP DATABASE {schema}_restored WITH (FORCE)")


def test_a_backup_and_an_export_are_files_and_a_store_on_a_server_is_not_replaced(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_store(url) as memory:
        memory.add("something")
        memory.backup("backup.db")
        for write in (memory.backup, memory.export):
            with pytest.raises(InvalidInputError, match="must be a path"):
                write(url)
        with pytest.raises(InvalidInputError, match="holds a store already"):
            Memory.restore("backup.db", url)
        with pytest.raises(InvalidInputError, match="is not replaced"):
            Memory.restore("backup.db", url, replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["backup.db"]


def count_trips(monkeypatch):
    """Count how often a client waits for the server: each pipeline once, each statement outside of one."""
    trips: list[str] = []
    inside = []
    begin, run = psycopg.Connection.pipeline, psycopg.Cursor.execute

    @contextlib.contextmanager
    def pipeline(self):
        trips.append("several")
        inside.append(self)
        try:
            with begin(self) as made:
                yield made
        finally:
            inside.pop()

    def execute(self, query, *arguments, **options):
        if not inside:
            trips.append(str(query))
        return run(self, query, *arguments, **options)

    monkeypatch.setattr(psycopg.Connection, "pipeline", pipeline)
    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    return trips


def test_adding_and_recalling_take_few_round_trips(url, monkeypatch):
    with open_store(url) as memory:
        for number in range(4):
            memory.add(f"The harbour number {number} was quiet.", session="s")
            memory.recall(f"harbour {number} again")
        trips = count_trips(monkeypatch)
        memory.add("The harbour number five was quiet.", session="s")
        assert len(trips) <= 10, trips  # four of them look for what the text may update
        memory.recall("harbour five")
        memory.recall("harbour six")
        del trips[:]
        memory.recall("quiet harbour")
        assert len(trips) <= 10, trips  # two of them read what the first hits may update


def list_counted(monkeypatch):
    """Return a list that the words are added to which the server is asked to count."""
    counted = []
    run = psycopg.Cursor.execute

    def execute(self, query, params=None, **options):
        if "SELECT count(*) FROM lexical WHERE terms" in str(query):
            counted.extend(word for words in params for word in words)
        return run(self, query, params, **options)

    monkeypatch.setattr(psycopg.Cursor, "execute", execute)
    return counted


def test_common_words_are_not_counted_again_for_each_entry_that_is_added(url, monkeypatch):
    with open_store(url) as memory:
        memory.add_many([{"text": f"harbour note {number}"} for number in range(400)])
        memory.add("The harbour master is called Ann.", key="a")
        counted = list_counted(monkeypatch)
        entry = memory.add("The harbour master is called Bob.", key="b")
        assert entry.may_supersede == ("a",)
        assert "master" in counted and "harbour" not in counted
        memory.add_many([{"text": f"harbour notice {number}"} for number in range(100)])
        memory.add("The harbour master is called Carl.", key="c")
        assert "harbour" in counted  # the store has grown by more than a tenth


def test_adding_goes_on_when_entries_that_held_a_common_word_were_forgotten(url):
    with open_store(url) as memory:
        memory.add_many([{"text": f"harbour {number % 3}", "key": f"k{number}"} for number in range(230)])
        memory.add("The harbour is closed.", key="a")
        for number in range(15):
            memory.forget(f"k{number}")
        assert memory.add("The harbour is not closed.", key="b").may_supersede == ("a",)
        assert memory.add("Harbour 7").key


def test_a_transaction_asks_again_what_it_has_changed_itself(url):
    database = PostgresDatabase(url, lock_timeout_s=5)
    database.prepare()
    with open_store(url) as memory:
        memory.add("one")
        for number in range(1, 4):  # the last ones foresee what the first have asked
            with database.write() as tx:
                assert tx.changes.last_seq() == 2 * number - 1
                tx.drafts.put([make_draft(f"own {number}", vector=None)], 1, NOW, keep_versions=1)
                assert tx.changes.last_seq() == 2 * number
            memory.add(f"text {number}")
            with database.read() as tx:
                assert tx.changes.last_seq() == 2 * number + 1
    database.close()


def test_rows_that_do_not_fit_are_refused_when_the_block_ends_and_nothing_is_written(url):
    database = PostgresDatabase(url, lock_timeout_s=5)
    database.prepare()
    with pytest.raises(StorageError), database.connections.write() as link:
        link.raw.executemany("INSERT INTO changes (seq, entry_id, op) VALUES (?, ?, ?)", [(1, 1, "put"), (1, 1, "put")])
    with database.read() as tx:
        assert tx.changes.last_seq() == 0
    database.close()


class Pooler(threading.Thread):
    """Passes bytes between one client and a server, and tells the client a process number of its own, as poolers do."""

    def __init__(self, folder):
        super().__init__(daemon=True)
        self._server = socket.socket(socket.AF_UNIX)
        self._server.connect(f"{folder}/.s.PGSQL.5432")
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]

    def run(self):
        client, _ = self._door.accept()
        with self._door, self._server, client:
            while ready := select.select([client, self._server], [], [], 30)[0]:
                for one in ready:
                    data = one.recv(65536)
                    if not data:
                        return
                    if one is self._server and (at := data.find(b"K\0\0\0\x0c")) >= 0:
                        data = data[: at + 5] + (12345).to_bytes(4, "big") + data[at + 9 :]
                    (client if one is self._server else self._server).sendall(data)


def test_a_pooler_of_connections_is_refused_by_name(postgres):
    pooler = Pooler(postgres.folder)
    pooler.start()
    with pytest.raises(StorageError, match="PgBouncer"):
        Memory(f"postgresql://memory@127.0.0.1:{pooler.port}/postgres?sslmode=disable&schema=pooled")
    pooler.join(30)
