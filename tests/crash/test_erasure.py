"""Forgetting under kills, beside other processes, and against copies of the store."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from support import WordEncoder, python
from typer.testing import CliRunner

from agent_memory import Config, InvalidInputError, JobState, Memory, NotFoundError
from agent_memory.cli import app
from agent_memory.config import Retention
from agent_memory.files import write_bytes
from agent_memory.storage.sqlite import scrub as scrubbing

SECRETS = [b"zebraqq", b"quaggaqq", b"keyqq", b"speakerqq", b"metaqq"]
READ = "import pathlib, sys\nfor p in sys.argv[1:]: sys.stdout.buffer.write(pathlib.Path(p).read_bytes())"
POINTS = [
    "before-commit",
    "after-commit",
    "erasure-committed",
    "snapshot-mid-write",
    "snapshot-before-rename",
    "snapshot-after-rename",
    "snapshot-before-look",
    "erasure-index-written",
    "erasure-log-truncated",
    "erasure-scrubbed",
]

FORGET = """
import sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.recall("filler")
print("open", flush=True)
memory.forget("keyqq")
"""

HOLD = """
import sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.recall("filler")
print("open", flush=True)
for line in sys.stdin:
    hits = memory.recall("zebraqq quaggaqq", k=3)
    maps = [line for line in open("/proc/self/maps") if "(deleted)" in line and "/index/" in line]
    print(len([hit for hit in hits if "zebraqq" in hit.text]), len(maps), flush=True)
"""


ADD = """
import sys
from support import WordEncoder
from agent_memory import Memory
with Memory(sys.argv[1], encoder=WordEncoder()) as memory:
    memory.add("from the child")
"""

SAVE_UNSEEING = """
sys.stdin.readline()
index = memory._store.index
seen = index._held.erasures
index._read_erasures = lambda: seen
index.save()
"""


def open_(folder, **settings):
    return Memory(folder, encoder=WordEncoder(), config=Config(**settings))


def fill(folder, count=300):
    """Write a store with a secret entry in two versions among others; returns what must not be found of it later."""
    with open_(folder) as memory:
        memory.add_many({"text": f"filler {n} alpha{n % 7}", "key": f"f{n}"} for n in range(count))
        memory.add("zebraqq one", key="keyqq", speaker="speakerqq", metadata={"note": "metaqq"})
        first = memory.vectors(["keyqq"])["keyqq"]
        memory.add("zebraqq quaggaqq lives here", key="keyqq", speaker="speakerqq", metadata={"note": "metaqq"})
        second = memory.vectors(["keyqq"])["keyqq"]
        memory.add_many({"text": f"more {n} beta{n % 5}", "key": f"m{n}"} for n in range(20))
        memory.recall("filler")
        memory.save_snapshot()
    return [*SECRETS, *(vector.astype(np.float16).tobytes() for vector in (first, second))]


def find(folder, secrets):
    """Return the secrets that some file holds, as another process sees it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    content = subprocess.run([sys.executable, "-S", "-c", READ, *files], capture_output=True, check=True).stdout
    return [secret for secret in secrets if secret in content]


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_at_any_step_of_forget_leaves_all_or_nothing(tmp_path, point):
    folder = tmp_path / "store"
    secrets = fill(folder)
    assert find(folder, secrets) == secrets
    child = python(FORGET, folder, env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    with open_(folder) as memory:
        if point == "before-commit":
            assert memory.get("keyqq").text.endswith("here")
            memory.forget("keyqq")
        with pytest.raises(NotFoundError):
            memory.get("keyqq")
        assert find(folder, secrets) == []
        assert len(memory.recall("filler 12", k=400, mode="dense")) == 320
        assert memory.check().ok
    assert find(folder, secrets) == []


def test_processes_that_map_an_old_snapshot_let_go_at_their_next_call(tmp_path):
    folder = tmp_path / "store"
    secrets = fill(folder)
    children = [python(HOLD, folder, stdin=subprocess.PIPE) for _ in range(2)]
    assert [child.stdout.readline() for child in children] == ["open\n"] * 2
    with open_(folder) as memory:
        memory.recall("filler")
        receipt = memory.forget("keyqq")
        assert (receipt, receipt.pending) == (1, ())
        assert len(receipt.files) == 1
        assert find(folder, secrets) == []
        for child in children:
            child.stdin.write("look\n")
            child.stdin.flush()
            assert child.stdout.readline() == "0 0\n"
        for child in children:
            child.communicate(timeout=30)
    assert find(folder, secrets) == []


def test_a_reader_of_an_older_state_is_waited_for_and_told_of(tmp_path):
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder, lock_timeout_s=0.3) as memory, open_(folder) as other:
        with other._store.read() as tx:
            assert tx.entries.count is not None and tx.changes.last_seq() > 0
            receipt = memory.forget("keyqq")
            assert receipt == 1
            assert any("log in use" in one for one in receipt.pending)
        assert [action.name for action in memory.maintenance(dry_run=True).actions] == ["erase"]
        memory.maintenance()
        assert find(folder, secrets) == []


