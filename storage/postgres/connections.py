"""Connections to PostgreSQL: a few that threads share, each used by one transaction at a time.

A store has one writer at a time, which holds an advisory lock until its commit is visible. So numbers of changes are
given in the order of commits, and a reader that follows them misses none; and nothing can deadlock.

* Closing: new transactions are refused, running ones are waited for.
* Fork: running transactions are waited for; the child leaves the parent's connections alone and opens its own.
* Lost connections: a transaction that cannot begin on an idle one begins on a new one. One that loses its connection
  raises; if that happens while it commits, nobody knows whether it was written, and the error says so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psycopg

from agent_memory.errors import StorageError
from agent_memory.files import failpoint, reset_in_child
from agent_memory.storage.calls import Call, Calls, raise_behind
from agent_memory.storage.postgres import facts, lexical
from agent_memory.storage.postgres.address import Address
from agent_memory.storage.postgres.driver import Driver, Habits, Question, describe, list_errors, wrap_error
from agent_memory.storage.postgres.engines import ENGINES
from agent_memory.storage.sqlite.slots import Link
from agent_memory.storage.sqlite.values import EPOCH, MICROSECOND

if TYPE_CHECKING:
    from sqlalchemy import Connection

MOST_IDLE = 8
"""Connections that are kept open for later transactions."""

_FULL = ("too many clients", "too many connections", "connection slots are reserved")
_PAUSE_S = 0.02
_FORK_WAIT_S = 10.0
_KEPT: list[object] = []


class ServedLink(Link):
    """A connection to PostgreSQL; what is pending is written before SQLAlchemy's side of it is used."""

    def __init__(self, raw: Driver, connect: Callable[[Any], Connection]) -> None:
        super().__init__(cast("Any", raw), connect)
        self._full: Connection | None = None

    @property
    def full(self) -> Connection:
        """SQLAlchemy's side."""
        get_driver(self).leave()
        if self._full is None:
            self._full = self._connect(self.raw)
        return self._full


def get_driver(link: Link) -> Driver:
    """Return what runs the statements of a connection."""
    return cast("Driver", link.raw)


def get_raw(link: Link) -> psycopg.Connection[Any]:
    """Return psycopg's side of a connection in a transaction."""
    return get_driver(link).leave()


