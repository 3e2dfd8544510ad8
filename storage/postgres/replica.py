"""Reading from a standby: never a state that is older than what this process has written, or has seen."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from agent_memory.errors import StorageError
from agent_memory.files import reset_in_child
from agent_memory.storage.postgres.connections import Connections, get_raw
from agent_memory.storage.sqlite.slots import Link

_log = logging.getLogger("agent_memory")

RETRY_S = 20.0
"""Seconds until a standby is asked again that could not be used."""

STANDBY_PATIENCE_S = 2.0
"""Seconds that a standby may take to connect, and to begin a transaction, before the primary is read from instead."""

_POLL_S = 0.01
_UNKNOWN = 1 << 64
_WRITTEN = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
_REPLAYED = "SELECT (pg_last_wal_replay_lsn() - '0/0')::bigint, pg_is_in_recovery(), ({store_id})"


class Replica:
    """Chooses, for each transaction that only reads, the standby or the primary.

    What this process has written last, or has seen on the primary, is a place in the server's log; the standby is read
    from once it has replayed the log up to there, and the primary until then. So a process sees its own writes, and
    never an older state than before. Another process's last writes it may see later than on the primary.

    Args:
        primary: The connections to the primary.
        standby: Those to the standby.
    """

    def __init__(self, primary: Connections, standby: Connections) -> None:
        self._primary, self._standby = primary, standby
        primary.on_end, standby.on_again, standby.on_connect = self.note, self._wait, self._forget
        self._start()
        reset_in_child(self, Replica._start)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._floor, self._replayed = _UNKNOWN, 0
        self._store_id: str | None = None
        self._retry_at, self._reason = 0.0, ""

    @contextmanager
    def read(self) -> Iterator[tuple[Connections, Link]]:
        """Open a transaction that only reads; yields the connections that it is of, too."""
        with ExitStack() as stack:
            if self._is_usable():
                try:
                    link = stack.enter_context(self._standby.read())
                except StorageError as error:
                    self._pause(str(error))
                else:
                    if self._is_far_enough():
                        yield self._standby, link
                        return
                    stack.close()
            link = stack.enter_context(self._primary.read())
            self.note(get_raw(link))
            yield self._primary, link

    def note(self, raw: psycopg.Connection[Any]) -> None:
        """Note how far the primary's log is: the standby is not read from before it has replayed that."""
        try:
            row = raw.execute(_WRITTEN).fetchone()
        except psycopg.Error:  # what was committed is committed; where it is in the log, the next read tells
            row = None
        with self._lock:
            if row is None:
                self._floor = _UNKNOWN
            else:
                self._floor = int(row[0]) if self._floor == _UNKNOWN else max(self._floor, int(row[0]))

    def _forget(self) -> None:
        """Forget how far the standby is: with a new connection, it may have begun again from an earlier place."""
        with self._lock:
            self._replayed = 0

    def _is_far_enough(self) -> bool:
        with self._lock:
            return self._store_id is not None and self._replayed >= self._floor

    def _is_usable(self) -> bool:
        with self._lock:
            if time.monotonic() < self._retry_at:
                return False
        return self._is_far_enough() or self._look()

    def _look(self) -> bool:
        """Ask the standby how far it is; returns whether it is far enough."""
        try:
            asked = f"SELECT value FROM \"{self._primary.schema}\".meta WHERE name = 'store_id'"
            own = self._store_id or str(self._primary.ask(asked)[0])
            replayed, is_standby, store_id = self._standby.ask(_REPLAYED.format(store_id=asked))
        except StorageError as error:
            self._pause(str(error))
            return False
        if not is_standby:
            self._pause(f"{self._standby.address.name} is no standby")
            return False
        if store_id != own:
            self._pause(f"{self._standby.address.name} is a standby of another server, or does not have this store yet")
            return False
        with self._lock:
            self._store_id, self._replayed, self._reason = own, int(replayed), ""
        return self._is_far_enough()

    def _pause(self, reason: str) -> None:
        """Read from the primary for some seconds; a standby that starts again may be behind what was seen."""
        with self._lock:
            self._floor, self._retry_at = _UNKNOWN, time.monotonic() + RETRY_S
            is_new, self._reason = reason != self._reason, reason
        if is_new:
            _log.warning("reading from the primary: %s", reason)

    def _wait(self) -> None:
        """Wait until the standby has replayed what was noted.

        Raises:
            StorageError: It has not within the time that locks are waited for.
        """
        deadline = time.monotonic() + self._primary.lock_timeout_s
        self._note_now()
        while not self._look():
            if time.monotonic() >= deadline:
                raise StorageError(
                    f"{self._standby.address.name} is behind the primary by more than that can be waited for"
                )
            time.sleep(_POLL_S)

    def _note_now(self) -> None:
        with self._primary.read() as link:
            self.note(get_raw(link))