def test_forgetting_inside_of_an_own_read_says_that_traces_are_left(tmp_path):
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder) as memory:
        receipts = []

        def forget(done, total):
            receipts.append(memory.forget("keyqq"))

        memory.export(tmp_path / "all.jsonl", progress=forget)
        assert receipts[0] == 1
        assert any("this thread is reading" in one for one in receipts[0].pending)
        memory.forget("f1")
        assert find(folder, secrets) == []


def test_a_snapshot_that_was_being_written_when_something_was_forgotten_is_not_kept(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder) as memory, open_(folder) as other:
        other.recall("filler")
        other.add("one more", key="extra")
        other.recall("filler")
        index = other._store.index
        real = index._read_erasures

        def forget_first():
            monkeypatch.setattr(index, "_read_erasures", real)
            memory.forget("keyqq")
            return real()

        monkeypatch.setattr(index, "_read_erasures", forget_first)
        index.save()
        assert find(folder, secrets) == []
        assert other.recall("zebraqq", k=3, mode="lexical") == []
        assert other.check().ok


@pytest.mark.parametrize("scrub", [True, False])
def test_where_pages_cannot_be_scrubbed_in_place_the_file_is_written_again(tmp_path, monkeypatch, scrub):
    if not scrub:
        monkeypatch.setattr(scrubbing, "MOST_PAGES", 1)
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder) as memory:
        assert memory.forget("keyqq").pending == ()
        assert find(folder, secrets) == []
        assert memory.check().ok


def test_where_full_text_indexes_cannot_delete_words_theirs_are_written_again(tmp_path, monkeypatch):
    from agent_memory.storage.sqlite import lexical

    monkeypatch.setattr(lexical, "_ERASES", (99,))
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder) as memory:
        memory.forget("keyqq")
        assert find(folder, secrets) == []
        assert memory.check().ok


def test_a_deferred_erasure_is_unreadable_at_once_and_gone_after_maintenance(tmp_path):
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder) as memory:
        receipt = memory.forget("keyqq", deferred=True)
        assert receipt == 1 and receipt.pending
        assert memory.recall("zebraqq", mode="lexical") == []
        assert find(folder, secrets) != []
    with open_(folder) as memory:  # opening leaves it to maintenance
        assert find(folder, secrets) != []
        (action,) = memory.maintenance(only=["erase"]).actions
        assert action.result == "done"
        assert find(folder, secrets) == []


def test_what_has_expired_is_forgotten_by_every_selector(tmp_path):
    selectors = [{"key": "e"}, {"where": {"a": 1}}, {"session": "s"}, {"everything": True}]
    for number, selector in enumerate(selectors):
        with open_(tmp_path / str(number)) as memory:
            soon = datetime.now(UTC) + timedelta(seconds=1)
            then = memory.add("zebraqq", key="e", session="s", metadata={"a": 1}, expires_at=soon).created_at
            time.sleep(max(0, (soon - datetime.now(UTC)).total_seconds()) + 0.01)
            assert memory.recall("zebraqq", as_of=then) != []
            assert memory.forget(**selector) == 1
            assert memory.recall("zebraqq", as_of=then) == []
            with pytest.raises(NotFoundError):
                memory.history("e")


def test_purging_takes_what_an_expired_entry_has_replaced_and_not_what_has_replaced_it(tmp_path):
    soon = datetime.now(UTC) + timedelta(seconds=8)
    with open_(tmp_path) as memory:
        for key in "abc":
            memory.add(f"zebraqq {key}", key=key, expires_at=soon if key == "b" else None)
        memory.supersede("a", "b")
        memory.supersede("b", "c")
        time.sleep(max(0, (soon - datetime.now(UTC)).total_seconds()) + 0.01)
        receipt = memory.purge_expired()
        assert (receipt, receipt.selection) == (2, "expired")
        assert [entry.key for entry in memory.entries()] == ["c"]
        assert [entry.key for entry in memory.history("c")] == ["c"]


