"""Options that an index takes and results that it returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray, IdArray

MAX_ROWS = 2**31 - 1
"""Most rows of one index, tombstones included: row numbers have 32 bits."""

EVERYWHERE = 2.0
"""A reach that leaves no inverted list out: two cosines never differ by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """How an index trades time for recall.

    Attributes:
        recall_target: Share of the exact top 10 that the cascade must find; ``maintain`` measures it and chooses the
            plan accordingly.
        exact_below: Number of live rows below which every search is exact.
        threads: Maximum number of threads per call; the queries of a batch are divided among them.
        seed: Seed of sampling and training.
        sample_queries: Number of queries used to measure the cascade; each lies midway between two stored vectors.
        train_rows: Maximum number of rows used to train the coarse codebook.
        compact_above: Share of tombstones above which maintenance rewrites the rows without them.
    """

    recall_target: float = 0.98
    exact_below: int = 10_000
    threads: int = 1
    seed: int = 7
    sample_queries: int = 256
    train_rows: int = 20_000
    compact_above: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.recall_target <= 1:
            raise InvalidInputError(f"recall_target must be in (0, 1], got {self.recall_target}")
        if not 0 < self.compact_above <= 1:
            raise InvalidInputError(f"compact_above must be in (0, 1], got {self.compact_above}")
        smallest = {"exact_below": 0, "threads": 1, "seed": 0, "sample_queries": 1, "train_rows": 256}
        for name, minimum in smallest.items():
            if getattr(self, name) < minimum:
                raise InvalidInputError(f"{name} must be at least {minimum}, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How searches run: chosen by size and measurement, and stored in the snapshot.

    Attributes:
        layout: ``exact`` scans every row; ``cascade`` narrows the candidates tier by tier; ``routed`` does the same,
            but scans only the inverted lists near the query.
        coarse_candidates: K1, candidates that the coarse tier passes on (for k = 10).
        main_candidates: K2, candidates that the main tier passes on to the native tier (for k = 10).
        reach: Largest gap at which a list is still scanned. The gap is how much further from the query the list is
            than the nearest of the query's own lists, as a difference of cosines; ``EVERYWHERE`` scans all lists.
        scanned: Mean share of the rows that lie in scanned lists.
        recall: Recall@10 measured on a sample of the index's own vectors; 1.0 when exact.
        recall_error: Standard error of ``recall``.
        measured_rows: Number of live rows when this was measured.
    """

    layout: str = "exact"
    coarse_candidates: int = 0
    main_candidates: int = 0
    reach: float = EVERYWHERE
    scanned: float = 1.0
    recall: float = 1.0
    recall_error: float = 0.0
    measured_rows: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TierTrace:
    """The candidates of one query that were ranked at one tier, best first.

    Attributes:
        tier: Dimensions of the tier.
        ids: int64 (c,), ids in the order of this tier.
        scores: float32 (c,), scores at this tier; only those of the native tier are cosines.
        kept: How many of them, counted from the best, were passed on to the next tier (or returned).
    """

    tier: int
    ids: IdArray
    scores: FloatArray
    kept: int

    def rank(self, entry_id: int) -> int | None:
        """Return the zero-based rank of an id at this tier, or None if it was dropped before."""
        places = np.flatnonzero(self.ids == entry_id)
        return int(places[0]) if places.size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """The nearest rows of each query.

    Attributes:
        scores: float32 (nq, k), best first, padded with -inf.
        ids: int64 (nq, k), padded with -1; equal scores in ascending order of id.
        tier_reached: Dimensions of the tier that chose the candidates: the native dimension, or a smaller tier if
            ``budget_ms`` ran out.
        traces: With ``explain``, the tiers that each query went through, in order; otherwise empty.
    """

    scores: FloatArray
    ids: IdArray
    tier_reached: int
    traces: tuple[tuple[TierTrace, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    """The state of an index.

    Attributes:
        rows: Live rows.
        tombstones: Removed rows that still take space.
        tail: Rows that are not in the coarse tier yet, and are therefore searched exactly.
        dimension: Native dimension.
        tiers: Dimensions of the tiers.
        plan: Layout, K1, K2 and measured recall.
        coarse_bytes: Bytes of one coarse code, 0 without a coarse tier.
        coarse_dimension: Leading dimensions that a coarse code covers; more than the coarse tier's own.
        coarse_lists: Inverted lists that the coarse codes are divided into, 0 without a coarse tier.
        ram_bytes_per_row: Resident bytes per row, without the pages of memory-mapped files.
        disk_bytes_per_row: Bytes per row in memory-mapped files, 0 if none is mapped.
        maintenance_due: Whether ``maintain`` would change how searches run.
    """

    rows: int
    tombstones: int
    tail: int
    dimension: int
    tiers: tuple[int, ...]
    plan: Plan
    coarse_bytes: int
    coarse_dimension: int
    coarse_lists: int
    ram_bytes_per_row: float
    disk_bytes_per_row: float
    maintenance_due: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceReport:
    """What one call of ``maintain`` did.

    Attributes:
        folded: Rows moved from the exact tail into the coarse tier.
        compacted: Tombstones whose space was freed.
        trained: Whether the coarse codebook was retrained.
        plan: The plan that is in force afterwards.
        seconds: Wall-clock time.
    """

    folded: int
    compacted: int
    trained: bool
    plan: Plan = field(default_factory=Plan)
    seconds: float = 0.0
