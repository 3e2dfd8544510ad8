"""Measure the figures of the model card: ``python -m agent_memory.encoders.training.evaluate DATA OUT.json``.

Scores prefixes of encoders on the dev sets; no choice is based on these figures. Finished scores are kept, so that the
command can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import Encoder, EncoderSpec
from agent_memory.encoders.rotation import RotatedEncoder, fit_rotation
from agent_memory.encoders.static.matryoshka import MatryoshkaEncoder
from agent_memory.encoders.static.minilm import MiniLMEncoder
from agent_memory.encoders.static.windows import normalise
from agent_memory.encoders.training.data import Conversation, collect_texts, read_set, read_training_sets
from agent_memory.encoders.training.metrics import correlate_ranks, measure_recall
from agent_memory.types import FloatArray, Progress

SETS = {
    "msc": 20,
    "sgdmem_dev": 100,
    "qmsum_val": 100,
    "beam_100k": 4,
    "xquad_en": 1,
    "mtragun": 1,
}
"""Dev sets, and the number of conversations that are scored of each."""

PREFIXES = (64, 128, 256, 512, 768)


def score_sts(encoder: Encoder, path: Path, dimensions: Sequence[int]) -> dict[int, float]:
    """Correlate cosines with human scores; Spearman's correlation times 100, by prefix."""
    pairs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    left, right = (encoder.encode_documents([p[side] for p in pairs]) for side in ("a", "b"))
    scores = [p["score"] for p in pairs]
    return {
        d: 100 * correlate_ranks((normalise(left[:, :d]) * normalise(right[:, :d])).sum(1), scores) for d in dimensions
    }


def score(encoder: Encoder, conversations: Sequence[Conversation]) -> dict[int, float]:
    """Measure recall@10 in percent, by prefix up to the encoder's dimension."""
    return measure_recall(conversations, encoder.encode_documents, encoder.encode_queries, list_prefixes(encoder))


def list_prefixes(encoder: Encoder) -> list[int]:
    """Return the prefixes shorter than an encoder's dimension, and the dimension itself."""
    size = encoder.spec.dimension
    return [d for d in PREFIXES if d < size] + [size]


class CachingEncoder:
    """An encoder that caches vectors, so that they can be scored with and without a rotation."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._cached: dict[str, FloatArray] = {}

    @property
    def spec(self) -> EncoderSpec:
        """Spec of the cached encoder."""
        return self._encoder.spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode the texts that are not cached."""
        missing = [t for t in dict.fromkeys(texts) if t not in self._cached]
        self._cached.update(zip(missing, self._encoder.encode_documents(missing), strict=True))
        return np.stack([self._cached[t] for t in texts])

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode questions as documents, which is right only for encoders without prompts."""
        return self.encode_documents(texts)


def make_rotated_mpnet(data: Path, texts: int = 2000) -> Encoder:
    """Make mpnet with a rotation that is fitted on training texts."""
    plain = load_mpnet()
    found = [t for conversations in read_training_sets(data).values() for t in collect_texts(conversations)]
    sample = np.random.default_rng(0).choice(np.array(found, dtype=object), texts, replace=False)
    return RotatedEncoder(plain, fit_rotation(plain.encode_documents([str(t) for t in sample])))


@cache
def load_mpnet() -> Encoder:
    """Load mpnet, the teacher, in bf16 for speed."""
    from agent_memory.encoders.models import path_of
    from agent_memory.encoders.static.sentence_transformer import SentenceTransformerEncoder

    return CachingEncoder(SentenceTransformerEncoder(path_of("mpnet"), name="mpnet", precision="bf16"))


def list_encoders(data: Path, head: Path | None) -> dict[str, Callable[[], Encoder]]:
    """Return what makes each encoder, by the column names of the card."""
    return {
        "minilm": lambda: MiniLMEncoder(precision="bf16"),
        "default": lambda: MatryoshkaEncoder(head, precision="bf16"),
        "default int8": lambda: MatryoshkaEncoder(head, precision="int8"),
        "mpnet": load_mpnet,
        "mpnet rotated": lambda: make_rotated_mpnet(data),
    }


def main() -> None:
    """Score everything that is missing in the file, and write it after each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--head", type=Path, help="head file to use instead of the embedded one")
    parser.add_argument("--encoders", default="minilm,default")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    results = json.loads(given.out.read_text()) if given.out.is_file() else {}
    counts = results.setdefault("questions", {})
    for column in given.encoders.split(","):
        encoder = list_encoders(given.data, given.head)[column]()
        rows = results.setdefault(column, {})
        if "stsb test" not in rows:
            path = given.data / "dev" / "stsb" / "en-test.jsonl"
            rows["stsb test"] = score_sts(encoder, path, list_prefixes(encoder))
            given.out.write_text(json.dumps(results, indent=1))
        for name in given.sets.split(","):
            if name in rows:
                continue
            conversations = read_set(given.data / "dev" / name)[: SETS[name]]
            rows[name] = score(encoder, conversations)
            counts[name] = sum(len(c.questions) for c in conversations)
            given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
