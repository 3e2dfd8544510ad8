"""Copies a store into another database, in steps: a process may be killed after any, and any other go on.

Until the copy is complete and verified, the target is marked: no version of this package opens it as a store. Each
step leaves rows of the source in it and nothing else. So a copy that goes on needs no notes of how far the last one
got, and the source may change in between: what is no row of the source is deleted, and what is missing written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.files import failpoint
from agent_memory.storage import rows
from agent_memory.storage.connected import ConnectedDatabase
from agent_memory.storage.sqlite import lexical
from agent_memory.storage.sqlite.rewriting import note_state, rewrite_words
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.types import Progress

TABLES = {**rows.TABLES, "queries": rows.PLANS["queries"]}
"""What is copied. Schedules, jobs, leases and known copies are what a store does where it is: they stay behind."""

_VERIFIED = {**TABLES, "entries": (*TABLES["entries"], "superseded_by")}
_UPDATED = "sessions"  # entries refer to its rows: these are changed where they are
_ORIGIN, _DELETED, _DONE = "copying", "copying_deleted", "copied_from"

Row = Sequence[Any]


@dataclass(frozen=True, slots=True)
class Cloned:
    """What ``clone`` did, or would do.

    Attributes:
        counts: Number of rows by table.
        found: Number of rows that were in the target before.
        damaged: Number of rows whose checksums told that they were damaged in the source; they are so in the copy.
        digest: SHA-256 of all rows, in hexadecimal digits; that of the target is the same. Empty after a dry run.
    """

    counts: Mapping[str, int]
    found: int
    damaged: int
    digest: str


def clone(
    source: ConnectedDatabase,
    target: ConnectedDatabase,
    progress: Progress | None = None,
    *,
    exists: bool = True,
    dry_run: bool = False,
) -> Cloned:
    """Copy a store into a database that holds none, or the copy of that store that was begun earlier.

    The copy gets an id of its own. Nobody else may have the target open.

    Args:
        source: A prepared store. Others may be writing to it: one state of it is copied.
        target: Where to.
        progress: Called with (rows copied and verified, twice the number of rows).
        exists: Whether the target can be looked into: whether there is a file.
        dry_run: Look at both and write nothing.

    Raises:
        InvalidInputError: The target holds another store, or cannot hold some row of this one; nothing was written.
        StorageError: One of them cannot be read or written, or the copy is not the same. It can be called again.
    """
    with source.read_whole() as link:
        counts = rows.count_rows(link, list(TABLES))
        found, finished = _look(target, link) if exists else (0, "")
        target.check_storable(link)
        if dry_run or finished:
            return Cloned(counts, found, 0, finished)
        copy = _Clone(link, target, counts, progress)
        digest = copy.carry(found)
    # What reads a database keeps its former rows from being erased, in every schema of a server's.
    return Cloned(counts, found, copy.finish(), digest)


def _look(target: ConnectedDatabase, source: Link) -> tuple[int, str]:
    """Return how many rows are in the target, and their digest if they are all there is to copy.

    Raises:
        InvalidInputError: It is not to be written to.
    """
    origin, name = read_note(source, "store_id"), target.name
    if (revision := target.find_revision()) is None:
        return 0, ""
    with target.connections.read() as link:
        begun = revision.startswith(rows.MARK)
        mine = read_note(link, _ORIGIN if begun else _DONE) == origin
        found = sum(rows.count_rows(link, list(TABLES)).values())
        if begun and not mine:
            raise InvalidInputError(f"{name} is the unfinished copy of another store; copy elsewhere, or delete it")
        if begun or not (found or mine):
            return found, ""
        if not mine:
            raise InvalidInputError(f"{name} holds a store already; copy to where there is none")
        if (digest := digest_rows(link)) != digest_rows(source):
            raise InvalidInputError(f"{name} is a copy of this store that was finished, and one of them has changed")
    return found, digest


class _Clone:
    """A copy under way.

    Args:
        source: The state that is copied, in a transaction that stays open.
        target: Where to.
        counts: Number of rows of the source by table.
        progress: As of ``clone``.
    """

    def __init__(
        self, source: Link, target: ConnectedDatabase, counts: Mapping[str, int], progress: Progress | None
    ) -> None:
        self._source, self._target, self._counts, self._progress = source, target, counts, progress
        self._place = target.connections
        self._done = 0
        self._numbers, self._notes = rows.read_numbers(source), rows.read_notes(source)
        self._origin = self._notes.pop("store_id", None)
        if self._origin is None:
            raise StorageError("the store is damaged: it has lost its id")

    def carry(self, found: int) -> str:
        """Bring all rows over; returns their digest."""
        self._begin()
        if found:
            self._delete_others()
        for table, columns in TABLES.items():
            self._insert_missing(table, columns)
        self._link_versions()
        rewrite_words(self._place)  # type: ignore[arg-type]  # it asks for what all connections have
        failpoint("clone-before-verify")
        return self._verify()

    def _report(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, 2 * sum(self._counts.values()))

    def _begin(self) -> None:
        """Mark the target, unless it is."""
        revision = self._target.find_revision()
        if revision is not None and revision.startswith(rows.MARK):
            if revision != rows.MARK + self._target.revision:
                raise StorageError(
                    f"{self._target.name} is a copy that another version of agent-memory has begun ({revision}); "
                    "delete it"
                )
            return
        self._target.prepare()
        with self._place.write() as link:
            if any(rows.count_rows(link, list(TABLES)).values()):
                raise InvalidInputError(f"{self._target.name} holds a store already; copy to where there is none")
            rows.write_notes(link, {_ORIGIN: self._origin})
            rows.write_revision(link, rows.MARK + self._target.revision)
            note_state(link, 0)
        failpoint("clone-marked")

    def _delete_others(self) -> None:
        """Delete what is in the target and, as it is there, in the source no more."""
        for table, columns in reversed(TABLES.items()):
            for page in rows.read_keyed_apart(self._place.read, table, columns):
                keys = [key for key, _ in page]
                known = dict(rows.read_between(self._source, table, columns, keys[0], keys[-1]))
                others = [key for key, row in page if known.get(key) != row and (table != _UPDATED or key not in known)]
                if not others:
                    continue
                with self._place.write() as link:
                    rows.write_notes(link, {_DELETED: "1"})
                    if table == "entries":  # a row of the full-text index is deleted by its terms, or with all others
                        lexical.delete_all(link)
                        note_state(link, 0)
                    rows.delete_keys(link, table, others)
                failpoint("clone-deleted")

    def _insert_missing(self, table: str, columns: Sequence[str]) -> None:
        for page in rows.read_keyed(self._source, table, columns):
            with self._place.write() as link:
                if table == _UPDATED:
                    rows.merge_page(link, table, columns, [row for _, row in page])
                else:
                    known = {key for key, _ in rows.read_between(link, table, (), page[0][0], page[-1][0])}
                    rows.insert_page(link, table, columns, [row for key, row in page if key not in known])
                failpoint("clone-before-commit")
            failpoint("clone-after-commit")
            self._report(len(page))

    def _link_versions(self) -> None:
        def write(page: Sequence[Row]) -> None:
            with self._place.write() as link:
                driver(link).executemany(rows.LINK, page)

        rows.link_versions(self._source, write)

    def _verify(self) -> str:
        expected = digest_rows(self._source)
        with self._target.read_whole() as link:
            found = digest_rows(link, self._report)
        if found != expected:
            raise StorageError(
                f"{self._target.name}: the copy is not the same as its source ({found[:16]}… instead of "
                f"{expected[:16]}…); nobody can open it. Run it again"
            )
        return found

    def finish(self) -> int:
        """Let others open the copy, once its source is no longer read; returns how many of its rows are damaged."""
        with self._place.read() as link:
            deleted = read_note(link, _DELETED) is not None
        if deleted:  # it was forgotten in the source meanwhile, perhaps
            reason = self._target.erase_traces(lambda tx: None, wait_s=self._place.lock_timeout_s)
            if reason is not None:
                raise StorageError(f"{self._target.name}: what was deleted since cannot be erased yet: {reason}")
        with self._target.read() as tx:
            damaged = len(tx.find_altered())
        with self._place.write() as link:
            rows.write_notes(link, self._notes | {_DONE: self._origin})
            self._target.set_numbers(link, self._numbers)
            for name in (_ORIGIN, _DELETED):
                driver(link).execute("DELETE FROM meta WHERE name = ?", (name,))
            rows.write_revision(link, self._target.revision)
            failpoint("clone-before-finish")
        return damaged


def digest_rows(link: Link, report: Callable[[int], None] = lambda count: None) -> str:
    """Return the SHA-256 of all rows that are copied, in hexadecimal digits.

    Args:
        link: A connection in a transaction.
        report: Called with the number of rows of each step.
    """
    digest = hashlib.sha256()
    for table, columns in _VERIFIED.items():
        digest.update(table.encode())
        for page in rows.read_pages(link, table, columns):
            for row in page:
                for value in row:
                    data = value if isinstance(value, bytes) else ascii(value).encode()
                    digest.update(b"%s %d " % (type(value).__name__.encode(), len(data)) + data)
            report(len(page))
    return digest.hexdigest()


def read_note(link: Link, name: str) -> str | None:
    """Return a note of a store's about itself; None if it has none of that name."""
    row = driver(link).execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else str(row[0])
