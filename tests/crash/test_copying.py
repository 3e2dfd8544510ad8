"""Copies of a store between a folder and a PostgreSQL server: all of it, whole or not at all, however often killed."""

from __future__ import annotations

import json
import time

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from conformance.samples import NOW, begin, make_draft, make_segment, put, read_store, remove, stored
from support import WordEncoder, python

from agent_memory import AsyncMemory, Memory
from agent_memory.errors import InvalidInputError, NotFoundError, StorageError, UnfinishedCopyError
from agent_memory.live.store import open_database
from agent_memory.storage.erasures import StoredErasure
from agent_memory.storage.records import LoggedQuery

COPY = """
import sys
from agent_memory import Memory
Memory.copy(sys.argv[1], sys.argv[2])
"""
POINTS = ("clone-marked", "clone-before-commit:3", "clone-after-commit:5", "clone-before-verify", "clone-before-finish")
HERE = ("jobs", "lease", "schedules")  # what a store does where it is


def open_prepared(place):
    database = open_database(place)
    try:
        database.prepare()
    except BaseException:
        database.close()
        raise
    return database


def fill(place):
    """Write everything that there is in a store: versions, sessions, latents, two generations, receipts, queries."""
    database = open_prepared(place)
    put(database, make_segment("a"), make_segment("b"), make_draft("c", namespace=("team", "z"), metadata={"n": 1}))
    put(database, make_draft("a", "a new text"), make_draft("d", importance=0.5, speaker="ann", expires_at=NOW))
    gone = put(database, make_draft("gone"))
    remove(database, *gone)
    with database.write() as tx:
        second = begin(tx, fingerprint="f2", files={"model": b"bytes"})
        texts = tx.vectors.select_texts([1])
        tx.vectors.store(second.id, [(text, stored("other")) for text in texts])
        receipt = StoredErasure(
            token="1" * 32,
            store_id=tx.read_store_id(),
            made_at=NOW,
            selection="key",
            digest="2" * 64,
            ids=tuple(gone),
            facts={"keys": 1, "seq": 1},
            deferred=False,
            finished_at=NOW,
        )
        tx.erasures.add(receipt)
        query = LoggedQuery(
            namespace=(),
            asked_at=NOW,
            k=5,
            fingerprint="f1",
            dtype="float16",
            vector=stored("q"),
            digest=None,
            text="q",
        )
        tx.queries.append([query], keep=100)
    database.close()


def read(place):
    database = open_prepared(place)
    with database.read() as tx:
        more = tx.erasures.list_all(), tx.entries.fetch([1, 2, 3])
    found = {name: value for name, value in read_store(database).items() if name not in HERE} | {"more": more}
    database.close()
    return found


def kill(source, target, point):
    child = python(COPY, source, target, env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=120)
    assert child.returncode == -9, errors


@pytest.fixture
def sides(tmp_path, url, request):
    """A filled store and a place without one, on different engines."""
    folder = tmp_path / "folder"
    source, target = (folder, url) if request.param == "to a server" else (url, folder)
    folder.mkdir()
    fill(source)
    return source, target


both_ways = pytest.mark.parametrize("sides", ["to a server", "to a folder"], indirect=True)


@both_ways
def test_a_copy_says_all_that_its_source_says_and_goes_on_with_the_same_numbers(sides):
    source, target = sides
    planned = Memory.copy(source, target, dry_run=True)
    steps = []
    done = Memory.copy(source, target, progress=lambda *step: steps.append(step))
    assert read(target) == read(source)
    assert (planned.rows, planned.entries, planned.digest) == (done.rows, done.entries, "")
    assert (done.entries, done.sessions, done.receipts, done.found, done.damaged) == (5, 1, 1, 0, 0)
    assert steps[-1] == (2 * done.rows, 2 * done.rows)
    numbers = []
    for place in sides:
        database = open_prepared(place)
        numbers.append((put(database, make_segment("next", session="t")), read_store(database)["seqs"]))
        with database.read() as tx:
            numbers[-1] += (
                tx.find_faults(),
                tx.find_altered(),
                tx.lexical.find_faults(),
                tx.sessions.find_head((), "t").id,
            )
        database.close()
    assert numbers[0] == numbers[1]


@both_ways
def test_two_stores_have_two_ids_and_know_of_each_other(sides):
    Memory.copy(*sides)
    ids, known = [], []
    for place in sides:
        database = open_prepared(place)
        with database.read() as tx:
            ids.append(tx.read_store_id())
            known.append([(one.kind, one.exists) for one in tx.erasures.list_copies()])
        database.close()
    assert ids[0] != ids[1]
    assert known == [[("copy", True)]] * 2


