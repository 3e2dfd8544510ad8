"""The storage contract, erasures: receipts of what was forgotten, and the copies of a store that are known."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredErasure:
    """A receipt as it is stored; it says nothing of the content.

    Attributes:
        token: Its name, 32 hexadecimal digits.
        store_id: The store whose rows the ids are of.
        made_at: When the rows were deleted.
        selection: How they were selected: ``key``, ``session``, ``where``, ``everything``, ``expired``, ``retention``.
        digest: SHA-256 of the scope and the selection, in hexadecimal digits.
        ids: The rows, ascending.
        facts: Numbers: keys, rows, vectors, latents, replayed, queries, jobs; seq, that of the last change made by it.
        deferred: Whether what is left of them in files may wait for maintenance.
        finished_at: When no file of the store held anything of them any more; None if that is still to come.
    """

    token: str
    store_id: str
    made_at: datetime
    selection: str
    digest: str
    ids: tuple[int, ...]
    facts: Mapping[str, int]
    deferred: bool
    finished_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCopy:
    """A copy of the store, made by this store itself.

    Attributes:
        path: The file.
        kind: ``backup``, ``export``, or ``copy`` for a store in another place.
        made_at: When it was made.
        last_id: The largest row number used by then: rows up to it may be in the copy.
    """

    path: str
    kind: str
    made_at: datetime
    last_id: int

    @property
    def exists(self) -> bool:
        """Whether it is there still; of a store on a server, True, since that is not asked."""
        if self.kind != "copy":
            return Path(self.path).is_file()
        return "://" in self.path or (Path(self.path) / "memory.db").is_file()


class Erasures(ABC):
    """Receipts, and copies that they do not reach."""

    @abstractmethod
    def add(self, erasure: StoredErasure) -> None:
        """Record an erasure, in the transaction that deletes its rows."""

    @abstractmethod
    def finish(self, tokens: Sequence[str], now: datetime) -> None:
        """Record that no file of the store holds anything of these any more."""

    @abstractmethod
    def list_unfinished(self, *, deferred: bool = True) -> list[str]:
        """Return the tokens of erasures whose files are still to be cleaned, with or without deferred ones."""

    @abstractmethod
    def read_floor(self) -> int:
        """Return the number of the last change that an erasure made which is finished or not deferred; 0 if none did.

        An index that has not seen that change may hold what was forgotten, and nobody is left to clean it.
        """

    @abstractmethod
    def find_left(self, ids: Sequence[int]) -> list[str]:
        """Return what tables still hold of deleted rows, one sentence each."""

    @abstractmethod
    def list_all(self) -> list[StoredErasure]:
        """Return the receipts, oldest first."""

    @abstractmethod
    def read_state(self) -> tuple[int, int]:
        """Return (number of the latest erasure, number of unfinished ones): it changes with each step of each."""

    @abstractmethod
    def note_copy(self, path: str, kind: str, now: datetime, *, last_id: int | None = None) -> None:
        """Record that a copy was made; an older record of the same path is replaced.

        Args:
            path: The file.
            kind: As of ``StoredCopy``.
            now: When it was made.
            last_id: As of ``StoredCopy``; the largest row number used until now if left out.
        """

    @abstractmethod
    def drop_copies(self, paths: Sequence[str]) -> None:
        """Delete the records of copies that are gone."""

    @abstractmethod
    def list_copies(self) -> list[StoredCopy]:
        """Return the copies, oldest first."""
