"""The words tier beside other processes, under kills and damage, and after forgetting."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import WordEncoder, python

from agent_memory import Config, Memory, NotFoundError
from agent_memory.index.words import snapshot as words_snapshot
from agent_memory.live import words as live_words

SECRETS = [b"zebraqq", b"quaggaqq", b"speakerqq"]
READ = "import pathlib, sys\nfor p in sys.argv[1:]: sys.stdout.buffer.write(pathlib.Path(p).read_bytes())"
SMALL = "from agent_memory.live import words\nwords.SMALLEST = 10\n"

FORGET = f"""{SMALL}
import sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.recall("filler")
memory.forget("keyqq")
"""

SAVE = f"""{SMALL}
import sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.add("the last heron", key="last")
memory.recall("heron")
print("added", flush=True)
memory.save_snapshot()
"""

TALK = f"""{SMALL}
import sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
print("open", flush=True)
for line in sys.stdin:
    kind, text = line.split(maxsplit=1)
    if kind == "add":
        memory.add(text.strip())
    hits = memory.recall(text, k=3, mode="lexical")
    maps = [one for one in open("/proc/self/maps") if "(deleted)" in one and "/words/" in one]
    tier = memory._store.words._held is not None
    print(len(hits), len(maps), tier, flush=True)
"""


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(live_words, "SMALLEST", 10)


def open_(folder, **options):
    return Memory(folder, encoder=WordEncoder(), **options)


def fill(folder, count=300):
    with open_(folder) as memory:
        memory.add_many({"text": f"filler {n} alpha{n % 7}", "key": f"f{n}"} for n in range(count))
        memory.add("zebraqq one", key="keyqq", speaker="speakerqq")
        memory.add("zebraqq quaggaqq lives here", key="keyqq", speaker="speakerqq")
        memory.save_snapshot()
    return folder


def list_snapshots(folder):
    return sorted((folder / "index" / "words").glob("snapshot-*"))


def find(folder, secrets=SECRETS):
    """Return the secrets that some file holds, as another process sees it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    content = subprocess.run([sys.executable, "-S", "-c", READ, *files], capture_output=True, check=True).stdout
    return [secret for secret in secrets if secret in content]


def ask(memory, query="alpha3 filler 12", **options):
    return [(hit.entry.key, hit.score) for hit in memory.recall(query, k=20, mode="lexical", **options)]


def ask_plainly(memory, monkeypatch, query="alpha3 filler 12", **options):
    """Ask the full-text index."""
    with monkeypatch.context() as patch:
        patch.setattr(live_words.LiveWords, "view", lambda *_, **__: None)
        return ask(memory, query, **options)


def forbid_building(monkeypatch):
    def fail(*_):
        raise AssertionError("the tier was built again")

    monkeypatch.setattr(live_words.LiveWords, "_build", fail)


# --- several processes ------------------------------------------------------------------------------------------


def test_a_snapshot_saves_the_next_process_from_building(tmp_path, monkeypatch):
    folder = fill(tmp_path / "store")
    assert len(list_snapshots(folder)) == 1
    forbid_building(monkeypatch)
    with open_(folder) as memory:
        assert ask(memory) == ask_plainly(memory, monkeypatch) != []
        assert memory._store.words._held is not None


def test_what_one_process_adds_the_other_finds_at_its_next_call(tmp_path):
    folder = fill(tmp_path / "store")
    child = python(TALK, folder, stdin=subprocess.PIPE)
    assert child.stdout.readline() == "open\n"

    def tell(line):
        child.stdin.write(line + "\n")
        child.stdin.flush()
        return child.stdout.readline().split()

    with open_(folder) as memory:
        assert ask(memory, "heron") == []
        assert tell("ask heron") == ["0", "0", "True"]
        for number in range(5):
            memory.add(f"heron {number}", key=f"h{number}")
            assert tell("ask heron") == [str(min(3, number + 1)), "0", "True"]
            assert tell(f"add bittern nr{number}")[0] == str(min(3, number + 1))
            assert len(ask(memory, "bittern")) == number + 1
    child.communicate(timeout=30)


def test_threads_that_add_find_what_they_added(tmp_path):
    folder, lost = fill(tmp_path / "store"), []
    with open_(folder) as memory:

        def work(name):
            for number in range(20):
                memory.add(f"egret{name}x{number}", key=f"{name}-{number}")
                if not ask(memory, f"egret{name}x{number}"):
                    lost.append((name, number))

        threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert lost == []
        assert memory.check().ok