class Connections:
    """The connections of this process to one store.

    Args:
        address: Where it is.
        lock_timeout_s: Seconds a writer waits for another before LockTimeoutError.
        patience_s: Seconds to wait for the server when a transaction begins; None for as long as the network lasts.

    Attributes:
        path: The address, for messages.
        lock_key: Names the store's write lock among those of its database.
        extension: The schema of pgvector, once it was looked for and found; None before.
        history: Number of times that the server was found to be another than before, which may lack the last commits.
        on_connect: Called when there is a new connection; None for nothing.
        on_end: Called with a connection after each transaction that could write; None for nothing.
        on_again: Called before a transaction begins again; None for nothing.
    """

    def __init__(self, address: Address, *, lock_timeout_s: float, patience_s: float | None = None) -> None:
        self.address, self.lock_timeout_s, self._patience_s = address, lock_timeout_s, patience_s
        self.path = Path(address.name)
        self.schema = address.schema
        digest = hashlib.sha256(f"agent-memory {address.schema}".encode()).digest()
        self.lock_key = int.from_bytes(digest[:8], "big", signed=True)
        self.extension: str | None = None
        self.history = 0
        self._timeline: str | None = None
        self.on_connect: Callable[[], None] | None = None
        self.on_end: Callable[[psycopg.Connection[Any]], None] | None = None
        self.on_again: Callable[[], None] | None = None
        self._calls = Calls()
        self._facts: facts.Facts | None = None
        self._ahead = timedelta()
        self._habits = Habits()
        self._reset()
        _LIVE.add(self)
        reset_in_child(self, Connections.after_fork_in_child)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._calls.reset()
        self._state = threading.Lock()
        self._idle: list[Link] = []
        self._used: weakref.WeakSet[Link] = weakref.WeakSet()

    # --- one connection ----------------------------------------------------------------------------------

    def _connect(self) -> facts.Patient:
        raw = facts.connect(self.address)
        try:
            if self._facts is None:
                self._facts = facts.look(raw, self.address)
                self._set_clock(raw.execute(facts.CLOCK))
            self._note_timeline(facts.read_timeline(raw))
        except BaseException:
            raw.close()
            raise
        return raw

    def _note_timeline(self, timeline: str | None) -> None:
        if self.on_connect is not None:
            self.on_connect()
        with self._state:
            if None not in (timeline, self._timeline) and timeline != self._timeline:
                self.history += 1
            self._timeline = timeline or self._timeline

    def _take(self) -> tuple[Link, bool]:
        """Return a connection that nobody uses, and whether it is new; waits if the server has as many as it takes."""
        deadline = time.monotonic() + self.lock_timeout_s
        while True:
            with self._state:
                while self._idle:
                    link = self._idle.pop()
                    if not get_driver(link).raw.closed:
                        self._used.add(link)
                        return link, False
            try:
                raw = self._connect()
            except psycopg.OperationalError as error:
                if not any(words in str(error) for words in _FULL) or time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)
                continue
            # SQLAlchemy closes a connection when it forgets its side of it: both sides live as long as each other.
            link = ServedLink(Driver(raw, lexical.HANDLERS, self._habits), ENGINES.connect)
            self._used.add(link)
            return link, True

    def _give_back(self, link: Link) -> None:
        self._used.discard(link)
        with self._state:
            if not self._calls.closed and not get_driver(link).raw.closed and len(self._idle) < MOST_IDLE:
                self._idle.append(link)
                return
        self._close(link)

    def _close(self, link: Link) -> None:
        self._used.discard(link)
        with contextlib.suppress(psycopg.Error):
            get_driver(link).raw.close()

    def _drop_idle(self) -> None:
        with self._state:
            idle, self._idle = self._idle, []
        for link in idle:
            self._close(link)

    # --- facts -------------------------------------------------------------------------------------------

    def ask_facts(self) -> facts.Facts:
        """Return what the server is; asked once."""
        if self._facts is None:
            with self.outside():
                pass
        if self._facts is None:
            raise StorageError(f"{self.address.name} cannot be reached")
        return self._facts

    @property
    def read_only(self) -> bool:
        """True if the server is a standby, or lets this role only read."""
        return self.ask_facts().read_only

    def now(self) -> datetime:
        """Return the time on the server, as far as it was last told: clocks of several machines differ."""
        self.ask_facts()
        return datetime.now(UTC) + self._ahead

    def _set_clock(self, told: psycopg.Cursor[Any]) -> None:
        self._ahead = EPOCH + told.fetchall()[0][0] * MICROSECOND - datetime.now(UTC)

    # --- transactions ------------------------------------------------------------------------------------

    @contextmanager
    def read(self) -> Iterator[Link]:
        """Open a transaction in which every statement sees the same state of the store."""
        with self._transaction("read", self.lock_timeout_s) as link:
            yield link

    @contextmanager
    def read_whole(self) -> Iterator[Link]:
        """Open a transaction to read, for as long as it takes: no limit of time that the server has holds for it."""
        with self.read() as link:
            facts.lift_limits(get_raw(link), local=True)
            yield link

    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[Link]:
        """Open the store's only write transaction; committed and on disk when the block ends.

        Args:
            wait_s: Seconds to wait for another writer; ``lock_timeout_s`` if left out.

        Raises:
            LockTimeoutError: Another process held the write lock for longer than that.
            StorageError: The store is read-only, or the server refuses; rolled back.
        """
        if self.read_only:
            raise StorageError(f"{self.address.name} is read-only: it can be recalled from, not written to")
        with self._transaction("write", self.lock_timeout_s if wait_s is None else wait_s) as link:
            yield link

    def begin_again(self, link: Link) -> None:
        """Let a transaction that only reads see the newest state; does nothing in one that writes."""
        driver = get_driver(link)
        if driver.kind == "read":
            driver.end()
            if self.on_again is not None:
                self.on_again()
            driver.begin("read", self._list_begin("read", self.lock_timeout_s))

    def ask(self, statement: str) -> Any:  # noqa: ANN401 - a row of values of any type
        """Return the row that a statement has, outside of any transaction, on a connection that is kept."""
        with self._running("look"):
            try:
                link, _ = self._take()
                try:
                    get_driver(link).raw.patience_s = self._patience_s
                    get_driver(link).settle()
                    found = get_driver(link).raw.execute(statement).fetchone()
                except BaseException:
                    self._close(link)
                    raise
            except list_errors() as error:
                raise self._wrap(error, self.lock_timeout_s) from error
            self._give_back(link)
            return found

    @contextmanager
    def outside(self) -> Iterator[psycopg.Connection[Any]]:
        """Return a connection for statements that must run outside of a transaction; it is closed afterwards.

        They may last: no limit that the server has for the time of a statement holds for them.
        """
        with self._running("outside"):
            try:
                raw = self._connect()
                with contextlib.closing(raw):
                    facts.lift_limits(raw)
                    yield raw
            except list_errors() as error:
                raise self._wrap(error, self.lock_timeout_s) from error

    def assert_open(self) -> None:
        """Raise ClosedError if the database was closed."""
        with self._running("look"):
            pass

    def is_reading(self) -> bool:
        """Return whether this thread is inside of a transaction."""
        return self._calls.inside("read") or self._calls.inside("write")

    @contextmanager
    def _running(self, kind: str) -> Iterator[Call]:
        if self._pid != os.getpid():
            self.after_fork_in_child()  # by a fork that Python did not see
        if kind == "write" and self._calls.inside(kind):
            raise StorageError("a write cannot begin inside of another write of the same thread")
        call = self._calls.enter(kind)
        try:
            yield call
        finally:
            self._calls.leave(call)
            if self._calls.closed:
                self._drop_idle()

    @contextmanager
    def _transaction(self, kind: str, wait_s: float) -> Iterator[Link]:
        with self._running(kind):
            try:
                link = self._begin(kind, self._list_begin(kind, wait_s))
                try:
                    yield link
                    if kind == "write":
                        failpoint("before-commit")
                    self._commit(link, kind)
                    if kind == "write":
                        failpoint("after-commit")
                except Exception:
                    self._roll_back(link)
                    raise
                except BaseException:
                    self._close(link)
                    raise
                self._give_back(link)
            except list_errors() as error:
                raise_behind(error)
                raise self._wrap(error, wait_s) from error

    def _list_begin(self, kind: str, wait_s: float) -> list[Question]:
        """Return what begins a transaction."""
        settings = {"search_path": f'"{self.schema}"', "jit": "off", "lock_timeout": str(max(1, int(wait_s * 1000)))}
        if kind == "read":
            return [("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", ()), _set(settings)]
        settings |= self.ask_facts().commits
        # READ COMMITTED: the state that statements see is taken after the lock, so that it holds the last writer's.
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"
        lock = "SELECT pg_advisory_xact_lock(%s)", (self.lock_key,)
        return [(begin, ()), _set(settings), lock, (facts.CLOCK, ())]

    def _begin(self, kind: str, statements: Sequence[Question]) -> Link:
        while True:
            link, is_new = self._take()
            raw = get_driver(link).raw
            try:
                raw.patience_s = self._patience_s
                told = get_driver(link).begin(kind, statements)
                raw.patience_s = None
                if kind == "write":
                    self._set_clock(told)
                return link
            except BaseException as error:
                lost = isinstance(error, psycopg.OperationalError) and raw.broken
                self._close(link)
                if is_new or not lost:
                    raise
                self._drop_idle()  # the server was started again: all are lost

    def _commit(self, link: Link, kind: str) -> None:
        if kind == "read":
            with contextlib.suppress(psycopg.Error):  # all was read
                get_driver(link).end()
            return
        try:
            get_driver(link).commit()
            self._tell(link)
        except psycopg.OperationalError as error:
            if not get_driver(link).raw.closed:
                raise  # the server has answered: it was not committed
            raise StorageError(
                f"{self.address.name}: the connection was lost during the commit; it is not known whether this was "
                f"written: {describe(error)}"
            ) from error

    def _tell(self, link: Link) -> None:
        if self.on_end is not None:
            self.on_end(get_driver(link).raw)

    def _roll_back(self, link: Link) -> None:
        try:
            get_driver(link).roll_back()
            if get_driver(link).kind == "write":
                self._tell(link)
        except psycopg.Error:
            self._close(link)
        else:
            self._give_back(link)

    def _wrap(self, error: Exception, wait_s: float) -> Exception:
        return wrap_error(error, self.address.name, wait_s, closed=self._calls.closed)

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
                f"{self.address.name} was closed, but {left} transactions were still running after "
                f"{self.lock_timeout_s:g} s; their connections close when they end"
            )

    def abandon(self) -> None:
        """Refuse new transactions and close the connections that none uses; the others close when they end."""
        self._calls.closed = True
        self._drop_idle()

    # --- fork --------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Wait for the transactions of other threads, and keep new ones out."""
        self._calls.hold(_FORK_WAIT_S)

    def after_fork_in_parent(self) -> None:
        """Let transactions go on."""
        self._calls.go_on()

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections alone: closing one here would say goodbye to the server in its name."""
        _KEPT.append([*self._idle, *self._used])
        self._reset()


def _set(settings: Mapping[str, str]) -> Question:
    """Return the statement that gives settings values until the transaction ends."""
    asked = ", ".join("set_config(%s, %s, true)" for _ in settings)
    return f"SELECT {asked}", tuple(part for pair in settings.items() for part in pair)


_LIVE: weakref.WeakSet[Connections] = weakref.WeakSet()


def _before_fork() -> None:
    for connections in list(_LIVE):
        connections.before_fork()


def _after_fork_in_parent() -> None:
    for connections in list(_LIVE):
        connections.after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
