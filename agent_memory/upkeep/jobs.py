"""``Jobs``: lists the jobs of a store, and pauses, resumes or cancels them."""

from __future__ import annotations

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.live.store import Store
from agent_memory.reports import Job, JobState
from agent_memory.storage.operations import OPEN_STATES
from agent_memory.upkeep.lease import LEASE


class Jobs:
    """The running and finished jobs of one store, in whichever process they run.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def jobs(self, *, limit: int = 100) -> list[Job]:
        """Return running and finished jobs, newest first.

        Args:
            limit: Maximum number of jobs to return.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> report = memory.reindex(tiers=(128, 768))
            >>> [(job.kind, str(job.state)) for job in memory.jobs()]
            [('reindex', 'done')]
        """
        with self._store.read() as tx:
            return tx.jobs.list_all(limit=inputs.check_count("limit", limit))

    def pause_job(self, job: int) -> Job:
        """Pause a running job after its current step, in whichever process it runs.

        Args:
            job: Number of the job.

        Raises:
            NotFoundError: There is no such job.
            InvalidInputError: The job has finished.

        Example:
            >>> for job in memory.jobs():
            ...     if job.state == "running":
            ...         job = memory.pause_job(job.id)
        """
        return self._set_state(job, JobState.PAUSED)

    def resume_job(self, job: int) -> Job:
        """Resume a paused job.

        Args:
            job: Number of the job.

        Raises:
            NotFoundError: There is no such job.
            InvalidInputError: The job has finished.

        Example:
            >>> for job in memory.jobs():
            ...     if job.state == "paused":
            ...         job = memory.resume_job(job.id)
        """
        return self._set_state(job, JobState.RUNNING)

    def cancel_job(self, job: int) -> Job:
        """Cancel a job after its current step; deletes what it has built and keeps the live generation.

        Args:
            job: Number of the job.

        Raises:
            NotFoundError: There is no such job.
            InvalidInputError: The job has finished.

        Example:
            >>> for job in memory.jobs():
            ...     if job.state == "paused":
            ...         job = memory.cancel_job(job.id)
        """
        return self._set_state(job, JobState.CANCELLED)

    def _set_state(self, job_id: int, state: JobState) -> Job:
        """Set the state of an unfinished job; the process that runs it obeys at its next step."""
        inputs.check_count("job", job_id, most=2**63 - 1)
        with self._store.write() as tx:
            now = self._store.database.now()
            job = tx.jobs.get(job_id)
            if job.state not in OPEN_STATES:
                raise InvalidInputError(f"job {job_id} is already {job.state}")
            tx.jobs.set_state(job_id, state, now)
            orphan = tx.leases.find_holder(LEASE, now) is None
            if state is JobState.CANCELLED and orphan and job.kind == "reindex":
                tx.generations.condemn(int(job.progress.get("generation", 0)))
            return tx.jobs.get(job_id)