def test_a_forked_child_searches_for_itself(tmp_path):
    with open_(fill(tmp_path / "store")) as memory:
        expected = ask(memory)
        child = os.fork()
        if child == 0:
            os._exit(0 if ask(memory) == expected else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# --- where the tier cannot serve ---------------------------------------------------------------------------------


def test_quoted_phrases_are_found_as_a_whole(tmp_path, monkeypatch):
    with open_(fill(tmp_path / "store")) as memory:
        memory.add("the red door is open", key="a")
        memory.add("the door was never red", key="b")
        found = ask(memory, 'which "red door" is it')
        assert [key for key, _ in found] == ["a", "b"]
        assert found == ask_plainly(memory, monkeypatch, 'which "red door" is it')


def test_what_was_current_then_is_found_as_of_then(tmp_path, monkeypatch):
    with open_(fill(tmp_path / "store")) as memory:
        memory.add("a kestrel on the roof", key="bird")
        then = datetime.now(UTC)
        memory.add("a kite on the roof", key="bird")
        memory.add("kestrel again", key="later")
        assert [key for key, _ in ask(memory, "kestrel")] == ["later"]
        assert ask(memory, "kestrel roof", as_of=then) == ask_plainly(memory, monkeypatch, "kestrel roof", as_of=then)
        hits = memory.recall("kestrel", as_of=then)
        assert hits[0].entry.text == "a kestrel on the roof"


def test_a_call_with_a_budget_does_not_build_the_tier(tmp_path, monkeypatch):
    folder = fill(tmp_path / "store")
    shutil.rmtree(folder / "index" / "words")
    with open_(folder) as memory:
        expected = ask_plainly(memory, monkeypatch)
        with monkeypatch.context() as patch:
            forbid_building(patch)
            assert ask(memory, budget_ms=500) == expected
        assert memory._store.words._held is None
        assert ask(memory) == expected
        assert memory._store.words._held is not None


def test_a_call_with_a_budget_does_not_take_in_many_changes(tmp_path, monkeypatch):
    folder = fill(tmp_path / "store")
    monkeypatch.setattr(live_words, "_AT_ONCE", 5)
    with open_(folder) as memory:
        ask(memory)
        seq = memory._store.words._held.seq
        memory.add_many(f"heron {number}" for number in range(9))
        assert len(ask(memory, "heron", budget_ms=500)) == 9
        assert memory._store.words._held.seq == seq
        assert len(ask(memory, "heron")) == 9
        assert memory._store.words._held.seq == seq + 9


def test_small_stores_have_no_tier(tmp_path, monkeypatch):
    monkeypatch.setattr(live_words, "SMALLEST", 4_000)
    folder = fill(tmp_path / "store")
    assert list_snapshots(folder) == []


def test_a_folder_that_cannot_be_written_is_searched_with_its_snapshot_or_without(tmp_path, monkeypatch):
    folder = fill(tmp_path / "store")
    with open_(folder) as memory:
        expected = ask(memory)
    monkeypatch.setattr("agent_memory.storage.sqlite.database.SqliteDatabase.read_only", True)
    for kept in (True, False):
        if not kept:
            shutil.rmtree(folder / "index" / "words")
        memory = open_(folder)
        monkeypatch.setattr(live_words, "_PATIENCE", 3)
        for number in range(6):
            assert ask(memory) == expected
            assert (memory._store.words._held is not None) == (kept or number >= 3)
        memory.close()
    assert list_snapshots(folder) == []


def test_a_link_in_place_of_the_snapshots_is_not_followed(tmp_path):
    folder, elsewhere = fill(tmp_path / "store"), tmp_path / "elsewhere"
    shutil.move(folder / "index" / "words", elsewhere)
    (folder / "index" / "words").symlink_to(elsewhere)
    before = sorted(path.name for path in elsewhere.rglob("*"))
    with open_(folder) as memory:
        assert ask(memory)
        memory.add("more")
        memory.save_snapshot()
    assert sorted(path.name for path in elsewhere.rglob("*")) == before


# --- damage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["manifest.json", "0.words", "0.alive"])
@pytest.mark.parametrize("how", ["flip", "cut", "empty", "missing", "link"])
def test_a_damaged_snapshot_is_noticed_and_replaced(tmp_path, monkeypatch, caplog, name, how):
    folder = fill(tmp_path / "store")
    with open_(folder) as memory:
        ask(memory)
        memory.add("the former row is not current any more", key="f7")
        memory.save_snapshot()
    (snapshot,) = list_snapshots(folder)
    path = snapshot / name
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 4
    if how in ("missing", "link"):
        path.rename(tmp_path / "moved")
        if how == "link":
            path.symlink_to(tmp_path / "moved")
    else:
        path.write_bytes({"flip": data, "cut": data[:-1], "empty": b""}[how])
    with open_(folder) as memory, caplog.at_level(logging.WARNING, "agent_memory"):
        report = memory.check()
        assert [one for one in report.problems if one.startswith("words snapshot")]
        assert ask(memory) == ask_plainly(memory, monkeypatch) != []
        assert "rebuilding the words tier" in caplog.text
        memory.check(repair=True)
        memory.save_snapshot()
        assert memory.check().ok
    forbid_building(monkeypatch)
    with open_(folder) as memory:
        assert ask(memory)


def test_a_forged_snapshot_leads_nowhere(tmp_path):
    """Bytes are changed, and all checksums made to fit, as an attacker could."""
    whole = fill(tmp_path / "store")
    for at in range(0, 4_000, 131):
        folder = shutil.copytree(whole, tmp_path / f"store-{at}")
        (snapshot,) = list_snapshots(folder)
        data = bytearray((snapshot / "0.words").read_bytes())
        where = at * 7 % (len(data) - 8)
        data[where : where + 8] = b"\xff" * 7 + b"\x7f"
        (snapshot / "0.words").write_bytes(data)
        body = json.loads((snapshot / "manifest.json").read_text())
        body.pop("sha256")
        body["segments"][0]["checksum"] = zlib.crc32(data)
        body["sha256"] = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        (snapshot / "manifest.json").write_text(json.dumps(body))
        with open_(folder) as memory:
            for query in ("filler", "alpha3 filler 12", "zebraqq"):
                memory.recall(query, mode="lexical")


def test_a_snapshot_of_another_store_or_a_later_state_is_not_used(tmp_path, monkeypatch):
    folder, other = fill(tmp_path / "store"), fill(tmp_path / "other", count=200)
    shutil.copytree(folder, tmp_path / "older")
    with open_(folder) as memory:
        memory.add_many(f"heron {number}" for number in range(20))
        memory.save_snapshot()
    for source, target in ((folder, tmp_path / "older"), (folder, other)):
        shutil.rmtree(target / "index" / "words")
        shutil.copytree(source / "index" / "words", target / "index" / "words")
        with open_(target) as memory:
            assert ask(memory, "heron") == []
            memory.add_many(f"egret {number}" for number in range(40))
            assert ask(memory, "egret heron") == ask_plainly(memory, monkeypatch, "egret heron") != []
            assert memory.check().ok


@pytest.mark.parametrize("point", ["words-mid-write", "words-before-rename", "words-after-rename"])
def test_a_kill_while_a_snapshot_is_written_loses_nothing(tmp_path, monkeypatch, point):
    folder = fill(tmp_path / "store")
    child = python(SAVE, folder, env={"AGENT_MEMORY_FAILPOINT": point})
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, output) == (-9, "added\n"), errors
    with open_(folder) as memory:
        assert [key for key, _ in ask(memory, "heron")] == ["last"]
        assert ask(memory) == ask_plainly(memory, monkeypatch)
        memory.add("one more")
        memory.save_snapshot()
        assert memory.check().ok
    assert len(list_snapshots(folder)) == 1
    assert not list((folder / "index" / "words").glob(".tmp-*"))


