"""Frozen records that writing and recall return to callers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from agent_memory.errors import StorageError

if TYPE_CHECKING:
    from agent_memory.types import Namespace


PROVENANCE = "provenance"
"""The reserved field of metadata that says where an entry's words come from. No later write can raise it."""

PROVENANCES = ("import", "tool", "agent", "user")
"""Its values, from the least trusted to the most: read from a file, printed by a program, written by a model, said by a
person. An entry without one is of unknown origin, which ranks below all of them."""


def read_provenance(metadata: Mapping[str, Any]) -> str | None:
    """Return the provenance that metadata name; None for none, and for a value that is the caller's own."""
    value = metadata.get(PROVENANCE)
    return value if isinstance(value, str) and value in PROVENANCES else None


def cap_provenance(metadata: Mapping[str, Any], most: str | None) -> Mapping[str, Any]:
    """Return metadata whose provenance is at most the given one; None allows none at all."""
    level = read_provenance(metadata)
    if level is None or (most is not None and PROVENANCES.index(level) <= PROVENANCES.index(most)):
        return metadata
    return {name: value for name, value in metadata.items() if name != PROVENANCE} | (
        {PROVENANCE: most} if most else {}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stored memory.

    Attributes:
        key: Unique within its namespace.
        text: Exactly what was added.
        namespace: The scope it lives in.
        session: The conversation it belongs to, if any.
        speaker: Who said it, if known.
        metadata: JSON object set by the caller; its field ``provenance`` is reserved, see the property.
        event_time: When it happened (UTC); the time of adding unless given.
        created_at: When the key was first added (UTC).
        updated_at: When the entry last changed (UTC).
        expires_at: When it stops being returned (UTC), if ever.
        importance: From 0 to 1, if given.
        superseded_at: When a newer version or another entry replaced it (UTC); None for a current entry.
        duplicate_of: Key of an older entry in the same namespace with the same text; set by ``add`` and
            ``add_many`` only.
        may_supersede: Keys of older entries of the same namespace and speaker that say nearly the same with another
            value, so that this one is probably newer knowledge; best first. Set by ``add``, and by ``add_many`` of at
            most 64 items, unless vectors were given. Nothing is changed: ``supersede`` or ``forget`` them if it is so.
    """

    key: str
    text: str
    namespace: Namespace = ()
    session: str | None = None
    speaker: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    event_time: datetime
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    importance: float | None = None
    superseded_at: datetime | None = None
    duplicate_of: str | None = None
    may_supersede: tuple[str, ...] = ()

    @property
    def provenance(self) -> str | None:
        """Where the words come from: ``user``, ``agent``, ``tool`` or ``import``; None if nobody said.

        It is the metadata's field of that name. A later write of the same key can lower it, never raise it, and new
        words that say nothing of their origin have none.
        """
        return read_provenance(self.metadata)


class Erasure(int):
    """A receipt of what was forgotten. It is the number of forgotten entries, and says what became of them.

    It names no content: rows by their numbers, scope and selection by a digest.

    Attributes:
        token: Its name, 32 hexadecimal digits; empty if there was nothing to forget.
        store_id: The store.
        made_at: When the entries were gone; from then on no call returns them.
        selection: What was asked for: ``key``, ``session``, ``where``, ``everything``, ``expired`` or ``retention``.
        digest: SHA-256 of scope and selection; see ``digest_selection``.
        ids: Numbers of the deleted rows, ascending; former versions have their own.
        rows: Number of rows deleted, former versions and superseded entries included.
        vectors: Number of vectors deleted, in all generations.
        latents: Number of latents deleted.
        replayed: Number of vectors that were evolved again without them, those of former versions included.
        queries: Number of logged queries deleted that could have found them.
        jobs: Number of failed jobs whose reason is not kept, since it may have mentioned them.
        files: Names of the snapshots of index and words that were deleted; they were written again where this process
            had them in memory.
        verified: What was looked at afterwards, one sentence each.
        pending: Why something of them may still be in a file of the store, one sentence each; empty if it is not.
            Maintenance, the next ``forget`` and the next time the store is opened try again.
        backups: Backups of this store that were made before, still exist, and hold some of them.
        exports: Files that were exported before and still exist; they may hold some of them.
        dry_run: True if nothing was forgotten.
    """

    token: str
    store_id: str
    made_at: datetime
    selection: str
    digest: str
    ids: tuple[int, ...]
    rows: int
    vectors: int
    latents: int
    replayed: int
    queries: int
    jobs: int
    files: tuple[str, ...]
    verified: tuple[str, ...]
    pending: tuple[str, ...]
    backups: tuple[str, ...]
    exports: tuple[str, ...]
    dry_run: bool

    def __new__(cls, count: int, **facts: Any) -> Erasure:  # noqa: ANN401 - the attributes above
        """Make a receipt; what is left out is empty."""
        self = super().__new__(cls, count)
        empty = {"files": (), "verified": (), "pending": (), "backups": (), "exports": (), "dry_run": False, "ids": ()}
        numbers = dict.fromkeys(("rows", "vectors", "latents", "replayed", "queries", "jobs"), 0)
        for name, value in {"token": "", "store_id": "", "digest": "", **empty, **numbers, **facts}.items():
            object.__setattr__(self, name, value)
        return self

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a receipt does not change."""
        raise AttributeError(f"a receipt does not change: {name}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to make it again."""
        return _make_erasure, (int(self), dict(self.__dict__))

    def __repr__(self) -> str:
        """Return the number, as it is used mostly; ``to_dict`` has the rest."""
        return int.__repr__(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt with ``forgotten``, the number of entries, as a mapping that JSON can hold."""
        facts = {name: list(value) if isinstance(value, tuple) else value for name, value in self.__dict__.items()}
        return {"forgotten": int(self), **facts, "made_at": self.made_at.isoformat()}

    @classmethod
    def from_dict(cls, facts: Mapping[str, Any]) -> Erasure:
        """Return the receipt that ``to_dict`` has made a mapping of; what was left out of it is empty.

        Raises:
            StorageError: The mapping is no receipt.
        """
        known = {name: facts[name] for name in cls.__annotations__ if name in facts}
        try:
            known = {name: tuple(value) if isinstance(value, list) else value for name, value in known.items()}
            return cls(facts["forgotten"], **known | {"made_at": datetime.fromisoformat(facts["made_at"])})
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"what was sent is no receipt of forget: {error!r}") from error


def _make_erasure(count: int, facts: dict[str, Any]) -> Erasure:
    return Erasure(count, **facts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A backup, an export or a copy that was made of a store, or the store that it is a copy of.

    Attributes:
        path: The file; of a copy its folder, or its address.
        kind: ``backup``, ``export``, or ``copy`` for a store in another place.
        made_at: When it was made.
        exists: Whether there is still something of that name; a server is not asked.
        older_than: Tokens of the receipts of ``forget`` that are later, and are about rows that may be in it.
        holds: Number of forgotten rows in it; None for what is not looked into, and a file that is gone.
    """

    path: Path | str
    kind: str
    made_at: datetime
    exists: bool
    older_than: tuple[str, ...]
    holds: int | None

    def __post_init__(self) -> None:
        """Make a path of what is no address: JSON has texts alone."""
        if isinstance(self.path, str) and "://" not in self.path:
            object.__setattr__(self, "path", Path(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Copied:
    """What ``Memory.copy`` did; after a dry run, what it would do.

    Attributes:
        source: Where the store is: its folder or address.
        target: Where the copy is.
        entries: Number of entry rows, former versions included.
        sessions: Number of sessions.
        vectors: Number of rows with vectors, latents among them.
        receipts: Number of receipts of ``forget``.
        rows: Number of rows of all kinds.
        found: Number of rows that were in the target before: of an unfinished copy that was continued.
        damaged: Number of rows that are damaged in the source, by their checksums, and so in the copy; see ``check``.
        digest: SHA-256 of all rows, in hexadecimal digits, the same on both sides; empty after a dry run.
        dry_run: Whether nothing was written.
    """

    source: str
    target: str
    entries: int
    sessions: int
    vectors: int
    receipts: int
    rows: int
    found: int
    damaged: int
    digest: str
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One result of ``recall``.

    Attributes:
        entry: The entry found.
        score: Higher is better; comparable between calls of one mode. In dense mode the cosine, from -1 to 1 (of a
            long text that of its best passage, less what the best of so many is better by chance); in hybrid mode that
            plus bonuses for words, neighbours, time and importance; see ``ranking.py``.
        rank: 1 for the best hit.
        confidence: Calibrated chance that the entry holds evidence for the question, from 0 to 1; None where nothing
            was calibrated (a question given as a vector, or by meaning alone with an encoder that is not known).
        stale_by: Key of a later hit that says nearly the same with another value; None for what seems up to date.
        passage: Of a long entry, where the passage that answers best begins and ends, in characters of ``text``; None
            for a short one.
        trace: The parts of the score, with ``explain=True``.
    """

    entry: Entry
    score: float
    rank: int
    confidence: float | None = None
    stale_by: str | None = None
    passage: tuple[int, int] | None = None
    trace: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def text(self) -> str:
        """The entry's text."""
        return self.entry.text


Evidence = Literal["strong", "weak", "none", "unknown"]
"""How sure a memory is that it knows the answer; see ``Hits``."""


class Hits(list[Hit]):
    """The hits of one recall, best first.

    Attributes:
        tier_reached: Dimension of the index tier that ranked the candidates: the native one, or a smaller one if
            ``budget_ms`` ran out; None if no index was searched.
        evidence: Whether the memory knows: ``strong``, ``weak`` or ``none``, by the best confidence of the first
            ten that were found, whatever ``k`` and ``min_confidence`` left of them; ``unknown`` where hits have no
            confidence.
    """

    def __init__(
        self, hits: Iterable[Hit] = (), *, tier_reached: int | None = None, evidence: Evidence = "unknown"
    ) -> None:
        super().__init__(hits)
        self.tier_reached, self.evidence = tier_reached, evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """The stage at which one recall dropped an entry, or its rank.

    Attributes:
        key: The entry's key.
        returned: Whether it was among the hits.
        stage: The stage that dropped it: ``unknown``, ``superseded``, ``expired``, ``filter``, ``tier 64`` (or another
            dimension), ``words`` (it holds none of them, in lexical mode), ``duplicate``, ``diversity``,
            ``rank`` (others were better), ``confidence`` (it had less than ``min_confidence``), or ``returned``.
        reason: The stage in a sentence, with figures.
        rank: Its rank among all candidates, if it reached the ranking.
        score: Its score, if it has one.
        margin: How far its score was below that of the last hit, if it was outranked.
        detail: The parts of its score, as in ``Hit.trace``.
    """

    key: str
    returned: bool
    stage: str
    reason: str
    rank: int | None = None
    score: float | None = None
    margin: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation of the store.

    Attributes:
        name: Unique within its namespace.
        namespace: The scope it lives in.
        entries: Number of its entries.
        first_event: Earliest event time (UTC).
        last_event: Latest event time (UTC).
    """

    name: str
    namespace: Namespace
    entries: int
    first_event: datetime
    last_event: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Entries that are about the same.

    Attributes:
        name: Its first words, joined by hyphens; stays when topics are found from former ones.
        words: What tells it from the other topics, most telling first.
        size: Number of its entries.
        cohesion: Mean cosine of its entries with their centre.
        examples: The entries closest to the centre, with different texts.
        members: Namespace and key of each of its entries, in the order they were added.
    """

    name: str
    words: tuple[str, ...]
    size: int
    cohesion: float
    examples: tuple[Entry, ...]
    members: tuple[tuple[Namespace, str], ...]


class Topics(list[Topic]):
    """The topics of a memory, largest first.

    Attributes:
        duplicates: Groups of entries that say nearly the same (cosine of .97 or more), the oldest first in each: what
            ``supersede`` or ``forget`` may consolidate. Nothing is merged unasked.
        entries: Number of entries that were grouped; those without a vector are not.
    """

    def __init__(
        self, topics: Iterable[Topic] = (), *, duplicates: tuple[tuple[Entry, ...], ...] = (), entries: int = 0
    ) -> None:
        super().__init__(topics)
        self.duplicates, self.entries = duplicates, entries
