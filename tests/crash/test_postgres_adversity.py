"""A memory on PostgreSQL under roles, settings, clocks and disks that are against it; and its connections killed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from support import TESTS, WordEncoder, skip_locally
from support_postgres import USER, Server

from agent_memory import Memory
from agent_memory.errors import AgentMemoryError, InvalidInputError, LeaseHeldError, SchemaTooNewError, StorageError
from agent_memory.storage.postgres import upkeep
from agent_memory.storage.postgres.migrate import REVISIONS

_ROLES = itertools.count()
PROCESSES = 8
KILLS = 40


def open_store(url, **options):
    return Memory(url, encoder=WordEncoder(), session_encoder=None, **options)


@pytest.fixture
def admin(postgres):
    """Runs statements on the server, as its owner."""
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        yield connection.execute


@pytest.fixture
def role(admin):
    """A role that may make schemas and nothing else; its name."""
    name = f"role_{next(_ROLES)}"
    admin(f"CREATE ROLE {name} LOGIN")
    admin(f"GRANT CREATE ON DATABASE postgres TO {name}")
    yield name
    admin(f"DROP OWNED BY {name} CASCADE")
    admin(f"DROP ROLE {name}")


def as_role(url, role):
    return url.replace(f"//{USER}@", f"//{role}@")


def write_and_ask(url):
    """Return what a memory answers about texts of several scripts, numbers and backslashes."""
    with open_store(url) as memory:
        text = "Größe 東京 😀 \\ harbour"
        memory.add(text, key="q'\\", metadata={"x": 1 / 3, "é": "ß\\"}, session="s", event_time="2024-05-05")
        memory.add("The boats lay still.", key="b", importance=0.1)
        memory.update("b", text="The boats lay in the harbour.")
        hits = [(hit.entry.key, hit.score, hit.entry.metadata) for hit in memory.recall("harbour größe")]
        kept = [entry.key for entry in memory.entries(where={"é": "ß\\", "x": {"$gt": 0.3}})]
        return hits, kept, memory.get("q'\\").text == text, memory.forget("b").pending, memory.check().problems


SETTINGS = {
    "client_encoding": "LATIN1",
    "extra_float_digits": "-5",
    "standard_conforming_strings": "off",
    "DateStyle": "German",
    "bytea_output": "escape",
    "search_path": "evil",
    "default_transaction_isolation": "serializable",
    "lock_timeout": "1",
}


def test_settings_of_a_role_change_no_answer(postgres, url, admin, role):
    expected = write_and_ask(url)
    for name, value in SETTINGS.items():
        admin(f"ALTER ROLE {role} SET {name} = '{value}'")
    assert write_and_ask(as_role(postgres.url(schema=f"{role}_set"), role)) == expected
    assert expected[1:] == (["q'\\"], True, (), ())


def test_settings_of_the_environment_change_no_answer(url, postgres, monkeypatch, role):
    expected = write_and_ask(url)
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    monkeypatch.setenv("PGOPTIONS", "-c extra_float_digits=-5 -c DateStyle=German -c client_encoding=latin1")
    assert write_and_ask(as_role(postgres.url(schema=f"{role}_env"), role)) == expected


def test_a_role_for_which_entries_are_not_deleted_with_what_they_have_is_refused(url, admin, role):
    admin(f"ALTER ROLE {role} SUPERUSER")
    admin(f"ALTER ROLE {role} SET session_replication_role = 'replica'")
    with pytest.raises(StorageError, match="session_replication_role = replica"):
        open_store(as_role(url, role))


def test_an_encoding_that_cannot_hold_all_texts_is_refused_by_name(postgres, admin, role):
    admin(f"CREATE DATABASE {role} TEMPLATE template0 ENCODING 'SQL_ASCII'")
    try:
        with pytest.raises(StorageError, match="the encoding SQL_ASCII; agent-memory needs UTF8"):
            open_store(postgres.url(role, schema="s"))
    finally:
        admin(f"DROP DATABASE {role}")


def test_who_may_only_select_has_a_memory_that_can_be_read_and_backed_up(url, admin, role, tmp_path):
    schema = url.rpartition("=")[2]
    with open_store(url) as memory:
        memory.add("The harbour was quiet.", key="a")
    admin(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    admin(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {role}")
    with open_store(as_role(url, role)) as memory:
        assert memory.recall("harbour")[0].entry.key == "a"
        assert memory.backup(tmp_path / "backup.db") == 1
        for write in (lambda: memory.add("more"), lambda: memory.forget("a"), lambda: memory.update("a", text="no")):
            with pytest.raises(StorageError, match="is read-only"):
                write()


def test_who_may_not_use_the_schema_is_told_so(url, role):
    open_store(url).close()
    with pytest.raises(StorageError, match="permission denied for schema"):
        open_store(as_role(url, role))


def test_who_may_not_write_tables_again_is_told_so_without_waiting(url, admin, role, monkeypatch):
    schema = url.rpartition("=")[2]
    open_store(url).close()
    admin(f"GRANT USAGE ON SCHEMA {schema} TO {role}")
    admin(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}")
    admin(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}")
    pauses = []
    monkeypatch.setattr(upkeep.time, "sleep", pauses.append)
    with open_store(as_role(url, role)) as memory:
        memory.add("The vault is behind the shelf.", key="a")
        (reason,) = memory.forget("a").pending
        assert memory.recall("vault") == []
    assert "permission denied to vacuum" in reason
    assert pauses == []
    with open_store(url) as memory:  # the owner does it later
        memory.maintenance()
        with memory._store.read() as tx:
            assert tx.erasures.list_unfinished() == []


SLOW = "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(.5); END'"
WHEN = "ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA')"


def test_a_limit_for_statements_stops_neither_the_making_of_tables_nor_their_writing_again(postgres, admin, role):
    admin(f"CREATE DATABASE {role} OWNER {role}")
    try:
        with psycopg.connect(postgres.url(role), autocommit=True) as own:
            own.execute(SLOW)
            own.execute(f"CREATE EVENT TRIGGER slow {WHEN} EXECUTE FUNCTION slow()")
        admin(f"ALTER ROLE {role} SET statement_timeout = '400ms'")
        url = as_role(postgres.url(role, schema="s"), role)
        with open_store(url) as memory:
            memory.add("The vault is behind the shelf.", key="a")
            with memory._store.database.connections.outside() as raw:
                raw.execute("SELECT pg_sleep(.5)")
            assert memory.forget("a").pending == ()
    finally:
        admin(f"DROP DATABASE {role} WITH (FORCE)")


def test_errors_of_the_server_are_told_in_one_line_without_the_statement(url):
    with open_store(url) as memory:
        memory.add("The harbour was quiet.", key="a")
        with psycopg.connect(url.partition("&")[0], autocommit=True) as connection:
            connection.execute(f"ALTER TABLE {url.rpartition('=')[2]}.entries RENAME COLUMN text TO body")
        with pytest.raises(StorageError) as raised:
            memory.recall("harbour")
    assert "does not exist" in str(raised.value)
    assert "\n" not in str(raised.value) and "SELECT" not in str(raised.value)


# --- connections that end, and many processes ------------------------------------------------------------------------


class Caller(threading.Thread):
    """Adds, recalls and forgets until it is told to stop; what raises may have been done or not."""

    def __init__(self, url, number, over):
        super().__init__()
        self.url, self.number, self.over = url, number, over
        self.kept, self.gone, self.unexpected = set(), set(), []
        self.unsure, self.lost = set(), set()  # written, or forgotten, or not

    def run(self):
        chance = random.Random(self.number)
        try:
            with contextlib.suppress(AgentMemoryError), open_store(self.url) as memory:
                for count in itertools.count():
                    if self.over.is_set():
                        return
                    with contextlib.suppress(AgentMemoryError):
                        self.call(memory, f"{self.number}-{count}", chance)
        except BaseException as error:
            self.unexpected.append(error)
            raise

    def call(self, memory, key, chance):
        turn = chance.random()
        keys = {key} if turn < 0.6 else {f"{key}-{part}" for part in range(10)}
        if turn < 0.1 and self.kept:
            key = chance.choice(sorted(self.kept))
            self.kept.discard(key)
            self.lost.add(key)
            memory.forget(key)
            self.lost.discard(key)
            self.gone.add(key)
        elif turn < 0.4:
            memory.recall(f"said {key}")
        else:
            self.unsure |= keys
            memory.add_many([{"text": f"{one} was said", "key": one, "session": f"s{self.number % 2}"} for one in keys])
            self.unsure -= keys
            self.kept |= keys


@pytest.mark.parametrize("how", ["terminate", "cancel"])
def test_connections_that_others_end_at_random_lose_nothing_and_let_no_other_error_out(url, admin, how):
    open_store(url).close()
    over, schema = threading.Event(), url.rpartition("=")[2]
    callers = [Caller(url, number, over) for number in range(4)]
    for caller in callers:
        caller.start()
    chance = random.Random(7)
    using = (
        "SELECT DISTINCT pid FROM pg_locks JOIN pg_class c ON c.oid = relation WHERE relnamespace = to_regnamespace(%s)"
    )
    kills = 0
    while kills < KILLS and any(caller.is_alive() for caller in callers):
        if pids := [row[0] for row in admin(using, (schema,)).fetchall()]:
            admin(f"SELECT pg_{how}_backend(%s)", (chance.choice(pids),))
            kills += 1
        over.wait(chance.random() / 10)
    over.set()
    for caller in callers:
        caller.join(120)
    assert [error for caller in callers for error in caller.unexpected] == []
    names = ("kept", "gone", "unsure", "lost")
    kept, gone, unsure, lost = (set().union(*(getattr(one, name) for one in callers)) for name in names)
    with open_store(url) as memory:
        keys = [entry.key for entry in memory.entries()]
        assert memory.check().problems == ()
        memory.maintenance()
        with memory._store.read() as tx:
            assert tx.erasures.list_unfinished() == []
    assert len(keys) == len(set(keys))
    assert kept <= set(keys)
    assert not gone & set(keys)
    assert set(keys) - kept <= unsure | lost


WRITER = """
import random, sys
from support import WordEncoder
from agent_memory import AgentMemoryError, Config, Memory, NotFoundError

