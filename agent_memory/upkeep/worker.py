"""Periodic jobs of a store: a worker holds a lease and does what the schedules say, when they say it.

Times come from APScheduler's triggers; what is due, what was done, and who may do it is in the store, so that any
worker can go on where a killed one was.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.errors import AgentMemoryError, ClosedError, InvalidInputError, LeaseHeldError, MissingDependencyError
from agent_memory.files import failpoint
from agent_memory.inputs import name as valid_name
from agent_memory.reports import JobState, Schedule
from agent_memory.storage.sqlite import jobs, leases, schedules
from agent_memory.storage.sqlite.database import Database

if TYPE_CHECKING:
    from agent_memory.memory import Memory

_log = logging.getLogger("agent_memory")

LEASE = "jobs"
KINDS = ("maintain", "purge", "compact", "retrain", "verify", "snapshot", "backup")

DEFAULTS = (
    Schedule(name="maintain", kind="maintain", trigger="every 1h"),
    Schedule(name="snapshot", kind="snapshot", trigger="every 10m"),
    Schedule(name="verify", kind="verify", trigger="30 3 * * 0"),
)
"""What a store does that nobody has scheduled anything for."""

_EVERY = re.compile(r"every (\d{1,6}) ?([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_POLL_S = 1.0
_KEEP_BACKUPS = 7


def trigger_of(text: str) -> Any:  # noqa: ANN401 - APScheduler has no types
    """Return APScheduler's trigger for a cron expression in UTC or ``every N unit``.

    Raises:
        InvalidInputError: It is neither.
        MissingDependencyError: APScheduler is not installed.
    """
    try:
        from apscheduler.triggers.cron import CronTrigger
        from apscheduler.triggers.interval import IntervalTrigger
    except ImportError as error:
        raise MissingDependencyError("APScheduler", "jobs") from error
    match = _EVERY.fullmatch(text.strip())
    try:
        if match:
            if int(match[1]) == 0:
                raise ValueError("the interval is 0")
            return IntervalTrigger(**{_UNITS[match[2]]: int(match[1])}, timezone=UTC)
        return CronTrigger.from_crontab(text, timezone=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"trigger must be a cron expression or 'every 30m', got {text!r}: {error}") from error


def checked(name: str, kind: str, trigger: str, options: Mapping[str, Any] | None) -> Schedule:
    """Return a schedule, or raise InvalidInputError."""
    if kind not in KINDS:
        raise InvalidInputError(f"kind must be one of {KINDS}, got {kind!r}")
    given = dict(options or {})
    if unknown := set(given) - ({"folder", "keep"} if kind == "backup" else set()):
        raise InvalidInputError(f"a {kind} job has no options {sorted(unknown)}")
    if kind == "backup" and not isinstance(given.get("folder"), str):
        raise InvalidInputError("a backup job needs the option folder")
    if "keep" in given and (isinstance(given["keep"], bool) or not isinstance(given["keep"], int) or given["keep"] < 1):
        raise InvalidInputError(f"keep must be a positive number of backups, got {given['keep']!r}")
    trigger_of(trigger)
    return Schedule(name=valid_name("name", name) or kind, kind=kind, trigger=trigger, options=given)


def due_at(schedule: Schedule, now: datetime) -> datetime:
    """Return when a schedule is to run next; what was missed while no worker ran is due at once."""
    trigger = trigger_of(schedule.trigger)
    last = schedule.last_run_at
    if last is None or last > now:  # never, or the clock was set back since
        last = None
        if _EVERY.fullmatch(schedule.trigger.strip()):
            return now
    moment = trigger.get_next_fire_time(last, now if last is None else last + timedelta(microseconds=1))
    return max(now, moment) if moment is not None else datetime.max.replace(tzinfo=UTC)


def run_once(memory: Memory, database: Database, kind: str, options: Mapping[str, Any] | None = None) -> int:
    """Do one job now and record it; returns its number.

    Raises:
        AgentMemoryError: It failed; the history says so.
    """
    with database.write() as connection:
        job = jobs.create(connection, kind, {}, datetime.now(UTC))
    failpoint("job-begun")
    try:
        result = _DOING[kind](memory, dict(options or {}))
    except AgentMemoryError as error:
        _finish(database, job.id, JobState.FAILED, {}, str(error)[:1000])
        raise
    _finish(database, job.id, JobState.DONE, result, None)
    return job.id


def _finish(database: Database, job_id: int, state: JobState, result: Mapping[str, Any], error: str | None) -> None:
    try:
        with database.write() as connection:
            now = datetime.now(UTC)
            jobs.record(connection, job_id, result, now)
            jobs.set_state(connection, job_id, state, now, error)
    except ClosedError:
        pass  # closed while the job ran; the next worker closes its record


def _maintain(memory: Memory, _: dict[str, Any]) -> dict[str, Any]:
    return {action.name: action.result for action in memory.maintenance(dry_run=False).actions}


def _some(*names: str) -> Callable[[Memory, dict[str, Any]], dict[str, Any]]:
    def do(memory: Memory, _: dict[str, Any]) -> dict[str, Any]:
        report = memory.maintenance(dry_run=False, only=names)
        return {action.name: action.result for action in report.actions}

    return do


def _verify(memory: Memory, _: dict[str, Any]) -> dict[str, Any]:
    report = memory.check()
    for problem in report.problems:
        _log.warning("verify: %s", problem)
    return {"entries": report.entries, "problems": list(report.problems[:20])}


def _snapshot(memory: Memory, _: dict[str, Any]) -> dict[str, Any]:
    memory.save_snapshot()
    return {"seq": memory.stats().seq}


def _backup(memory: Memory, options: dict[str, Any]) -> dict[str, Any]:
    folder = Path(options["folder"]).expanduser()
    path = folder / f"memory-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
    entries = memory.backup(path)
    kept = sorted(folder.glob("memory-*T*.db"), reverse=True)
    for old in kept[int(options.get("keep", _KEEP_BACKUPS)) :]:
        old.unlink(missing_ok=True)
    return {"file": str(path), "entries": entries}


_DOING: dict[str, Callable[[Memory, dict[str, Any]], dict[str, Any]]] = {
    "maintain": _maintain,
    "purge": lambda memory, _: {"purged": memory.purge_expired()},
    "compact": _some("collect", "lexical", "changes", "vacuum", "log"),
    "retrain": _some("index"),
    "verify": _verify,
    "snapshot": _snapshot,
    "backup": _backup,
}


class Worker:
    """Does a store's periodic jobs while it holds their lease; a second worker waits for it.

    Args:
        memory: The store.
        database: Its database.
        stop: Set it to end the worker after the job that it is doing.
        poll_s: Seconds between looks at the schedules and at the lease.
    """

    def __init__(self, memory: Memory, database: Database, stop: threading.Event, *, poll_s: float = _POLL_S) -> None:
        trigger_of("every 1h")  # is APScheduler there?
        self._memory, self._database, self._stop, self._poll_s = memory, database, stop, poll_s
        self._holder = leases.new_holder()

    def run(self) -> None:
        """Work until ``stop`` is set."""
        with self._database.write() as connection:
            if not schedules.listed(connection):
                for schedule in DEFAULTS:
                    schedules.put(connection, schedule, datetime.now(UTC))
        try:
            while not self._stop.is_set():
                if self._leads():
                    self._do_what_is_due()
                self._stop.wait(self._poll_s)
        except ClosedError:
            return
        finally:
            self._leave()

    def _leads(self) -> bool:
        """Take or extend the lease; a job that a killed worker had begun is closed."""
        now = datetime.now(UTC)
        try:
            with self._database.write() as connection:
                before = leases.holder_of(connection, LEASE, now)
                leases.acquire(connection, LEASE, self._holder, now)
                if before != self._holder:
                    for job in jobs.listed(connection, unfinished=True):
                        if job.kind in KINDS:
                            jobs.set_state(connection, job.id, JobState.FAILED, now, "its worker was killed")
        except LeaseHeldError:
            return False
        return True

    def _do_what_is_due(self) -> None:
        with self._database.read() as connection:
            wanted = [schedule for schedule in schedules.listed(connection) if not schedule.paused]
        for schedule in wanted:
            now = datetime.now(UTC)
            if self._stop.is_set() or due_at(schedule, now) > now:
                continue
            with self._database.write() as connection:
                leases.renew(connection, LEASE, self._holder, now)
                schedules.change(connection, schedule.name, last_run_at=now)
            done = threading.Event()
            keeper = threading.Thread(target=self._keep_lease, args=(done,), daemon=True)
            keeper.start()
            try:
                run_once(self._memory, self._database, schedule.kind, schedule.options)
            except ClosedError:
                raise
            except AgentMemoryError as error:
                _log.warning("job %s failed: %s", schedule.name, error)
            finally:
                done.set()
                keeper.join()

    def _keep_lease(self, done: threading.Event) -> None:
        """Extend the lease while a long job runs."""
        while not done.wait(leases.LEASE.total_seconds() / 3):
            try:
                with self._database.write() as connection:
                    leases.renew(connection, LEASE, self._holder, datetime.now(UTC))
            except AgentMemoryError as error:
                _log.warning("the lease of the jobs was not extended: %s", error)

    def _leave(self) -> None:
        try:
            with self._database.write() as connection:
                leases.release(connection, LEASE, self._holder)
        except AgentMemoryError:
            pass  # it runs out by itself


class Background:
    """A worker in a daemon thread of this process."""

    def __init__(self, memory: Memory, database: Database) -> None:
        self._stop = threading.Event()
        worker = Worker(memory, database, self._stop)
        self._thread = threading.Thread(target=self._run, args=(worker,), name="agent-memory-jobs", daemon=True)
        self._thread.start()

    def _run(self, worker: Worker) -> None:
        try:
            worker.run()
        except AgentMemoryError as error:
            _log.warning("background maintenance has ended: %s", error)

    def close(self) -> None:
        """End the thread after the job that it is doing."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
