"""Frozen records for operators: checks, statistics, re-indexing, maintenance and periodic jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from agent_memory.errors import StorageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The result of ``check``.

    Attributes:
        entries: Number of entries checked, former versions included.
        problems: The faults, one sentence each.
        repaired: The faults that ``repair=True`` has repaired.
    """

    entries: int
    problems: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if no fault is left."""
        return set(self.problems) <= set(self.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Facts about a store. Counts refer to the memory's namespace, sizes to the whole folder.

    Attributes:
        entries: Entries that recall can return.
        expired: Expired entries that are not purged yet.
        duplicates: Entries with the same text as an older entry of the same namespace.
        sessions: Conversations.
        namespaces: Distinct namespaces that hold entries.
        seq: Number of the store's latest change.
        encoder: Name of the encoder, or None while the store is empty.
        session_encoder: Name of the session encoder, or None.
        fingerprint: Fingerprint of its embedding space.
        tiers: Dimensions that are searched in turn, ascending.
        database_bytes: Size of the database with its write-ahead log.
        snapshot_bytes: Size of the index snapshots on disk.
        database: Which database engine is in use, and its version.
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
    database: str
    index: Mapping[str, Any] = field(default_factory=dict, hash=False)


class Imported(int):
    """What an import did. As a number, how many entries it wrote: the new and the updated ones.

    Attributes:
        new: Entries whose key was not there.
        updated: Entries that replaced one of their key.
        unchanged: Entries that were there already.
        skipped: What is no entry to keep: empty turns, calls of tools, other branches, expired items.
        refused: Entries that cannot be kept, such as those whose text is too long; ``problems`` names them.
        undated: Entries, among the first three, whose time the file does not say; new ones got that of the import.
        sessions: Conversations that the first three belong to.
        reasons: How many were skipped, by reason.
        problems: Where each refused entry is and what is wrong with it, the first hundred.
        formats: The formats that were read.
        dry_run: Whether nothing was written: then the numbers are those that the import would have.
    """

    new: int
    updated: int
    unchanged: int
    skipped: int
    refused: int
    undated: int
    sessions: int
    reasons: Mapping[str, int]
    problems: tuple[str, ...]
    formats: tuple[str, ...]
    dry_run: bool

    def __new__(
        cls,
        *,
        new: int = 0,
        updated: int = 0,
        unchanged: int = 0,
        refused: int = 0,
        undated: int = 0,
        sessions: int = 0,
        reasons: Mapping[str, int] | None = None,
        problems: tuple[str, ...] = (),
        formats: tuple[str, ...] = (),
        dry_run: bool = False,
    ) -> Self:
        """Return the counts; ``skipped`` is the sum of ``reasons``."""
        self = super().__new__(cls, new + updated)
        self.new, self.updated, self.unchanged = new, updated, unchanged
        self.refused, self.undated, self.sessions = refused, undated, sessions
        self.reasons, self.problems = dict(reasons or {}), problems
        self.skipped = sum(self.reasons.values())
        self.formats, self.dry_run = formats, dry_run
        return self

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        counts = self.as_dict()
        del counts["skipped"]
        return (), counts

    def __repr__(self) -> str:
        return f"Imported({', '.join(f'{name}={value!r}' for name, value in self.as_dict().items() if value)})"

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes by name."""
        return {name: getattr(self, name) for name in Imported.__annotations__}

    @classmethod
    def from_dict(cls, counts: Mapping[str, Any]) -> Self:
        """Return what ``as_dict`` has made a mapping of.

        Raises:
            StorageError: The mapping is no result of an import.
        """
        try:
            given = {name: counts[name] for name in Imported.__annotations__ if name != "skipped"}
            lists = {name: tuple(given[name]) for name in ("problems", "formats")}
            return cls(**given | lists)
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"what was sent is no result of an import: {error!r}") from error


