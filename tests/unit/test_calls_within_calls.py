"""Calls of a memory from inside its own calls: progress callbacks, rerankers, encoders."""

from __future__ import annotations

import numpy as np
import pytest
from support import WordEncoder


def use(memory):
    """Read and write."""
    assert memory.recall("likes tea", k=1)[0].entry.key == "k"
    assert memory.get("k").text == "likes tea"
    memory.add("said within", key="within")
    memory.update("within", text="changed within")
    assert memory.forget("within") == 1


@pytest.mark.parametrize("name", ["add_many", "export", "import_", "backup", "reindex"])
def test_a_progress_callback_may_use_the_memory(memory, tmp_path, name):
    memory.add("likes tea", key="k", session="s")
    memory.export(tmp_path / "there")
    done = []

    def progress(*_):
        use(memory)
        done.append(1)

    given = {
        "add_many": {"items": ["a b", "c d"]},
        "export": {"path": tmp_path / "file"},
        "import_": {"path": tmp_path / "there"},
        "backup": {"path": tmp_path / "file"},
        "reindex": {"tiers": (48, 96)},
    }
    getattr(memory, name)(**given[name], progress=progress)
    assert done
    assert memory.check().ok


def test_a_reranker_may_use_the_memory(memory):
    memory.add("likes tea", key="k", session="s")

    class Reranker:
        def score(self, query, texts):
            use(memory)
            return np.ones(len(texts), np.float32)

    assert memory.recall("tea", rerank=Reranker())[0].score == 1


def test_an_encoder_may_use_the_memory(open_memory):
    class Curious(WordEncoder):
        inside = True

        def encode_documents(self, texts, *, progress=None):
            if not self.inside:
                self.inside = True
                use(memory)
                self.inside = False
            return super().encode_documents(texts, progress=progress)

    encoder = Curious()
    memory = open_memory(encoder=encoder)
    memory.add("likes tea", key="k")
    encoder.inside = False
    assert memory.recall("likes tea", k=1)[0].entry.key == "k"
    memory.add("also tea", session="s")
    assert len(memory.entries()) == 2
