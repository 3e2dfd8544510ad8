"""The words tier as a cache of the store: load a snapshot, catch up with changes, rebuild when in doubt.

Small stores do without: there, the full-text index is as fast. It also answers whatever the tier cannot: quoted
phrases, and calls for which the tier would have to be built first although they have no time for that, or nowhere to
keep it. The results are the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from typing_extensions import override

from agent_memory.config import Config
from agent_memory.errors import CorruptSnapshotError, StaleGenerationError
from agent_memory.files import remove_folder
from agent_memory.live.cache import Held, SnapshotCache
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import EntryTerms

if TYPE_CHECKING:
    from agent_memory.index.words import Page, WordsTier, WordsView

_log = logging.getLogger("agent_memory")

SMALLEST = 4_000
"""Rows from which on a store has a words tier."""
_PAGE_ROWS = 8_192
_AT_ONCE = 2_000
"""Changes that a call without time still takes in."""
_PATIENCE = 64
"""Searches that are left to FTS5 before the tier is built where it cannot be kept."""
PATIENCE_SERVED = 8
"""The same of PostgreSQL, whose searches by words take several times as long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held(Held):
    """A tier, and which state of the store it equals.

    Attributes:
        tier: The tier.
        rules: What made its terms of texts, in which store.
    """

    tier: WordsTier
    rules: str


