"""What the index takes as options and hands back as results."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from agent_memory.errors import InvalidInputError
from agent_memory.types import IdArray

ScoreArray = npt.NDArray[np.float32]

MAX_ROWS = 2**31 - 1
"""Rows are numbered in 32 bits; an index that would grow past this refuses the add."""

EVERYWHERE = 2.0
"""A reach beyond which no inverted list lies: no two cosines differ by more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexOptions:
    """How an index trades time for recall.

    Attributes:
        recall_target: Share of the exact top 10 that the cascade is measured and set up to find.
        exact_below: With fewer live rows than this, every search is exact.
        threads: Threads that one call may use; queries of a batch are divided among them.
        seed: Seed of sampling and training.
        sample_queries: Queries, each midway between two own vectors, with which the cascade is measured.
        train_rows: Rows that the coarse codebooks are trained on, at most.
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
    """How a search runs, chosen by size and by measurement; stored in the snapshot.

    Attributes:
        layout: ``exact`` scans every row; ``cascade`` narrows tier by tier; ``routed`` does so with the rows of the
            lists that are near the query.
        coarse_candidates: K1, rows that the coarse tier hands on (for k = 10).
        main_candidates: K2, rows that the main tier hands on to the native one (for k = 10).
        reach: How much further than the nearest list of a query's own another may be and still be scanned, a
            difference of cosines; ``EVERYWHERE`` leaves none out.
        scanned: Share of the rows in the lists that are scanned, in the mean.
        recall: Recall@10 measured on a sample of the store's own vectors; 1.0 when exact.
        recall_error: Standard error of ``recall``.
        measured_rows: Live rows at the time of the measurement.
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
    """The candidates of one query that survived to be ranked at one tier, best first.

    Attributes:
        tier: Dimensions of the tier.
        ids: int64 (c,), ids in the order of this tier.
        scores: float32 (c,), scores of this tier; only those of the native tier are cosines.
        kept: How many of them, from the first, were handed on to the next tier (or returned).
    """

    tier: int
    ids: IdArray
    scores: ScoreArray
    kept: int

    def rank(self, entry_id: int) -> int | None:
        """Zero-based place of an id at this tier, None if it did not get here."""
        places = np.flatnonzero(self.ids == entry_id)
        return int(places[0]) if places.size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """Nearest rows of each query.

    Attributes:
        scores: float32 (nq, k), best first, padded with -inf.
        ids: int64 (nq, k), padded with -1; equal scores in ascending order of id.
        tier_reached: Dimensions of the tier that chose the candidates: the native dimension, or a smaller
            tier when ``budget_ms`` ran out.
        traces: With ``explain``, per query the tiers it went through in order; otherwise empty.
    """

    scores: ScoreArray
    ids: IdArray
    tier_reached: int
    traces: tuple[tuple[TierTrace, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexStats:
    """State of an index.

    Attributes:
        rows: Live rows.
        tombstones: Removed rows that still take space.
        tail: Rows that are searched exactly because they are not yet in the coarse tier.
        dimension: Native dimension.
        tiers: Tier dimensions.
        plan: Layout, K1, K2 and measured recall.
        coarse_bytes: Bytes of one coarse code, 0 without a coarse tier.
        coarse_dimension: Leading dimensions that a coarse code describes; more than the coarse tier's own.
        coarse_lists: Inverted lists that coarse codes are divided among, 0 without a coarse tier.
        ram_bytes_per_row: Resident bytes per row, not counting pages of memory-mapped files.
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
    """What one ``maintain`` did.

    Attributes:
        folded: Rows moved from the exact tail into the coarse tier.
        compacted: Tombstones whose space was given back.
        trained: Whether the coarse codebooks were trained anew.
        plan: The plan in force afterwards.
        seconds: Wall-clock time.
    """

    folded: int
    compacted: int
    trained: bool
    plan: Plan = field(default_factory=Plan)
    seconds: float = 0.0