url, number = sys.argv[1], int(sys.argv[2])
chance, own = random.Random(number), []
with Memory(url, encoder=WordEncoder(), session_encoder=None, config=Config(lock_timeout_s=120)) as memory:
    for count in range(30):
        turn, key = chance.random(), f"same-{chance.randrange(3)}"
        try:
            if turn < 0.5:
                own.append(memory.add(f"{number} said {count}", key=f"{number}-{count}", session="one").key)
            elif turn < 0.7:
                memory.add(f"{key} by {number}", key=key, session="one" if count % 2 else None)
            elif turn < 0.85:
                places = chance.sample(range(6), 6)  # the same keys, by each in an order of its own
                memory.add_many([{"text": f"{place} by {number}", "key": f"same-{place}"} for place in places])
            elif turn < 0.95:
                memory.forget(key)
            else:
                memory.forget(session="two")
                memory.add(f"{number} said {count}", session="two")
        except NotFoundError:
            pass
    assert len(memory.get_many(own)) == len(own)
    for key in own:
        print(key)
"""


def test_many_processes_write_one_session_and_the_same_keys_and_none_sees_an_error(url, admin):
    open_store(url).close()
    before = admin("SELECT sum(deadlocks) FROM pg_stat_database").fetchone()[0]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(number)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [errors for process, (_, errors) in zip(processes, said, strict=True) if process.returncode] == []
    own = {key for lines, _ in said for key in lines.split()}
    with open_store(url) as memory:
        current = [entry.key for entry in memory.entries()]
        assert memory.check().problems == ()
        with memory._store.read() as tx:
            numbers = [seq for seq, _, _ in tx.changes.list_since(0, 100_000)]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert own <= set(current) and len(current) == len(set(current))
    assert admin("SELECT sum(deadlocks) FROM pg_stat_database").fetchone()[0] == before


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Runs Python code on a machine whose clock is wrong by some seconds; returns what it prints."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or not sys.platform.startswith("linux"):
        skip_locally("a C compiler is needed to shift the clock of a process")
    library = tmp_path_factory.mktemp("clock") / "shifted_clock.so"
    source = TESTS / "crash" / "shifted_clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, capture_output=True)

    def run(seconds, code, *arguments):
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "LD_PRELOAD": str(library), "CLOCK_SHIFT": str(seconds)}
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    return run


ADD = """
import sys
from datetime import datetime
from support import WordEncoder
from agent_memory import Memory

