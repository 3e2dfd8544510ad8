"""From a query vector to hits, in one read transaction: what is returned is one state of the store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agent_memory.errors import CorruptSnapshotError
from agent_memory.inputs import FloatArray
from agent_memory.records import Hit
from agent_memory.reindex import LiveIndex
from agent_memory.storage import entries as reading
from agent_memory.storage.database import Database

if TYPE_CHECKING:
    from agent_memory.index import IndexView, SearchResult
    from agent_memory.storage.entries import Condition
    from agent_memory.storage.vectors import Generation

_log = logging.getLogger("agent_memory")

_FEW_EXPIRED = 1_000


def recall(
    database: Database,
    live_index: LiveIndex,
    vector: FloatArray,
    *,
    k: int,
    condition: Condition | None,
    accept: Callable[[Generation], None],
    exact: bool,
    explain: bool,
) -> list[Hit]:
    """Return the k entries closest to a vector, best first.

    Args:
        database: The store.
        live_index: Its index.
        vector: The query, shape (dimension,), of unit length.
        k: How many hits at most.
        condition: What an entry must satisfy; None for every live entry.
        accept: Raises if the vector does not belong to the generation found.
        exact: True to compare with every vector.
        explain: True to fill ``Hit.trace``.
    """
    now = datetime.now(UTC)
    with database.read() as connection:
        view = live_index.view(connection, accept)
        if view is None:
            return []
        surplus = 0
        if condition is None:
            # Expired entries are few until they are purged: looking past them beats listing all the others.
            surplus = reading.count(connection, reading.expired((), now))
            condition = reading.matching((), now) if surplus > _FEW_EXPIRED else None
        allowed = None if condition is None else reading.matching_ids(connection, condition)
        wanted = k if allowed is not None else k + surplus

        def search(view: IndexView) -> SearchResult:
            return view.search(vector, wanted, allowed=allowed, exact=exact, explain=explain)

        try:
            result = search(view)
        except CorruptSnapshotError as error:
            # Rows are verified when they are first read, which may be long after the snapshot was opened.
            _log.warning("building the index anew from the store: %s", error)
            result = search(live_index.start_over(connection, accept) or view)
        found = [int(entry_id) for entry_id in result.ids[0] if entry_id >= 0]
        entries = reading.fetch(connection, found)
    alive = [
        (entry_id, float(score))
        for entry_id, score in zip(found, result.scores[0].tolist(), strict=False)
        if (expiry := entries[entry_id].expires_at) is None or expiry > now
    ]
    return [
        Hit(
            entry=entries[entry_id],
            score=score,
            rank=rank,
            trace=_trace(result, entry_id) if explain else None,
        )
        for rank, (entry_id, score) in enumerate(alive[:k], start=1)
    ]


def _trace(result: SearchResult, entry_id: int) -> dict[str, Any]:
    tiers = []
    for tier in result.traces[0]:
        place = tier.rank(entry_id)
        score = None if place is None else float(tier.scores[place])
        rank = None if place is None else place + 1
        tiers.append({"dimension": tier.tier, "rank": rank, "score": score, "candidates": len(tier.ids)})
    return {"tiers": tiers, "tier_reached": result.tier_reached}
