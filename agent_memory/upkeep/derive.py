"""Derives the vectors of a generation: copied, rotated or encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent_memory.errors import IndexStateError, StorageError
from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import decode_vector
from agent_memory.storage.records import NO_VECTOR, Generation, StoredPassages, StoredText, StoredVectors
from agent_memory.upkeep.plan import Source, Target

_SAMPLE = 8  # vectors that are derived a second time
_SAME_COSINE = 0.95


class Deriver:
    """Derives the stored vectors of one generation.

    Args:
        target: What to build.
        generation: Its row.
        encoded: Texts that an earlier process encoded for it.

    Attributes:
        encoded: Texts encoded so far.
    """

    def __init__(self, target: Target, generation: Generation, encoded: int) -> None:
        self._target, self._generation, self.encoded = target, generation, encoded

    @property
    def encodes(self) -> bool:
        """Whether vectors are made from texts, and not from those of the live generation."""
        return self._target.source is Source.ENCODE

    def derive(self, tx: Transaction, batch: Sequence[StoredText]) -> dict[int, StoredVectors]:
        """Return the vectors that follow from those of the live generation, by entry id; encodes nothing.

        Entries that have none on purpose keep none; those that still wait for theirs are left to be encoded.
        """
        live = _get_live(tx)
        ids = [entry.id for entry in batch]
        marks = tx.vectors.find_blank(live, ids).items()
        blank = {number: StoredVectors(mark) for number, mark in marks if mark == NO_VECTOR}
        if self._target.source is Source.ENCODE:
            return blank
        parts = tx.passages.read_stored(live, ids)
        found = {
            number: StoredVectors(self._turn(static, live), self._turn_passages(parts.get(number), live))
            for number, static in tx.vectors.read_stored(live, ids).items()
            if number not in parts or parts[number] is not None  # else they are damaged, and encoded again
        }
        return found | blank

    def _turn(self, blob: bytes, live: Generation) -> bytes:
        """Return one or more vectors of the live generation in the new space."""
        if self._target.step is None:
            return blob
        matrix = decode_vector(blob, live.dtype).reshape(-1, live.dimension)
        turned = self._target.step.apply(matrix)
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        return b"".join(self._generation.to_bytes(turned))

    def _turn_passages(self, passages: StoredPassages | None, live: Generation) -> StoredPassages | None:
        return None if passages is None else StoredPassages(passages.spans, self._turn(passages.vectors, live))

    def complete(self, derived: dict[int, StoredVectors], batch: Sequence[StoredText]) -> dict[int, StoredVectors]:
        """Return the vectors to store for a batch: the derived ones, and those of the other entries, encoded."""
        rest = [entry for entry in batch if entry.id not in derived]
        if self._target.source is Source.COPY:
            derived = {}  # the database copies them itself
        if rest:
            self.encoded += len(rest)
            derived |= self._encode(rest)
        return derived

    def store(self, tx: Transaction, batch: Sequence[StoredText], found: dict[int, StoredVectors]) -> None:
        """Store the vectors of a batch, as ``complete`` returned them."""
        if self._target.source is Source.COPY:
            ids = [entry.id for entry in batch if entry.id not in found]
            tx.vectors.copy(_get_live(tx), self._generation, ids)
            tx.passages.copy(_get_live(tx), self._generation, ids)
        tx.vectors.store(self._generation.id, [(entry, found[entry.id].static) for entry in batch if entry.id in found])
        tx.passages.put(self._generation.id, found.items())

    def verify_sample(self, tx: Transaction) -> None:
        """Derive a few vectors again and compare them with the stored ones.

        Raises:
            IndexStateError: A stored vector differs.
        """
        ids = tx.vectors.sample_ids(self._generation, _SAMPLE)
        held, matrix = tx.vectors.read(self._generation, ids, static=True)
        sample = tx.vectors.select_texts(held.tolist())
        derived = self._encode(sample) if self._target.source is Source.ENCODE else self.derive(tx, sample)
        rows = dict(zip(held.tolist(), matrix.astype(np.float32), strict=True))
        for entry_id, one in derived.items():
            if not float(rows[entry_id] @ self._generation.from_bytes(one.static)) > _SAME_COSINE:
                raise IndexStateError(f"verification: the vector of entry {entry_id} does not belong to its text")

    def _encode(self, batch: Sequence[StoredText]) -> dict[int, StoredVectors]:
        encoded = self._target.space.encode_texts([entry.text for entry in batch])
        return dict(zip([entry.id for entry in batch], encoded, strict=True))


def _get_live(tx: Transaction) -> Generation:
    live = tx.generations.live()
    if live is None:
        raise StorageError("the store has no live generation")
    return live