def test_retention_keeps_the_latest_of_each_namespace(tmp_path):
    rules = {"acme": Retention(max_entries=2), "": Retention(max_age=timedelta(days=365))}
    with open_(tmp_path, retention=rules) as memory:
        for number in range(5):
            memory.add(f"zebraqq {number}", key=str(number), namespace=("acme",))
            memory.add(f"other {number}", key=str(number), namespace=("else",))
        assert "purge" in [action.name for action in memory.maintenance(dry_run=True).actions]
        assert memory.purge_expired() == 3
        assert [entry.key for entry in memory.entries(namespace=("acme",))] == ["3", "4"]
        assert len(memory.entries(namespace=("else",))) == 5
    with open_(tmp_path, retention={"else": {"max_age": timedelta(microseconds=1)}}) as memory:
        assert memory.purge_expired() == 5
        assert [entry.key for entry in memory.entries()] == ["3", "4"]


def test_logged_queries_that_could_find_it_go_and_later_ones_stay(tmp_path):
    with open_(tmp_path, query_log=50, query_text="plain") as memory:
        memory.add("kept", key="k", namespace=("other",))
        memory.add("zebraqq", key="a", namespace=("team", "ann"))
        for scope in ((), ("team",), ("team", "ann"), ("team", "ann", "below"), ("other",), ("team", "bob")):
            memory.recall(f"where is zebraqq {'/'.join(scope)}", namespace=scope)
        memory._queries.flush()
        receipt = memory.forget("a", namespace=("team", "ann"))
        assert receipt.queries == 4
        with memory._store.read() as tx:
            assert sorted(tx.queries.read_texts(9)) == ["where is zebraqq other", "where is zebraqq team/bob"]


# --- copies ----------------------------------------------------------------------------------------------


def test_a_receipt_names_the_copies_that_still_hold_it(tmp_path):
    folder = tmp_path / "store"
    fill(folder)
    with open_(folder) as memory:
        memory.backup(tmp_path / "before.db")
        memory.export(tmp_path / "before.jsonl")
        memory.backup(tmp_path / "deleted.db")
        (tmp_path / "deleted.db").unlink()
        receipt = memory.forget("keyqq")
        assert receipt.backups == (str(tmp_path / "before.db"),)
        assert receipt.exports == (str(tmp_path / "before.jsonl"),)
        memory.backup(tmp_path / "after.db")
        held = {copy.path.name: (copy.holds, copy.older_than, copy.exists) for copy in memory.copies()}
        older = (receipt.token,)
        assert held == {
            "before.db": (2, older, True),
            "before.jsonl": (None, older, True),
            "deleted.db": (None, older, False),
            "after.db": (0, (), True),
        }
        assert find(tmp_path / "store", SECRETS) == []
    assert not any(secret in (tmp_path / "after.db").read_bytes() for secret in SECRETS)
    told = json.dumps(receipt.to_dict()).encode()
    assert not any(secret in told for secret in SECRETS)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_an_older_backup_brings_back_what_was_forgotten_and_says_so(tmp_path, caplog, elsewhere):
    folder = tmp_path / "store"
    secrets = fill(folder)
    with open_(folder) as memory:
        memory.backup(tmp_path / "before.db")
        rows = 322
        receipt = memory.forget("keyqq")
    target = tmp_path / "other" if elsewhere else folder
    given = {"receipts": [receipt.to_dict()]} if elsewhere else {"replace": True}
    with caplog.at_level(logging.WARNING):
        assert Memory.restore(tmp_path / "before.db", target, **given) == rows
    assert "2 forgotten rows are back" in caplog.text
    with open_(target) as memory:
        assert memory.get("keyqq")
    assert (
        Memory.restore(tmp_path / "before.db", target, replace=True, apply_forgets=True, receipts=[receipt]) == rows - 2
    )
    with open_(target) as memory:
        assert find(target, secrets) == []
        assert len(memory.recall("filler 12", k=400, mode="dense")) == 320
        assert [copy.path.name for copy in memory.copies()] == ([] if elsewhere else ["before.db"])
        assert memory.check().ok


