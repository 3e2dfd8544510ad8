"""What the caches of a store have in common that keep snapshots in a folder: vectors and words."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from agent_memory.config import Config
from agent_memory.errors import AgentMemoryError, IndexStateError, StorageError
from agent_memory.files import failpoint, remove_folder, reset_in_child, wait_for_scratch
from agent_memory.storage.base import Transaction

_log = logging.getLogger("agent_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Which state of the store a cache in memory equals.

    Attributes:
        seq: The last change in it.
        saved_seq: The last change in the newest snapshot.
        erasures: The erasures that it has seen; see ``Erasures.read_state``.
    """

    seq: int
    saved_seq: int
    erasures: tuple[int, int]


_H = TypeVar("_H", bound=Held)


class SnapshotCache(ABC, Generic[_H]):
    """A cache of a store in this process, and the snapshots of it.

    Args:
        folder: Where snapshots live.
        config: Settings of the memory.
        read_only: True to never write snapshots.
        read_erasures: Returns what ``Erasures.read_state`` says now.

    Attributes:
        folder: Where snapshots live.
    """

    _held: _H | None
    _name: ClassVar[str]
    """What it is called in messages."""
    _levels = 1
    """How many folders of the path, from the end, belong to the store."""

    def __init__(
        self, folder: Path, config: Config, *, read_only: bool, read_erasures: Callable[[], tuple[int, int]]
    ) -> None:
        self.folder, self._config, self._read_erasures = folder, config, read_erasures
        # A store from a stranger may have a link here: nothing is read or written elsewhere.
        self._linked = any(place.is_symlink() for place in [folder, *folder.parents][: self._levels])
        if self._linked:
            _log.warning("%s is a link: snapshots are neither read nor written", folder)
        self._read_only = read_only or self._linked
        self._start()
        reset_in_child(self, SnapshotCache._start)

    def _start(self) -> None:
        # Of a process that is forked, another thread may hold the lock, and be in the midst of an update.
        self._lock = threading.Lock()
        self._drop()

    def _drop(self) -> None:
        """Forget what is in memory."""
        self._held, self._history = None, 0

    def _follow(self, tx: Transaction) -> None:
        """Forget what is in memory of a history that was lost."""
        if tx.history != self._history:
            self._drop()
            self._history = tx.history

    def release(self) -> None:
        """Let go of what is in memory, and of the files that it is mapped from; nothing is asked any more."""
        with self._lock:
            self._drop()

    @abstractmethod
    def _write(self, held: _H) -> Path | None:
        """Write a snapshot; returns its folder, or None if something was forgotten meanwhile that may be in it."""

    @abstractmethod
    def _purge(self, held: _H) -> None:
        """Take out of memory what was forgotten."""

    def _tidy(self, held: _H) -> None:
        """Prepare what is in memory for a snapshot."""

    def save(self) -> None:
        """Write a snapshot if the cache has moved since the last one; does nothing in a read-only folder."""
        with self._lock:
            if self._held is not None and self._held.seq != self._held.saved_seq:
                self._save(self._held)

    def _save(self, held: _H) -> _H:
        self._held = None  # until it is whole again
        saved = replace(held, saved_seq=held.seq)
        if not self._read_only:
            try:
                self._tidy(held)
                self._write(held)
            except (IndexStateError, StorageError) as error:
                # No call needs it: the next process to open the store rebuilds or replays. A store that was moved or
                # damaged says so to whoever reads or writes.
                _log.warning("no snapshot of the %s was written: %s", self._name, error)
        self._held = saved
        return saved

    def _erase(self, catch_up: Callable[[], _H | None], *, wait_s: float) -> list[str]:
        """Write what is in memory again without what was forgotten, and delete all other snapshots.

        Args:
            catch_up: Brings what is in memory up to date, without what was forgotten, and returns it.
            wait_s: Seconds to wait for other processes that are writing a snapshot.

        Returns:
            Names of the snapshots deleted.

        Raises:
            IndexStateError: A snapshot could not be deleted.
        """
        if self._linked and self.folder.exists():
            raise IndexStateError(f"{self.folder} is a link, or in one: what lies there is not touched")
        if self._read_only or not self.folder.is_dir():
            return []
        from agent_memory.index import discard_all

        with self._lock:
            kept, before = None, [path for _, path in self.snapshots()]
            if self._held is not None and before:
                try:
                    held = catch_up()
                    if held is not None:
                        self._purge(held)
                        kept = self._write(held)
                        self._held = replace(held, saved_seq=held.seq)
                except AgentMemoryError as error:
                    self._held = None
                    _log.warning("no snapshot of the %s was written: %s", self._name, error)
            discard_all(self.folder, keep=kept, wait_s=wait_s)
            return [path.name for path in before if path != kept]

    def snapshots(self) -> list[tuple[int, Path]]:
        """Return (seq, path) of the snapshots on disk, newest first."""
        from agent_memory.index import snapshots

        return snapshots(self.folder)

    def discard_newer(self, tx: Transaction, found: Sequence[tuple[int, Path]]) -> None:
        """Delete snapshots that are ahead of the store: an older copy of the database was put in place.

        Left alone, they would look right again as soon as the store had seen as many changes.

        Args:
            tx: A transaction.
            found: The snapshots that were there before it began: later ones may know more than it sees.
        """
        if self._read_only:
            return
        newest = tx.changes.last_seq()
        for seq, path in found:
            if seq > newest:
                _log.warning("deleting %s: it is ahead of the store (%d > %d)", path, seq, newest)
                remove_folder(path)

    def discard_outdated(self, tx: Transaction) -> None:
        """Delete snapshots from before something was forgotten, and unfinished ones: a killed process has left them."""
        if self._read_only or not self.folder.is_dir():
            return
        wait_for_scratch(self.folder, ".tmp-", 0.0)
        floor = tx.erasures.read_floor()
        for seq, path in self.snapshots() if floor else ():
            if seq < floor:
                remove_folder(path)

    def _keep(self, write: Callable[[], Path], erasures: tuple[int, int]) -> Path | None:
        """Write a snapshot; returns its folder, or None if something was forgotten that may be in it.

        Args:
            write: Writes it.
            erasures: The erasures that it has seen; see ``Erasures.read_state``.
        """
        if self._read_only or self._read_erasures() != erasures:
            return None
        path = write()
        failpoint("snapshot-before-look")
        if self._read_erasures() == erasures:
            return path
        # Whoever forgot has deleted the snapshots that were there before this one got its name.
        remove_folder(path)
        return None
