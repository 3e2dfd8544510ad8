"""Connections of SQLite: write-ahead log, full durability, one connection per thread and process.

What can happen around a connection is dealt with here:

* Closing: new transactions are refused, running ones are waited for; nobody closes a connection that is in use.
* Fork: running transactions are waited for and all connections closed before the process forks, because the child would
  inherit SQLite's idea of its locks without the locks. Both sides open new ones when they need them.
* Interrupts: a connection on which a transaction did not end well is closed, not used again.
* Moved ground: a file that is no longer where it was opened is noticed before and after each transaction.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_memory.errors import ClosedError, LockTimeoutError, StorageError
from agent_memory.files import failpoint, reset_in_child
from agent_memory.storage.calls import Call, Calls
from agent_memory.storage.sqlite import scrub
from agent_memory.storage.sqlite.driver import ERRORS, SERIALISE, add_functions, error_code, set_patience, sqlite3
from agent_memory.storage.sqlite.ground import (
    MOVED,
    FolderLock,
    Ground,
    Identity,
    create_private,
    identify,
    is_writable,
    refuse_links,
)
from agent_memory.storage.sqlite.slots import Engines, Link, Raw, Slot, list_errors

_OPENING = threading.RLock()  # held to open a connection, and to close what ``scrub`` has opened
os.register_at_fork(after_in_child=_OPENING._at_fork_reinit)  # type: ignore[attr-defined]
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PAUSE_S = 0.005
_SLICE_S = 0.25
_LOST_S = 1.0
_FORK_WAIT_S = 10.0

LOG_BYTES = 16 << 20
"""Size to which a write-ahead log that grew beyond it, behind a long reader or a VACUUM, is cut when it starts over.

