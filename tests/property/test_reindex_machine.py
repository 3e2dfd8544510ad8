"""Two processes do random work during re-indexes and rollbacks: the store agrees with a dictionary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support import WordEncoder, python

from agent_memory import Memory, NotFoundError

EXAMPLES = int(os.environ.get("AGENT_MEMORY_REINDEX_EXAMPLES", "8"))
WORDS = ("red", "green", "blue", "cat", "dog", "house", "moves", "likes", "paris", "rome")
NAMES = ("words", "others")

keys = st.sampled_from([f"k{number}" for number in range(8)])
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)

# Follows commands from standard input, with the one of two encoders that fits.
OTHER = """
import json, sys
from support import WordEncoder
from agent_memory import EncoderMismatchError, Memory

def obey(what, key, text):
    if what == "add":
        memory.add(text, key=key)
    else:
        memory.forget(key)
    return [hit.text for hit in memory.recall(text, k=1, mode="dense")]

memory = None
print("ready")
for line in sys.stdin:
    for dimension, name in ((96, "words"), (64, "others")):
        try:
            memory = memory or Memory(sys.argv[1], encoder=WordEncoder(dimension, name=name))
            found = obey(*json.loads(line))
            break
        except EncoderMismatchError:
            if memory is not None:
                memory.close()
            memory = None
    else:
        memory = Memory(sys.argv[1], encoder=WordEncoder(96, name="words"))
        found = obey(*json.loads(line))
    print(json.dumps(found))
"""


def encoder(name):
    return WordEncoder(96 if name == "words" else 64, name=name)


class ReindexMachine(RuleBasedStateMachine):
    @initialize()
    def start(self):
        self.folder = Path(tempfile.mkdtemp())
        self.memory = Memory(self.folder / "store", encoder=encoder("words"))
        self.memory.add("red cat", key="k0")
        self.model = {"k0": "red cat"}
        self.other = python(OTHER, self.folder / "store", stdin=subprocess.PIPE)
        assert self.other.stdout.readline() == "ready\n"
        self.formers = 0

    @rule(key=keys, text=texts)
    def add(self, key, text):
        self.memory.add(text, key=key)
        self.model[key] = text

    @rule(key=keys, text=texts)
    def update(self, key, text):
        try:
            self.memory.update(key, text=text)
            self.model[key] = text
        except NotFoundError:
            assert key not in self.model

    @rule(key=keys)
    def forget(self, key):
        assert self.memory.forget(key) == (key in self.model)
        self.model.pop(key, None)

    def ask_other(self, *order):
        self.other.stdin.write(json.dumps(order) + "\n")
        self.other.stdin.flush()
        line = self.other.stdout.readline()
        assert line, self.other.stderr.read()
        return json.loads(line)

    @rule(key=keys, text=texts)
    def the_other_adds(self, key, text):
        found = self.ask_other("add", key, text)
        self.model[key] = text
        assert set(found[0].split()) == set(text.split())  # who says a word more often comes first

    @rule(key=keys, text=texts)
    def the_other_forgets(self, key, text):
        found = self.ask_other("forget", key, text)
        self.model.pop(key, None)
        assert len(found) == min(1, len(self.model))

    @rule(key=keys, text=texts)
    def reindex_while_the_other_writes(self, key, text):
        name = NAMES[self.memory.encoder.spec.name == "words"]
        machine = self

        class Meddled(WordEncoder):
            meddled = False

            def encode_documents(self, texts, **options):
                if not self.meddled:
                    self.meddled = True
                    machine.ask_other("add", key, text)
                return super().encode_documents(texts, **options)

        if not self.model:
            return
        meddled = Meddled(96 if name == "words" else 64, name=name)
        self.memory.reindex(encoder=meddled, batch_size=3)
        self.model[key] = text if meddled.meddled else self.model.get(key, text)
        self.formers += 1

    @rule()
    def rollback(self):
        if self.formers:
            name = NAMES[self.memory.encoder.spec.name == "words"]
            self.memory.rollback(encoder=encoder(name))

    @rule()
    def collect(self):
        self.memory.collect_generations(grace=timedelta(0))
        self.formers = 0

    @rule()
    def maintain(self):
        self.memory.maintenance(dry_run=False)

    @rule(query=texts)
    def recall(self, query):
        hits = self.memory.recall(query, k=20, mode="dense")
        assert {hit.entry.key: hit.text for hit in hits} == self.model

    @invariant()
    def holds_what_the_model_holds(self):
        if hasattr(self, "memory"):
            assert {entry.key: entry.text for entry in self.memory.entries()} == self.model

    def teardown(self):
        if hasattr(self, "memory"):
            report = self.memory.check()
            assert report.ok, report.problems
            self.memory.close()
            self.other.stdin.close()
            assert self.other.wait(30) == 0, self.other.stderr.read()
            self.other.stdout.close()
            self.other.stderr.close()
            shutil.rmtree(self.folder)


TestReindexMachine = ReindexMachine.TestCase
TestReindexMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=15, deadline=None)
