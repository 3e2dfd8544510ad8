"""``Memory``: the one door to the store, the encoder and the index."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Self, SupportsIndex, TypeVar

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError
from agent_memory.inputs import UNSET, UnsetType
from agent_memory.live.store import Store
from agent_memory.recall.query_log import QueryLog
from agent_memory.recall.reader import Reader
from agent_memory.recall.recaller import Recaller
from agent_memory.recall.request import RecallOptions
from agent_memory.records import Entry, Hits
from agent_memory.storage.calls import keep_interrupts
from agent_memory.types import FloatArray, Namespace, Progress, Time
from agent_memory.upkeep.jobs import Jobs
from agent_memory.upkeep.operator import Operator
from agent_memory.upkeep.schedules import Scheduler
from agent_memory.upkeep.worker import Worker
from agent_memory.writing.erasure import Eraser
from agent_memory.writing.items import Item
from agent_memory.writing.later import Later
from agent_memory.writing.transfer import Transfer
from agent_memory.writing.writer import Writer

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, Reranker, SessionEncoder

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _counted(method: Callable[Concatenate[Memory, _P], _R]) -> Callable[Concatenate[Memory, _P], _R]:
    """Return a method of ``Memory`` that ``close`` waits for."""

    @functools.wraps(method)
    def call(self: Memory, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        inputs.check_progress(kwargs.get("progress"))
        with self._store.call():
            return method(self, *args, **kwargs)

    return call


def _delegate(attribute: str, method: Callable[Concatenate[Any, _P], _R]) -> Callable[Concatenate[Memory, _P], _R]:
    """Return the method of ``Memory`` that calls a method of one of its parts, with the same arguments and errors."""

    @functools.wraps(method)
    def call(self: Memory, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return method(getattr(self, attribute), *args, **kwargs)

    return _counted(call)


class Memory:
    """A long-term memory in a folder, or on PostgreSQL.

    Safe to share between threads, and any number of processes may open the same store. Each call sees all that was
    committed before it began, by whomever.

    Args:
        path: The store's folder, made if it is missing; or ``postgresql://user@host/database`` (extra ``postgres``).
        encoder: None for the store's own (the embedded default for a new store), the name of a built-in encoder, a
            sentence-transformers model by local path or cached name, or an ``Encoder``.
        session_encoder: ``"auto"`` for the store's own (a new store takes the embedded one if it fits the encoder),
            None for none, or a ``SessionEncoder``. With one, entries of a session are found by what was said around
            them, and a recall in a session by its state.
        namespace: The scope of this memory: entries are added to it, and only those in or below it are returned.
        config: Settings; see ``Config``.
        maintenance: ``"background"`` to do the store's periodic jobs in a thread, unless another process does them.

    Raises:
        EncoderMismatchError: The store was written with another encoder.
        SchemaTooNewError: The store was written by a newer version; it was not touched.
        StorageError: The folder cannot be used.
    """

    def __init__(
        self,
        path: str | Path = "~/.agent-memory",
        *,
        encoder: Encoder | str | Path | None = None,
        session_encoder: SessionEncoder | str | None = "auto",
        namespace: Sequence[str] = (),
        config: Config | Mapping[str, Any] | None = None,
        maintenance: str | None = None,
    ) -> None:
        place = inputs.parse_place("path", path)
        self.namespace: Namespace = inputs.parse_namespace(namespace)
        self.config = inputs.parse_config(config)
        if maintenance not in (None, "background"):
            raise InvalidInputError(f"maintenance must be None or 'background', got {maintenance!r}")
        with keep_interrupts():
            self._store = Store(place, self.config, encoder, session_encoder)
            self.path: Path | str = place if isinstance(place, Path) else self._store.name
            self._queries, self._jobs, self._scheduler = (
                QueryLog(self._store),
                Jobs(self._store),
                Scheduler(self._store),
            )
            self._later = Later(self._store)
            self._enter(self.namespace)
            self._finalizer = weakref.finalize(self, self._store.database.abandon)
            self._eraser.resume()
            self._later.resume()
            if maintenance is not None and not self._store.database.read_only:
                try:
                    self._worker.start()
                except BaseException:
                    self._store.close()
                    raise

    def _enter(self, namespace: Namespace) -> None:
        """Make the parts that work in a namespace: all of the memory that does."""
        self.namespace = namespace
        self._reader, self._writer = Reader(self._store, namespace), Writer(self._store, namespace, self._later)
        self._recaller = Recaller(self._store, self._queries, namespace)
        self._transfer = Transfer(self._store, self._writer, namespace)
        self._eraser = Eraser(self._store, namespace, self._queries.discard)
        self._operator = Operator(self._store, self._eraser, self._queries, namespace)
        self._worker = Worker(self._operator, self._store)

    def __repr__(self) -> str:
        scope = f", namespace={self.namespace}" if self.namespace else ""
        return f"Memory({str(self.path)!r}{scope}, encoder={self.encoder.spec.name!r})"

    @property
    def encoder(self) -> Encoder:
        """What turns this memory's texts and queries into vectors."""
        return self._store.space.encoder

    @property
    def session_encoder(self) -> SessionEncoder | None:
        """What lets vectors depend on what was said before in their session, if anything."""
        return self._store.space.sessions.encoder

    # --- writing -----------------------------------------------------------------------------------------

    @_counted
    def add(
        self,
        text: str,
        *,
        session: str | None = None,
        speaker: str | None = None,
        key: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        event_time: Time | None = None,
        expires_at: Time | None = None,
        importance: float | None = None,
        namespace: Sequence[str] | None = None,
        vector: object = None,
        progress: Progress | None = None,
    ) -> Entry:
        """Remember a text. When this returns, the entry is on disk and will be recalled.

        Args:
            text: What to remember; of any length up to ``Config.max_text_chars``.
            session: The conversation it belongs to.
            speaker: Who said it.
            key: A name of your own, unique in the namespace. An entry that has the key is replaced by the new one; only
                ``created_at`` stays, and the former version in its ``history``. Generated if left out.
            metadata: A JSON object to filter by later, of up to ``Config.max_metadata_chars`` characters. Stored
                with its keys sorted.
            event_time: When it happened; now if left out. Of a day, month or year, the beginning is stored.
            expires_at: When it stops being returned; a day is its last, and the past is refused.
            importance: From 0 to 1.
            namespace: Where to put it; this memory's own namespace or one below it.
            vector: The text's vector in the store's space, shape (dimension,), if you have it already. False for none,
                ``"later"`` to encode it in the background: by words and filters the entry is found at once.
            progress: Called with (passages encoded, passages in all) while a long text is encoded.

        Returns:
            The entry; its ``duplicate_of`` names another entry of the namespace with the same text, if any.

        Raises:
            InvalidInputError: An argument is unusable; nothing was written.
            EncoderError: The text could not be encoded; nothing was written.
            StorageError: The database refused the write; nothing was written.

        Example:
            >>> memory.add("Alice moved to Berlin.", session="chat-7", speaker="alice", key="move").key
            'move'
        """
        item = {
            "text": text,
            "session": session,
            "speaker": speaker,
            "key": key,
            "metadata": metadata,
            "event_time": event_time,
            "expires_at": expires_at,
            "importance": importance,
            "namespace": namespace,
            "vector": vector,
        }
        return self._writer.add(item, progress=progress)

    @_counted
    def add_many(
        self, items: Iterable[Item], *, session: str | None = None, progress: Progress | None = None
    ) -> list[Entry]:
        """Remember many texts, a batch in a transaction; see ``Config.batch_size``.

        All items are validated before the first is written. If a later batch fails, the batches before it
        stay, each whole.

        Args:
            items: Texts, or mappings with the arguments of ``add``.
            session: The session of items that name none.
            progress: Called with (entries written, entries in all) after each batch.

        Returns:
            The entries, in the order given.

        Raises:
            InvalidInputError: An item is unusable; the message gives its position. Nothing was written.
            EncoderError: A batch could not be encoded.
            StorageError: The database refused a batch.

        Example:
            >>> entries = memory.add_many(["Bob stayed.", {"text": "Ann left.", "speaker": "ann"}], session="chat-7")
            >>> len(entries)
            2
        """
        return self._writer.add_many(items, session=session, progress=progress)

    @_counted
    def update(
        self,
        key: str,
        *,
        text: str | UnsetType = UNSET,
        speaker: str | UnsetType | None = UNSET,
        metadata: Mapping[str, Any] | UnsetType | None = UNSET,
        event_time: Time | UnsetType = UNSET,
        expires_at: Time | UnsetType | None = UNSET,
        importance: float | UnsetType | None = UNSET,
        namespace: Sequence[str] | None = None,
    ) -> Entry:
        """Change the given fields of an entry and leave the others; the former version stays in its history.

        Args:
            key: The entry's key.
            text: New text; it is encoded again.
            speaker: New speaker, or None for none.
            metadata: New metadata in place of the old, or None for none.
            event_time: New event time.
            expires_at: New expiry, or None for never.
            importance: New importance, or None for none.
            namespace: Where the entry lives; this memory's namespace if left out.

        Raises:
            NotFoundError: There is no such entry.
            InvalidInputError: A value is unusable; nothing was written.

        Example:
            >>> entry = memory.add("Alice lives in Berlin.", key="home")
            >>> memory.update("home", text="Alice lives in Porto.").text
            'Alice lives in Porto.'
        """
        given = {
            "text": text,
            "speaker": speaker,
            "metadata": metadata,
            "event_time": event_time,
            "expires_at": expires_at,
            "importance": importance,
        }
        return self._writer.update(key, given, namespace)

    @_counted
    def supersede(self, old: str, new: str, *, namespace: Sequence[str] | None = None) -> Entry:
        """Let the entry ``new`` take the place of the entry ``old``; returns the new one.

        The old entry is no longer recalled. It stays readable through ``history(new)`` and ``as_of``.

        Raises:
            NotFoundError: One of the two is not there.

        Example:
            >>> entries = memory.add_many([{"text": "Tea.", "key": "old"}, {"text": "Coffee.", "key": "new"}])
            >>> memory.supersede("old", "new").text
            'Coffee.'
        """
        return self._writer.supersede(old, new, namespace)

    forget = _delegate("_eraser", Eraser.forget)

    # --- reading -----------------------------------------------------------------------------------------

    @_counted
    def recall(
        self,
        query: str | FloatArray,
        *,
        k: SupportsIndex = 5,
        session: str | None = None,
        speaker: str | None = None,
        where: Mapping[str, Any] | None = None,
        since: Time | None = None,
        until: Time | None = None,
        as_of: Time | None = None,
        namespace: Sequence[str] | None = None,
        mode: str = "hybrid",
        exact: bool = False,
        diversity: float = 0.0,
        collapse: bool = False,
        half_life: timedelta | None = None,
        now: Time | None = None,
        timezone: str | tzinfo | None = None,
        budget_ms: float | None = None,
        rerank: Reranker | Literal["default"] | None = None,
        min_confidence: float = 0.0,
        explain: bool = False,
    ) -> Hits:
        """Find the entries that answer a query, best first.

        Filters are applied inside the search: if k entries match them, k come back (by words alone, those with one).

        Args:
            query: A question or statement of up to ``Config.max_query_chars``, or a vector in the store's space, shape
                (dimension,), which is searched by meaning alone.
            k: How many hits to return at most, from 1 to 10,000.
            session: Only entries of this session, and the question is read behind the session's latent memory.
            speaker: Only entries of this speaker.
            where: Only entries whose metadata match this filter, e.g. ``{"year": {"$gte": 2024}}``.
            since: Only entries whose event time is this moment or later; of a day, month or year, its beginning.
            until: Only entries whose event time is this moment or earlier; a day, month or year is included.
            as_of: Read the store as it was then, at the end of a day, month or year: entries added later are unknown,
                changed ones have their former values. Forgotten entries stay forgotten.
            namespace: Only entries in this namespace or below it; must lie within the memory's own.
            mode: ``hybrid`` (meaning and words), ``dense`` (meaning) or ``lexical`` (words).
            exact: Compare with every vector instead of searching tier by tier.
            diversity: From 0 to 1: prefer hits that differ from each other (maximal marginal relevance).
            collapse: Leave out near-duplicates of better hits.
            half_life: Prefer young entries; the bonus halves with each such stretch of age.
            now: What "yesterday" in the query refers to; the present if left out.
            timezone: Where days begin; if left out, the zone of ``now`` unless that is UTC, else ``Config.timezone``.
            budget_ms: Begin no further tier or source after so many milliseconds; see ``Hits.tier_reached``.
            rerank: ``"default"`` for the embedded cross-encoder, which reads the best 30 candidates again and adds to
                their scores (English); or one of your own, whose scores take their place.
            min_confidence: Leave out hits with less ``Hit.confidence``, and those without one; 0 keeps all.
            explain: Fill ``Hit.trace``.

        Raises:
            InvalidInputError: An argument is unusable.
            EncoderError: The query could not be encoded.

        Example:
            >>> entry = memory.add("Alice moved to Berlin in May.")
            >>> memory.recall("Where does Alice live?", k=1)[0].text
            'Alice moved to Berlin in May.'
        """
        options: RecallOptions = {
            "k": k,
            "session": session,
            "speaker": speaker,
            "where": where,
            "since": since,
            "until": until,
            "as_of": as_of,
            "mode": mode,
            "exact": exact,
            "diversity": diversity,
            "collapse": collapse,
            "half_life": half_life,
            "now": now,
            "timezone": timezone,
            "budget_ms": budget_ms,
            "rerank": rerank,
            "min_confidence": min_confidence,
            "explain": explain,
        }
        return self._recaller.recall(query, namespace, options)

    set_expiry = _delegate("_writer", Writer.set_expiry)
    recall_many = _delegate("_recaller", Recaller.recall_many)
    why = _delegate("_recaller", Recaller.why)
    get = _delegate("_reader", Reader.get)
    get_many = _delegate("_reader", Reader.get_many)
    entries = _delegate("_reader", Reader.entries)
    history = _delegate("_reader", Reader.history)
    sessions = _delegate("_reader", Reader.sessions)
    namespaces = _delegate("_reader", Reader.namespaces)
    vectors = _delegate("_reader", Reader.vectors)
    topics = _delegate("_reader", Reader.topics)

    # --- operating ---------------------------------------------------------------------------------------

    stats = _delegate("_operator", Operator.stats)
    check = _delegate("_operator", Operator.check)
    reindex = _delegate("_operator", Operator.reindex)
    rollback = _delegate("_operator", Operator.rollback)
    collect_generations = _delegate("_operator", Operator.collect_generations)
    generations = _delegate("_operator", Operator.generations)
    jobs = _delegate("_jobs", Jobs.jobs)
    pause_job = _delegate("_jobs", Jobs.pause_job)
    resume_job = _delegate("_jobs", Jobs.resume_job)
    cancel_job = _delegate("_jobs", Jobs.cancel_job)
    maintenance = _delegate("_operator", Operator.maintenance)
    purge_expired = _delegate("_operator", Operator.purge_expired)
    clear_queries = _delegate("_operator", Operator.clear_queries)
    save_snapshot = _delegate("_operator", Operator.save_snapshot)
    schedules = _delegate("_scheduler", Scheduler.schedules)
    schedule = _delegate("_scheduler", Scheduler.schedule)
    unschedule = _delegate("_scheduler", Scheduler.unschedule)
    pause_schedule = _delegate("_scheduler", Scheduler.pause_schedule)
    backup = _delegate("_operator", Operator.backup)
    copies = _delegate("_operator", Operator.copies)
    run_job = _delegate("_worker", Worker.run_job)
    work = _delegate("_worker", Worker.work)
    restore = staticmethod(Operator.restore)
    copy = staticmethod(Operator.copy)
    export = _delegate("_transfer", Transfer.export)
    import_ = _delegate("_transfer", Transfer.import_)

    def close(self) -> None:
        """Encode what waits, write the index snapshot, close. Later calls raise ClosedError; a second does nothing."""
        self._worker.close()
        self._later.finish()
        self._queries.close()
        self._finalizer.detach()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