with Memory(sys.argv[1], encoder=WordEncoder(), session_encoder=None) as memory:
    memory.add(sys.argv[2], key="home")
    print(datetime.now().year, len(memory.recall("home", as_of=sys.argv[3])))
"""


@pytest.mark.parametrize("hours", [-30, 30])
def test_what_was_known_at_a_time_does_not_depend_on_the_clock_of_who_wrote_it(url, shifted, hours):
    begun = datetime.now(UTC)
    with open_store(url) as memory:
        memory.add("home is Berlin", key="home")
        between = datetime.now(UTC)
        shifted(hours * 3600, ADD, url, "home is Oslo", str(between))
        ended = datetime.now(UTC)
        (former, current) = memory.history("home")
        assert former.text == "home is Berlin" and between <= former.superseded_at <= ended
        assert between <= current.event_time <= ended
        assert memory.recall("home", as_of=between)[0].text == "home is Berlin"
        assert memory.recall("home", as_of=ended + timedelta(seconds=1))[0].text == "home is Oslo"
        assert memory.recall("home", as_of=begun) == []


LEASE = """
import sys
from support import WordEncoder
from agent_memory import Memory
from agent_memory.errors import LeaseHeldError

with Memory(sys.argv[1], encoder=WordEncoder(), session_encoder=None) as memory:
    try:
        memory.reindex(encoder=WordEncoder(dimension=128))
        print("taken")
    except LeaseHeldError:
        print("held")