def test_a_receipt_of_another_store_forgets_nothing(tmp_path):
    fill(tmp_path / "one")
    fill(tmp_path / "two")
    with open_(tmp_path / "two") as memory:
        receipt = memory.forget("keyqq")
    with open_(tmp_path / "one") as memory:
        memory.backup(tmp_path / "one.db")
    target = tmp_path / "three"
    assert Memory.restore(tmp_path / "one.db", target, apply_forgets=True, receipts=[receipt]) == 322


def test_the_command_line_writes_receipts_and_lists_copies(tmp_path):
    folder = tmp_path / "store"
    with Memory(folder) as memory:
        memory.add("zebraqq", key="keyqq")
        memory.add("kept", key="k")
    run = CliRunner().invoke

    def call(*arguments):
        result = run(app, [*map(str, arguments), "--path", str(folder)])
        assert result.exit_code == 0, result.output
        return result.output

    call("backup", tmp_path / "before.db")
    assert call("forget", "keyqq", "--dry-run").startswith("would forget 1 (1 rows)")
    told = call("forget", "keyqq", "--receipt", tmp_path / "receipt.json")
    assert told.startswith("forgot 1 (1 rows)") and "before.db holds some of it" in told
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert (receipt["forgotten"], receipt["ids"], receipt["pending"]) == (1, [1], [])
    assert "holds 1 rows" in call("backup", "list", "--receipt", tmp_path / "receipt.json")
    restored = call("restore", tmp_path / "before.db", "--replace", "--apply-forgets")
    assert restored.startswith("1 entries")
    assert json.loads(call("list", "--json"))[0]["key"] == "k"
    write_bytes(tmp_path / "bad.json", b'{"token": 1}')
    assert run(app, ["restore", str(tmp_path / "before.db"), "--receipt", str(tmp_path / "bad.json")]).exit_code != 0


def test_scrubbing_drops_no_lock_of_this_process(tmp_path):
    folder = tmp_path / "store"
    fill(folder)
    with open_(folder) as one, open_(folder) as other:
        one.forget("keyqq")
        one.close()
        child = python(ADD, folder)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
        other.add("acknowledged after the child closed", key="after")
        assert (folder / "memory.db-wal").exists()  # the child was not the last to close it
    assert not [name for name in list_handles() if name.startswith(f"{folder}/memory.db")]
    with open_(folder) as memory:
        assert memory.get("after") and memory.check().ok


def list_handles():
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link)]


@pytest.mark.parametrize("point", ["snapshot-mid-write", "snapshot-before-look"])
def test_a_process_killed_while_it_saves_an_index_from_before_leaves_nothing_for_long(tmp_path, point):
    folder = tmp_path / "store"
    secrets = fill(folder)
    code = HOLD.replace('print("open"', 'memory.add("one more"); memory.recall("filler"); print("open"').replace(
        "for line in sys.stdin:", f"{SAVE_UNSEEING}for line in sys.stdin:"
    )
    child = python(code, folder, env={"AGENT_MEMORY_FAILPOINT": point}, stdin=subprocess.PIPE)
    assert child.stdout.readline() == "open\n", child.stderr.read()
    with open_(folder) as memory:
        assert memory.forget("keyqq").pending == ()
        child.communicate("go\n", timeout=60)
        assert child.returncode == -9
    with open_(folder) as memory:
        assert find(folder, secrets) == []
        memory.recall("filler")
        assert find(folder, secrets) == []


def test_a_reindex_under_way_keeps_no_snapshot_of_what_was_forgotten(tmp_path, monkeypatch):
    from agent_memory.upkeep import builder

    folder = tmp_path / "store"
    fill(folder)
    with open_(folder) as memory, open_(folder) as other:
        (vector,) = memory.vectors(["keyqq"]).values()
        real = builder.measure_sampled_recall

        def forget_first(*arguments):
            other.forget("keyqq")
            return real(*arguments)

        monkeypatch.setattr(builder, "measure_sampled_recall", forget_first)
        memory.reindex(tiers=(48, 96))
        row = vector.astype(np.float16).tobytes()
        assert find(folder, [*SECRETS, row]) == []
        memory.recall("filler")
        memory.save_snapshot()
        assert find(folder, [*SECRETS, row]) == []
        assert memory.check().ok


