"""Stores whose vectors come with the records, as frameworks with embedding models of their own hand them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.errors import EncoderError
from agent_memory.live.store import read_dimension
from agent_memory.memory import Memory
from agent_memory.types import FloatArray, Progress


class GivenVectors:
    """The encoder of a store that is only ever handed vectors.

    Args:
        framework: Whose vectors they are; part of the identity of the embedding space.
        dimension: Their size.
    """

    def __init__(self, framework: str, dimension: int) -> None:
        self._spec = EncoderSpec(
            name=f"given by {framework}",
            revision="",
            dimension=dimension,
            tiers=tiers_for(dimension),
            max_tokens=1_000_000,
            dtype="float32",
        )

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space."""
        return self._spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Refuse: there is no model here.

        Raises:
            EncoderError: Always.
        """
        raise EncoderError(f"the vectors of this store are {self._spec.name}: it cannot embed text itself")

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Refuse, as ``encode_documents`` does."""
        return self.encode_documents(texts)


class LateMemory:
    """A memory that is opened when the size of its vectors is known: from the folder, or from the first vector.

    Args:
        memory: An open memory, or the folder of one.
        framework: Whose vectors it will hold.
    """

    def __init__(self, memory: Memory | str | Path, framework: str) -> None:
        self._own = not isinstance(memory, Memory)
        self._framework = framework
        self._path = None if isinstance(memory, Memory) else Path(memory).expanduser()
        self._memory = memory if isinstance(memory, Memory) else None

    def known(self) -> Memory | None:
        """Return the memory, or None as long as nothing was ever written to it."""
        if self._memory is None and self._path is not None and (self._path / "memory.db").exists():
            dimension = read_dimension(self._path)
            return None if dimension is None else self.sized(dimension)
        return self._memory

    def sized(self, dimension: int) -> Memory:
        """Return the memory, for vectors of a size."""
        if self._memory is None and self._path is not None:
            self._memory = Memory(self._path, encoder=GivenVectors(self._framework, dimension))
        if self._memory is None:
            raise EncoderError("there is neither a memory nor the folder of one")
        return self._memory

    def close(self) -> None:
        """Close the memory if it was opened here."""
        if self._own and self._memory is not None:
            self._memory.close()
