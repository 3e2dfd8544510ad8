"""What several tests share: a small deterministic encoder and a brute-force model of recall."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from agent_memory import Entry, InvalidInputError, Memory
from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.types import FloatArray, Progress

TESTS = Path(__file__).parent


@lru_cache(maxsize=100_000)
def word_vector(word: str, dimension: int) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(dimension)


class WordEncoder:
    """Sum of a random vector per word: no model to load, equal text equal vector, shared words similar vectors."""

    def __init__(self, dimension: int = 96, *, name: str = "words") -> None:
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            dimension=dimension,
            tiers=tiers_for(dimension),
            max_tokens=1_000_000,
        )
        self.encoded: list[str] = []

    @property
    def spec(self) -> EncoderSpec:
        return self._spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        self.encoded += texts
        sums = np.stack(
            [sum(word_vector(word, self._spec.dimension) for word in text.lower().split()) for text in texts]
        )
        if progress is not None:
            progress(len(texts), len(texts))
        return (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        return self.encode_documents(texts)


def add_expired(memory: Memory, text: str, **options: object) -> Entry:
    """Add an entry and wait until it has expired: an expiry in the past is refused."""
    return _pass(lambda soon: memory.add(text, expires_at=soon, **options))


def expire(memory: Memory, key: str) -> Entry:
    """Let an entry expire, and wait until it has."""
    return _pass(lambda soon: memory.update(key, expires_at=soon))


def _pass(write: Callable[[datetime], Entry]) -> Entry:
    for margin in (0.02, 0.2, 2, 20):
        soon = datetime.now(UTC) + timedelta(seconds=margin)
        try:
            entry = write(soon)
        except InvalidInputError:  # a busy machine came too late
            continue
        while datetime.now(UTC) <= soon:
            time.sleep(0.002)
        return entry
    raise TimeoutError("no entry was written within 20 seconds")


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    """Start a Python process that can import this module; standard output is a pipe, one line at a time."""
    places = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), **options.pop("env", {})}
    command = [sys.executable, "-u", "-W", "ignore", "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def skip_locally(reason: str) -> None:
    """Skip a test whose tools are missing; where CI runs, that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{reason} (not skipped, because CI is set)")
    pytest.skip(reason)


def write_session_weights(path: Path) -> Path:
    """Write random weights of a session encoder for ``WordEncoder``, with a window that fills within a test."""
    import torch

    from agent_memory.encoders.compact.weights import Shape
    from agent_memory.encoders.training.session_model import SessionNetwork

    torch.manual_seed(0)
    spec = WordEncoder().spec
    shape = Shape(dimension=spec.dimension, width=16, layers=2, heads=2, window=4, mix=3, key=8, places=12)
    network = SessionNetwork(shape)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.write(path, {"encoder": spec.name})
    return path
