"""The storage contract, embedding spaces: generations, their vectors, and what session encoders read and write."""

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
    StoredSegment,
    StoredText,
)
from agent_memory.types import IdArray, Namespace


class Generations(ABC):
    """Embedding spaces: begun, filled, swapped in, kept for a while, dropped."""

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
        """Record a generation: the live one of a store that has none yet, or one that is about to be built.

        Args:
            state: ``live`` or ``building``.
            fingerprint: The encoder's.
            encoder: Facts about the encoder.
            dimension: Native dimension.
            tiers: Ascending prefix dimensions; the last is ``dimension``.
            dtype: Stored number format.
            session_encoder: Facts about the session encoder, or None.
            now: When it begins.
            files: Files that its encoder needs, by name.
        """

    @abstractmethod
    def find_in_state(self, *states: GenerationState) -> list[Generation]:
        """Return the generations in the given states; the one retired, or else begun, last comes first."""

    @abstractmethod
    def list_all(self) -> list[GenerationInfo]:
        """Return facts about every generation, the oldest first."""

    @abstractmethod
    def read_file(self, generation_id: int, name: str) -> bytes | None:
        """Return a file that belongs to a generation, or None."""

    @abstractmethod
    def swap(self, target_id: int, now: datetime) -> None:
        """Make a generation the live one, and the live one a former one."""

    @abstractmethod
    def condemn(self, generation_id: int) -> None:
        """Mark a generation that is not live for deletion."""

    @abstractmethod
    def condemn_former(self, before: datetime) -> int:
        """Mark former generations that were retired before a moment for deletion; returns how many."""

    @abstractmethod
    def list_condemned(self) -> list[int]:
        """Return the ids of the generations that are marked for deletion."""

    @abstractmethod
    def drop_next(self, generation_id: int, after: int, limit: int) -> int | None:
        """Delete a generation's next vectors behind an entry id; returns the last one's, None once all is gone."""


class Vectors(ABC):
    """Stored vectors."""

    @abstractmethod
    def read(
        self, generation: Generation, ids: Sequence[int] | IdArray, *, former: bool = False, static: bool = False
    ) -> tuple[IdArray, npt.NDArray[Any]]:
        """Return the vectors of the given entries that are searched: evolved where there are such, else static.

        Args:
            generation: The embedding space.
            ids: Entries; superseded ones are left out.
            former: True to read the vectors of superseded entries too.
            static: True for the static vectors, superseded entries included.

        Returns:
            Ids found, shape (n,), and their vectors in the generation's dtype, shape (n, dimension).

        Raises:
            StorageError: A stored vector has another length than the generation says.
        """

    @abstractmethod
    def read_all(self, generation: Generation) -> Iterator[tuple[IdArray, npt.NDArray[Any]]]:
        """Yield the searched vectors of all current entries in steps, by ascending entry id; shapes as ``read``."""

    @abstractmethod
    def read_stored(self, generation: Generation, ids: Sequence[int]) -> dict[int, bytes]:
        """Return the static vectors of entries as stored, former versions included, damaged ones left out."""

    @abstractmethod
    def sample_ids(self, generation: Generation, count: int) -> list[int]:
        """Return about ``count`` ids of current entries with a vector, spread over the store."""

    @abstractmethod
    def find_faults(self, generation: Generation, ids: Sequence[int]) -> dict[int, str]:
        """Return what is wrong with the vectors of the given entries, by entry id; sound ones are left out."""

    @abstractmethod
    def select_missing(self, generation_id: int, *, after: int, limit: int | None) -> list[StoredText]:
        """Return entries, former versions included, that have no vector in a generation, by id."""

    @abstractmethod
    def select_missing_among(self, generation_id: int, ids: Sequence[int]) -> list[StoredText]:
        """Return those of the given entries that exist and have no vector in a generation, by id."""

    @abstractmethod
    def select_texts(self, ids: Sequence[int]) -> list[StoredText]:
        """Return those of the given entries that exist, whether they have a vector or not."""

    @abstractmethod
    def store(self, generation_id: int, rows: Iterable[tuple[StoredText, bytes]]) -> None:
        """Store vectors of entries that have not changed since they were read; those of others are dropped."""

    @abstractmethod
    def copy(self, source: Generation, target: Generation, ids: Sequence[int]) -> None:
        """Copy what one generation holds of entries to another of the same embedding space.

        Evolved vectors and latents are copied if both have the same session encoder.
        """


class Sessions(ABC):
    """What session encoding reads and writes."""

    @abstractmethod
    def find_head(self, namespace: Namespace, name: str) -> Head | None:
        """Return the head of a session of exactly this namespace, or None if it has not begun."""

    @abstractmethod
    def find_only(self, scope: Namespace, name: str) -> int | None:
        """Return the id of the session of a name in exactly a namespace, else of the only one below it, else None."""

    @abstractmethod
    def move_head(self, session_id: int, seq: int) -> None:
        """Note the latest change of a session."""

    @abstractmethod
    def select_last_segments(
        self, generation: Generation, session_id: int, count: int | None, condition: Condition
    ) -> list[StoredSegment]:
        """Return the last segments of a session that satisfy a condition, oldest first; all if ``count`` is None."""

    @abstractmethod
    def select_segments_from(self, generation: Generation, session_id: int, first: int) -> Iterator[StoredSegment]:
        """Yield the current segments of a session from an entry on, in their order."""

    @abstractmethod
    def read_last_latents(
        self, generation: Generation, session_id: int, count: int, *, before: int | None = None
    ) -> list[bytes | None]:
        """Return the stored latents of the last segments of a session, oldest first; None where they are missing."""

    @abstractmethod
    def find_unchanged_until(self, session_id: int, moment: datetime) -> int | None:
        """Return the entry before which the session is as it was at a moment; None if it has changed since."""

    @abstractmethod
    def select_seen_from(self, session_id: int, first: int) -> tuple[set[str | None], set[datetime]]:
        """Return the speakers and event times of the current segments of a session from an entry on."""

    @abstractmethod
    def store(self, generation: Generation, rows: Sequence[tuple[int, bytes, bytes]]) -> None:
        """Store (entry id, evolved vector, latents)."""

    @abstractmethod
    def clear_altered(self, entry_ids: Sequence[int]) -> None:
        """Drop what session encoders made of entries, in every generation, where it is not what was written."""

    @abstractmethod
    def clear_others(self, generation: Generation, session_id: int, first: int) -> None:
        """Drop what other generations made of a session, from an entry on: it no longer holds there either."""

    @abstractmethod
    def find_unevolved(
        self, generation: Generation, latents_bytes: int, session_id: int | None = None
    ) -> dict[int, int]:
        """Return the first current entry whose evolved vector or latents are missing or of a wrong size, by session.

        Args:
            generation: The embedding space.
            latents_bytes: Right size of latents.
            session_id: Look at this session only.
        """

    @abstractmethod
    def find_sessions(self, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
        """Return (session, entry) of the given current entries that are in one."""
