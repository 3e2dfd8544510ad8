"""The storage contract, operations: the query log, jobs, leases and schedules."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
"""Finished jobs that stay in the history."""

OPEN_STATES = (JobState.RUNNING, JobState.PAUSED)
"""States of a job that is not finished."""


def new_holder() -> str:
    """Return a name for this process as a holder, unlike any other: host, process and eight random bytes."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"


def is_dead(holder: str) -> bool:
    """Return whether a holder is a process of this machine that is no more."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal() or len(pid) > 9:
        return False
    try:
        os.kill(int(pid), 0)  # signal 0 is not sent, it only asks
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


class Queries(ABC):
    """The query log: a ring that its owner may ask for, and nothing reads but a dry run."""

    @abstractmethod
    def append(self, given: Sequence[LoggedQuery], *, keep: int) -> None:
        """Add queries to the ring; only the latest ``keep`` of the store stay, at least 1."""

    @abstractmethod
    def read_vectors(self, generation: Generation, limit: int) -> list[bytes]:
        """Return the vectors of the latest queries of an embedding space, once each, the newest first.

        Those of another fingerprint, number format or length in bytes are left out.
        """

    @abstractmethod
    def read_texts(self, limit: int) -> list[str]:
        """Return the texts of the latest queries that were kept with theirs, once each, the newest first."""

    @abstractmethod
    def count(self, namespace: Namespace) -> int:
        """Return how many queries were asked in or below a namespace and are kept."""

    @abstractmethod
    def clear(self, namespace: Namespace) -> int:
        """Delete the queries that were asked in or below a namespace; returns how many."""


class Jobs(ABC):
    """What is being done to a store besides reading and writing, how far it is, and what was done."""

    @abstractmethod
    def create(self, kind: str, progress: Mapping[str, Any], now: datetime) -> Job:
        """Record a job that begins now, and is running; the oldest finished ones beyond ``KEPT_JOBS`` are dropped."""

    @abstractmethod
    def get(self, job_id: int) -> Job:
        """Return a job; raises NotFoundError if there is none of that id."""

    @abstractmethod
    def list_all(self, *, kind: str | None = None, unfinished: bool = False, limit: int | None = None) -> list[Job]:
        """Return jobs, the newest first.

        Args:
            kind: Only jobs of this kind.
            unfinished: True for only those in one of ``OPEN_STATES``.
            limit: Maximum number of jobs; None for all.
        """

    @abstractmethod
    def record(self, job_id: int, progress: Mapping[str, Any], now: datetime) -> None:
        """Record how far a job is, in the transaction that brought it there; does nothing if there is no such job."""

    @abstractmethod
    def set_state(self, job_id: int, state: JobState, now: datetime, error: str | None = None) -> None:
        """Move a job to a state; one that is finished gets its time of finishing. Does nothing if there is no such job.

        Args:
            job_id: The job.
            state: Where it stands.
            now: When it got there.
            error: Why it failed; None deletes a former reason.
        """


class Leases(ABC):
    """Who may do a piece of work, until when.

    A dead holder's lease runs out by itself, ``LEASE_S`` seconds after it was last taken or renewed. Work under a lease
    is fenced: each of its transactions renews the lease first, so that a holder who lost it cannot commit.
    """

    @abstractmethod
    def find_holder(self, name: str, now: datetime) -> str | None:
        """Return who holds a lease, or None if it is free.

        It is free if nobody took it or it was given back, if it has expired by now, if its holder is a process of this
        machine that is gone, and if it ends more than ``LEASE_S`` seconds from now: a clock was set back since.
        """

    @abstractmethod
    def acquire(self, name: str, holder: str, now: datetime) -> None:
        """Take a lease that is free, expired, or already the holder's.

        Raises:
            LeaseHeldError: Another holder has it.
        """

    @abstractmethod
    def renew(self, name: str, holder: str, now: datetime) -> None:
        """Extend a lease inside the transaction that does work under it; one that expired, but nobody took, too.

        Raises:
            LeaseHeldError: Another holder has it, or it was given back; the transaction must not commit.
        """

    @abstractmethod
    def release(self, name: str, holder: str) -> None:
        """Give a lease back; does nothing if another holder has it."""


class Schedules(ABC):
    """Which jobs a worker does again and again."""

    @abstractmethod
    def list_all(self) -> list[Schedule]:
        """Return all schedules by name."""

    @abstractmethod
    def put(self, schedule: Schedule, now: datetime) -> None:
        """Store a schedule, or replace the one of that name; ``last_run_at`` is that of the former one, else None."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a schedule; raises NotFoundError if there is none of that name."""

    @abstractmethod
    def set_paused(self, name: str, paused: bool) -> None:
        """Let the worker skip a schedule, or run it again; raises NotFoundError if there is none of that name."""

    @abstractmethod
    def set_last_run(self, name: str, moment: datetime) -> None:
        """Note when a schedule last ran; raises NotFoundError if there is none of that name."""
