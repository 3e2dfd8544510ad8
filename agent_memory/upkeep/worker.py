"""``Worker``: runs the periodic jobs of a store when their schedules say so, under a lease.

Schedules, job history and lease are in the store, so that any worker can take over from one that was killed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent_memory.errors import AgentMemoryError, ClosedError, InvalidInputError, LeaseHeldError
from agent_memory.files import failpoint
from agent_memory.live.store import Store
from agent_memory.reports import Job, JobState, Schedule
from agent_memory.storage.operations import LEASE_S, new_holder
from agent_memory.upkeep.operator import Operator
from agent_memory.upkeep.schedules import DEFAULTS, KINDS, find_due_time, make_schedule, parse_trigger, read_schedules

_log = logging.getLogger("agent_memory")

LEASE = "jobs"
_POLL_S = 1.0
_KEEP_BACKUPS = 7


def _maintain(operator: Operator, _: dict[str, Any]) -> dict[str, Any]:
    return {action.name: action.result for action in operator.maintenance(dry_run=False).actions}


def _maintain_only(*names: str) -> Callable[[Operator, dict[str, Any]], dict[str, Any]]:
    def run(operator: Operator, _: dict[str, Any]) -> dict[str, Any]:
        report = operator.maintenance(dry_run=False, only=names)
        return {action.name: action.result for action in report.actions}

    return run


def _verify(operator: Operator, _: dict[str, Any]) -> dict[str, Any]:
    report = operator.check()
    for problem in report.problems:
        _log.warning("verify: %s", problem)
    return {"entries": report.entries, "problems": list(report.problems[:20])}


def _snapshot(operator: Operator, _: dict[str, Any]) -> dict[str, Any]:
    operator.save_snapshot()
    return {"seq": operator.stats().seq}


def _backup(operator: Operator, options: dict[str, Any]) -> dict[str, Any]:
    folder = Path(options["folder"]).expanduser()
    path, entries = operator.backup_into(folder, keep=int(options.get("keep", _KEEP_BACKUPS)))
    return {"file": str(path), "entries": entries}


_ACTIONS: dict[str, Callable[[Operator, dict[str, Any]], dict[str, Any]]] = {
    "maintain": _maintain,
    "purge": lambda operator, _: {"purged": operator.purge_expired()},
    "compact": _maintain_only("collect", "lexical", "changes", "vacuum", "log"),
    "retrain": _maintain_only("index"),
    "verify": _verify,
    "snapshot": _snapshot,
    "backup": _backup,
}


class Worker:
    """Runs a store's periodic jobs while it holds their lease; other workers wait.

    Args:
        operator: Does the work.
        store: The store.
        poll_s: Seconds between checks of the schedules and the lease.
    """

    def __init__(self, operator: Operator, store: Store, *, poll_s: float = _POLL_S) -> None:
        self._operator, self._store, self._poll_s = operator, store, poll_s
        self._holder = new_holder()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start a daemon thread that runs periodic jobs until ``close``.

        Raises:
            MissingDependencyError: APScheduler is not installed.
        """
        parse_trigger("every 1h")
        self._thread = threading.Thread(target=self._run_quietly, name="agent-memory-jobs", daemon=True)
        self._thread.start()

    def _run_quietly(self) -> None:
        try:
            self.work(self._stop)
        except AgentMemoryError as error:
            _log.warning("background maintenance has ended: %s", error)

    def close(self) -> None:
        """Stop the thread that ``start`` started, after its current job."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def run_job(self, kind: str, *, options: Mapping[str, Any] | None = None) -> Job:
        """Run one periodic job now; returns its record.

        Args:
            kind: As for ``schedule``.
            options: As for ``schedule``.

        Raises:
            InvalidInputError: There is no such kind, or an option is unusable.
            AgentMemoryError: The job failed; the history records it.

        Example:
            >>> entry = memory.add("The code is 1234.", expires_at="2099-12-31")
            >>> dict(memory.run_job("purge").progress)
            {'purged': 0}
        """
        make_schedule(kind, kind, "every 1h", options)
        with self._store.write() as tx:
            job = tx.jobs.create(kind, {}, self._store.database.now())
        failpoint("job-begun")
        try:
            result = _ACTIONS[kind](self._operator, dict(options or {}))
        except AgentMemoryError as error:
            self._finish(job.id, JobState.FAILED, {}, str(error)[:1000])
            raise
        self._finish(job.id, JobState.DONE, result, None)
        with self._store.read() as tx:
            return tx.jobs.get(job.id)

    def _finish(self, job_id: int, state: JobState, result: Mapping[str, Any], error: str | None) -> None:
        try:
            with self._store.write() as tx:
                now = self._store.database.now()
                tx.jobs.record(job_id, result, now)
                tx.jobs.set_state(job_id, state, now, error)
        except ClosedError:
            pass  # the memory was closed while the job ran; the next worker closes its record

    def work(self, stop: threading.Event) -> None:
        """Run the store's periodic jobs until ``stop`` is set; waits while another worker runs them.

        Args:
            stop: Event that ends the call, after the current job.

        Raises:
            MissingDependencyError: APScheduler is not installed.

        Example:
            >>> import threading
            >>> stop = threading.Event()
            >>> threading.Timer(1.0, stop.set).start()
            >>> memory.work(stop)
        """
        parse_trigger("every 1h")
        with self._store.write() as tx:
            if not tx.schedules.list_all():
                for schedule in DEFAULTS:
                    tx.schedules.put(schedule, self._store.database.now())
        try:
            while not stop.is_set():
                if self._try_to_lead():
                    self._run_due(stop)
                stop.wait(self._poll_s)
        except ClosedError:
            return
        finally:
            self._release_lease()

    def _try_to_lead(self) -> bool:
        """Take or extend the lease; closes the jobs of a killed worker."""
        now = self._store.database.now()
        try:
            with self._store.write() as tx:
                before = tx.leases.find_holder(LEASE, now)
                tx.leases.acquire(LEASE, self._holder, now)
                if before != self._holder:
                    for job in tx.jobs.list_all(unfinished=True):
                        if job.kind in KINDS:
                            tx.jobs.set_state(job.id, JobState.FAILED, now, "the worker was killed")
        except LeaseHeldError:
            return False
        return True

    def _run_due(self, stop: threading.Event) -> None:
        with self._store.read() as tx:
            active = [schedule for schedule in read_schedules(tx, self._store.folder) if not schedule.paused]
        for schedule in active:
            now = self._store.database.now()
            if stop.is_set() or find_due_time(schedule, now) > now:
                continue
            with self._store.write() as tx:
                tx.leases.renew(LEASE, self._holder, now)
                tx.schedules.set_last_run(schedule.name, now)
            try:
                if not schedule.made_here:
                    self._refuse(schedule)
                with self._hold_lease():
                    self.run_job(schedule.kind, options=schedule.options)
            except ClosedError:
                raise
            except AgentMemoryError as error:
                _log.warning("job %s failed: %s", schedule.name, error)

    @contextmanager
    def _hold_lease(self) -> Iterator[None]:
        """Extend the lease from a thread while the block runs."""
        done = threading.Event()
        keeper = threading.Thread(target=self._keep_lease, args=(done,), daemon=True)
        keeper.start()
        try:
            yield
        finally:
            done.set()
            keeper.join()

    def _refuse(self, schedule: Schedule) -> None:
        """Record that a schedule from elsewhere was not carried out, and raise."""
        error = InvalidInputError(
            f"{schedule.name!r} would back this store up to {schedule.options.get('folder')!r}, but was not scheduled "
            "here; schedule it again if it is wanted"
        )
        with self._store.write() as tx:
            job = tx.jobs.create(schedule.kind, {}, self._store.database.now())
        self._finish(job.id, JobState.FAILED, {}, str(error)[:1000])
        raise error

    def _keep_lease(self, done: threading.Event) -> None:
        while not done.wait(LEASE_S / 3):
            try:
                with self._store.write() as tx:
                    tx.leases.renew(LEASE, self._holder, self._store.database.now())
            except AgentMemoryError as error:
                _log.warning("the lease of the periodic jobs was not extended: %s", error)

    def _release_lease(self) -> None:
        try:
            with self._store.write() as tx:
                tx.leases.release(LEASE, self._holder)
        except AgentMemoryError:
            pass  # the lease expires by itself
