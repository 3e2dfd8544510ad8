"""LangGraph items by closeness to a query."""

from __future__ import annotations

from collections.abc import Sequence

from agent_memory.inputs import MAX_K
from agent_memory.integrations._langgraph_filters import Where
from agent_memory.integrations._langgraph_items import RANKED, is_item, item_key
from agent_memory.memory import Memory
from agent_memory.records import Entry, Hit
from agent_memory.types import FloatArray, Namespace

_Place = tuple[Namespace, str]


def rank(
    memory: Memory, scope: Namespace, conditions: list[Where], query: FloatArray, limit: int
) -> list[tuple[Entry, float]]:
    """Return the items closest to a query, each with the score of its closest text, best first.

    Args:
        memory: Where the items are.
        scope: The store's namespace at or below which they lie.
        conditions: Filters on metadata, all of which must hold.
        query: Vector of shape (dimension,).
        limit: How many items at most.
    """
    first = k = min(limit, MAX_K)
    while True:
        where = {"$and": conditions} if conditions else None
        hits = memory.recall(query, k=k, where=where, namespace=scope)
        found = _items(memory, hits)
        if len(found) >= limit or len(hits) < k or k == MAX_K:
            return found[:limit]
        # Some hits were further texts of one item, or items that are not indexed: look deeper.
        conditions = [*conditions, RANKED] if k == first else conditions
        k = min(4 * k, MAX_K)


def _items(memory: Memory, hits: Sequence[Hit]) -> list[tuple[Entry, float]]:
    ranked = [hit for hit in hits if hit.entry.metadata.get("ranked") is True]
    items: dict[_Place, Entry] = {_place(hit.entry): hit.entry for hit in ranked if is_item(hit.entry)}
    missing: dict[Namespace, list[str]] = {}
    for hit in ranked:
        if _place(hit.entry) not in items:
            missing.setdefault(hit.entry.namespace, []).append(item_key(hit.entry))
    for scope, keys in missing.items():
        items |= {(scope, key): entry for key, entry in memory.get_many(keys, namespace=scope).items()}
    best: dict[_Place, tuple[Entry, float]] = {}
    for hit in ranked:
        item = items.get(_place(hit.entry))
        if item is not None and item.metadata.get("stamp") == hit.entry.metadata.get("stamp"):
            best.setdefault(_place(hit.entry), (item, hit.score))
    return list(best.values())


def _place(entry: Entry) -> _Place:
    return entry.namespace, item_key(entry)
