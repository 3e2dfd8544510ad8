"""A cache on disk for vectors that training needs repeatedly."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray

_SHARD = 4096
HalfArray = npt.NDArray[np.float16]


class VectorCache:
    """Half-precision vectors by text, in shards of safetensors that are written atomically.

    Args:
        folder: Folder of the shards; created if missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._place: dict[int, int] = {}
        self._shards: list[HalfArray] = []
        self._count = 0
        for path in sorted(folder.glob("*.safetensors")):
            self._load_shard(path)

    def __len__(self) -> int:
        return self._count

    def __contains__(self, text: str) -> bool:
        return _hash_text(text) in self._place

    def fill(self, texts: Sequence[str], encode: Callable[[Sequence[str]], npt.NDArray[np.floating]]) -> None:
        """Encode and write the texts that are missing, shard by shard."""
        missing = [t for t in dict.fromkeys(texts) if t not in self]
        for start in range(0, len(missing), _SHARD):
            shard = missing[start : start + _SHARD]
            self.add(shard, encode(shard))

    def add(self, texts: Sequence[str], vectors: npt.NDArray[np.floating]) -> None:
        """Write one shard.

        Args:
            texts: The texts, at most 4,096.
            vectors: Their vectors, (len(texts), d).
        """
        from safetensors.numpy import save

        path = self._folder / f"{len(self._shards):05d}.safetensors"
        keys = np.array([_hash_text(t) for t in texts], dtype=np.uint64)
        write_bytes(path, save({"keys": keys, "vectors": vectors.astype(np.float16)}), mode=SHARED)
        self._load_shard(path)

    def get(self, texts: Sequence[str]) -> FloatArray:
        """Look up vectors; float32 (len(texts), d).

        Raises:
            KeyError: A text is not in the cache.
        """
        rows = [self._place[_hash_text(t)] for t in texts]
        return np.stack([self._shards[r // _SHARD][r % _SHARD] for r in rows]).astype(np.float32)

    def sample(self, count: int, seed: int = 0) -> FloatArray:
        """Draw vectors at random, without replacement; float32 (up to count, d)."""
        rows = np.random.default_rng(seed).permutation(np.array(list(self._place.values())))[:count]
        return np.stack([self._shards[r // _SHARD][r % _SHARD] for r in rows]).astype(np.float32)

    def _load_shard(self, path: Path) -> None:
        from safetensors.numpy import load_file

        shard = load_file(path)
        start = len(self._shards) * _SHARD
        self._place.update({int(key): start + i for i, key in enumerate(shard["keys"])})
        self._shards.append(shard["vectors"])
        self._count = len(self._place)


def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