@pytest.mark.parametrize(
    ("sides", "point"),
    [*(("to a server", point) for point in POINTS), *(("to a folder", point) for point in POINTS[1:4:2])],
    indirect=["sides"],
)
def test_a_copy_that_was_killed_is_opened_by_nobody_and_finished_by_the_same_call(sides, point):
    source, target = sides
    kill(source, target, point)
    with pytest.raises(UnfinishedCopyError, match="unfinished copy"):
        open_prepared(target)
    with pytest.raises(UnfinishedCopyError):
        Memory(target, encoder=WordEncoder(8))
    done = Memory.copy(source, target)
    assert read(target) == read(source)
    assert done.found < done.rows or point in ("clone-before-verify", "clone-before-finish")
    assert Memory.copy(source, target).digest == done.digest  # as after a kill right before the end


@both_ways
def test_what_changed_in_the_source_between_two_runs_is_as_it_is_now(sides):
    source, target = sides
    kill(source, target, "clone-before-finish")
    database = open_prepared(source)
    put(database, make_draft("b", "another text"), make_segment("e"))
    remove(database, 3)
    database.close()
    done = Memory.copy(source, target)
    assert read(target) == read(source)
    assert done.found


def test_what_was_forgotten_between_two_runs_is_in_no_file_of_the_copy(tmp_path, url):
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add("The vault is behind the xylophone.", key="a")
        memory.add("The harbour was quiet.", key="b")
    folder = tmp_path / "copy"
    kill(url, folder, "clone-before-finish")
    assert any(b"xylophone" in file.read_bytes() for file in folder.rglob("*") if file.is_file())
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        memory.forget("a")
    Memory.copy(url, folder)
    assert not any(b"xylophone" in file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_copy_within_one_database_erases_what_was_forgotten_between_two_runs(url, postgres):
    target = f"{url}_copy"
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add("The vault is behind the xylophone.", key="a")
        memory.add("The harbour was quiet.", key="b")
    kill(url, target, "clone-before-finish")
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        memory.forget("a")
    try:
        assert Memory.copy(url, target).entries == 1
        assert read(target) == read(url)
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute("CHECKPOINT")
        data = postgres.folder / "data" / "base"
        assert not any(b"xylophone" in file.read_bytes() for file in data.rglob("*") if file.is_file())
    finally:
        with psycopg.connect(postgres.url(), autocommit=True) as connection:
            connection.execute(f"DROP SCHEMA {target.rpartition('=')[2]} CASCADE")


@both_ways
def test_limits_of_time_that_a_role_has_end_no_copy(sides, postgres, tmp_path):
    role = postgres.url().partition("//")[2].partition("@")[0]
    source, target = sides
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        for name in ("transaction_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(f"ALTER ROLE {role} SET {name} = 250")
        try:
            Memory.copy(source, target, progress=lambda *_: time.sleep(0.1))
        finally:
            connection.execute(f"ALTER ROLE {role} RESET ALL")
    assert read(target) == read(source)


def test_nothing_is_encoded_again_and_answers_are_the_same(tmp_path, url):
    encoder = WordEncoder()
    with Memory(tmp_path / "a", encoder=encoder, session_encoder=None) as memory:
        memory.add_many([f"The harbour number {number} was quiet." for number in range(20)], session="s")
        asked = [(hit.text, hit.score) for hit in memory.recall("harbour 7", k=5)]
    Memory.copy(tmp_path / "a", url)
    Memory.copy(url, tmp_path / "b")
    del encoder.encoded[:]
    for place in (url, tmp_path / "b"):
        with Memory(place, encoder=encoder, session_encoder=None) as memory:
            assert [(hit.text, hit.score) for hit in memory.recall("harbour 7", k=5)] == asked
            assert memory.check().ok
    assert encoder.encoded == ["harbour 7"] * 2


async def test_a_copy_can_be_awaited(tmp_path):
    fill_folder = tmp_path / "a"
    fill_folder.mkdir()
    fill(fill_folder)
    assert (await AsyncMemory.copy(fill_folder, tmp_path / "b")).entries == 5


# --- what is refused -------------------------------------------------------------------------------------


@both_ways
def test_a_place_with_another_store_is_refused_and_left_alone(sides, tmp_path):
    source, target = sides
    other = open_prepared(target if isinstance(target, str) else (target.mkdir(exist_ok=True), target)[1])
    put(other, make_draft("mine"))
    other.close()
    before = read(target)
    for dry_run in (True, False):
        with pytest.raises(InvalidInputError, match="holds a store already"):
            Memory.copy(source, target, dry_run=dry_run)
    assert read(target) == before


@both_ways
def test_a_finished_copy_that_has_changed_is_refused_and_left_alone(sides):
    source, target = sides
    Memory.copy(source, target)
    database = open_prepared(target)
    put(database, make_draft("mine"))
    database.close()
    before = read(target)
    with pytest.raises(InvalidInputError, match="one of them has changed"):
        Memory.copy(source, target)
    assert read(target) == before


def test_the_unfinished_copy_of_another_store_is_refused(tmp_path, url):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fill(tmp_path / name)
    kill(tmp_path / "a", url, "clone-after-commit:2")
    with pytest.raises(InvalidInputError, match="unfinished copy of another store"):
        Memory.copy(tmp_path / "b", url)


def test_texts_that_a_server_cannot_hold_are_named_before_anything_is_written(tmp_path, url, postgres):
    with Memory(tmp_path / "a", encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add("fine", key="fine")
        memory.add("not \0 fine", key="odd")
    for dry_run in (True, False):
        with pytest.raises(InvalidInputError, match=r"entries 2 \('odd'\).*NUL"):
            Memory.copy(tmp_path / "a", url, dry_run=dry_run)
    with psycopg.connect(postgres.url()) as connection:
        schema = url.rpartition("=")[2]
        assert connection.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() == (None,)


def test_names_that_a_server_cannot_index_are_named_before_anything_is_written(tmp_path, url, postgres):
    with Memory(tmp_path / "a", encoder=WordEncoder(8), session_encoder=None) as memory:
        memory.add("red cat", key="é" * 500, namespace=("ü" * 450, "ö" * 500))
    for dry_run in (True, False):
        with pytest.raises(InvalidInputError, match=r"entries 1 .*2600"):
            Memory.copy(tmp_path / "a", url, dry_run=dry_run)
    with psycopg.connect(postgres.url()) as connection:
        asked = "SELECT count(*) FROM pg_tables WHERE schemaname = %s"
        assert connection.execute(asked, (url.rpartition("=")[2],)).fetchone() == (0,)


def test_a_store_is_not_copied_from_nowhere_nor_to_itself_and_a_dry_run_makes_nothing(tmp_path, url):
    with pytest.raises(NotFoundError, match="no store"):
        Memory.copy(tmp_path / "nothing", url)
    with pytest.raises(NotFoundError, match="no store"):
        Memory.copy(url, tmp_path / "b")
    (tmp_path / "a").mkdir()
    fill(tmp_path / "a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(InvalidInputError, match="to itself"):
        Memory.copy(tmp_path / "a", tmp_path / "link")
    assert Memory.copy(tmp_path / "a", tmp_path / "b", dry_run=True).entries == 5
    assert not (tmp_path / "b").exists()


def test_damage_of_the_source_is_counted_and_kept(tmp_path, url):
    (tmp_path / "a").mkdir()
    fill(tmp_path / "a")
    database = open_prepared(tmp_path / "a")
    with database.connections.write() as link:
        link.raw.execute("UPDATE entries SET speaker = 'eve' WHERE id = 2")
    database.close()
    assert Memory.copy(tmp_path / "a", url).damaged == 1


# --- restoring to a server -------------------------------------------------------------------------------


@pytest.fixture
def backed_up(tmp_path):
    """A backup, and the receipt of what was forgotten after it was made."""
    with Memory(tmp_path / "a", encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add("The vault is behind the shelf.", key="vault")
        memory.add("The harbour was quiet.", key="harbour")
        memory.backup(tmp_path / "backup.db")
        return tmp_path / "backup.db", memory.forget("vault")


def test_a_backup_is_restored_to_a_server(backed_up, url):
    file, _ = backed_up
    assert Memory.restore(file, url) == 2
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        assert memory.recall("vault", k=1)[0].entry.key == "vault"
        assert memory.copies() == []
        memory.add("One more.", key="more")
    with pytest.raises(InvalidInputError, match="one of them has changed"):
        Memory.restore(file, url)
    with pytest.raises(InvalidInputError, match="not replaced"):
        Memory.restore(file, url, replace=True)


def test_what_was_forgotten_since_is_forgotten_again_on_the_server(backed_up, url):
    file, receipt = backed_up
    assert Memory.restore(file, url, receipts=[receipt], apply_forgets=True) == 1
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        assert [entry.key for entry in memory.entries()] == ["harbour"]


def test_a_file_that_is_no_backup_is_not_restored_to_a_server(tmp_path, url):
    (tmp_path / "odd.db").write_bytes(b"no database at all")
    with pytest.raises(StorageError):
        Memory.restore(tmp_path / "odd.db", url)
    with pytest.raises(NotFoundError):
        Memory.restore(tmp_path / "none.db", url)


def test_receipts_name_the_store_elsewhere(tmp_path, url):
    with Memory(tmp_path / "a", encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add("The vault is behind the shelf.", key="vault")
        copied = Memory.copy(tmp_path / "a", url)
        receipt = memory.forget("vault")
        assert receipt.exports == (copied.target,)
        assert [(str(one.path), one.kind, one.exists) for one in memory.copies()] == [(copied.target, "copy", True)]
        json.dumps(receipt.to_dict())
