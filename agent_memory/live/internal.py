"""The entries of internal namespaces, known in this process, so that a recall over the whole store leaves them out."""

from __future__ import annotations

from collections.abc import Sequence

from agent_memory.storage.base import Transaction

_AT_ONCE = 10_000
"""Changes that are looked through; after more, the entries are listed again."""


class LiveInternal:
    """Ids of the unsuperseded entries in internal namespaces, kept equal to the store by its change log."""

    def __init__(self) -> None:
        # Replaced as a whole, so that threads and forked children always find one that is complete.
        self._held: tuple[int, int, frozenset[int]] | None = None

    def list_ids(self, tx: Transaction) -> frozenset[int]:
        """Return the ids as a read transaction sees them."""
        seq, held = tx.changes.last_seq(), self._held
        if held is not None and held[0] != tx.history:
            held = None
        if held is not None and self._is_current(tx, *held[1:], seq):
            ids = held[2]
        else:
            ids = frozenset(tx.entries.select_internal_ids())
        if held is None or held[1] <= seq:
            self._held = tx.history, seq, ids
        return ids

    def _is_current(self, tx: Transaction, known: int, ids: frozenset[int], seq: int) -> bool:
        if known == seq:
            return True
        if known > seq or not tx.changes.reach_back_to(known):
            return False
        changed: Sequence[int] = [int(number) for number in tx.changes.ids_since(known)]
        if len(changed) > _AT_ONCE or not ids.isdisjoint(changed):
            return False
        return not tx.entries.select_internal_ids(changed)
