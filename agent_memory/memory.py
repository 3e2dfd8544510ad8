"""``Memory``: the one door to the store, the encoder and the index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, SupportsIndex, TypeVar

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.inputs import UNSET, UnsetType
from agent_memory.live.index import Accept, LiveIndex
from agent_memory.live.spaces import Spaces
from agent_memory.recall import search as recalling
from agent_memory.recall import why as tracing
from agent_memory.recall.query_log import QueryLog
from agent_memory.recall.request import Request, make_request, matching
from agent_memory.records import Entry, Hits, Session, Trace
from agent_memory.reports import Report, Stats
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import vectors as generations
from agent_memory.storage.sqlite.database import Database
from agent_memory.storage.sqlite.migrate import ensure_schema
from agent_memory.types import FloatArray, Namespace, Progress, Time
from agent_memory.upkeep import check
from agent_memory.upkeep.operator import Care
from agent_memory.upkeep.worker import Background
from agent_memory.writing import transfer
from agent_memory.writing.writer import Item, Writer

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, Reranker, SessionEncoder
    from agent_memory.live.sessions import Sessions
    from agent_memory.storage.sqlite.entries import Condition

_Answer = TypeVar("_Answer")


class Memory(Care):
    """A long-term memory in a folder.

    Safe to share between threads, and any number of processes may open the same folder. Each call sees all
    that was committed before it began, by whomever.

    Args:
        path: The store's folder; made if it is missing.
        encoder: None for the store's own (the embedded default for a new store), the name of a built-in
            encoder, a sentence-transformers model by local path or cached name, or an ``Encoder``.
        session_encoder: ``"auto"`` for the store's own (a new store takes the embedded one if it fits the
            encoder), None for none, or a ``SessionEncoder``. With one, entries of a session are found by what was
            said around them, and a recall in a session by its state.
        namespace: The scope of this memory: entries are added to it, and only entries in it or below it are
            ever returned.
        config: Settings; see ``Config``.
        maintenance: ``"background"`` to do the store's periodic jobs in a thread of this process, unless another
            process does them already.

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
        config: Config | None = None,
        maintenance: str | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        self.namespace: Namespace = inputs.namespace(namespace)
        self.config = config or Config()
        if maintenance not in (None, "background"):
            raise InvalidInputError(f"maintenance must be None or 'background', got {maintenance!r}")
        self._background: Background | None = None
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be the folder of a store: {error}") from error
        self._database = Database(self.path / "memory.db", lock_timeout_s=self.config.lock_timeout_s)
        try:
            ensure_schema(self._database)
            self._index = LiveIndex(self.path / "index", self.config, read_only=self._database.read_only)
            with self._database.read() as connection:
                generation = generations.live_generation(connection)
                self._index.discard_newer(connection)
                self._spaces = Spaces(encoder, session_encoder)
                self._encoder = self._spaces.at_opening(connection, generation)
            self._sessions = self._spaces.sessions_of(self._encoder, generation, opening=True)
            self._writer = Writer(self._database, self._encoder, self._sessions, self.config, self._scope)
            if generation is not None and not self._spaces.may_open(self._encoder, self._sessions, generation):
                self._writer.accept(generation)
            self._queries = QueryLog(self._database, self.config)
            if maintenance is not None and not self._database.read_only:
                self._background = Background(self, self._database)
        except BaseException:
            self._database.close()
            raise

    @property
    def encoder(self) -> Encoder:
        """What turns this memory's texts and queries into vectors."""
        return self._encoder

    @property
    def session_encoder(self) -> SessionEncoder | None:
        """What lets vectors depend on what was said before in their session, if anything."""
        return self._sessions.encoder

    # --- writing -----------------------------------------------------------------------------------------

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
    ) -> Entry:
        """Remember a text. When this returns, the entry is on disk and will be recalled.

        Args:
            text: What to remember; of any length up to ``Config.max_text_chars``.
            session: The conversation it belongs to.
            speaker: Who said it.
            key: A name of your own, unique in the namespace. An entry that has the key is replaced by the new
                one; only ``created_at`` stays, and the former version in its ``history``. Generated if left out.
            metadata: A JSON object to filter by later. Stored with its keys sorted.
            event_time: When it happened; now if left out. A naive time is taken as UTC.
            expires_at: When it stops being returned.
            importance: From 0 to 1.
            namespace: Where to put it; this memory's own namespace or one below it.
            vector: The text's vector in the store's space, shape (dimension,), if you have it already.

        Returns:
            The entry; its ``duplicate_of`` names another entry of the namespace with the same text, if any.

        Raises:
            InvalidInputError: An argument is unusable; nothing was written.
            EncoderError: The text could not be encoded; nothing was written.
            StorageError: The database refused the write; nothing was written.
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
        return self._following(lambda: self._writer.add(item))

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
        """
        return self._writer.add_many(items, session=session, progress=progress, follow=self._follow)

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
        """
        given: dict[str, Any] = {
            "text": text,
            "speaker": speaker,
            "metadata": metadata,
            "event_time": event_time,
        }
        given |= {"expires_at": expires_at, "importance": importance}
        changed = {name: value for name, value in given.items() if value is not UNSET}
        if changed.get("event_time", ...) is None or changed.get("text", ...) is None:
            raise InvalidInputError("text and event_time can be changed, but not removed")
        return self._following(lambda: self._writer.update(key, changed, self._scope(namespace)))

    def supersede(self, old: str, new: str, *, namespace: Sequence[str] | None = None) -> Entry:
        """Let the entry ``new`` take the place of the entry ``old``; returns the new one.

        The old entry is no longer recalled. It stays readable through ``history(new)`` and ``as_of``.

        Raises:
            NotFoundError: One of the two is not there.
        """
        return self._writer.supersede(old, new, self._scope(namespace))

    def forget(
        self,
        key: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        session: str | None = None,
        everything: bool = False,
        namespace: Sequence[str] | None = None,
    ) -> int:
        """Delete entries for good, with their vectors; returns how many.

        Args:
            key: One entry, in exactly this namespace.
            where: Every entry that the filter matches, here and in the namespaces below; not empty.
            session: Every entry of a session (together with ``where``: those that match).
            everything: True to delete all entries here and in the namespaces below, and what the query log holds of
                queries asked there.
            namespace: Where to look; this memory's namespace if left out.

        Raises:
            InvalidInputError: Nothing, or a contradiction, was said about what to forget.
        """
        scope = self._scope(namespace)
        chosen = [key is not None, bool(where) or session is not None, everything]
        if sum(chosen) != 1:
            raise InvalidInputError("say what to forget: a key, a non-empty where and/or session, or everything")
        removed = self._writer.remove(self._condition(scope, where=where, session=session, key=key))
        if everything:
            self._queries.clear(scope)
        return removed

    # --- reading -----------------------------------------------------------------------------------------

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
        budget_ms: float | None = None,
        rerank: Reranker | None = None,
        explain: bool = False,
    ) -> Hits:
        """Find the entries that answer a query, best first.

        Filters are applied inside the search: if k entries match them, k come back (by words alone, as many of
        them as hold a word of the query).

        Args:
            query: A question or statement, or a vector in the store's space, shape (dimension,), which is searched
                by meaning alone.
            k: How many hits to return at most, from 1 to 10,000.
            session: Only entries of this session, and the question is read behind the session's latent memory.
            speaker: Only entries of this speaker.
            where: Only entries whose metadata match this filter, e.g. ``{"year": {"$gte": 2024}}``.
            since: Only entries whose event time is this moment or later.
            until: Only entries whose event time is this moment or earlier.
            as_of: Read the store as it was at this moment: entries added later are unknown, changed ones have their
                former values. Forgotten entries stay forgotten.
            namespace: Only entries in this namespace or below it; must lie within the memory's own.
            mode: ``hybrid`` (meaning and words), ``dense`` (meaning) or ``lexical`` (words).
            exact: Compare with every vector instead of searching tier by tier.
            diversity: From 0 to 1: prefer hits that differ from each other (maximal marginal relevance).
            collapse: Leave out near-duplicates of better hits.
            half_life: Prefer young entries; the bonus halves with each such stretch of age.
            now: What "yesterday" or "last week" in the query refer to; the present if left out.
            budget_ms: Begin no further tier or source after so many milliseconds; ``Hits.tier_reached`` says how
                far it came.
            rerank: A cross-encoder that scores the best candidates anew.
            explain: Fill ``Hit.trace``.

        Raises:
            InvalidInputError: An argument is unusable.
            EncoderError: The query could not be encoded.
        """
        options: dict[str, Any] = dict(
            k=k,
            session=session,
            speaker=speaker,
            where=where,
            since=since,
            until=until,
            as_of=as_of,
            mode=mode,
            exact=exact,
            diversity=diversity,
            collapse=collapse,
            half_life=half_life,
            now=now,
            budget_ms=budget_ms,
            rerank=rerank,
            explain=explain,
        )
        return self._asked(query, self._scope(namespace), options, self._recalled)

    def recall_many(
        self,
        /,
        queries: Sequence[str],
        *,
        namespace: Sequence[str] | None = None,
        **options: Any,  # noqa: ANN401 - those of recall
    ) -> list[Hits]:
        """Answer several questions, encoded and searched for together; the hits of each, in the order given.

        Args:
            queries: Questions or statements.
            namespace: As for ``recall``.
            **options: The other arguments of ``recall``.

        Raises:
            InvalidInputError: A question or an argument is unusable.
            EncoderError: The questions could not be encoded.
        """
        if isinstance(queries, str) or not isinstance(queries, Sequence):
            raise InvalidInputError(f"queries must be a list of texts, got {type(queries).__name__}")
        texts = [inputs.text(query, self.config, "query") for query in queries]
        scope = self._scope(namespace)

        def ask() -> list[Hits]:
            encoder, sessions = self._encoder, self._sessions
            accept = partial(self._writer.accept, encoder=encoder, sessions=sessions)
            vectors: dict[str, FloatArray] = {}
            if options.get("mode") != "lexical":
                vectors = dict(zip(texts, inputs.encoded(texts, encoder.encode_queries, encoder.spec), strict=True))
            requests = [self._request(encoder, text, scope, vectors.__getitem__, **options) for text in texts]
            answers = recalling.recall_many(self._database, self._index, accept, sessions, requests)
            for request in requests:
                self._queries.note(request, encoder.spec)
            return answers

        return self._following(ask)

    def why(
        self,
        /,
        query: str | FloatArray,
        key: str,
        *,
        namespace: Sequence[str] | None = None,
        **options: Any,  # noqa: ANN401 - those of recall
    ) -> Trace:
        """Say what became of one entry in a recall: at which stage it was dropped and by how much, or its rank.

        Args:
            query: As for ``recall``.
            key: The entry's key, in exactly this namespace.
            namespace: As for ``recall``.
            **options: The other arguments of ``recall``.
        """
        scope = self._scope(namespace)
        name = inputs.name("key", key) or ""
        return self._asked(
            query, scope, {**options, "explain": True}, partial(self._explained, namespace=scope, key=name)
        )

    def history(self, key: str, *, namespace: Sequence[str] | None = None) -> list[Entry]:
        """Return every version of an entry, oldest first, with what it superseded; the current one comes last.

        Raises:
            NotFoundError: There was never such a key here, or it was forgotten.
        """
        scope = self._scope(namespace)
        name = inputs.name("key", key) or ""
        with self._database.read() as connection:
            found = reading.versions(connection, scope, name)
        if not found:
            raise NotFoundError(f"no entry with key {key!r}")
        return found

    def get(self, key: str, *, namespace: Sequence[str] | None = None) -> Entry:
        """Return the entry of a key in exactly this namespace.

        Raises:
            NotFoundError: There is none, or it has expired.
        """
        return self._find(key, self._scope(namespace))

    def get_many(self, keys: Sequence[str], *, namespace: Sequence[str] | None = None) -> dict[str, Entry]:
        """Return the entries of the given keys in exactly this namespace; keys without one are left out."""
        scope = self._scope(namespace)
        names = [inputs.name("key", key) or "" for key in keys]
        with self._database.read() as connection:
            return reading.by_key(connection, scope, names, datetime.now(UTC))

    def entries(
        self,
        *,
        where: Mapping[str, Any] | None = None,
        session: str | None = None,
        speaker: str | None = None,
        since: Time | None = None,
        until: Time | None = None,
        namespace: Sequence[str] | None = None,
        limit: SupportsIndex | None = None,
        offset: SupportsIndex = 0,
    ) -> list[Entry]:
        """Return the entries that match, in the order they were added; arguments as for ``recall``."""
        condition = self._condition(
            self._scope(namespace), where=where, session=session, speaker=speaker, since=since, until=until
        )
        most = None if limit is None else inputs.positive("limit", limit, most=2**31)
        skip = inputs.positive("offset", offset, most=2**31) if offset else 0
        with self._database.read() as connection:
            found = reading.select_entries(connection, condition, limit=most, offset=skip)
        return [entry for _, entry in found]

    def sessions(self, *, namespace: Sequence[str] | None = None) -> list[Session]:
        """Return the sessions that hold live entries, in the order they were begun."""
        condition = self._condition(self._scope(namespace))
        with self._database.read() as connection:
            return reading.list_sessions(connection, condition)

    def namespaces(self, *, namespace: Sequence[str] | None = None) -> list[Namespace]:
        """Return the namespaces that hold live entries, here and below, sorted."""
        condition = self._condition(self._scope(namespace))
        with self._database.read() as connection:
            return reading.list_namespaces(connection, condition)

    def vectors(self, keys: Sequence[str], *, namespace: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return the static vectors of the given keys in exactly this namespace, as ``get_many`` does entries.

        Each is float32 of shape (dimension,) and unit length.
        """
        scope = self._scope(namespace)
        names = [inputs.name("key", key) or "" for key in keys]
        with self._database.read() as connection:
            generation = generations.live_generation(connection)
            found = reading.ids_by_key(connection, scope, names, datetime.now(UTC))
            if generation is None or not found:
                return {}
            ids, matrix = generations.read_vectors(connection, generation, list(found.values()), static=True)
        rows = dict(zip(ids.tolist(), matrix.astype("float32"), strict=True))
        return {key: rows[entry_id] for key, entry_id in found.items() if entry_id in rows}

    # --- care --------------------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """Return facts about the store: counts, encoder, sizes on disk, the index in memory."""
        with self._database.read() as connection:
            return check.stats(connection, self.namespace, self.path, self._index)

    def check(self, repair: bool = False) -> Report:
        """Look for damage: in the database, in vectors, in the full-text index, between index and store, in snapshots.

        Args:
            repair: True to mend what can be mended: vectors are encoded again, full-text index and index are rebuilt.
        """
        encoder, sessions = self._current_encoder(), self._sessions
        return check.check(
            self._database,
            self._index,
            accept=partial(self._writer.accept, encoder=encoder, sessions=sessions),
            sessions=sessions,
            encode=lambda texts: inputs.encoded(texts, encoder.encode_documents, encoder.spec),
            repair=repair,
        )

    def export(self, path: str | Path, *, progress: Progress | None = None) -> int:
        """Write all live entries of the namespace to one JSON Lines file; returns how many.

        The file appears whole or not at all. Its first line is a header with format and package version.
        """
        with self._database.read() as connection:
            return transfer.export(connection, self._condition(self.namespace), Path(path), progress)

    def import_(self, path: str | Path, *, progress: Progress | None = None, source: str | None = None) -> int:
        """Read an export, a file of conversations or another store into this memory; returns how many were new.

        Entries that are already there, unchanged, are left alone, so that an interrupted import can be run
        again. Every line is validated before the first entry is written. ``created_at`` is the moment of import.

        Args:
            path: The file; of a Chroma or mem0 store also its folder.
            progress: Called with (entries done, entries in all).
            source: Whose store it is: ``"mem0"`` (``history.db``), ``"chroma"``, ``"langgraph"`` (SqliteStore); None
                for a JSON Lines file. Collections and prefixes become namespaces; texts are encoded anew.

        Raises:
            InvalidInputError: A line is malformed; the message gives its number. Nothing was written.
            NotFoundError: There is no such file.
        """
        return transfer.import_(self, Path(path), progress, source)

    def close(self) -> None:
        """Write the index snapshot and close. Later calls raise ClosedError; a second close does nothing."""
        if self._background is not None:
            self._background.close()
        self._queries.close()
        try:
            self._index.save()
        finally:
            self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- shared ------------------------------------------------------------------------------------------

    def _asked(
        self, query: object, scope: Namespace, options: Mapping[str, Any], answer: Callable[..., _Answer]
    ) -> _Answer:
        """Return an answer by the encoder of the live generation."""

        def ask() -> _Answer:
            encoder, sessions = self._encoder, self._sessions

            def encode(text: str) -> FloatArray:
                vector: FloatArray = inputs.encoded([text], encoder.encode_queries, encoder.spec)[0]
                return vector

            request = self._request(encoder, query, scope, encode, **options)
            accept = partial(self._writer.accept, encoder=encoder, sessions=sessions)
            return answer(accept, encoder, sessions, request)

        return self._following(ask) if isinstance(query, str) else ask()

    def _recalled(self, accept: Accept, encoder: Encoder, sessions: Sessions, request: Request) -> Hits:
        hits = recalling.recall(self._database, self._index, accept, sessions, request)
        self._queries.note(request, encoder.spec)
        return hits

    def _explained(
        self, accept: Accept, _: Encoder, sessions: Sessions, request: Request, *, namespace: Namespace, key: str
    ) -> Trace:
        return tracing.why(self._database, self._index, accept, sessions, request, namespace=namespace, key=key)

    def _request(
        self,
        encoder: Encoder,
        query: object,
        scope: Namespace,
        encode: Callable[[str], FloatArray],
        **options: Any,  # noqa: ANN401 - recall's
    ) -> Request:
        self._database.connection()
        return make_request(
            query,
            encode=encode,
            dimension=encoder.spec.dimension,
            scripts=getattr(encoder, "scripts", None),
            config=self.config,
            scope=scope,
            **options,
        )

    def _scope(self, namespace: Sequence[str] | None) -> Namespace:
        if namespace is None:
            return self.namespace
        scope = inputs.namespace(namespace)
        if scope[: len(self.namespace)] != self.namespace:
            raise InvalidInputError(f"namespace {scope} lies outside of this memory's namespace {self.namespace}")
        return scope

    def _condition(self, scope: Namespace, **filters: Any) -> Condition:  # noqa: ANN401 - those of matching
        return matching(scope, datetime.now(UTC), **filters)

    def _find(self, key: str, scope: Namespace) -> Entry:
        with self._database.read() as connection:
            return reading.find(connection, scope, inputs.name("key", key) or "", datetime.now(UTC))[1]
