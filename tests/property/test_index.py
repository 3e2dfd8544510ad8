import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from oracle import search_flat

from agent_memory.index import IndexOptions, TieredIndex

SHAPES = [(6,), (8, 16), (8, 16, 24)]
IDS = st.lists(st.integers(0, 60) | st.integers(2**62, 2**62 + 9), max_size=25, unique=True)


class IndexMachine(RuleBasedStateMachine):
    """An index against a dictionary searched by brute force."""

    @initialize(tiers=st.sampled_from(SHAPES), dtype=st.sampled_from(["float16", "float32"]))
    def start(self, tiers, dtype):
        self.tiers, self.dtype = tiers, dtype
        self.options = IndexOptions(exact_below=16, sample_queries=8, compact_above=0.3, train_rows=256)
        self.index = TieredIndex(tiers[-1], tiers, dtype=dtype, options=self.options)
        self.model = {}
        self.seq = 0
        self.views = []
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def rows(self, count, seed):
        return np.random.default_rng(seed).integers(-2, 3, (count, self.tiers[-1])) + np.float32(0.25)

    @rule(ids=IDS, seed=st.integers(0, 5))
    def add(self, ids, seed):
        rows = self.rows(len(ids), seed)
        self.index.add(np.array(ids, np.int64), rows)
        self.model.update(zip(ids, rows, strict=True))

    @rule(ids=IDS)
    def remove(self, ids):
        present = [entry for entry in ids if entry in self.model]
        assert self.index.remove(np.array(ids, np.int64)) == len(present)
        for entry in present:
            del self.model[entry]

    @rule()
    def maintain(self):
        self.index.maintain()

    @rule()
    def keep_view(self):
        self.views = [*self.views[-1:], (self.index.view(), dict(self.model))]

    @rule()
    def save_and_load(self):
        self.seq += 1
        self.index.save(Path(self.folder.name), generation="g", seq=self.seq)
        self.index, seq = TieredIndex.load(Path(self.folder.name), generation="g", options=self.options)
        assert seq == self.seq

    @rule()
    def save(self):
        self.seq += 1
        self.index.save(Path(self.folder.name), generation="g", seq=self.seq)

    @rule(seed=st.integers(0, 5), k=st.integers(1, 40), allowed=st.none() | IDS)
    def search(self, seed, k, allowed):
        self.compare(self.index, self.model, seed, k, allowed)

    @rule(seed=st.integers(0, 5), k=st.integers(1, 40), allowed=st.none() | IDS)
    def search_old_views(self, seed, k, allowed):
        for view, model in self.views:
            self.compare(view, model, seed, k, allowed)

    def compare(self, index, model, seed, k, allowed):
        query = self.rows(2, seed + 50)
        names = np.array(list(model), np.int64)
        rows = np.array(list(model.values())).reshape(-1, self.tiers[-1])
        scores, ids = search_flat(names, rows, query, k, allowed=allowed, dtype=self.dtype)
        wanted = None if allowed is None else np.array(allowed, np.int64)
        exact = index.search(query, k, allowed=wanted, exact=True)
        np.testing.assert_array_equal(exact.ids, ids)
        np.testing.assert_array_equal(exact.scores, scores)
        found = index.search(query, k, allowed=wanted)
        assert ((found.ids >= 0) == (ids >= 0)).all()
        every = search_flat(names, rows, query, len(model) or 1, allowed=allowed, dtype=self.dtype)
        for number in range(len(query)):
            truth = dict(zip(every[1][number].tolist(), every[0][number].tolist(), strict=True))
            mine = [entry for entry in found.ids[number].tolist() if entry >= 0]
            assert [truth[entry] for entry in mine] == found.scores[number, : len(mine)].tolist()
            assert len(set(mine)) == len(mine)

    @invariant()
    def counts_agree(self):
        if hasattr(self, "index"):
            assert len(self.index) == len(self.model)
            assert sorted(self.index.ids().tolist()) == sorted(self.model)


TestIndexMachine = IndexMachine.TestCase
TestIndexMachine.settings = settings(
    max_examples=30,
    stateful_step_count=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
