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
        """Add queries to the ring; only the latest ``keep`` of the store stay."""

    @abstractmethod
    def read_vectors(self, generation: Generation, limit: int) -> list[bytes]:
        """Return the vectors of the latest queries of an embedding space, once each, the newest first."""

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
        """Record a job that begins now; the oldest finished ones beyond a thousand are dropped."""

    @abstractmethod
    def get(self, job_id: int) -> Job:
        """Return a job; raises NotFoundError if there is none of that id."""

    @abstractmethod
    def list_all(self, *, kind: str | None = None, unfinished: bool = False, limit: int | None = None) -> list[Job]:
        """Return jobs, the newest first."""

    @abstractmethod
    def record(self, job_id: int, progress: Mapping[str, Any], now: datetime) -> None:
        """Record how far a job is, in the transaction that brought it there."""

    @abstractmethod
    def set_state(self, job_id: int, state: JobState, now: datetime, error: str | None = None) -> None:
        """Move a job to a state; one that is finished gets its time of finishing."""


class Leases(ABC):
    """Who may do a piece of work, until when. A dead holder's lease runs out by itself."""

    @abstractmethod
    def find_holder(self, name: str, now: datetime) -> str | None:
        """Return who holds a lease, or None if it is free."""

    @abstractmethod
    def acquire(self, name: str, holder: str, now: datetime) -> None:
        """Take a lease that is free, expired, or already the holder's.

        Raises:
            LeaseHeldError: Another holder has it.
        """

    @abstractmethod
    def renew(self, name: str, holder: str, now: datetime) -> None:
        """Extend a lease inside the transaction that does work under it.

        Raises:
            LeaseHeldError: It was lost to another holder; the transaction must not commit.
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
    def put(self, schedule: Schedule, now: datetime, *, seal: str | None = None) -> None:
        """Store a schedule, or replace the one of that name; when that last ran is kept.

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
        """Let the worker skip a schedule, or run it again; raises NotFoundError if there is none of that name."""

    @abstractmethod
    def set_last_run(self, name: str, moment: datetime) -> None:
        """Note when a schedule last ran; raises NotFoundError if there is none of that name."""