A log without such events has about 8 MiB: a thousand pages, then SQLite moves it into the database.
"""

PRAGMAS = {
    "foreign_keys": "ON",
    "synchronous": "FULL",
    "secure_delete": "ON",
    "trusted_schema": "OFF",
    "cell_size_check": "ON",
    "journal_size_limit": str(LOG_BYTES),
}
"""Settings of every connection. For each that keeps a promise, a test fails without it."""


class Connections:
    """The connections of this process to one SQLite file.

    Args:
        path: The database file; its folder must exist.
        lock_timeout_s: Seconds a writer waits for another process before LockTimeoutError.

    Attributes:
        read_only: True if the folder cannot be written; reads work, writes raise StorageError.
    """

    def __init__(self, path: Path, *, lock_timeout_s: float) -> None:
        self.path = path
        self.lock_timeout_s = lock_timeout_s
        self.read_only = not is_writable(path)
        self._uri = path.absolute().as_uri()
        self._home: Identity | None = None
        self._broken: str | None = None
        self._engines = Engines()
        self._calls = Calls()
        self._reset()
        _LIVE.add(self)
        reset_in_child(self, Connections.after_fork_in_child)

    def _reset(self) -> None:
        """Begin with no connection and nothing under way."""
        self._pid = os.getpid()
        self._lock = FolderLock(self.path.parent, self.lock_timeout_s)
        self._calls.reset()
        self._state = threading.RLock()  # of the slots
        self._local = threading.local()
        self._slots: weakref.WeakSet[Slot] = weakref.WeakSet()
        self._raws: weakref.WeakSet[sqlite3.Connection] = weakref.WeakSet()

    # --- one connection ----------------------------------------------------------------------------------

    def _locate(self) -> tuple[str, object]:
        """Return the URI to open, and what a connection to it is good for: others, when that changes.

        Where the folder cannot be written, SQLite can follow a log that some writer keeps open, but cannot read a
        database in WAL mode without one, unless it takes it for immutable. It is, as long as nobody writes: so the
        state of the file is part of the answer, and looked at again for every transaction.
        """
        if not self.read_only:
            return self._uri, None
        if self.log_bytes() or self.path.with_name(self.path.name + "-shm").exists():
            return f"{self._uri}?mode=ro", "log"
        facts = self.path.stat()
        return f"{self._uri}?immutable=1", (facts.st_ino, facts.st_size, facts.st_mtime_ns)

    def log_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        try:
            return self.path.with_name(self.path.name + "-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def scrub(self) -> bool:
        """Zero the unused space of the file's pages, in a write transaction; False if that cannot be done in place."""
        if self._home is None:
            return False
        try:
            with _OPENING:
                scrub.scrub(self.path, self._home)
        except (OSError, ValueError):
            return False
        return True

    def _connect(self) -> Raw:
        with _OPENING:
            return self._open()

    def _open(self) -> Raw:
        refuse_links(self.path)
        self._settle()
        raw: Raw = sqlite3.connect(
            self._locate()[0],
            uri=True,
            timeout=self.lock_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=Raw,
        )
        try:
            for name, value in PRAGMAS.items():
                raw.execute(f"PRAGMA {name} = {value}")
            add_functions(raw)
            if SERIALISE:
                raw.execute("PRAGMA wal_autocheckpoint = 0")
            if hasattr(raw, "setconfig"):
                raw.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE)  # type: ignore[attr-defined]
        except BaseException:
            raw.close()
            raise
        return raw

    def _settle(self) -> None:
        """Make the file, the first time; later it must still be the one that was opened then."""
        if self._home is None:
            if not self.read_only:
                create_private(self.path)
            self._home = identify(self.path)
        if identify(self.path) != self._home:
            raise StorageError(f"{self.path} {MOVED}")
        if self._home in _POISONED:
            raise StorageError(f"{self.path} {_FORKED}")

    def _take(self, call: Call) -> Slot:
        """Return a connection of this thread that nobody uses, for a transaction; another one inside of another."""
        version = self._locate()[1]
        slots: list[Slot] = self._local.__dict__.setdefault("slots", [])
        for slot in list(slots):
            with self._state:
                if not slot.is_free:
                    continue
                slot.call = weakref.ref(call)
            if slot.version == version and slot.is_clean and slot.is_open:
                slot.is_clean = False
                return slot
            slots.remove(slot)
            slot.close()
        self._lock.hold()
        others = [slot for slot in list(self._slots) if slot.is_open]
        slot = Slot(Link(self._connect(), self._engines.connect), Ground(self.path, self._home), version)
        slot.raw.execute("SELECT count(*) FROM sqlite_master").fetchone()  # opens the log, if there is one
        # What one connection knows of the log, all must find; when none is open, it may come and go, as it does when an
        # interrupt has lost the last one. So the others are held here, and asked for what they know only now.
        slot.ground = next((other.ground for other in others if other.is_open), slot.ground)
        slot.ground.settle()
        slot.call, slot.is_clean = weakref.ref(call), False
        slots.append(slot)
        self._slots.add(slot)
        return slot

    # --- transactions ------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[Link]:
        """Open a transaction in which every statement sees the same state of the store."""
        with self._transaction("DEFERRED", self.lock_timeout_s) as connection:
            yield connection

    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[Link]:
        """Open the store's only write transaction; committed and synced to disk when the block ends.

        Args:
            wait_s: Seconds to wait for another writer; ``lock_timeout_s`` if left out.

        Raises:
            LockTimeoutError: Another process held the write lock for longer than that.
            StorageError: The folder is read-only, the disk is full, the file is damaged or gone; rolled back.
        """
        if self.read_only:
            raise StorageError(f"{self.path} is read-only: it can be recalled from, not written to")
        with self._transaction("IMMEDIATE", self.lock_timeout_s if wait_s is None else wait_s) as connection:
            yield connection
        if SERIALISE:
            self._checkpoint_alone()

    @contextmanager
    def raw(self) -> Iterator[sqlite3.Connection]:
        """Open a connection of its own, outside of any transaction, for what SQLite's own interface alone can do."""
        with self._running("raw"):
            self._lock.hold()
            try:
                connection = self._connect()
            except ERRORS as error:
                raise self._wrap(error) from error
            self._raws.add(connection)
            try:
                yield connection
            finally:
                self._raws.discard(connection)
                connection.close()

    @contextmanager
    def outside(self) -> Iterator[sqlite3.Connection]:
        """Return this thread's connection for a statement that must run outside of a transaction."""
        with self._running("outside") as call:
            try:
                slot = self._take(call)
                slot.ground.check()
                yield slot.raw
                slot.is_clean = True
            except list_errors() as error:
                raise self._wrap(error) from error

    def read_version(self) -> tuple[object, int]:
        """Return what stays equal, for this thread, until another connection has written; much cheaper than reading."""
        with self.outside() as raw:
            return weakref.ref(raw), int(raw.execute("PRAGMA data_version").fetchone()[0])

    def assert_open(self) -> None:
        """Raise ClosedError if the database was closed, StorageError if it cannot be used in this process."""
        with self._running("look"):
            pass

    def is_reading(self) -> bool:
        """Return whether this thread is inside of a transaction."""
        return self._calls.inside("DEFERRED") or self._calls.inside("IMMEDIATE")

    @contextmanager
    def _running(self, kind: str) -> Iterator[Call]:
        """Note a transaction as under way; waits while the process forks."""
        if self._pid != os.getpid():
            self.after_fork_in_child()  # by a fork that Python did not see
        if kind == "IMMEDIATE" and self._calls.inside(kind):
            gc.collect()  # one that was lost by an interrupt may still hang on its traceback
            if self._calls.inside(kind):
                raise StorageError("a write cannot begin inside of another write of the same thread")
        call = self._calls.enter(kind)
        try:
            if self._broken is not None:
                raise StorageError(self._broken)
            yield call
        finally:
            self._calls.leave(call)
            if self._calls.closed:
                self._close(lambda slot: slot.is_free or (slot.call is not None and slot.call() is call))

    def _close(self, is_over: Callable[[Slot], bool]) -> None:
        """Close the connections of which that holds; nobody takes one meanwhile."""
        with self._state:
            slots = [slot for slot in list(self._slots) if is_over(slot)]
            for slot in slots:
                slot.raw.is_over = True
            if not len(self._calls):
                self._lock.release()
        for slot in slots:
            slot.close()

    @contextmanager
    def _transaction(self, mode: str, wait_s: float) -> Iterator[Link]:
        with self._running(mode) as call:
            try:
                slot = self._take(call)
                try:
                    self._begin(slot, mode, wait_s)
                    if mode == "IMMEDIATE":  # a deferred one has opened nothing yet
                        slot.ground.settle()
                    slot.ground.check()
                    yield slot.connection
                    if mode == "IMMEDIATE":
                        failpoint("before-commit")
                    slot.raw.execute("COMMIT")
                    if mode == "IMMEDIATE":
                        failpoint("after-commit")
                    slot.ground.check()
                    if slot.version != self._locate()[1]:
                        raise StorageError(f"{self.path} changed while it was read; try again")
                    slot.is_clean = True
                except Exception:
                    slot.roll_back()
                    raise
                except BaseException:
                    slot.close()
                    raise
            except list_errors() as error:
                raise self._wrap(error, wait_s) from error

    def _begin(self, slot: Slot, mode: str, wait_s: float) -> None:
        if mode == "DEFERRED":
            slot.raw.execute("BEGIN")
            return
        # SQLite waits in slices: it skips its own wait where that could deadlock, and while a log is being recovered.
        start = time.monotonic()
        look_again = min(wait_s / 2, _LOST_S)
        set_patience(slot.raw, min(wait_s, _SLICE_S))
        try:
            while True:
                try:
                    slot.raw.execute("BEGIN IMMEDIATE")
                    return
                except ERRORS as error:
                    waited = time.monotonic() - start
                    if error_code(error) not in _BUSY or waited >= wait_s:
                        raise
                if waited >= look_again:
                    gc.collect()  # a transaction that was lost may still hang on the interrupt's traceback
                    look_again = wait_s
                # What an interrupt has left in a transaction would keep the write lock for good.
                self._close(lambda slot: slot.is_free and not slot.is_clean)
                time.sleep(_PAUSE_S)
        finally:
            set_patience(slot.raw, self.lock_timeout_s)

    def _wrap(self, error: Exception, wait_s: float | None = None) -> StorageError | ClosedError:
        original = getattr(error, "orig", None) or error
        if self._calls.closed and isinstance(original, sqlite3.ProgrammingError):
            return ClosedError("this memory was closed while in use")
        if error_code(error) in _BUSY:
            return LockTimeoutError(self.lock_timeout_s if wait_s is None else wait_s)
        return StorageError(f"{self.path}: {original}")

    def _checkpoint_alone(self) -> None:
        """Move the log into the database while nobody can write; see ``driver.SERIALISE``."""
        if self.log_bytes() < LOG_BYTES // 2:
            return
        with contextlib.suppress(StorageError), self._transaction("IMMEDIATE", 0.0), self.raw() as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Refuse new transactions, wait for running ones, and close; a second call does nothing.

        Raises:
            StorageError: Some are still running after ``lock_timeout_s``; their connections close when they end.
        """
        left = self._calls.close(self.lock_timeout_s)
        self.abandon()
        if left:
            raise StorageError(
                f"{self.path} was closed, but {left} transactions were still running after {self.lock_timeout_s:g} s; "
                "their connections close when they end"
            )

    def abandon(self) -> None:
        """Refuse new transactions and close the connections that none uses; the others close when they end."""
        self._calls.closed = True
        self._close(lambda slot: slot.is_free)
        if not len(self._calls):
            # What a thread holds here holds this object in turn, where the garbage collector does not look.
            self._local = threading.local()
            with _OPENING:
                others = (one for one in list(_LIVE) if one is not self and one._home == self._home)
                if not any(not one._calls.closed or len(one._calls) for one in others):
                    scrub.close_handle(self._home)

    # --- fork --------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait for the transactions of other threads, keep new ones out, and close every connection."""
        self._calls.hold(_FORK_WAIT_S)
        self._close(lambda slot: slot.is_free)
        if not len(self._calls):
            self._local.__dict__.pop("slots", None)

    def after_fork_in_parent(self) -> None:
        """Let transactions go on."""
        self._calls.go_on()

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent; if a connection was open in it, the file cannot be used here."""
        inherited = [*(slot for slot in list(self._slots) if slot.is_open), *self._raws]
        if inherited:
            _INHERITED.append(inherited)  # even closing them is forbidden
            _POISONED.add(self._home)
            self._broken = f"{self.path} {_FORKED}"
        self._lock.release()
        self._reset()


_FORKED = (
    "cannot be used in this process: it was forked while a transaction was under way. Fork outside of calls of the "
    "memory, or start the process with 'spawn'."
)
_LIVE: weakref.WeakSet[Connections] = weakref.WeakSet()
_INHERITED: list[object] = []
_POISONED: set[Identity | None] = set()


def _before_fork() -> None:
    for connections in list(_LIVE):
        connections.before_fork()


def _after_fork_in_parent() -> None:
    for connections in list(_LIVE):
        connections.after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