# --- forgetting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opened", ["recalled", "fresh"])
def test_what_was_forgotten_is_in_no_file_when_forget_returns(tmp_path, opened):
    folder = fill(tmp_path / "store")
    (before,) = list_snapshots(folder)
    assert find(before, SECRETS) == SECRETS
    with open_(folder) as memory:
        if opened == "recalled":
            ask(memory)
        receipt = memory.forget("keyqq")
        assert receipt.pending == ()
        assert before.name in receipt.files
        assert find(folder) == []
        assert len(list_snapshots(folder)) == (opened == "recalled")
        assert ask(memory, "zebraqq") == []
        memory.save_snapshot()
        assert find(folder) == []
        assert memory.check().ok
    assert find(folder) == []


def test_a_former_version_is_gone_from_the_tier_too(tmp_path):
    folder = fill(tmp_path / "store")
    with open_(folder) as memory:
        ask(memory)
        memory.add("nothing of that kind", key="keyqq", speaker="somebody")
        memory.save_snapshot()
        memory.add("nor of this", key="keyqq")
        memory.forget("keyqq")
        assert find(folder) == []


@pytest.mark.parametrize(
    "point",
    [
        "before-commit",
        "after-commit",
        "erasure-committed",
        "words-mid-write",
        "words-before-rename",
        "words-after-rename",
        "erasure-index-written",
        "erasure-scrubbed",
    ],
)
def test_a_kill_at_any_step_of_forget_leaves_all_or_nothing(tmp_path, point):
    folder = fill(tmp_path / "store")
    child = python(FORGET, folder, env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    with open_(folder) as memory:
        if point == "before-commit":
            assert ask(memory, "zebraqq")
            memory.forget("keyqq")
        with pytest.raises(NotFoundError):
            memory.get("keyqq")
        assert ask(memory, "zebraqq") == []
        assert find(folder) == []
        assert memory.check().ok
    assert find(folder) == []


def test_processes_that_map_an_old_snapshot_let_go_at_their_next_call(tmp_path):
    folder = fill(tmp_path / "store")
    child = python(TALK, folder, stdin=subprocess.PIPE)
    child.stdout.readline()

    def tell(line):
        child.stdin.write(line + "\n")
        child.stdin.flush()
        return child.stdout.readline().split()

    assert tell("ask zebraqq") == ["1", "0", "True"]
    with open_(folder) as memory:
        ask(memory)
        memory.forget("keyqq")
        assert tell("ask zebraqq") == ["0", "0", "True"]
        child.communicate(timeout=30)
    assert find(folder) == []


def test_a_store_of_which_all_was_forgotten_is_sound(tmp_path):
    folder = fill(tmp_path / "store")
    with open_(folder) as memory:
        ask(memory)
        assert memory.forget(everything=True) == 301
        assert ask(memory) == []
        assert memory.check().ok
        memory.save_snapshot()
        assert find(folder, [*SECRETS, b"alpha3"]) == []
        memory.add_many(f"heron {number}" for number in range(20))
        assert len(ask(memory, "heron")) == 20
        assert memory.check().ok


def test_deferred_forgetting_leaves_the_tier_to_maintenance(tmp_path):
    folder = fill(tmp_path / "store")
    with open_(folder, config=Config()) as memory:
        ask(memory)
        memory.forget("keyqq", deferred=True)
        assert ask(memory, "zebraqq") == []
        memory.maintenance()
        assert find(folder) == []


@pytest.mark.parametrize("text", ["क" * 12_000, "aж" * 20_000, "አ" * 11_000, "😀" * 9_000])
def test_a_word_that_the_full_text_index_cuts_within_a_character_stops_no_recall(tmp_path, monkeypatch, text):
    monkeypatch.setattr(live_words, "SMALLEST", 10)
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add_many(f"filler {number} alpha{number % 7}" for number in range(30))
        memory.add(text, key="long", namespace=["another", "tenant"])
        for mode in ("hybrid", "lexical"):
            assert "alpha3" in memory.recall("alpha3", k=1, mode=mode)[0].text
        assert memory.why("alpha3", "long", namespace=["another", "tenant"])
        memory.save_snapshot()
        assert memory.check().ok
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        assert "alpha3" in memory.recall("alpha3", k=1, mode="lexical")[0].text
        memory.forget("long", namespace=["another", "tenant"])
        assert memory.check().ok


def test_a_closed_memory_maps_no_file_that_is_deleted_after_it(tmp_path):
    folder = fill(tmp_path / "store")
    closed = open_(folder)
    closed.recall("zebraqq quaggaqq")
    closed.close()
    with open_(folder) as memory:
        assert memory.forget("f3").pending == ()
        maps = Path("/proc/self/maps").read_text().splitlines()
        assert not [line for line in maps if "(deleted)" in line and str(folder) in line]
    assert closed.path == memory.path


def test_a_snapshot_that_another_process_has_just_replaced_is_looked_for_again(tmp_path, monkeypatch):
    folder = fill(tmp_path / "store")
    listed = []

    def list_late(words):
        found = snapshots(words)
        if not listed:
            for _, path in found:
                path.rename(path.with_name(f"{path.name}x"))
        else:
            for path in words.glob("*x"):
                path.rename(path.with_name(path.name.removesuffix("x")))
            found = snapshots(words)
        listed.append(found)
        return found

    snapshots = words_snapshot.snapshots
    monkeypatch.setattr(words_snapshot, "snapshots", list_late)
    with open_(folder) as memory:
        assert memory.recall("zebraqq quaggaqq", mode="lexical")[0].entry.key == "keyqq"
        assert memory._store.words._held.tier.is_mapped
    assert len(listed) >= 2


def test_a_snapshot_that_is_written_while_a_store_is_opened_is_not_ahead_of_it(tmp_path):
    folder = fill(tmp_path / "store")
    with open_(folder) as memory:
        words = memory._store.words
        found = words.snapshots()
        with memory._store.read() as tx:
            seen = tx.changes.last_seq()
            with open_(folder) as other:
                other.add("a yak arrives", key="yak")
                other.recall("yak", mode="lexical")
                other.save_snapshot()
            seq, path = words.snapshots()[0]
            assert seq > seen
            words.discard_newer(tx, found)
            assert path.exists()