class GenerationState(StrEnum):
    """The role of a generation in its store."""

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
        tiers: Dimensions that are searched in turn, ascending.
        dtype: Stored number format.
        vectors: Number of vectors.
        created_at: When it was created (UTC).
        retired_at: When another generation replaced it (UTC).
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
    """The state of a job."""

    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A long operation on a store, running or finished.

    Attributes:
        id: Number of the job.
        kind: ``reindex``, ``rollback``, or the kind of a periodic job.
        state: ``running``, ``paused``, ``done``, ``failed`` or ``cancelled``. A job whose process was killed stays
            ``running`` until it is continued or cancelled.
        progress: Its progress, or its result.
        error: Why it failed.
        created_at: When it started (UTC).
        updated_at: When it last progressed (UTC).
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
    """The queries that a dry run used."""

    QUERIES = "queries"
    TEXTS = "texts"
    ENTRIES = "entries"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A comparison of the present layout with a new one, on the same queries over a sample of entries.

    Recall over a sample is slightly higher than over the whole store, because the sample has fewer near misses.

    Attributes:
        source: Where the queries come from. ``queries``: vectors of the query log (``Config.query_log``). ``texts``:
            texts of the query log, encoded again for another encoder (``Config.query_text="plain"``). ``entries``:
            nothing was logged, so stored entries were used as queries.
        queries: Number of queries.
        entries: Number of entries in the sample.
        recall_before: Recall@10 of the present layout against exact search.
        recall_after: Recall@10 of the new layout.
        ms_before: Median milliseconds of one search in the present layout, over the sample (``maintenance``: in the
            whole index).
        ms_after: Median milliseconds of one search in the new layout.
        index_bytes_before: Size of the present index, for the whole store.
        index_bytes_after: Size of the new index, for the whole store.
        build_seconds: Estimated seconds to build the new index, for the whole store.
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
    """The result of a re-index, or with ``dry_run`` its forecast.

    Attributes:
        job: Number of the job; None for a dry run.
        state: ``done`` or ``cancelled``; ``planned`` for a dry run.
        generation: Number of the generation that is live now; None for a dry run.
        source: Where the new vectors come from: ``copy`` (only the layout changes), ``rotate`` or ``encode``.
        entries: Number of entries in the store, former versions included.
        encoded: Number of texts that were encoded, or must be.
        seconds: Seconds it took, or is expected to take.
        added_bytes: Approximate growth of the database until the former generation is deleted.
        recall: Recall@10 of the tiers against exact search on a sample; None if nothing is stored.
        agreement: With ``dry_run``: share of the exact top 10 that the old and new space have in common, on the
            queries of ``replay`` over a sample of entries.
        replay: With ``dry_run``: what recent queries find in the old and new layout.
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
    """One maintenance action, proposed or done.

    Attributes:
        name: ``purge`` (expired entries), ``index`` (rebuild the tiers), ``collect`` (former generations),
            ``mentions`` (read the texts of old entries for times), ``lexical`` (merge the full-text index),
            ``changes`` (shorten the change log), ``vacuum`` (return free pages to the file system) or ``log`` (truncate
            the write-ahead log).
        reason: Why the store needs it.
        seconds: Estimated seconds before it is done, measured ones after.
        freed_bytes: Approximate bytes it frees, negative if it needs more; only ``vacuum`` shrinks the file.
        result: Its result; empty until it is done.
    """

    name: str
    reason: str
    seconds: float
    freed_bytes: int = 0
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintenance:
    """The result of ``maintenance``: what a store needs, or what was done.

    Attributes:
        findings: Figures: rows, former versions, expired entries, pages and free pages, size of the log, segments of
            the full-text index, length of the change log, unindexed tail and tombstones; ``tier_recall``: for each
            tier the share of the exact top 10 that it hands on; ``queries``: number of logged queries.
        actions: The actions that are needed, or were done.
        done: Whether they were done.
        replay: With ``dry_run``: what recent queries find in the present index and in a new one.
    """

    findings: Mapping[str, Any] = field(hash=False)
    actions: tuple[MaintenanceAction, ...] = ()
    done: bool = False
    replay: Replay | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """A periodic job.

    Attributes:
        name: Unique in the store.
        kind: ``maintain``, ``purge``, ``compact``, ``retrain``, ``verify``, ``snapshot`` or ``backup``.
        trigger: A cron expression of five fields (UTC), or ``every 30m``: a number and s, m, h or d.
        options: Of a backup: ``folder`` and ``keep``.
        paused: Whether the worker skips it.
        last_run_at: When it last started (UTC).
        made_here: False for a backup that was scheduled on another machine, for another folder or by another user, as
            in a store that was copied by hand. Nobody here has asked for it, and workers skip it.
    """

    name: str
    kind: str
    trigger: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    paused: bool = False
    last_run_at: datetime | None = None
    made_here: bool = True


class Role(StrEnum):
    """What a key of the server may do; each role may do what those before it may."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key of the server, without its secret part.

    Attributes:
        id: Public part, by which it is listed and revoked.
        name: What it is for.
        namespace: The scope: requests with the key see this namespace and those below it.
        role: ``reader``, ``writer`` or ``admin``.
        created_at: When it was made (UTC).
        expires_at: When it stops working (UTC), if ever.
        revoked_at: When it was revoked (UTC), if it was.
        rate_per_minute: Requests a minute in its namespace; None for the server's setting.
        max_entries: Entries that its namespace may hold; None for the server's setting.
    """

    id: str
    name: str
    namespace: tuple[str, ...]
    role: Role
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    rate_per_minute: int | None = None
    max_entries: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One write, forget, restore or re-index that a server was asked for; it holds no content.

    Attributes:
        seq: Number of the record.
        at: When (UTC).
        key_id: The key that asked; None where the server needs no key.
        action: What was asked for, such as ``add`` or ``forget``.
        namespace: Where.
        count: Number of entries it concerned, if known.
        status: Status of the answer.
    """

    seq: int = 0
    at: datetime
    key_id: str | None
    action: str
    namespace: tuple[str, ...]
    count: int | None = None
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something long that a server does after it has answered.

    Attributes:
        id: Names it.
        kind: Such as ``reindex``, ``check`` or ``import``.
        state: ``running``, ``done``, ``failed``, or ``lost`` if its process was killed.
        namespace: The scope of the key that asked for it.
        done: Progress.
        total: What ``done`` will be at the end; 0 if unknown.
        result: What it returned.
        error: The problem that ended it.
        created_at: When it began (UTC).
        finished_at: When it ended (UTC).
    """

    id: str
    kind: str
    state: str = "running"
    namespace: tuple[str, ...]
    done: int = 0
    total: int = 0
    result: Any = field(default=None, hash=False)
    error: Mapping[str, Any] | None = field(default=None, hash=False)
    created_at: datetime
    finished_at: datetime | None = None
