"""The storage contract, operations: the query log, jobs, leases and schedules."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from agent_memory.reports import Job, JobState, Schedule
from agent_memory.storage.records import (
    Generation,
    LoggedQuery,
)
from agent_memory.types import Namespace

LEASE_S = 60.0
"""Seconds that a lease lasts unless it is renewed."""

KEPT_JOBS = 1_000
"""Number of finished jobs kept."""

OPEN_STATES = (JobState.RUNNING, JobState.PAUSED)
"""States of a job that is not finished."""


def new_holder() -> str:
    """Return a unique holder name for this process: host, process id and eight random bytes."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"


def is_dead(holder: str) -> bool:
    """Return whether a holder was a process of this machine that no longer exists."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal() or len(pid) > 9:
        return False
    try:
        os.kill(int(pid), 0)  # signal 0 only checks that the process exists
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


class Queries(ABC):
    """The query log: a ring buffer that is off by default and only read by dry runs."""

    @abstractmethod
    def append(self, given: Sequence[LoggedQuery], *, keep: int) -> None:
        """Add queries, and keep only the latest ``keep`` (at least 1) of the store."""

    @abstractmethod
    def read_vectors(self, generation: Generation, limit: int) -> list[bytes]:
        """Return the distinct vectors of the latest queries of an embedding space, newest first.

        Vectors with another fingerprint, number format or length are left out.
        """

    @abstractmethod
    def read_texts(self, limit: int) -> list[str]:
        """Return the distinct texts of the latest queries whose text was kept, newest first."""

    @abstractmethod
    def count(self, namespace: Namespace) -> int:
        """Return the number of logged queries that were asked in or below a namespace."""

    @abstractmethod
    def clear(self, namespace: Namespace) -> int:
        """Delete the logged queries that were asked in or below a namespace; returns how many."""

    @abstractmethod
    def clear_about(self, namespaces: Iterable[Namespace]) -> int:
        """Delete the logged queries that could find entries of these namespaces; returns how many.

        These are the ones asked in the namespaces, above or below them.
        """


class Jobs(ABC):
    """Long operations on a store: their state, progress and history."""

    @abstractmethod
    def create(self, kind: str, progress: Mapping[str, Any], now: datetime) -> Job:
        """Create a running job; keeps the latest ``KEPT_JOBS`` finished jobs."""

    @abstractmethod
    def get(self, job_id: int) -> Job:
        """Return a job; raises NotFoundError if there is none of that id."""

    @abstractmethod
    def list_all(self, *, kind: str | None = None, unfinished: bool = False, limit: int | None = None) -> list[Job]:
        """Return jobs, newest first.

        Args:
            kind: Only jobs of this kind.
            unfinished: True for only those in ``OPEN_STATES``.
            limit: Maximum number of jobs; None for all.
        """

    @abstractmethod
    def record(self, job_id: int, progress: Mapping[str, Any], now: datetime) -> None:
        """Record the progress of a job, in the transaction that made it; does nothing if there is no such job."""

    @abstractmethod
    def clear_errors(self, since: datetime) -> int:
        """Delete the reasons of all jobs that have failed since a time: they may cite entries; returns how many."""

    @abstractmethod
    def set_state(self, job_id: int, state: JobState, now: datetime, error: str | None = None) -> None:
        """Set the state of a job; a final state also sets its end time. Does nothing if there is no such job.

        Args:
            job_id: The job.
            state: The new state.
            now: Time of the change.
            error: Why it failed; None clears an earlier reason.
        """


class Leases(ABC):
    """Leases on exclusive work.

    A dead holder's lease expires ``LEASE_S`` seconds after it was last acquired or renewed. Work under a lease
    is fenced: each of its transactions renews the lease first, so that a holder that lost it cannot commit.
    """

    @abstractmethod
    def find_holder(self, name: str, now: datetime) -> str | None:
        """Return the holder of a lease, or None if it is free.

        A lease is free if it was never acquired, was released, or has expired; if its holder is a process of this
        machine that no longer exists; and if it ends more than ``LEASE_S`` seconds from now, because a clock was set
        back since.
        """

    @abstractmethod
    def acquire(self, name: str, holder: str, now: datetime) -> None:
        """Take a lease that is free, expired, or already the holder's.

        Raises:
            LeaseHeldError: Another holder has it.
        """

    @abstractmethod
    def renew(self, name: str, holder: str, now: datetime) -> None:
        """Extend a lease inside the transaction that does work under it.

        An expired lease can be extended as long as nobody else has acquired it.

        Raises:
            LeaseHeldError: Another holder has it, or it was released; the transaction must not commit.
        """

    @abstractmethod
    def release(self, name: str, holder: str) -> None:
        """Release a lease; does nothing if another holder has it."""


class Schedules(ABC):
    """Schedules of periodic jobs."""

    @abstractmethod
    def list_all(self) -> list[Schedule]:
        """Return all schedules, sorted by name."""

    @abstractmethod
    def put(self, schedule: Schedule, now: datetime, *, seal: str | None = None) -> None:
        """Store a schedule, or replace the one of that name; keeps the time of its last run.

        Args:
            schedule: The schedule.
            now: When it is made.
            seal: Says where it was made; returned by ``find_seal``.
        """

    @abstractmethod
    def find_seal(self, name: str) -> str | None:
        """Return the seal that a schedule was stored with, None if there is none."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a schedule; raises NotFoundError if there is none of that name."""

    @abstractmethod
    def set_paused(self, name: str, paused: bool) -> None:
        """Pause or resume a schedule; raises NotFoundError if there is none of that name."""

    @abstractmethod
    def set_last_run(self, name: str, moment: datetime) -> None:
        """Record when a schedule last ran; raises NotFoundError if there is none of that name."""
