"""Finds the earlier entries that new ones probably update, before they are written; see ``Entry.may_supersede``.

What is looked for shares words with the new entry, so the full-text index finds it: the vectors' index need not be
open, and a process that only adds need not load it. Stored vectors then say which of the found are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from agent_memory.live.stale import LIKENESS, Statement, find_updated
from agent_memory.records import Entry
from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import decode_vector
from agent_memory.storage.records import Condition, Draft, Generation
from agent_memory.types import FloatArray, is_internal

MOST = 64
"""Entries written together, up to which they are looked at; more are a bulk load, of which nothing is reported."""

_WORDS = 4  # the rarest of an entry, by which others are found
_FOUND = 12


def find_updates(
    tx: Transaction, generation: Generation | None, drafts: Sequence[Draft], now: datetime, *, dtype: str
) -> list[tuple[str, ...]]:
    """Return the keys of the entries that each draft probably updates, those among the drafts before it included.

    Args:
        tx: A read transaction.
        generation: The live one, whose encoder made the vectors; None in an empty store.
        drafts: What is about to be written, with its vectors.
        now: The time of writing.
        dtype: The number format of the drafts' vectors; an empty store has no generation that tells it.
    """
    found: list[tuple[str, ...]] = []
    for place, draft in enumerate(drafts):
        statement = Statement(draft.make_entry(now))
        if draft.vector is None or not draft.has_vector or not statement.can_update:
            found.append(())
            continue
        vector = decode_vector(draft.vector, dtype)
        others = [] if generation is None else _find_alike(tx, generation, statement.entry, vector)
        for other in drafts[:place]:
            if other.vector is not None and other.has_vector and len(other.vector) == len(draft.vector):
                others.append((other.make_entry(now), float(decode_vector(other.vector, dtype) @ vector)))
        found.append(find_updated(statement, others))
    return found


def _find_alike(tx: Transaction, generation: Generation, entry: Entry, vector: FloatArray) -> list[tuple[Entry, float]]:
    """Return entries that share the rarest words of an entry, and the cosine of each to it."""
    words = tx.lexical.parse(entry.text, most=_WORDS, rough=True)
    internal = is_internal(entry.namespace)
    condition = Condition(namespace=entry.namespace, moment=entry.updated_at, internal=internal)
    ids = list(tx.lexical.search(words, limit=_FOUND, condition=condition))
    if not ids:
        return []
    known, matrix = tx.vectors.read(generation, ids, static=True)
    rated = zip(known.tolist(), (matrix.astype(np.float32) @ vector).tolist(), strict=True)
    cosines = {number: cosine for number, cosine in rated if cosine >= LIKENESS}
    return [(other, cosines[number]) for number, other in tx.entries.fetch(list(cosines)).items()]
