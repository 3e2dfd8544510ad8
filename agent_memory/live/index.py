"""The index as a cache of the store: load a snapshot, catch up with changes, rebuild when in doubt."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from agent_memory.errors import CorruptSnapshotError, StaleGenerationError
from agent_memory.files import remove_folder
from agent_memory.live.cache import Held, SnapshotCache
from agent_memory.live.rows import RowView, find_extras, iter_rows, read_rows, replace_extras, select_extras
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Accept, Generation
from agent_memory.types import IdArray

if TYPE_CHECKING:
    from agent_memory.index import IndexOptions, IndexStats, TieredIndex

_log = logging.getLogger("agent_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held(Held):
    """An index, and which state of which generation it equals.

    Attributes:
        index: The index.
        extras: Its rows of passages, ascending; int64 of shape (n,), never written to.
        identity: The generation's.
    """

    index: TieredIndex
    extras: IdArray
    identity: str

    def view(self) -> RowView:
        """Return the index as it is now."""
        return RowView(self.index.view(), self.extras)


class LiveIndex(SnapshotCache[_Held]):
    """The index of one generation in this process, kept equal to the store.

    Args:
        folder: Where snapshots live.
        config: Settings of the memory.
        read_only: True to never write snapshots.
        read_erasures: Returns what ``Erasures.read_state`` says now.
    """

    _name = "index"

    @property
    def options(self) -> IndexOptions:
        """How the index is built."""
        from agent_memory.index import IndexOptions

        return IndexOptions(recall_target=self._config.recall_target, threads=self._config.threads)

    def view(self, tx: Transaction, accept: Accept) -> RowView | None:
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
            held = self._catch_up(tx, accept)
            if held is None:
                return None
            if held.seq - held.saved_seq >= self._config.snapshot_every:
                held = self._save(held)
            return held.view()

    def _catch_up(
        self, tx: Transaction, accept: Accept, *, trust_snapshots: bool = True, purge: bool = False
    ) -> _Held | None:
        """Return the index, brought up to date; it is held while it is whole, and dropped by whatever interrupts.

        Args:
            tx: As for ``view``.
            accept: As for ``view``.
            trust_snapshots: False to build it from the store.
            purge: True to copy what is left into RAM if something was forgotten that is in mapped files, instead of
                opening the snapshot that another process has written without it.
        """
        generation = tx.generations.live()
        if generation is None:
            return None
        accept(generation)
        self._follow(tx)
        seq = tx.changes.last_seq()
        erasures = tx.erasures.read_state()
        held, self._held = self._held, None
        erased = held is not None and held.erasures != erasures
        if held is not None and not _continues(held, generation, seq, tx):
            held = None
        if held is not None and erased and held.index.is_mapped and not purge:
            held = None  # its files may hold what was forgotten
        if held is None and trust_snapshots:
            self.discard_outdated(tx)
            held = self._load(generation, seq, erasures)
            if held is not None and not tx.changes.reach_back_to(held.seq):
                _log.info("rebuilding the index: the change log begins after its snapshot")
                held = None
        if held is None:
            held = self._rebuild(tx, generation, seq, erasures)
        if held.seq < seq:
            changed = tx.changes.ids_since(held.seq)
            former = find_extras(held.extras, changed)
            rows = read_rows(tx, generation, changed)
            held.index.remove(np.concatenate([changed, former]))
            for ids, vectors in rows:
                held.index.add(ids, vectors)
            held = replace(held, extras=replace_extras(held.extras, former, [ids for ids, _ in rows]))
        if erased:
            held.index.purge()
        self._held = held = replace(held, seq=seq, erasures=erasures)
        return held

    def _load(self, generation: Generation, newest_seq: int, erasures: tuple[int, int]) -> _Held | None:
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
        return _hold(index, generation, seq, saved_seq=seq, erasures=erasures)

    def _rebuild(self, tx: Transaction, generation: Generation, seq: int, erasures: tuple[int, int]) -> _Held:
        from agent_memory.index import TieredIndex

        index = TieredIndex(generation.dimension, generation.tiers, dtype=generation.dtype, options=self.options)
        for ids, vectors in iter_rows(tx, generation):
            index.add(ids, vectors)
        index.maintain()
        return _hold(index, generation, seq, saved_seq=0, erasures=erasures)

    def faults(self, tx: Transaction, accept: Accept) -> list[str]:
        """Return what is wrong with the index in memory and with the snapshots on disk, one sentence each."""
        from agent_memory.index import TieredIndex, snapshots

        with self._lock:
            held = self._catch_up(tx, accept)
            generation = tx.generations.live()
            if held is None or generation is None:
                return []
            index = held.index
            found = []
            none = np.empty(0, np.int64)
            pages = [ids for ids, _ in iter_rows(tx, generation)]
            expected = np.sort(np.concatenate([none, *pages]))
            if not np.array_equal(np.sort(index.ids()), expected):
                found.append(f"index: it holds {len(index)} entries and passages, the store {len(expected)}, or others")
            try:
                if not self._linked and snapshots(self.folder):
                    loaded, _ = TieredIndex.load(self.folder, generation=generation.identity, options=self.options)
                    loaded.verify()
            except CorruptSnapshotError as error:
                found.append(f"index snapshot: {error}")
            except StaleGenerationError:
                pass  # left over from another generation; the next save replaces it
            return found

    def start_over(self, tx: Transaction, accept: Accept) -> RowView | None:
        """Delete the snapshots, build the index from the store, and write it; returns its view."""
        with self._lock:
            self._held = None
            if not self._read_only:
                remove_folder(self.folder)
            held = self._catch_up(tx, accept, trust_snapshots=False)
            return None if held is None else self._save(held).view()

    def erase(self, tx: Transaction, accept: Accept, *, wait_s: float) -> list[str]:
        """Write the index again without what was forgotten, and delete all other snapshots.

        An index that this process does not have in memory is left to the next recall, here or elsewhere.

        Args:
            tx: A read transaction that has not read anything yet.
            accept: As for ``view``.
            wait_s: Seconds to wait for other processes that are writing a snapshot.

        Returns:
            Names of the snapshots deleted.

        Raises:
            IndexStateError: A snapshot could not be deleted.
        """
        return self._erase(lambda: self._catch_up(tx, accept, trust_snapshots=False, purge=True), wait_s=wait_s)

    @override
    def _purge(self, held: _Held) -> None:
        held.index.purge()

    @override
    def _tidy(self, held: _Held) -> None:
        held.index.maintain()

    def stats(self) -> IndexStats | None:
        """Return facts about the index in memory, or None before the first recall."""
        held = self._held
        return None if held is None else held.index.stats()

    def improve(self, tx: Transaction, accept: Accept) -> None:
        """Do what ``IndexStats.maintenance_due`` asks for."""
        self.start_over(tx, accept)

    @override
    def _write(self, held: _Held) -> Path | None:
        return self._keep(lambda: held.index.save(self.folder, generation=held.identity, seq=held.seq), held.erasures)

    def keep(self, index: TieredIndex, generation: Generation, seq: int, erasures: tuple[int, int]) -> Path | None:
        """Write a snapshot of an index; returns its folder, or None if something was forgotten that may be in it.

        Args:
            index: The index.
            generation: Its generation.
            seq: The last change in it.
            erasures: The erasures that it has seen; see ``Erasures.read_state``.

        Raises:
            IndexStateError: It cannot be written.
        """
        identity = generation.identity
        return self._keep(lambda: index.save(self.folder, generation=identity, seq=seq), erasures)


def _hold(index: TieredIndex, generation: Generation, seq: int, *, saved_seq: int, erasures: tuple[int, int]) -> _Held:
    return _Held(
        index=index,
        extras=select_extras(index.ids()),
        identity=generation.identity,
        seq=seq,
        saved_seq=saved_seq,
        erasures=erasures,
    )


def _continues(held: _Held, generation: Generation, seq: int, tx: Transaction) -> bool:
    """Return whether an index can be brought to a state of the store by what has changed since.

    A lower seq means that an older copy of the database was put in place.
    """
    return held.identity == generation.identity and held.seq <= seq and tx.changes.reach_back_to(held.seq)
