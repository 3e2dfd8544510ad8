"""The storage contract, embedding spaces: generations, vectors, and the data of session encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy.typing as npt

from agent_memory.reports import GenerationInfo, GenerationState
from agent_memory.storage.records import (
    Condition,
    Generation,
    Head,
    PastSegment,
    ReadPassages,
    StoredPassages,
    StoredSegment,
    StoredText,
    StoredVectors,
)
from agent_memory.types import IdArray, Namespace


class Generations(ABC):
    """Embedding spaces: created, filled, swapped in, kept for a while, deleted."""

    @abstractmethod
    def live(self) -> Generation | None:
        """Return the generation that recall answers from, or None before the first write.

        Raises:
            StorageError: The row is damaged.
        """

    @abstractmethod
    def begin(
        self,
        *,
        state: GenerationState,
        fingerprint: str,
        encoder: Mapping[str, Any],
        dimension: int,
        tiers: Sequence[int],
        dtype: str,
        session_encoder: Mapping[str, Any] | None,
        now: datetime,
        files: Mapping[str, bytes] | None = None,
    ) -> Generation:
        """Create a generation: the first live one of a store, or one to be built beside it.

        Args:
            state: ``live`` or ``building``.
            fingerprint: Fingerprint of the encoder.
            encoder: Facts about the encoder.
            dimension: Native dimension.
            tiers: Ascending prefix dimensions; the last is ``dimension``.
            dtype: Stored number format.
            session_encoder: Facts about the session encoder, or None.
            now: Time of creation.
            files: Contents of the files that its encoder needs, by name.

        Raises:
            StorageError: ``state`` is ``live`` and there is a live generation already.
        """

    @abstractmethod
    def find_in_state(self, *states: GenerationState) -> list[Generation]:
        """Return the generations in the given states, most recently retired first, then most recently created."""

    @abstractmethod
    def list_all(self) -> list[GenerationInfo]:
        """Return facts about every generation, oldest first."""

    @abstractmethod
    def read_file(self, generation_id: int, name: str) -> bytes | None:
        """Return a file that belongs to a generation, or None."""

    @abstractmethod
    def swap(self, target_id: int, now: datetime) -> None:
        """Make a building or former generation live, and the live one former, retired now.

        Nothing changes if it is the live one itself.

        Raises:
            StorageError: The generation is in another state or does not exist.
        """

    @abstractmethod
    def condemn(self, generation_id: int) -> None:
        """Mark a generation for deletion; does nothing if it is live or does not exist."""

    @abstractmethod
    def condemn_former(self, before: datetime) -> int:
        """Mark former generations retired at or before a time for deletion; returns how many."""

    @abstractmethod
    def list_condemned(self) -> list[int]:
        """Return the ids of the generations that are marked for deletion."""

    @abstractmethod
    def drop_next(self, generation_id: int, after: int, limit: int) -> int | None:
        """Delete a generation's next vectors after an entry id; call it until it returns None.

        Args:
            generation_id: The generation, which is marked for deletion.
            after: Result of the previous call; 0 at first.
            limit: Maximum number of vectors to delete.

        Returns:
            The entry id of the last vector deleted; None once the generation and its files are deleted too.
        """


class Vectors(ABC):
    """Stored vectors."""

    @abstractmethod
    def read(
        self, generation: Generation, ids: Sequence[int] | IdArray, *, former: bool = False, static: bool = False
    ) -> tuple[IdArray, npt.NDArray[Any]]:
        """Return the vectors of the given entries to search: evolved ones where they exist, else static ones.

        Args:
            generation: The embedding space.
            ids: Entries; superseded ones are left out, and those without a vector.
            former: True to read the vectors of superseded entries too.
            static: True for the static vectors, superseded entries included.

        Returns:
            Ids found, shape (n,), in no order, and their vectors in the generation's dtype, shape (n, dimension).

        Raises:
            StorageError: A stored vector does not have the length of the generation's vectors.
        """

    @abstractmethod
    def read_all(self, generation: Generation) -> Iterator[tuple[IdArray, npt.NDArray[Any]]]:
        """Yield the vectors of all unsuperseded entries, as ``read`` returns them, in steps by ascending entry id."""

    @abstractmethod
    def read_stored(self, generation: Generation, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the stored static vectors of entries and former versions, by id; damaged ones are left out."""

    @abstractmethod
    def sample_ids(self, generation: Generation, count: int) -> list[int]:
        """Return at most ``count`` ids of unsuperseded entries with a vector, ascending, spread over the store.

        Returns all of them if there are no more than that, and the same ones as long as nothing is written.
        """

    @abstractmethod
    def find_faults(self, generation: Generation, ids: Sequence[int]) -> dict[int, str]:
        """Return the faults of the given entries' static vectors, by entry id; vectors without faults are left out.

        A vector is at fault if it is missing, has a wrong number of bytes, or is not of unit length within 1 %.
        """

    @abstractmethod
    def find_blank(self, generation: Generation, ids: Sequence[int]) -> dict[int, bytes]:
        """Return those of the given entries that have no vector on purpose, by id, as ``NO_VECTOR`` or ``LATER``."""

    @abstractmethod
    def count_blank(self, generation: Generation) -> int:
        """Return how many unsuperseded entries have no vector in a generation on purpose."""

    @abstractmethod
    def await_later(self) -> None:
        """Note, in the transaction that writes them, that some entries are ``LATER``."""

    @abstractmethod
    def is_awaiting(self) -> bool:
        """Return whether some entries may be ``LATER``."""

    @abstractmethod
    def select_later(self, generation: Generation, *, after: int, limit: int) -> list[StoredText]:
        """Return the entries and former versions that are ``LATER``, by ascending id.

        Args:
            generation: The embedding space.
            after: Only entries with larger ids.
            limit: Maximum number of entries.
        """

    @abstractmethod
    def fill_in(self, generation: Generation, rows: Iterable[tuple[StoredText, bytes]]) -> list[int]:
        """Store the vectors of entries that are still ``LATER`` and have not changed since; returns their ids."""

    @abstractmethod
    def end_waiting(self, generation: Generation) -> bool:
        """Take ``await_later`` back if no entry is ``LATER`` any more; returns whether that is so."""

    @abstractmethod
    def select_missing(self, generation_id: int, *, after: int, limit: int | None) -> list[StoredText]:
        """Return the entries and former versions without a vector in a generation, by ascending id.

        Args:
            generation_id: The generation.
            after: Only entries with larger ids.
            limit: Maximum number of entries; None for all.
        """

    @abstractmethod
    def select_missing_among(self, generation_id: int, ids: Sequence[int]) -> list[StoredText]:
        """Return the given entries that exist and have no vector in a generation, by ascending id."""

    @abstractmethod
    def select_texts(self, ids: Sequence[int]) -> list[StoredText]:
        """Return the given entries that exist, with or without a vector."""

    @abstractmethod
    def store(self, generation_id: int, rows: Iterable[tuple[StoredText, bytes]]) -> None:
        """Store static vectors of entries that have not changed since they were read.

        Skips entries that have changed, are deleted or have a vector already.
        """

    @abstractmethod
    def copy(self, source: Generation, target: Generation, ids: Sequence[int]) -> None:
        """Copy the vectors of entries to another generation of the same embedding space.

        Evolved vectors and latents are copied if both have the same session encoder. Existing vectors stay.
        """


