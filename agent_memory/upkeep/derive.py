"""Derives the vectors of a generation: copied, rotated or encoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent_memory.errors import IndexStateError, StorageError
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import NO_VECTOR, Generation, StoredText
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

    def derive(self, tx: Transaction, batch: Sequence[StoredText]) -> dict[int, bytes]:
        """Return the vectors that follow from those of the live generation, by entry id; encodes nothing.

        Entries that have none on purpose keep none; those that still wait for theirs are left to be encoded.
        """
        live = _get_live(tx)
        ids = [entry.id for entry in batch]
        blank = {number: mark for number, mark in tx.vectors.find_blank(live, ids).items() if mark == NO_VECTOR}
        if self._target.source is Source.ENCODE:
            return blank
        found = tx.vectors.read_stored(live, ids)
        if self._target.step is None or not found:
            return found | blank
        rotated = self._target.step.apply(np.stack([live.from_bytes(blob) for blob in found.values()]))
        rotated /= np.linalg.norm(rotated, axis=1, keepdims=True)
        return dict(zip(found, self._generation.to_bytes(rotated), strict=True)) | blank

    def complete(self, derived: dict[int, bytes], batch: Sequence[StoredText]) -> dict[int, bytes]:
        """Return the vectors to store for a batch: the derived ones, and those of the other entries, encoded."""
        rest = [entry for entry in batch if entry.id not in derived]
        if self._target.source is Source.COPY:
            derived = {}  # the database copies them itself
        if rest:
            self.encoded += len(rest)
            derived |= self._encode(rest)
        return derived

    def store(self, tx: Transaction, batch: Sequence[StoredText], blobs: dict[int, bytes]) -> None:
        """Store the vectors of a batch, as ``complete`` returned them."""
        if self._target.source is Source.COPY:
            tx.vectors.copy(_get_live(tx), self._generation, [entry.id for entry in batch])
        tx.vectors.store(self._generation.id, [(entry, blobs[entry.id]) for entry in batch if entry.id in blobs])

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
        for entry_id, blob in derived.items():
            if not float(rows[entry_id] @ self._generation.from_bytes(blob)) > _SAME_COSINE:
                raise IndexStateError(f"verification: the vector of entry {entry_id} does not belong to its text")

    def _encode(self, batch: Sequence[StoredText]) -> dict[int, bytes]:
        vectors = self._target.space.encode_documents([entry.text for entry in batch])
        return dict(zip([entry.id for entry in batch], self._generation.to_bytes(vectors), strict=True))


def _get_live(tx: Transaction) -> Generation:
    live = tx.generations.live()
    if live is None:
        raise StorageError("the store has no live generation")
    return live
