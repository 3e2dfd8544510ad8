"""What operators get: the frozen records of checks, statistics, re-indexing, maintenance and periodic jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``check`` found.

    Attributes:
        entries: Entries looked at.
        problems: One sentence per fault.
        repaired: The faults among them that ``repair=True`` has mended.
    """

    entries: int
    problems: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing is wrong now."""
        return set(self.problems) <= set(self.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Facts about a store; counts are those of the memory's namespace, sizes those of the whole folder.

    Attributes:
        entries: Entries that recall can return.
        expired: Expired entries that wait to be purged.
        duplicates: Entries whose text an older entry of the same namespace also has.
        sessions: Conversations.
        namespaces: Distinct namespaces that hold entries.
        seq: Number of the store's latest change.
        encoder: Name of the encoder, or None while the store is empty.
        session_encoder: Name of the session encoder, or None.
        fingerprint: Fingerprint of its embedding space.
        tiers: Dimensions searched one after the other.
        database_bytes: Size of the database with its write-ahead log.
        snapshot_bytes: Size of the index snapshots on disk.
        index: Facts about the index in memory; empty until the first recall.
    """

    entries: int
    expired: int
    duplicates: int
    sessions: int
    namespaces: int
    seq: int
    encoder: str | None
    session_encoder: str | None
    fingerprint: str | None
    tiers: tuple[int, ...]
    database_bytes: int
    snapshot_bytes: int
    index: Mapping[str, Any] = field(default_factory=dict, hash=False)


class GenerationState(StrEnum):
    """What a generation is to its store."""

    BUILDING = "building"
    LIVE = "live"
    FORMER = "former"
    DROPPING = "dropping"


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInfo:
    """One embedding space of a store, with its vectors.

    Attributes:
        id: Number of the generation.
        state: ``building``, ``live``, ``former`` (kept for ``rollback``) or ``dropping``.
        encoder: Name of its encoder.
        fingerprint: Fingerprint of its embedding space.
        dimension: Native dimension.
        tiers: Dimensions searched one after the other.
        dtype: Stored number format.
        vectors: How many it holds.
        created_at: When it was begun (UTC).
        retired_at: When another took its place (UTC).
    """

    id: int
    state: GenerationState
    encoder: str
    fingerprint: str
    dimension: int
    tiers: tuple[int, ...]
    dtype: str
    vectors: int
    created_at: datetime
    retired_at: datetime | None = None


class JobState(StrEnum):
    """Where a job stands."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A piece of work on a store, under way or finished.

    Attributes:
        id: Number of the job.
        kind: ``reindex``, ``rollback``, or the kind of a periodic job.
        state: ``running``, ``paused``, ``done``, ``failed`` or ``cancelled``. A job whose process was killed stays
            ``running`` until it is continued or cancelled.
        progress: How far it is, or what it did.
        error: Why it failed.
        created_at: When it began (UTC).
        updated_at: When it last made a step (UTC).
        finished_at: When it ended (UTC).
    """

    id: int
    kind: str
    state: JobState
    progress: Mapping[str, Any] = field(hash=False)
    error: str | None
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class ReplaySource(StrEnum):
    """What a dry run asked of the layouts that it compared."""

    QUERIES = "queries"
    TEXTS = "texts"
    ENTRIES = "entries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What a dry run learned by asking questions of the present layout and of the new one, over a sample of entries.

    Recall over a sample is a little better than over a larger store: the sample has fewer near misses.

    Attributes:
        source: ``queries``: vectors of the query log (``Config.query_log``); ``texts``: its texts, encoded again,
            which is what another encoder needs (``Config.query_text="plain"``); ``entries``: there are none of these,
            so that stored entries played the query.
        queries: How many were asked.
        entries: Entries that the new layout was tried on.
        recall_before: Recall@10 of the present layout against exact search.
        recall_after: Recall@10 of the new one.
        ms_before: Median milliseconds of one search in the present layout, over the same sample (``maintenance``: of
            the index as it is).
        ms_after: The same in the new one.
        index_bytes_before: Size of the present index, for the whole store.
        index_bytes_after: Size of the new one, likewise.
        build_seconds: About how long it takes to build the new index, for the whole store.
    """

    source: ReplaySource
    queries: int
    entries: int
    recall_before: float | None
    recall_after: float | None
    ms_before: float | None
    ms_after: float | None
    index_bytes_before: int
    index_bytes_after: int
    build_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexReport:
    """What a re-index did, or with ``dry_run`` would do.

    Attributes:
        job: Number of the job; None for a dry run.
        state: ``done`` or ``cancelled``; ``planned`` for a dry run.
        generation: Number of the generation that is live afterwards; None for a dry run.
        source: Where the new vectors come from: ``copy`` (only the layout changes), ``rotate`` or ``encode``.
        entries: Entries in the store, former versions included.
        encoded: Texts that were encoded, or that a dry run says must be.
        seconds: How long it took, or is expected to take without throttling.
        added_bytes: About so much the database grows until the former generation is collected.
        recall: Recall@10 of the tiers against exact search on a sample; None if nothing is stored.
        agreement: With ``dry_run``: share of the exact top 10 of the queries in ``replay`` that old and new space have
            in common, over a sample of entries.
        replay: With ``dry_run``: what the latest queries found in the new layout.
    """

    job: int | None
    state: str
    generation: int | None
    source: str
    entries: int
    encoded: int
    seconds: float
    added_bytes: int
    recall: float | None = None
    agreement: float | None = None
    replay: Replay | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceAction:
    """One thing to do for a store, or done.

    Attributes:
        name: ``purge`` (expired entries), ``index`` (rebuild the tiers), ``collect`` (former generations),
            ``lexical`` (merge the full-text index), ``changes`` (shorten the change log), ``vacuum`` (give free pages
            back) or ``log`` (cut the write-ahead log).
        reason: Why.
        seconds: About how long it takes, or took.
        freed_bytes: About how much it frees; the file itself shrinks by ``vacuum`` only. Negative if it takes more.
        result: What came of it; empty before it is done.
    """

    name: str
    reason: str
    seconds: float
    freed_bytes: int = 0
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """What a store needs.

    Attributes:
        findings: Figures: rows, former versions, expired entries, pages and free pages, size of the log, segments of
            the full-text index, length of the change log, unindexed tail and tombstones, and ``tier_recall``: for each
            tier the share of the exact top 10 that it hands on; ``queries``: how many the query log holds.
        actions: What should be done, or was.
        done: Whether it was.
        replay: What the latest queries find in the index as it is, and in one built anew; only with ``dry_run``.
    """

    findings: Mapping[str, Any] = field(hash=False)
    actions: tuple[MaintenanceAction, ...] = ()
    done: bool = False
    replay: Replay | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A job that a worker does again and again.

    Attributes:
        name: Unique in the store.
        kind: ``maintain``, ``purge``, ``compact``, ``retrain``, ``verify``, ``snapshot`` or ``backup``.
        trigger: A cron expression of five fields (UTC), or ``every 30m``: a number and s, m, h or d.
        options: ``folder`` and ``keep`` of a backup.
        paused: Whether the worker leaves it out.
        last_run_at: When it last began (UTC).
        made_here: False for a backup that was scheduled on another machine, for another folder or by another user, as
            of a store that was copied by hand: it would write where nobody here has asked for, and is not done.
    """

    name: str
    kind: str
    trigger: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    paused: bool = False
    last_run_at: datetime | None = None
    made_here: bool = True
