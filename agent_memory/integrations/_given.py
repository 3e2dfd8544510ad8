"""Stores whose vectors come with the records, as frameworks with embedding models of their own hand them over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_memory.config import Config
from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.errors import ClosedError, DimensionMismatchError, EncoderError, InvalidInputError
from agent_memory.files import new_lock
from agent_memory.integrations._opening import Adapter, Given, held_by
from agent_memory.live.store import read_dimension
from agent_memory.memory import Memory
from agent_memory.types import FloatArray, Progress

_OPENING = new_lock()  # held while a store is looked for and opened, so that several threads open it once


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


class LateMemory(Adapter):
    """A memory that is opened when the size of its vectors is known: from the folder, or from the first vector.

    Args:
        memory: A memory, or the folder of one.
        framework: Whose vectors it will hold.
        config: The settings that a folder is opened with.
    """

    def __init__(self, memory: Given, framework: str, config: Config | None = None) -> None:
        self._framework = framework
        self._config = config
        self._closed = False
        self._path = Path(memory).expanduser() if isinstance(memory, str | Path) else None
        self._held = None if isinstance(memory, str | Path) else held_by(memory)
        if self._held is not None and config is not None:
            raise InvalidInputError("an open memory has its own config: give the folder instead")

    def known(self) -> Memory | None:
        """Return the memory, or None as long as nothing was ever written to it."""
        with _OPENING:
            return self._find()

    def _find(self) -> Memory | None:
        if self._closed:
            raise ClosedError("this memory is closed")
        if self._held is None and self._path is not None and (self._path / "memory.db").exists():
            dimension = read_dimension(self._path)
            self._held = None if dimension is None else self._opened(self._path, dimension)
        return self._held

    def asked(self, dimension: int) -> Memory | None:
        """Return the memory for a question of a size, or None if it holds nothing that the question could find."""
        memory = self.known()
        if memory is None or self._path is None or memory.encoder.spec.dimension == dimension:
            return memory
        return memory if memory.entries(limit=1) else None

    def sized(self, dimension: int) -> Memory:
        """Return the memory, for vectors of a size.

        A folder that holds nothing any more takes vectors of another size than it did.

        Raises:
            DimensionMismatchError: It holds vectors of another size.
        """
        with _OPENING:
            memory = self._find()
            if memory is None:
                if self._path is None:
                    raise EncoderError("there is neither a memory nor the folder of one")
                self._held = memory = self._opened(self._path, dimension)
        if memory.encoder.spec.dimension != dimension:
            if self._path is None or memory.entries(limit=1):
                raise DimensionMismatchError(memory.encoder.spec.dimension, dimension)
            memory.purge_expired()
            memory.reindex(encoder=GivenVectors(self._framework, dimension))
        return memory

    def _opened(self, path: Path, dimension: int) -> Memory:
        return Memory(path, encoder=GivenVectors(self._framework, dimension), config=self._config)

    def _release(self) -> None:
        if self._path is not None:
            self._closed = True
            if self._held is not None:
                self._held.close()