def test_no_word_is_left_between_the_pages_of_the_full_text_index(tmp_path):
    with open_(tmp_path / "store") as memory:
        numbers = [str(4_000_000 + 97 * number) for number in range(6_000)]
        memory.add_many({"text": f"call {number} now", "key": f"k{number}"} for number in numbers)
        doomed = numbers[::2]
        memory.forget(where={"$or": [{"never": 1}, {"never": {"$exists": False}}]}, dry_run=True)
        for number in doomed[:40]:
            memory.forget(f"k{number}", deferred=True)
        memory.maintenance(only=["erase"])
        left = find(tmp_path / "store", [number.encode() for number in doomed[:40]])
        assert left == []
        assert memory.check().ok
        assert memory.recall(numbers[1], mode="lexical", k=1)[0].entry.key == f"k{numbers[1]}"


def test_a_session_that_only_pruned_versions_were_in_is_gone(tmp_path):
    with open_(tmp_path / "store", keep_versions=1) as memory:
        for number in range(4):
            memory.add(f"text {number}", key="k", session=f"sessionqq{number}")
        memory.forget("k")
        assert find(tmp_path / "store", [b"sessionqq"]) == []


def test_a_failed_job_does_not_go_on_citing_what_was_forgotten(tmp_path):
    with open_(tmp_path / "store") as memory:
        memory.add("my zebraqq lives at number 12", key="k")
        with memory._store.write() as tx:
            job = tx.jobs.create("reindex", {}, datetime.now(UTC))
            tx.jobs.set_state(job.id, JobState.FAILED, datetime.now(UTC), "cannot encode 'my zebraqq lives at num'")
        assert memory.forget("k").jobs == 1
        assert find(tmp_path / "store", [b"zebraqq"]) == []


@pytest.mark.parametrize(
    "change",
    [
        {"ids": [-5]},
        {"ids": [2**63]},
        {"ids": "1"},
        {"made_at": "0001-01-01T00:00:00+14:00"},
        {"made_at": "9999-01-01T00:00:00+00:00"},
        {"token": "\ud800" * 32},
        {"token": ""},
        {"store_id": ["x"]},
        {"forgotten": -1},
    ],
)
def test_a_forged_receipt_is_refused_before_anything_is_replaced(tmp_path, change):
    folder = tmp_path / "store"
    fill(folder, 5)
    with open_(folder) as memory:
        memory.backup(tmp_path / "copy.db")
        receipt = memory.forget("keyqq").to_dict()
        memory.add("kept", key="kept")
    with pytest.raises(InvalidInputError, match="no receipt"):
        Memory.restore(tmp_path / "copy.db", folder, replace=True, apply_forgets=True, receipts=[receipt | change])
    with open_(folder) as memory:
        assert memory.get("kept")


def test_a_damaged_receipt_does_not_keep_a_store_shut(tmp_path):
    folder = tmp_path / "store"
    fill(folder, 5)
    with open_(folder) as memory:
        memory.forget("f1")
        with memory._store.write() as tx:
            tx.connection.exec_driver_sql("UPDATE erasures SET ids = '-5', finished_at = NULL, facts = '{'")
    with open_(folder) as memory:
        assert memory.forget("keyqq").pending == ()


def test_backups_that_a_job_has_deleted_are_not_listed(tmp_path):
    with open_(tmp_path / "store") as memory:
        memory.add("one")
        for _ in range(3):
            memory.run_job("backup", options={"folder": str(tmp_path / "daily"), "keep": 1})
        assert [copy.path for copy in memory.copies()] == list((tmp_path / "daily").iterdir())


def test_a_connection_that_has_searched_before_another_merged_the_words_finds_no_fault(tmp_path):
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory, ThreadPoolExecutor(1) as other:
        for number in range(8):
            memory.add(f"text {number}", key=str(number))
        assert other.submit(memory.recall, "text 3").result()
        memory.forget("3")
        assert other.submit(memory.check).result().problems == ()


def test_the_order_of_sessions_does_not_tell_of_what_was_forgotten(tmp_path):
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add("gone", key="gone", session="first")
        memory.add("stays", session="second")
        memory.add("stays too", session="first")
        memory.forget("gone")
        assert [one.name for one in memory.sessions()] == ["second", "first"]
