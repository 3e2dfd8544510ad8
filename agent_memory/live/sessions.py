"""Session encoding in the store: latents are written with their entries, and replayed when the past changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.errors import EncoderMismatchError, StorageError
from agent_memory.storage.base import Database, Transaction
from agent_memory.storage.codec import encode_vectors
from agent_memory.storage.records import Condition, Generation, Head, PastSegment, StoredSegment
from agent_memory.types import FloatArray, Namespace

if TYPE_CHECKING:
    from agent_memory.encoders.session import LatentQueue, SessionEncoder, SessionSegment

_PAGE = 200
_MICROSECOND = timedelta(microseconds=1)
Place = tuple[Namespace, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """New segments of a session, evolved before they are written.

    Attributes:
        head: Head of the session at that time; if it has moved since, the rows are invalid.
        rows: Stored forms of (evolved vector, latents), in the order of the segments.
    """

    head: Head | None
    rows: list[tuple[bytes, bytes]]


class Sessions:
    """The session encoder of one store.

    Args:
        encoder: Evolves vectors; None to leave them static.
        dtype: Stored number format of vectors.
    """

    def __init__(self, encoder: SessionEncoder | None, dtype: str) -> None:
        self.encoder = encoder
        self._dtype = dtype

    @cached_property
    def facts(self) -> dict[str, Any] | None:
        """Facts about the session encoder that a generation records."""
        if self.encoder is None:
            return None
        return asdict(self.encoder.spec) | {"fingerprint": self.encoder.spec.fingerprint}

    def fits(self, generation: Generation) -> bool:
        """Return whether a generation's vectors were evolved by this session encoder (or by none, if this is none)."""
        return (generation.session_encoder or {}).get("fingerprint") == (self.facts or {}).get("fingerprint")

    def accept(self, generation: Generation) -> None:
        """Raise EncoderMismatchError if a generation's vectors were not evolved by this session encoder."""
        if not self.fits(generation):
            theirs = (generation.session_encoder or {}).get("fingerprint")
            ours = (self.facts or {}).get("fingerprint")
            raise EncoderMismatchError(
                f"the store holds vectors of session encoder {(generation.session_encoder or {}).get('name')!r} "
                f"(fingerprint {theirs}), not of {(self.facts or {}).get('name')!r} (fingerprint {ours}). Open it "
                "with session_encoder='auto' to use the store's own, or call reindex() if an older version made that."
            )

    @property
    def latents_bytes(self) -> int:
        """Stored size of the latents of one segment."""
        spec = self._get_encoder().spec
        return spec.latents * spec.width * np.dtype(spec.dtype).itemsize

    # --- writing -----------------------------------------------------------------------------------------

    def prepare(
        self, tx: Transaction, generation: Generation | None, segments: Mapping[Place, Sequence[SessionSegment]]
    ) -> dict[Place, Prepared]:
        """Evolve new segments as a continuation of their sessions.

        Args:
            tx: A read transaction.
            generation: The embedding space; None before the first write.
            segments: New segments in order, by session.
        """
        if self.encoder is None:
            return {}
        prepared = {}
        for place, new in segments.items():
            head = None if generation is None else tx.sessions.find_head(*place)
            memory = self.encoder.empty_memory()
            if head is not None and generation is not None:
                memory = self.read_memory(tx, generation, head.id)
            rows = []
            for segment in new:
                evolved, latents = self.encoder.embed_segment(segment, memory)
                memory = memory.append(latents)
                rows.append(self._to_bytes(evolved, latents))
            prepared[place] = Prepared(head, rows)
        return prepared

    def warm(
        self,
        database: Database,
        dirty: Callable[[Transaction], Iterable[tuple[int, int]]],
        also: Sequence[tuple[str | None, datetime]] = (),
    ) -> None:
        """Let the session encoder encode the names and dates that replays need, before the write lock is taken.

        Names and dates that others write in between are encoded by the replay itself.

        Args:
            database: The store.
            dirty: Returns (session, first entry to evolve again).
            also: Speakers and times that are about to be written.
        """
        warm = getattr(self.encoder, "warm", None)
        if warm is None:
            return
        speakers = {speaker for speaker, _ in also}
        times = {moment for _, moment in also}
        with database.read() as tx:
            for session_id, first in dirty(tx):
                who, when = tx.sessions.select_seen_from(session_id, first)
                speakers |= who
                times |= when
        if times:
            warm(speakers, times)

    def replay(
        self,
        tx: Transaction,
        generation: Generation,
        dirty: Mapping[int, int],
        *,
        live: bool = True,
        most: int | None = None,
    ) -> int:
        """Evolve sessions again from a given entry on, using stored static vectors.

        Args:
            tx: A write transaction.
            generation: The embedding space.
            dirty: The first entry to evolve again, by session.
            live: True to log the changes for indexes, and to clear the sessions' evolved vectors in other generations.
            most: Maximum number of segments per session; the rest must be evolved later.

        Returns:
            Number of segments evolved again.
        """
        if live:
            for session_id, first in dirty.items():
                tx.sessions.clear_others(generation, session_id, first)
        count = 0
        if self.encoder is None:
            return count
        for session_id, first in dirty.items():
            memory = self.read_memory(tx, generation, session_id, before=first)
            rows: list[tuple[int, bytes, bytes | None]] = []
            for segment in islice(tx.sessions.select_segments_from(generation, session_id, first), most):
                evolved, latents = self.encoder.embed_segment(self._to_segment(generation, segment), memory)
                memory = memory.append(latents)
                rows.append((segment.id, *self._to_bytes(evolved, latents)))
                count += 1
                if len(rows) == _PAGE:
                    self._store_rows(tx, generation, session_id, rows, live=live)
            self._store_rows(tx, generation, session_id, rows, live=live)
        return count

    def replay_past(self, tx: Transaction, generation: Generation, dirty: Mapping[int, int]) -> int:
        """Evolve former versions and superseded entries again, as their sessions were when those were superseded.

        Args:
            tx: A write transaction; the sessions have been replayed.
            generation: The embedding space.
            dirty: A place from which on to do so, by session.

        Returns:
            Number of rows evolved again.
        """
        count = 0
        for session_id, first in dirty.items():
            tx.sessions.clear_others(generation, session_id, first)
            if self.encoder is None:
                continue
            rows: list[tuple[int, bytes, bytes | None]] = []
            for past in tx.sessions.select_past(generation, session_id, first):
                memory = self._read_memory_before(tx, generation, session_id, past)
                evolved, latents = self.encoder.embed_segment(self._to_segment(generation, past.segment), memory)
                rows.append((past.segment.id, self._to_bytes(evolved, latents)[0], None))
            tx.sessions.store(generation, rows)
            count += len(rows)
        return count

    def _read_memory_before(
        self, tx: Transaction, generation: Generation, session_id: int, past: PastSegment
    ) -> LatentQueue:
        """Return the latent memory before a superseded segment when that was superseded."""
        kept = tx.sessions.find_unchanged_until(session_id, past.superseded_at - _MICROSECOND)
        if kept is not None and kept >= past.place:
            return self.read_memory(tx, generation, session_id, before=past.place)
        segments = tx.sessions.select_segments_before(generation, past, session_id, self._horizon)
        return self._remember(generation, segments)

    @property
    def _horizon(self) -> int | None:
        """Number of segments on which a latent memory depends; None for all."""
        spec = self._get_encoder().spec
        return None if spec.horizon is None else spec.segments + spec.horizon

    def _remember(self, generation: Generation, segments: Sequence[StoredSegment]) -> LatentQueue:
        """Return the latent memory that segments leave behind."""
        encoder = self._get_encoder()
        memory = encoder.empty_memory()
        for segment in segments:
            _, latents = encoder.embed_segment(self._to_segment(generation, segment), memory)
            memory = memory.append(latents)
        return memory

    def _store_rows(
        self,
        tx: Transaction,
        generation: Generation,
        session_id: int,
        rows: list[tuple[int, bytes, bytes | None]],
        *,
        live: bool,
    ) -> None:
        tx.sessions.store(generation, rows)
        if not live:
            rows.clear()
            return
        seqs = tx.changes.log([row[0] for row in rows], "put")
        if seqs:
            tx.sessions.move_head(session_id, seqs[-1])
        rows.clear()

    def _to_bytes(self, evolved: FloatArray, latents: FloatArray) -> tuple[bytes, bytes]:
        dtype = self._get_encoder().spec.dtype
        return encode_vectors(evolved, self._dtype).tobytes(), encode_vectors(latents, dtype).tobytes()

    # --- reading -----------------------------------------------------------------------------------------

    def read_memory(
        self, tx: Transaction, generation: Generation, session_id: int, *, before: int | None = None
    ) -> LatentQueue:
        """Return the latent memory of a session, at its end or before an entry.

        Raises:
            StorageError: Stored latents do not have the size that the session encoder writes.
        """
        encoder = self._get_encoder()
        spec = encoder.spec
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        blobs = tx.sessions.read_last_latents(generation, session_id, spec.segments, before=before)
        size = self.latents_bytes
        valid = [blob for blob in blobs if blob is not None and len(blob) == size]
        if len(valid) != len(blobs):
            raise StorageError(
                f"latents of a session are damaged (not {size} bytes); run check with repair to compute them again"
            )
        memory = encoder.empty_memory()
        if not blobs:
            return memory
        rows = np.frombuffer(b"".join(valid), dtype).reshape(-1, spec.width)
        return memory.append(rows.astype(np.float32))

    def read_past_memory(
        self, tx: Transaction, generation: Generation, session_id: int, moment: datetime
    ) -> LatentQueue:
        """Return the latent memory that a session had at a past time, from the segments that were current then."""
        kept = tx.sessions.find_unchanged_until(session_id, moment)
        if kept is not None:
            return self.read_memory(tx, generation, session_id, before=kept)
        condition = Condition(state="as_of", moment=moment)
        segments = tx.sessions.select_last_segments(generation, session_id, self._horizon, condition=condition)
        return self._remember(generation, segments)

    def evolve_query(
        self,
        tx: Transaction,
        generation: Generation,
        vector: FloatArray,
        text: str,
        *,
        scope: Namespace,
        session: str | None,
        as_of: datetime | None,
    ) -> FloatArray:
        """Return a query's vector, evolved by the latent memory of its session if it has one."""
        if self.encoder is None or session is None:
            return vector
        session_id = tx.sessions.find_only(scope, session)
        if session_id is None:
            return vector
        if as_of is None:
            memory = self.read_memory(tx, generation, session_id)
        else:
            memory = self.read_past_memory(tx, generation, session_id, as_of)
        return self.encoder.embed_query(vector, text, memory)

    def _to_segment(self, generation: Generation, segment: StoredSegment) -> SessionSegment:
        from agent_memory.encoders.session import SessionSegment

        static = generation.from_bytes(segment.static)
        return SessionSegment(static=static, text=segment.text, speaker=segment.speaker, time=segment.time)

    def _get_encoder(self) -> SessionEncoder:
        if self.encoder is None:
            raise StorageError("there is no session encoder")
        return self.encoder