class Passages(ABC):
    """Vectors of the passages of long texts. They belong to the static vector that was made of the same text.

    Whatever deletes or replaces that vector deletes them; they never have evolved vectors of their own.
    """

    @abstractmethod
    def put(self, generation_id: int, rows: Iterable[tuple[int, StoredVectors]]) -> None:
        """Store the passages of entries; skips those without passages, and entries with another static vector."""

    @abstractmethod
    def read(self, generation: Generation, ids: Sequence[int] | IdArray, *, former: bool = False) -> list[ReadPassages]:
        """Return what the given entries have, by ascending id.

        Args:
            generation: The embedding space.
            ids: Entries; superseded ones are left out, and those without passages.
            former: True to read those of superseded entries too.

        Raises:
            StorageError: What is stored is damaged.
        """

    @abstractmethod
    def read_all(self, generation: Generation) -> Iterator[list[ReadPassages]]:
        """Yield what all unsuperseded entries have, in steps by ascending id; raises as ``read``."""

    @abstractmethod
    def read_stored(self, generation: Generation, ids: Sequence[int]) -> dict[int, StoredPassages | None]:
        """Return what is stored of entries and former versions that have passages, by id; None if it is damaged."""

    @abstractmethod
    def copy(self, source: Generation, target: Generation, ids: Sequence[int]) -> None:
        """Copy the passages of entries to another generation of the same embedding space that has their vectors.

        Damaged ones are left out.
        """

    @abstractmethod
    def count(self, generation: Generation) -> int:
        """Return how many passages all unsuperseded entries have."""