class LiveWords(SnapshotCache[_Held]):
    """The words of a store's entries in this process, kept equal to the store.

    Args:
        folder: Where snapshots live.
        config: Settings of the memory.
        read_only: True to never write snapshots.
        read_erasures: Returns what ``Erasures.read_state`` says now.
        read_seq: Returns the last change in the store now.
        patience: Searches that are left to the full-text index before a tier is built that cannot be kept;
            as many as suit FTS5 if left out.
    """

    _levels = 2
    _name = "words"

    def __init__(
        self,
        folder: Path,
        config: Config,
        *,
        read_only: bool,
        read_erasures: Callable[[], tuple[int, int]],
        read_seq: Callable[[], int],
        patience: int | None = None,
    ) -> None:
        self._read_seq, self._patience = read_seq, _PATIENCE if patience is None else patience
        super().__init__(folder, config, read_only=read_only, read_erasures=read_erasures)

    @override
    def _drop(self) -> None:
        super()._drop()
        self._passed = 0

    def view(self, tx: Transaction, *, in_haste: bool = False) -> WordsView | None:
        """Return a fixed view of the tier that equals the store as ``tx``'s transaction sees it.

        Args:
            tx: A read transaction.
            in_haste: True if the call has no time to build the tier, or to take in more than a few changes.

        Returns:
            The view, or None if the full-text index is to be asked.
        """
        with self._lock:
            seq = tx.changes.last_seq()
            if seq < SMALLEST and self._held is None:
                return None  # every entry was a change
            held = self._catch_up(tx, seq, in_haste=in_haste)
            if held is None:
                return None
            if held.seq - held.saved_seq >= self._config.snapshot_every:
                held = self._save(held)
            return held.tier.view() if len(held.tier) >= SMALLEST else None

    def _catch_up(self, tx: Transaction, seq: int, *, in_haste: bool = False, purge: bool = False) -> _Held | None:
        """Return the tier, brought up to date; it is held while it is whole, and dropped by whatever interrupts.

        Args:
            tx: As for ``view``.
            seq: The last change that the transaction sees.
            in_haste: As for ``view``.
            purge: True to keep what is held although something was forgotten that is in its files.
        """
        self._follow(tx)
        erasures = tx.erasures.read_state()
        if self._held is not None and (self._held.seq, self._held.erasures) == (seq, erasures):
            return self._held
        held, self._held = self._held, None
        if held is not None and held.seq > seq and held.seq <= self._read_seq():
            self._held = held  # another thread has brought it past this transaction
            return None
        erased = held is not None and held.erasures != erasures
        if held is not None and not self._continues(held, seq, tx, purge=purge or not erased):
            held = None
        if held is None:
            held = self._open(tx, seq, erasures, in_haste=in_haste)
        if held is None or (in_haste and not erased and seq - held.seq > _AT_ONCE):
            self._held = held
            return None
        if held.seq < seq:
            _take_in(held.tier, tx, held.seq)
        if erased:
            held.tier.purge()
        self._held = held = replace(held, seq=seq, erasures=erasures)
        return held

    def _continues(self, held: _Held, seq: int, tx: Transaction, *, purge: bool) -> bool:
        """Return whether what is held can be brought to a state of the store by what has changed since."""
        return held.seq <= seq and tx.changes.reach_back_to(held.seq) and (purge or not held.tier.is_mapped)

    def _open(self, tx: Transaction, seq: int, erasures: tuple[int, int], *, in_haste: bool) -> _Held | None:
        self.discard_outdated(tx)
        held = self._load(tx, seq, erasures)
        if held is not None and tx.changes.reach_back_to(held.seq):
            return held
        if in_haste or (self._read_only and self._passed < self._patience):
            self._passed += 1
            return None
        return self._build(tx, seq, erasures)

    def _load(self, tx: Transaction, newest_seq: int, erasures: tuple[int, int]) -> _Held | None:
        from agent_memory.index.words import WordsTier, load_words

        if self._linked or not self.snapshots():
            return None
        rules = _name_rules(tx)
        try:
            pieces, seq = load_words(self.folder, rules=rules)
        except StaleGenerationError as error:
            _log.info("rebuilding the words tier: %s", error)
            return None
        except CorruptSnapshotError as error:
            _log.warning("rebuilding the words tier from the store: %s", error)
            return None
        if seq > newest_seq:
            _log.warning("rebuilding the words tier: its snapshot is ahead of the store (%d > %d)", seq, newest_seq)
            return None
        return _Held(tier=WordsTier(pieces), rules=rules, seq=seq, saved_seq=seq, erasures=erasures)

    def _build(self, tx: Transaction, seq: int, erasures: tuple[int, int]) -> _Held:
        from agent_memory.index.words import WordsTier

        tier = WordsTier()
        for terms in tx.lexical.read_all_terms():
            tier.add(_to_page(terms))
        tier.compact()
        self._passed = 0
        return _Held(tier=tier, rules=_name_rules(tx), seq=seq, saved_seq=0, erasures=erasures)

    def faults(self, tx: Transaction) -> list[str]:
        """Return what is wrong with the tier in memory and with the snapshots on disk, one sentence each."""
        from agent_memory.index.words import load_words

        with self._lock:
            seq = tx.changes.last_seq()
            found = []
            held = None if self._held is None and not self.snapshots() else self._catch_up(tx, seq)
            if held is not None:
                none = np.empty(0, np.int64)
                pages = list(tx.lexical.read_all_terms())
                ids = np.concatenate([none, *(page.ids for page in pages)])
                lengths = np.concatenate([none, *(page.lengths for page in pages)])
                if not held.tier.holds(ids, lengths):
                    found.append(f"words tier: it holds {len(held.tier)} entries, the store {len(ids)}, or others")
            try:
                if not self._linked and self.snapshots():
                    load_words(self.folder, rules=_name_rules(tx))
            except CorruptSnapshotError as error:
                found.append(f"words snapshot: {error}")
            except StaleGenerationError:
                pass  # of other rules; the next save replaces it
            return found

    def start_over(self) -> None:
        """Delete the snapshots, and drop what is in memory: the next search builds the tier from the store."""
        with self._lock:
            self._drop()
            if not self._read_only:
                remove_folder(self.folder)

    def erase(self, tx: Transaction, *, wait_s: float) -> list[str]:
        """Write the tier again without what was forgotten, and delete all other snapshots.

        Args:
            tx: A read transaction.
            wait_s: Seconds to wait for other processes that are writing a snapshot.

        Returns:
            Names of the snapshots deleted.

        Raises:
            IndexStateError: A snapshot could not be deleted.
        """
        return self._erase(lambda: self._catch_up(tx, tx.changes.last_seq(), purge=True), wait_s=wait_s)

    @override
    def _purge(self, held: _Held) -> None:
        held.tier.purge()

    @override
    def _write(self, held: _Held) -> Path | None:
        return self._keep(lambda: held.tier.save(self.folder, rules=held.rules, seq=held.seq), held.erasures)


def _take_in(tier: WordsTier, tx: Transaction, seq: int) -> None:
    """Bring a tier to the state of a transaction from that of a change."""
    changed = tx.changes.ids_since(seq)
    tier.remove(changed)
    for at in range(0, len(changed), _PAGE_ROWS):
        tier.add(_to_page(tx.lexical.read_terms(changed[at : at + _PAGE_ROWS])))


def _name_rules(tx: Transaction) -> str:
    return f"{tx.read_store_id()}: {tx.lexical.rules}"


def _to_page(terms: EntryTerms) -> Page:
    from agent_memory.index.words import Page

    return Page(terms.ids, terms.lengths, terms.numbers, terms.vocabulary)
