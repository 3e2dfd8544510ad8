"""What was forgotten is nowhere, and what is left is what a store would hold that never knew it."""

from __future__ import annotations

import gc
import random
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import WordEncoder, write_session_weights

from agent_memory import Config, Memory
from agent_memory.encoders import CompactSessionEncoder

START = datetime(2024, 1, 1, tzinfo=UTC)
COMMON = ("red", "green", "blue", "cat", "dog", "house", "moves", "likes", "paris", "rome")
words = st.lists(st.sampled_from(COMMON), min_size=1, max_size=4)
SEARCH = "import pathlib, sys\nfor p in sys.argv[1:]: sys.stdout.buffer.write(pathlib.Path(p).read_bytes())"


def read_files(folder: Path) -> bytes:
    """Return the content of all files, read by another process: this one would lose its locks by closing them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return subprocess.run([sys.executable, "-S", "-c", SEARCH, *files], capture_output=True, check=True).stdout


class ErasureMachine(RuleBasedStateMachine):
    """Two stores: one is told everything and forgets, its twin is made of what was not forgotten."""

    @initialize()
    def start(self):
        self.base = Path(tempfile.mkdtemp())
        self.encoder = WordEncoder(96)
        self.weights = write_session_weights(self.base / "session.safetensors")
        self.memory = self.open_store("store")
        self.history: list[tuple[str, tuple]] = []  # (line, step)
        self.lines: dict[str, str] = {}  # line by key; entries that superseded each other share one
        self.secrets: dict[str, list[bytes]] = {}  # what must not be found once a line is forgotten
        self.number = 0
        self.forgotten: list[bytes] = []

    def open_store(self, name):
        sessions = CompactSessionEncoder(self.encoder, self.weights)
        config = Config(snapshot_every=4, batch_size=3, keep_versions=3)
        return Memory(self.base / name, encoder=self.encoder, session_encoder=sessions, config=config)

    def apply(self, memory, step):
        what, *given = step
        if what == "add":
            key, text, session, hour = given
            memory.add(
                text, key=key, session=session, speaker=f"who{key}",
                metadata={"note": f"meta{key}", "line": key}, event_time=START + timedelta(hours=hour),
            )  # fmt: skip
        elif what == "supersede":
            memory.supersede(*given)

    def do(self, line, step):
        self.apply(self.memory, step)
        self.history.append((line, step))

    @rule(turns=st.lists(st.tuples(st.integers(0, 5), words, st.sampled_from(["s1", "s1", "s2", None])), min_size=2))
    def talk(self, turns):
        for name, chosen, session in turns:
            key = f"key{name}zz"
            if key in self.lines and key not in self.current():
                continue  # superseded: added again it would begin a line of its own, under the same key
            self.number += 1
            own = f"secret{self.number}qq{name}"
            line = self.lines.setdefault(key, f"line{self.number}")
            self.do(line, ("add", key, " ".join([*chosen, own]), session, self.number))
            (entry,) = self.memory.entries(where={"line": key})
            vector = self.memory.vectors([entry.key])[entry.key]
            told = [own, key, f"who{key}", f"meta{key}"]
            self.secrets.setdefault(line, []).extend([*map(str.encode, told), vector.astype(np.float16).tobytes()])

    @precondition(lambda self: len(self.current()) > 1)
    @rule(data=st.data())
    def supersede(self, data):
        old, new = data.draw(st.permutations(self.current()).map(lambda keys: keys[:2]))
        kept, gone = self.lines[new], self.lines[old]
        if kept != gone:
            self.lines = {key: kept if line == gone else line for key, line in self.lines.items()}
            self.history = [(kept if line == gone else line, step) for line, step in self.history]
            self.secrets[kept] = self.secrets.get(kept, []) + self.secrets.pop(gone, [])
        self.do(kept, ("supersede", old, new))

    def current(self):
        return sorted(entry.key for entry in self.memory.entries())

    @precondition(lambda self: bool(self.lines))
    @rule(data=st.data(), how=st.sampled_from(["key", "key", "where", "session"]), deferred=st.booleans())
    def forget(self, data, how, deferred):
        key = data.draw(st.sampled_from(sorted(self.lines)))
        if how == "session":
            doomed = {self.lines[key] for key in self.find_keys("s2")}
            receipt = self.memory.forget(session="s2", deferred=deferred)
        else:
            doomed = {self.lines[key]}
            chosen = {"where": {"line": key}} if how == "where" else {"key": key}
            preview = self.memory.forget(**chosen, dry_run=True)
            receipt = self.memory.forget(**chosen, deferred=deferred)
            assert (preview, preview.ids, preview.rows) == (receipt, receipt.ids, receipt.rows)
        if deferred and receipt:
            assert receipt.pending
            assert "erase" in {action.name for action in self.memory.maintenance(dry_run=True).actions}
            self.memory.maintenance(dry_run=False, only=["erase"])
        assert deferred or not receipt.pending
        self.forget_line(doomed, receipt)

    def find_keys(self, session):
        """Return the keys that the store holds a row of in a session: older versions than it keeps are gone."""
        with self.memory._store.read() as tx:
            query = "SELECT key FROM entries JOIN sessions ON sessions.id = session_id WHERE name = ?"
            return {key for (key,) in tx.connection.exec_driver_sql(query, (session,))}

    def forget_line(self, doomed, receipt):
        assert receipt == len({key for key, line in self.lines.items() if line in doomed})
        self.history = [(line, step) for line, step in self.history if line not in doomed]
        self.lines = {key: line for key, line in self.lines.items() if line not in doomed}
        for line in doomed:
            self.forgotten += self.secrets.pop(line, [])

    @rule()
    def recall(self):
        self.memory.recall("red cat moves", session="s1")

    @rule()
    def snapshot(self):
        self.memory.save_snapshot()

    @rule()
    def reopen(self):
        self.memory.close()
        self.memory = self.open_store("store")

    @rule()
    def reindex(self):
        if self.current():
            present = self.memory.stats().tiers
            self.memory.reindex(tiers=(48, 96) if tuple(present) == (24, 96) else (24, 96))

    @invariant()
    def nothing_forgotten_is_in_any_file(self):
        if not getattr(self, "forgotten", None):
            return
        alive = {secret for secrets in self.secrets.values() for secret in secrets}
        content = read_files(self.base / "store")
        assert [secret for secret in self.forgotten if secret not in alive and secret in content] == []

    def teardown(self):
        if not hasattr(self, "memory"):
            return
        twin = self.open_store("twin")
        for _, step in self.history:
            self.apply(twin, step)
        assert describe(self.memory) == describe(twin)
        assert self.memory.check().ok
        self.memory.close()
        twin.close()
        shutil.rmtree(self.base)
        gc.collect()


def describe(memory):
    """Return all that a caller can see of a store but for the times of writing and the numbers of rows."""
    with memory._store.read() as tx:
        rows = tx.connection.exec_driver_sql(
            "SELECT e.key, e.text, e.superseded_at IS NULL, s.name, hex(v.static), hex(v.evolved), "
            "CASE WHEN e.superseded_at IS NULL THEN hex(v.latents) END "
            "FROM entries e JOIN vectors v ON v.entry_id = e.id LEFT JOIN sessions s ON s.id = e.session_id "
            "JOIN generations g ON g.id = v.generation_id WHERE g.state = 'live'"
        ).all()
    asked = {}
    for query in ("red cat", "dog house likes", "green paris", "rome moves blue"):
        for session in (None, "s1", "s2"):
            hits = memory.recall(query, session=session, k=20, now=START + timedelta(days=30))
            asked[query, session] = [(hit.entry.key, round(hit.score, 6)) for hit in hits]
    names = [(session.name, session.entries, session.first_event) for session in memory.sessions()]
    return sorted(map(repr, rows)), asked, names, [entry.key for entry in memory.entries()]


TestErasure = ErasureMachine.TestCase
TestErasure.settings = settings(
    max_examples=15, stateful_step_count=15, deadline=None, phases=[Phase.explicit, Phase.generate]
)


@pytest.mark.parametrize("seed", range(4))
def test_after_long_histories_of_versions_in_sessions_what_is_left_is_that_of_the_twin(seed):
    chance, machine = random.Random(seed), ErasureMachine()
    machine.start()
    for step in range(6):
        names = [chance.randrange(6) for _ in range(5)]
        machine.talk([(name, chance.sample(COMMON, 3), chance.choice(["s1", "s1", "s2", None])) for name in names])
        if step > 2:
            key = chance.choice(sorted(machine.lines))
            machine.forget_line({machine.lines[key]}, machine.memory.forget(key))
            machine.nothing_forgotten_is_in_any_file()
    machine.teardown()