class Sessions(ABC):
    """Data that session encoders read and write."""

    @abstractmethod
    def find_head(self, namespace: Namespace, name: str) -> Head | None:
        """Return the head of a session in exactly this namespace, or None if it does not exist."""

    @abstractmethod
    def find_only(self, scope: Namespace, name: str) -> int | None:
        """Return the id of the named session in exactly a namespace, else of the only one below it, else None."""

    @abstractmethod
    def count_named(self, scope: Namespace, name: str) -> int:
        """Return the number of sessions of a name in and below a namespace."""

    @abstractmethod
    def move_head(self, session_id: int, seq: int) -> None:
        """Record the latest change of a session, which changes its head."""

    @abstractmethod
    def select_last_segments(
        self, generation: Generation, session_id: int, count: int | None, condition: Condition
    ) -> list[StoredSegment]:
        """Return the last segments of a session that satisfy a condition, oldest first; all if ``count`` is None.

        A former version has the place of the entry that now has its key. Entries without a vector are left out.
        """

    @abstractmethod
    def select_segments_from(self, generation: Generation, session_id: int, first: int) -> Iterator[StoredSegment]:
        """Yield the unsuperseded segments of a session from an entry on, in order.

        Entries without a vector are left out. Entries stored during the iteration may be included.
        """

    @abstractmethod
    def read_last_latents(
        self, generation: Generation, session_id: int, count: int, *, before: int | None = None
    ) -> list[bytes | None]:
        """Return the stored latents of the last unsuperseded segments of a session, oldest first.

        Args:
            generation: The embedding space.
            session_id: The session.
            count: Maximum number of segments.
            before: Only segments with smaller ids.

        Returns:
            Bytes; None for a segment with a vector but without latents.
        """

    @abstractmethod
    def find_unchanged_until(self, session_id: int, moment: datetime) -> int | None:
        """Return the entry id before which the session is the same now as it was at a given time.

        Larger than all ids if nothing was added since; None if earlier entries have changed since or had expired.
        """

    @abstractmethod
    def select_seen_from(self, session_id: int, first: int) -> tuple[set[str | None], set[datetime]]:
        """Return the speakers and event times of the unsuperseded segments of a session from an entry on."""

    @abstractmethod
    def select_past(self, generation: Generation, session_id: int, first: int) -> list[PastSegment]:
        """Return the superseded segments with an evolved vector, from a place in the session on, by ascending id.

        A former version has the place of the entry that kept its id; other superseded entries have their own.
        """

    @abstractmethod
    def select_segments_before(
        self, generation: Generation, past: PastSegment, session_id: int, count: int | None
    ) -> list[StoredSegment]:
        """Return the last segments before a superseded one when it was superseded, oldest first.

        Args:
            generation: The embedding space.
            past: The superseded segment.
            session_id: Its session.
            count: Maximum number of segments; None for all.
        """

    @abstractmethod
    def store(self, generation: Generation, rows: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        """Store (entry id, evolved vector, latents) of entries with a static vector; skips the others."""

    @abstractmethod
    def clear_altered(self, entry_ids: Sequence[int]) -> None:
        """Drop what session encoders made of entries, in every generation, where it is not what was written."""

    @abstractmethod
    def clear_others(self, generation: Generation, session_id: int, first: int) -> None:
        """Clear the evolved vectors of a session in other generations, from an entry on: they are outdated too."""

    @abstractmethod
    def clear(self, session_id: int, first: int) -> None:
        """Clear the evolved vectors and latents of a session's unsuperseded entries in all generations, from one on."""

    @abstractmethod
    def find_unevolved(
        self, generation: Generation, latents_bytes: int, session_id: int | None = None
    ) -> dict[int, int]:
        """Return the first entry of each session with a missing or wrong-sized evolved vector or latents, by session.

        Considers unsuperseded entries with a static vector; sessions without faults are left out.

        Args:
            generation: The embedding space.
            latents_bytes: Expected size of the latents of one segment.
            session_id: Look at this session only; None for all.
        """

    @abstractmethod
    def find_sessions(self, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return (session, entry) of the given unsuperseded entries that are in one, in no order."""
