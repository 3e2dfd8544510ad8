"""Columns of the store's entries in this process, so that filters need not read the metadata of all entries each time.

They follow the change log, as the indexes do, and are never written to a file. The first filter of a process is left to
the database, because reading the columns takes about as long; so are filters that columns cannot answer. The results
are the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from agent_memory.errors import StorageError
from agent_memory.files import reset_in_child
from agent_memory.storage.base import Transaction
from agent_memory.storage.columns import Columns, can_answer, list_paths
from agent_memory.storage.filters import Path
from agent_memory.storage.numbered import Field
from agent_memory.storage.records import Condition
from agent_memory.types import IdArray

_log = logging.getLogger("agent_memory")

SMALLEST = 1_000
"""Changes from which on a store has columns."""
PATIENCE = 1
"""Filters that are left to the database before the columns are read."""
_AFTER_DAMAGE = 100
"""Filters that are left to it beside those after the columns could not be read."""
_AT_ONCE = 10_000
"""Changes that are taken in one by one; for more, the columns are read again."""
_MOST_PATHS = 16
_MOST_BYTES = 64 << 20
"""What one member may take; a larger one is left to the database."""


@dataclass(frozen=True, slots=True)
class _Held:
    """Columns, and which state of the store they equal.

    Attributes:
        columns: The columns.
        seq: The last change in them.
        erasures: The erasures that they have seen; see ``Erasures.read_state``.
    """

    columns: Columns
    seq: int
    erasures: tuple[int, int]


class LiveColumns:
    """The columns of a store's entries in this process, kept equal to the store.

    Args:
        read_seq: Returns the last change in the store now.
    """

    def __init__(self, read_seq: Callable[[], int]) -> None:
        self._read_seq = read_seq
        self._start()
        reset_in_child(self, LiveColumns._start)

    def _start(self) -> None:
        # Of a process that is forked, another thread may hold the lock, and be in the midst of an update.
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._passed = self._history = 0
        self._refused: set[Path] = set()

    def select(self, tx: Transaction, condition: Condition, *, in_haste: bool = False) -> IdArray | None:
        """Return the entries that satisfy a condition, int64 (n,), ascending; None if the database is to be asked.

        Args:
            tx: A read transaction.
            condition: The condition.
            in_haste: True if the call has no time to read columns.
        """
        if not (tx.entries.has_columns and can_answer(condition)):
            return None
        paths = list_paths(condition.where) or set()
        if len(paths) > _MOST_PATHS:
            return None
        with self._lock:
            if not self._refused.isdisjoint(paths):
                return None
            try:
                held = self._catch_up(tx, in_haste=in_haste)
                if held is None or (in_haste and not paths.issubset(held.columns.paths)):
                    return None
                self._held = None  # until it is whole again
                self._add_members(tx, held.columns, paths)
                found = held.columns.select(condition, _list_expired(tx, condition))
            except (StorageError, ValueError, RecursionError) as error:
                # A row is not what this library writes: the database says so, if it is one that matters.
                _log.info("a filter is left to the database: %s", error)
                self._held, self._passed = None, -_AFTER_DAMAGE
                return None
            self._held = held
            self._drop_large(held.columns, paths)
            return found

    def erase(self, tx: Transaction) -> None:
        """Keep nothing of what was forgotten."""
        with self._lock:
            try:
                if self._held is not None:
                    self._catch_up(tx)
            except (StorageError, ValueError, RecursionError):
                self._held = None

    def _catch_up(self, tx: Transaction, *, in_haste: bool = False) -> _Held | None:
        """Return the columns, brought up to date; they are held while they are whole."""
        if tx.history != self._history:
            self._held, self._history = None, tx.history
        seq, erasures = tx.changes.last_seq(), tx.erasures.read_state()
        held = self._held
        if held is not None and (held.seq, held.erasures) == (seq, erasures):
            return held
        if held is not None and held.seq > seq and held.seq <= self._read_seq():
            return None  # another thread has brought them past this transaction
        self._held = None
        if held is not None and held.seq <= seq and tx.changes.reach_back_to(held.seq) and _take_in(held, tx, seq):
            if held.erasures != erasures:
                held.columns.purge()
            self._held = replace(held, seq=seq, erasures=erasures)
            return self._held
        if seq < SMALLEST or in_haste:
            return None
        if self._passed < PATIENCE:
            self._passed += 1
            return None
        columns = Columns()
        for facts in tx.entries.read_facts():
            columns.put(facts, {})
        self._refused = set()
        self._held = _Held(columns, seq, erasures)
        return self._held

    def _add_members(self, tx: Transaction, columns: Columns, paths: set[Path]) -> None:
        for path in paths:
            if path not in columns.paths:
                columns.add_member(path, tx.entries.read_members(path))

    def _drop_large(self, columns: Columns, asked: set[Path]) -> None:
        for path in asked.intersection(columns.paths):
            if columns.measure(path) > _MOST_BYTES:
                columns.drop(path)
                self._refused.add(path)
        for path in columns.paths[: max(0, len(columns.paths) - _MOST_PATHS)]:
            columns.drop(path)


def _take_in(held: _Held, tx: Transaction, seq: int) -> bool:
    """Bring columns to the state of a transaction; returns False if they had better be read again."""
    columns = held.columns
    changed = tx.changes.ids_since(held.seq) if held.seq < seq else None
    if changed is None or not len(changed):
        return True
    if len(changed) > max(_AT_ONCE, len(columns) // 2):
        return False
    columns.remove(changed)
    for facts in tx.entries.read_facts(changed):
        members = {path: _read_fields(tx, path, facts.ids) for path in columns.paths}
        if not columns.put(facts, members):
            return False
    return True


def _list_expired(tx: Transaction, condition: Condition) -> IdArray:
    if condition.state != "current" or condition.moment is None:
        return np.empty(0, np.int64)
    return np.array(tx.entries.select_expired_ids(condition.moment), np.int64)


def _read_fields(tx: Transaction, path: Path, ids: IdArray) -> list[Field]:
    return [field for _, fields in tx.entries.read_members(path, ids) for field in fields]
