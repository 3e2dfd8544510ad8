"""The index as a cache of the store: load a snapshot, catch up with changes, rebuild when in doubt."""

from __future__ import annotations

import logging
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.config import Config
from agent_memory.errors import CorruptSnapshotError, IndexStateError, StaleGenerationError
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Accept, Generation

if TYPE_CHECKING:
    from agent_memory.index import IndexOptions, IndexStats, IndexView, TieredIndex

_log = logging.getLogger("agent_memory")


class LiveIndex:
    """The index of one generation in this process, kept equal to the store.

    Args:
        folder: Where snapshots live.
        config: Settings of the memory.
        read_only: True to never write snapshots.
    """

    def __init__(self, folder: Path, config: Config, *, read_only: bool) -> None:
        self.folder = folder
        self._config = config
        # A store from a stranger may have a link here: nothing is read or written elsewhere.
        self._linked = folder.is_symlink()
        if self._linked:
            _log.warning("%s is a link: index snapshots are neither read nor written", folder)
        self._read_only = read_only or self._linked
        self._lock = threading.Lock()
        self._index: TieredIndex | None = None
        self._identity: str | None = None
        self._seq = 0
        self._saved_seq = 0

    @property
    def options(self) -> IndexOptions:
        """How the index is built."""
        from agent_memory.index import IndexOptions

        return IndexOptions(recall_target=self._config.recall_target, threads=self._config.threads)

    def view(self, tx: Transaction, accept: Accept) -> IndexView | None:
        """Return a fixed view of the index that equals the store as ``tx``'s transaction sees it.

        The transaction must not have read anything yet: its first statement is made under this index's lock,
        so that no other thread can bring the index past it.

        Args:
            tx: A read transaction.
            accept: Raises if the caller cannot work with the generation found.

        Returns:
            The view, or None if nothing was ever stored.
        """
        with self._lock:
            index = self._caught_up(tx, accept)
            if index is None:
                return None
            if self._seq - self._saved_seq >= self._config.snapshot_every:
                self._save(index)
            return index.view()

    def _caught_up(self, tx: Transaction, accept: Accept, *, trust_snapshots: bool = True) -> TieredIndex | None:
        generation = tx.generations.live()
        if generation is None:
            return None
        accept(generation)
        seq = tx.changes.last_seq()
        index = self._index
        stale = seq < self._seq or not tx.changes.reach_back_to(self._seq)
        if index is None or self._identity != generation.identity or stale:
            # A lower seq means that an older copy of the database was put in place.
            self._index = None
            loaded = self._load(generation, seq) if trust_snapshots else None
            if loaded is not None and not tx.changes.reach_back_to(self._seq):
                _log.info("rebuilding the index: the change log begins after its snapshot")
                loaded = None
            index = loaded or self._rebuild(tx, generation, seq)
        if self._seq < seq:
            changed = tx.changes.ids_since(self._seq)
            ids, vectors = tx.vectors.read(generation, changed)
            index.remove(changed)
            index.add(ids, vectors)
            self._seq = seq
        self._index, self._identity = index, generation.identity
        return index

    def _load(self, generation: Generation, newest_seq: int) -> TieredIndex | None:
        from agent_memory.index import TieredIndex, snapshots

        if self._linked or not snapshots(self.folder):
            return None
        try:
            index, seq = TieredIndex.load(self.folder, generation=generation.identity, options=self.options)
        except StaleGenerationError as error:
            _log.info("rebuilding the index: %s", error)
            return None
        except CorruptSnapshotError as error:
            _log.warning("rebuilding the index from the store: %s", error)
            return None
        if seq > newest_seq:
            _log.warning("rebuilding the index: its snapshot is ahead of the store (%d > %d)", seq, newest_seq)
            return None
        self._seq = self._saved_seq = seq
        return index

    def _rebuild(self, tx: Transaction, generation: Generation, seq: int) -> TieredIndex:
        from agent_memory.index import TieredIndex

        index = TieredIndex(generation.dimension, generation.tiers, dtype=generation.dtype, options=self.options)
        for ids, vectors in tx.vectors.read_all(generation):
            index.add(ids, vectors)
        index.maintain()
        self._seq, self._saved_seq = seq, 0
        return index

    def faults(self, tx: Transaction, accept: Accept) -> list[str]:
        """Return what is wrong with the index in memory and with the snapshots on disk, one sentence each."""
        from agent_memory.index import TieredIndex, snapshots

        with self._lock:
            index = self._caught_up(tx, accept)
            generation = tx.generations.live()
            if index is None or generation is None:
                return []
            found = []
            none = np.empty(0, np.int64)
            pages = [ids for ids, _ in tx.vectors.read_all(generation)]
            expected = np.concatenate([none, *pages])
            if not np.array_equal(np.sort(index.ids()), expected):
                found.append(f"index: it holds {len(index)} entries, the store {len(expected)}, or others")
            try:
                if not self._linked and snapshots(self.folder):
                    loaded, _ = TieredIndex.load(self.folder, generation=generation.identity, options=self.options)
                    loaded.verify()
            except CorruptSnapshotError as error:
                found.append(f"index snapshot: {error}")
            except StaleGenerationError:
                pass  # left over from another generation; the next save replaces it
            return found

    def start_over(self, tx: Transaction, accept: Accept) -> IndexView | None:
        """Delete the snapshots, build the index from the store, and write it; returns its view."""
        with self._lock:
            self._index = None
            if not self._read_only:
                shutil.rmtree(self.folder, ignore_errors=True)
            index = self._caught_up(tx, accept, trust_snapshots=False)
            if index is None:
                return None
            self._save(index)
            return index.view()

    def discard_newer(self, tx: Transaction) -> None:
        """Delete snapshots that are ahead of the store: an older copy of the database was put in place.

        Left alone, they would look right again as soon as the store had seen as many changes.
        """
        if self._read_only or not self.folder.exists():
            return
        from agent_memory.index import snapshots

        newest = tx.changes.last_seq()
        for seq, path in snapshots(self.folder):
            if seq > newest:
                _log.warning("deleting %s: it is ahead of the store (%d > %d)", path, seq, newest)
                shutil.rmtree(path, ignore_errors=True)

    def snapshots(self) -> list[tuple[int, Path]]:
        """Return (seq, path) of the snapshots on disk."""
        from agent_memory.index import snapshots

        return snapshots(self.folder)

    def stats(self) -> IndexStats | None:
        """Return facts about the index in memory, or None before the first recall."""
        return None if self._index is None else self._index.stats()

    def save(self) -> None:
        """Write a snapshot if the index has moved since the last one; does nothing in a read-only folder."""
        with self._lock:
            if self._index is not None and self._seq != self._saved_seq:
                self._save(self._index)

    def _save(self, index: TieredIndex) -> None:
        self._saved_seq = self._seq
        if self._read_only or self._identity is None:
            return
        try:
            index.maintain()
            index.save(self.folder, generation=self._identity, seq=self._seq)
        except IndexStateError as error:
            # The store is whole without it: the next process to open it rebuilds or replays.
            _log.warning("no index snapshot was written: %s", error)
