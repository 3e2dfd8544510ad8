"""Nearest-neighbour search over tiers of one vector: NumPy in, NumPy out, no text, no storage."""

from agent_memory.index.records import (
    IndexOptions,
    IndexStats,
    MaintenanceReport,
    Plan,
    SearchResult,
    TierTrace,
)
from agent_memory.index.snapshot.read import snapshots
from agent_memory.index.snapshot.write import discard_all, discard_others
from agent_memory.index.tiered import TieredIndex
from agent_memory.index.view import IndexView

__all__ = [
    "IndexOptions",
    "IndexStats",
    "IndexView",
    "MaintenanceReport",
    "Plan",
    "SearchResult",
    "TierTrace",
    "TieredIndex",
    "discard_all",
    "discard_others",
    "snapshots",
]
