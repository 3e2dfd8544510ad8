"""Session encoding in the store: latents are written with their entry, and replayed when the past changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.errors import EncoderMismatchError, StorageError
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import sessions as stored
from agent_memory.storage.sqlite import writes
from agent_memory.storage.sqlite.database import Connection, Database
from agent_memory.storage.sqlite.vectors import Generation, as_stored
from agent_memory.types import FloatArray, Namespace

if TYPE_CHECKING:
    from agent_memory.encoders.session import LatentQueue, SessionEncoder, SessionSegment

_PAGE = 200
Place = tuple[Namespace, str]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a session encoder made of new segments, before they are written.

    Attributes:
        head: Where the session stood; if it has moved since, the rows are worthless.
        rows: Stored forms of (evolved vector, latents), in the order of the segments.
    """

    head: stored.Head | None
    rows: list[tuple[bytes, bytes]]


class Sessions:
    """The session encoder of one store.

    Args:
        encoder: What evolves vectors; None to leave them static.
        dtype: How vectors are stored.
    """

    def __init__(self, encoder: SessionEncoder | None, dtype: str) -> None:
        self.encoder = encoder
        self._dtype = dtype

    @cached_property
    def facts(self) -> dict[str, Any] | None:
        """What a generation records of the session encoder."""
        if self.encoder is None:
            return None
        return asdict(self.encoder.spec) | {"fingerprint": self.encoder.spec.fingerprint}

    def fits(self, generation: Generation) -> bool:
        """Return whether a generation's vectors were evolved by this session encoder, or by none if there is none."""
        return (generation.session_encoder or {}).get("fingerprint") == (self.facts or {}).get("fingerprint")

    def accept(self, generation: Generation) -> None:
        """Raise EncoderMismatchError if a generation's vectors were not evolved by this session encoder."""
        if not self.fits(generation):
            theirs = (generation.session_encoder or {}).get("fingerprint")
            ours = (self.facts or {}).get("fingerprint")
            raise EncoderMismatchError(
                f"the store holds vectors of session encoder {(generation.session_encoder or {}).get('name')!r} "
                f"(fingerprint {theirs}), not of {(self.facts or {}).get('name')!r} (fingerprint {ours}). Open it "
                "with session_encoder='auto' to use the store's own, or call reindex() if that is of a former version."
            )

    @property
    def latents_bytes(self) -> int:
        """Stored size of the latents of one segment."""
        spec = self._required().spec
        return spec.latents * spec.width * np.dtype(spec.dtype).itemsize

    # --- writing -----------------------------------------------------------------------------------------

    def prepare(
        self, connection: Connection, generation: Generation | None, segments: Mapping[Place, Sequence[SessionSegment]]
    ) -> dict[Place, Prepared]:
        """Evolve new segments at the end of their sessions, as the sessions are now.

        Args:
            connection: A read transaction.
            generation: The embedding space; None before the first write.
            segments: New segments by session, in their order.
        """
        if self.encoder is None:
            return {}
        prepared = {}
        for place, new in segments.items():
            head = None if generation is None else stored.head(connection, *place)
            memory = self.encoder.empty_memory()
            if head is not None and generation is not None:
                memory = self.memory(connection, generation, head.id)
            rows = []
            for segment in new:
                evolved, latents = self.encoder.embed_segment(segment, memory)
                memory = memory.append(latents)
                rows.append(self._stored(evolved, latents))
            prepared[place] = Prepared(head, rows)
        return prepared

    def warm(
        self,
        database: Database,
        dirty: Callable[[Connection], Iterable[tuple[int, int]]],
        also: Sequence[tuple[str | None, datetime]] = (),
    ) -> None:
        """Let the session encoder load and encode what replays will need, before the write lock is taken.

        What is written in between may still bring a name or date that was not seen; the replay then encodes it.

        Args:
            database: The store.
            dirty: Returns (session, first entry to be evolved again) as things are now.
            also: Speakers and times that are about to be written.
        """
        warm = getattr(self.encoder, "warm", None)
        if warm is None:
            return
        speakers = {speaker for speaker, _ in also}
        times = {moment for _, moment in also}
        with database.read() as connection:
            for session_id, first in dirty(connection):
                who, when = stored.seen_from(connection, session_id, first)
                speakers |= who
                times |= when
        if times:
            warm(speakers, times)

    def replay(
        self,
        connection: Connection,
        generation: Generation,
        dirty: Mapping[int, int],
        *,
        live: bool = True,
        most: int | None = None,
    ) -> None:
        """Evolve sessions again from an entry on, from stored static vectors.

        Args:
            connection: A write transaction.
            generation: The embedding space.
            dirty: The first entry to do again, by session.
            live: Whether indexes must hear of it; other generations then lose what they made of the sessions.
            most: Segments of each session at most; the rest must be done later.
        """
        if live:
            for session_id, first in dirty.items():
                stored.clear_others(connection, generation, session_id, first)
        if self.encoder is None:
            return
        for session_id, first in dirty.items():
            memory = self.memory(connection, generation, session_id, before=first)
            rows: list[tuple[int, bytes, bytes]] = []
            for segment in islice(stored.segments_from(connection, generation, session_id, first), most):
                evolved, latents = self.encoder.embed_segment(self._segment(generation, segment), memory)
                memory = memory.append(latents)
                rows.append((segment.id, *self._stored(evolved, latents)))
                if len(rows) == _PAGE:
                    self._keep(connection, generation, session_id, rows, live=live)
            self._keep(connection, generation, session_id, rows, live=live)

    def _keep(
        self,
        connection: Connection,
        generation: Generation,
        session_id: int,
        rows: list[tuple[int, bytes, bytes]],
        *,
        live: bool,
    ) -> None:
        stored.store(connection, generation, rows)
        if not live:
            rows.clear()
            return
        seqs = writes.log_changes(connection, [row[0] for row in rows], "put")
        if seqs:
            stored.move_head(connection, session_id, seqs[-1])
        rows.clear()

    def _stored(self, evolved: FloatArray, latents: FloatArray) -> tuple[bytes, bytes]:
        dtype = self._required().spec.dtype
        return as_stored(evolved, self._dtype).tobytes(), as_stored(latents, dtype).tobytes()

    # --- reading -----------------------------------------------------------------------------------------

    def memory(
        self, connection: Connection, generation: Generation, session_id: int, *, before: int | None = None
    ) -> LatentQueue:
        """Return the latent memory of a session, now or before an entry.

        Raises:
            StorageError: Stored latents have another size than the session encoder's.
        """
        encoder = self._required()
        spec = encoder.spec
        dtype = np.dtype(spec.dtype).newbyteorder("<")
        blobs = stored.last_latents(connection, generation, session_id, spec.segments, before=before)
        size = self.latents_bytes
        if any(blob is None or len(blob) != size for blob in blobs):
            raise StorageError(
                f"latents of a session are damaged (not {size} bytes); run check with repair to compute them again"
            )
        memory = encoder.empty_memory()
        if not blobs:
            return memory
        rows = np.frombuffer(b"".join(blobs), dtype).reshape(-1, spec.width)
        return memory.append(rows.astype(np.float32))

    def memory_as_of(
        self, connection: Connection, generation: Generation, session_id: int, moment: datetime
    ) -> LatentQueue:
        """Return the latent memory of a session as it was, from the segments that were current then."""
        kept = stored.kept_since(connection, session_id, moment)
        if kept is not None:
            return self.memory(connection, generation, session_id, before=kept)
        encoder = self._required()
        spec = encoder.spec
        count = None if spec.horizon is None else spec.segments + spec.horizon
        memory = encoder.empty_memory()
        condition = reading.as_of(moment)
        for segment in stored.last_segments(connection, generation, session_id, count, condition=condition):
            _, latents = encoder.embed_segment(self._segment(generation, segment), memory)
            memory = memory.append(latents)
        return memory

    def question(
        self,
        connection: Connection,
        generation: Generation,
        vector: FloatArray,
        text: str,
        *,
        scope: Namespace,
        session: str | None,
        then: datetime | None,
    ) -> FloatArray:
        """Return a question's vector after all of a session, or the static one where there is no such session."""
        if self.encoder is None or session is None:
            return vector
        session_id = stored.only_session(connection, scope, session)
        if session_id is None:
            return vector
        if then is None:
            memory = self.memory(connection, generation, session_id)
        else:
            memory = self.memory_as_of(connection, generation, session_id, then)
        return self.encoder.embed_query(vector, text, memory)

    def _segment(self, generation: Generation, segment: stored.StoredSegment) -> SessionSegment:
        from agent_memory.encoders.session import SessionSegment

        static = generation.from_bytes(segment.static)
        return SessionSegment(static=static, text=segment.text, speaker=segment.speaker, time=segment.time)

    def _required(self) -> SessionEncoder:
        if self.encoder is None:
            raise StorageError("there is no session encoder")
        return self.encoder