"""


@pytest.mark.parametrize("hours", [-30, 30])
def test_a_lease_is_held_whatever_the_clock_of_another_machine_says(url, shifted, hours):
    from agent_memory.upkeep.lease import hold_lease

    with open_store(url) as memory:
        memory.add("home is Berlin", key="home")
        with hold_lease(memory._store):
            assert shifted(hours * 3600, LEASE, url).split() == ["held"]
            with pytest.raises(LeaseHeldError):
                memory.reindex(encoder=WordEncoder(dimension=128))
        assert shifted(hours * 3600, LEASE, url).split() == ["taken"]


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk():
    """A server, and a folder of it on a disk of 24 MB."""
    server = Server()
    folder = server.folder / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    try:
        if mounted.returncode:
            pytest.skip("only root may mount a small disk")
        shutil.chown(folder, "nobody" if not os.geteuid() else None)
        yield server, folder
        server.kill()
    finally:
        if not mounted.returncode:
            subprocess.run(["umount", "-l", str(folder)], check=True)
        server.stop()


def test_a_full_disk_refuses_writes_and_keeps_what_was_acknowledged(small_disk):
    server, folder = small_disk
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        connection.execute("CREATE DATABASE tiny TABLESPACE small")
    chance, acknowledged, refused = random.Random(1), [], 0
    with open_store(server.url("tiny", schema="s")) as memory:
        while refused < 3:
            keys = [f"{len(acknowledged)}-{number}" for number in range(100)]
            words = [" ".join(f"w{chance.randrange(10**6)}" for _ in range(60)) for _ in keys]
            try:
                memory.add_many([{"text": text, "key": key} for text, key in zip(words, keys, strict=True)])
                acknowledged += keys
            except StorageError as error:
                assert "No space left on device" in str(error)
                refused += 1
        assert len(memory.get_many(acknowledged)) == len(acknowledged)
        assert memory.stats().entries == len(acknowledged)
        assert memory.recall("w5") != []


def test_backups_at_once_into_one_folder_are_all_kept(url, tmp_path):
    with open_store(url) as memory:
        memory.add_many(f"note {number}" for number in range(40))

        def back_up(number):
            return [memory.backup(tmp_path / f"copy-{number}-{turn}.db") for turn in range(3)]

        with ThreadPoolExecutor(4) as pool:
            assert all(made == [40] * 3 for made in pool.map(back_up, range(4)))
    assert len(list(tmp_path.glob("*.db"))) == 12
    Memory.restore(tmp_path / "copy-3-2.db", tmp_path / "store")
    with open_store(tmp_path / "store") as memory:
        assert memory.check().ok and len(memory.entries()) == 40


def test_a_limit_of_transactions_ends_no_backup(url, admin, role, tmp_path):
    admin(f"ALTER ROLE {role} SET idle_in_transaction_session_timeout = '200ms'")
    admin(f"ALTER ROLE {role} SET transaction_timeout = '400ms'")
    with open_store(as_role(url, role)) as memory:
        memory.add("kept")
        assert memory.backup(tmp_path / "backup.db", progress=lambda *_: time.sleep(0.3)) == 1


def test_a_setting_that_leaves_rows_out_of_an_index_changes_no_answer(url, admin, role):
    with open_store(as_role(url, role)) as memory:
        memory.add_many(f"zebra number{number}" for number in range(300))
        expected = [hit.entry.key for hit in memory.recall("zebra number17", k=300, mode="lexical")]
    admin(f"ALTER ROLE {role} SET gin_fuzzy_search_limit = 2")
    admin(f"ALTER ROLE {role} SET enable_seqscan = off")
    with open_store(as_role(url, role)) as memory:
        assert [hit.entry.key for hit in memory.recall("zebra number17", k=300, mode="lexical")] == expected


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("ALTER TABLE vectors DROP CONSTRAINT vectors_entry_id_fkey", "constraint vectors_entry_id_fkey is gone"),
        ("ALTER TABLE vectors ALTER static DROP NOT NULL", "column vectors.static not null is gone"),
        ("DROP INDEX ux_entries_key", "index ux_entries_key is gone"),
        ("DROP TRIGGER keep_number ON changes", "trigger keep_number on changes is gone"),
        ("DROP TABLE copies", "table copies is gone"),
        ("DROP FUNCTION protect", "function protect is gone"),
        ("ALTER TABLE entries DISABLE TRIGGER ALL", "triggers of the table entries are disabled"),
    ],
)
def test_parts_of_a_store_that_somebody_has_dropped_are_named_by_a_check(url, admin, statement, fault):
    with open_store(url) as memory:
        memory.add("red cat", key="a")
        assert memory.check().ok
        admin(f"SET search_path TO {memory._store.database.connections.schema}")
        admin(statement)
        assert any(fault in one for one in memory.check().problems)


@pytest.mark.parametrize("number", [REVISIONS[-1], "a1b2c3"])
def test_another_programs_tables_are_no_store_though_they_have_a_version(url, admin, number):
    schema = url.rpartition("=")[2]
    admin(f"CREATE SCHEMA {schema}")
    admin(f"CREATE TABLE {schema}.alembic_version (version_num text)")
    admin(f"INSERT INTO {schema}.alembic_version VALUES (%s)", (number,))
    admin(f"CREATE TABLE {schema}.entries (id int)")
    with pytest.raises(StorageError, match="is not a store") as refused:
        open_store(url)
    assert not isinstance(refused.value, SchemaTooNewError)
    assert admin(f"SELECT count(*) FROM {schema}.entries").fetchone() == (0,)


@pytest.mark.parametrize(
    "bad", [{"text": "a\0b"}, {"text": "x", "metadata": {"a": ["\0"]}}, {"text": "x", "key": "é" * 500}]
)
def test_what_a_server_cannot_hold_is_refused_with_its_place_before_anything_is_written(url, tmp_path, bad):
    namespace = ("ü" * 450, "ö" * 500)
    items = [{"text": f"boat {number}", "key": f"k{number}"} for number in range(600)] + [bad]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(json.dumps(item | {"namespace": namespace}) + "\n" for item in items))
    with open_store(url) as memory:
        with pytest.raises(InvalidInputError, match="item 600: "):
            memory.add_many([item | {"namespace": namespace} for item in items])
        for dry_run in (True, False):
            with pytest.raises(InvalidInputError, match="line 601: "):
                memory.import_(file, dry_run=dry_run)
        assert memory.check().entries == 0


def test_a_statement_that_was_only_likely_to_be_asked_keeps_no_other_call_from_its_own(url, admin, role):
    mine = as_role(url, role)
    with open_store(mine) as memory:
        memory.add("red cat", key="a")
        for _ in range(3):
            memory.recall("red", mode="lexical")
        schema = url.rpartition("=")[2]
        admin(f"REVOKE SELECT ON {schema}.lexical FROM {role}")
        for _ in range(2):
            assert memory.get("a").key == "a"
        with pytest.raises(StorageError):
            memory.recall("red", mode="lexical")
        assert memory.get("a").key == "a"
        admin(f"GRANT SELECT ON {schema}.lexical TO {role}")
        assert memory.recall("red", mode="lexical")[0].entry.key == "a"


def test_more_threads_than_connections_wait_for_each_other(url, admin, role):
    mine = as_role(url, role)
    with open_store(mine) as memory:
        memory.add("red cat", key="first")
    admin(f"ALTER ROLE {role} CONNECTION LIMIT 3")
    with open_store(mine) as memory, ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: memory.add(f"red cat {number}", key=f"k{number}"), range(32)))
        assert len(list(pool.map(lambda number: memory.recall("red cat", k=2)[0].entry.key, range(32)))) == 32
        assert memory.check().entries == 33
