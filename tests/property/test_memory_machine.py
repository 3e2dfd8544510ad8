"""A memory under random use agrees with a dictionary and brute force."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support import WordEncoder, expire, python

from agent_memory import Config, Memory, NotFoundError

WORDS = ("red", "green", "blue", "cat", "dog", "house", "moves", "likes", "paris", "rome")

keys = st.sampled_from([f"k{number}" for number in range(12)])
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join)
colours = st.sampled_from(["red", "green"])
sessions = st.sampled_from([None, "s1", "s2"])

KILLED = """
import os, signal, sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.recall("anything")
memory.add(sys.argv[3], key=sys.argv[2], metadata={"colour": "red"})
os.kill(os.getpid(), signal.SIGKILL)
"""


class MemoryMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.encoder = WordEncoder(96)
        self.model: dict[str, tuple[str, str | None, str | None]] = {}
        self.colours: dict[str, set[str]] = {}  # of all versions, also of what has expired
        self.kills = 0
        self.place = self.find_place()
        self.memory = self.open_store()

    def find_place(self):
        return self.folder / "store"

    def open_store(self):
        return Memory(self.place, encoder=self.encoder, config=Config(snapshot_every=3, batch_size=2))

    @rule(key=keys, text=texts, colour=colours, session=sessions)
    def add(self, key, text, colour, session):
        self.memory.add(text, key=key, metadata={"colour": colour}, session=session)
        self.hold(key, text, colour, session)

    def hold(self, key, text, colour, session):
        self.model[key] = text, colour, session
        self.colours.setdefault(key, set()).add(colour)

    @rule(items=st.lists(st.tuples(keys, texts, colours, sessions), max_size=5))
    def add_many(self, items):
        self.memory.add_many(
            {"key": key, "text": text, "metadata": {"colour": colour}, "session": session}
            for key, text, colour, session in items
        )
        for item in items:
            self.hold(*item)

    @rule(key=keys, text=texts)
    def update(self, key, text):
        try:
            self.memory.update(key, text=text)
            _, colour, session = self.model[key]
            self.model[key] = text, colour, session
        except NotFoundError:
            assert key not in self.model

    @rule(key=keys)
    def expire(self, key):
        if key in self.model:
            expire(self.memory, key)
            del self.model[key]

    @rule()
    def purge(self):
        expired = self.colours.keys() - self.model.keys()
        assert self.memory.purge_expired() == len(expired)
        for key in expired:
            del self.colours[key]

    @rule(key=keys)
    def forget(self, key):
        # An expired entry is not returned any more, but is there to be forgotten until it is purged.
        assert self.memory.forget(key) == (key in self.colours)
        self.model.pop(key, None)
        self.colours.pop(key, None)

    @rule(colour=colours)
    def forget_where(self, colour):
        must = {key for key, (_, its, _) in self.model.items() if its == colour}
        may = {key for key, its in self.colours.items() if colour in its}  # by a former version, if it was stored
        count = self.memory.forget(where={"colour": colour})
        gone = self.model.keys() - {entry.key for entry in self.memory.entries()}
        assert must <= gone <= may
        assert len(gone) <= count <= len(may)
        for key in may:
            if not self.memory.forget(key, dry_run=True):
                self.model.pop(key, None)
                del self.colours[key]

    @rule(query=texts)
    def recall_by_words(self, query):
        expected = {key for key, (text, _, _) in self.model.items() if set(text.split()) & set(query.split())}
        hits = self.memory.recall(query, k=50, mode="lexical")
        assert {hit.entry.key for hit in hits} == expected

    @rule()
    def reopen(self):
        self.memory.close()
        self.memory = self.open_store()

    @rule(key=keys, text=texts)
    def kill_a_writer(self, key, text):
        if self.kills >= 2:  # each costs the start of a process
            return
        self.kills += 1
        child = python(KILLED, self.place, key, text)
        assert child.wait() == -9, child.stderr.read()
        child.stdout.close()
        child.stderr.close()
        self.hold(key, text, "red", None)

    @rule(query=texts, k=st.integers(1, 15), colour=st.one_of(st.none(), colours), session=sessions)
    def recall(self, query, k, colour, session):
        where = None if colour is None else {"colour": colour}
        expected = {
            key: text
            for key, (text, its, home) in self.model.items()
            if colour in (None, its) and session in (None, home)
        }
        for exact, mode in ((False, "hybrid"), (False, "dense"), (True, "dense")):
            hits = self.memory.recall(query, k=k, where=where, session=session, exact=exact, mode=mode)
            assert len(hits) == min(k, len(expected))
            assert all(expected[hit.entry.key] == hit.text for hit in hits)
        if expected:
            vectors = self.encoder.encode_documents(list(expected.values()))
            scores = np.sort(vectors @ self.encoder.encode_queries([query])[0])[::-1]
            np.testing.assert_allclose([hit.score for hit in hits], scores[: len(hits)], atol=2e-3)

    @invariant()
    def holds_what_the_model_holds(self):
        if hasattr(self, "memory"):
            stored = {
                entry.key: (entry.text, entry.metadata["colour"], entry.session) for entry in self.memory.entries()
            }
            assert stored == self.model

    def teardown(self):
        if hasattr(self, "memory"):
            assert self.memory.check().ok
            self.memory.close()
            shutil.rmtree(self.folder)


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


class ServedMachine(MemoryMachine):
    """The same on PostgreSQL."""

    server = None
    number = 0

    def find_place(self):
        ServedMachine.number += 1
        return self.server.url(schema=f"machine_{ServedMachine.number}")


@pytest.fixture(scope="module")
def served(postgres):
    ServedMachine.server = postgres


TestServedMachine = pytest.mark.usefixtures("served")(ServedMachine.TestCase)
TestServedMachine.settings = settings(max_examples=6, stateful_step_count=20, deadline=None)


class IndexedMachine(ServedMachine):
    """The same, searched on the server."""

    def open_store(self):
        return Memory(self.place, encoder=self.encoder, config=Config(index="server", batch_size=2))


@pytest.fixture(scope="module")
def indexed(served, postgres):
    import psycopg

    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent_memory.live.served.MOST_NEW", 3)
        yield


TestIndexedMachine = pytest.mark.usefixtures("indexed")(IndexedMachine.TestCase)
TestIndexedMachine.settings = settings(max_examples=3, stateful_step_count=20, deadline=None)
