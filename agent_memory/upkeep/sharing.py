"""Encoding a generation together: processes on any number of machines claim ranges of entries."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import EncoderMismatchError, InvalidInputError, NotFoundError
from agent_memory.files import failpoint
from agent_memory.live.store import Store
from agent_memory.reports import GenerationState, Job, JobState, ReindexReport
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import ANY, Generation, StoredText
from agent_memory.types import Progress
from agent_memory.upkeep.derive import Deriver
from agent_memory.upkeep.plan import Source, Target

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder

_log = logging.getLogger("agent_memory")

_POLL_S = 0.2
_BREATH_S = 0.002
_END_S = 30.0
_TOO_LATE = 3
"""How the command ends when there is no re-index any more."""


def work_on_ranges(store: Store, generation: Generation, write: Callable[[Sequence[StoredText]], int]) -> None:
    """Claim ranges of a generation one by one, until there are none that nobody has claimed.

    Args:
        store: The store.
        generation: What is being built.
        write: Gives vectors to entries; returns how many texts it has encoded.
    """
    while True:
        with store.database.claim(generation.id) as claim:
            if claim is None:
                return
            with store.read() as tx:
                found = tx.vectors.select_missing(
                    generation.id, after=claim.first - 1, limit=claim.last - claim.first + 1
                )
            failpoint("reindex-claimed")
            batch = [entry for entry in found if entry.id <= claim.last]
            claim.encoded = write(batch) if batch else 0


class Helper:
    """Helps a process that re-indexes the store: encodes ranges that nobody has claimed, and swaps nothing.

    Args:
        store: The store.
        encoder: The encoder of the generation that is being built, if this process does not find it by its name.
    """

    def __init__(self, store: Store, encoder: Encoder | str | Path | None) -> None:
        self._store = store
        if encoder is not None:
            store.spaces.add(load_encoder(encoder))

    def run(self, progress: Progress | None) -> ReindexReport:
        """Encode ranges until there are none that nobody has claimed, and return what was done here.

        Raises:
            NotFoundError: No re-index is under way.
            EncoderMismatchError: This process does not have the encoder of the generation that is being built.
        """
        started = time.perf_counter()
        generation, job, target = self._find()
        deriver = Deriver(target, generation, 0)
        state = JobState.DONE

        def write(batch: Sequence[StoredText]) -> int:
            before, began = deriver.encoded, time.perf_counter()
            with self._store.read() as tx:
                derived = deriver.derive(tx, batch)
            blobs = deriver.complete(derived, batch)
            locked = time.perf_counter()
            with self._write_step(job) as tx:
                deriver.store(tx, batch, blobs)
            if progress is not None:
                progress(deriver.encoded, max(deriver.encoded, int(job.progress.get("total", 0))))
            time.sleep(max(_BREATH_S, time.perf_counter() - max(locked, began)))
            return deriver.encoded - before

        try:
            if target.source is Source.ENCODE:
                self._wait_until_divided(generation, job)
                work_on_ranges(self._store, generation, write)
        except _EndedError:
            state = JobState.CANCELLED
        with self._store.read() as tx:
            total = tx.entries.count(ANY)
        return ReindexReport(
            job=job.id,
            state=state,
            generation=generation.id,
            source=target.source,
            entries=total,
            encoded=deriver.encoded,
            seconds=time.perf_counter() - started,
            added_bytes=0,
            recall=None,
        )

    def _find(self) -> tuple[Generation, Job, Target]:
        with self._store.read() as tx:
            jobs = [one for one in tx.jobs.list_all(kind="reindex", unfinished=True) if one.state in _OPEN]
            begun = {one.id: one for one in tx.generations.find_in_state(GenerationState.BUILDING)}
            found = [(begun[number], one) for one in jobs if (number := one.progress.get("generation")) in begun]
            if not found:
                raise NotFoundError("no re-index is under way that could be joined")
            generation, job = found[0]
            space = self._store.spaces.find(tx, generation)
        if space is None:
            name = generation.encoder.get("name")
            raise EncoderMismatchError(f"joining this re-index needs encoder {name!r}: give it as encoder")
        source = Source(str(job.progress.get("source", Source.ENCODE)))
        return generation, job, Target(space=space, source=source, tiers=generation.tiers)

    def _wait_until_divided(self, generation: Generation, job: Job) -> None:
        while True:
            with self._store.read() as tx:
                if tx.ranges is None or tx.ranges.count(generation.id).total:
                    return
                if tx.jobs.get(job.id).state not in _OPEN:
                    raise _EndedError
            time.sleep(_POLL_S)

    @contextmanager
    def _write_step(self, job: Job) -> Iterator[Transaction]:
        while True:
            with self._store.write() as tx:
                state = tx.jobs.get(job.id).state
                if state is JobState.RUNNING:
                    yield tx
                    return
            if state is not JobState.PAUSED:
                raise _EndedError
            time.sleep(_POLL_S)


class _EndedError(Exception):
    """The job has ended without this process."""


_OPEN = (JobState.RUNNING, JobState.PAUSED)


def check_workers(store: Store, workers: int, encoder: object) -> None:
    """Raise InvalidInputError if a store cannot be re-indexed by that many processes."""
    if workers == 1:
        return
    if not store.database.is_shared:
        raise InvalidInputError(f"workers must be 1 for a memory in a folder, got {workers}; PostgreSQL takes more")
    if encoder is not None and not isinstance(encoder, str | Path):
        raise InvalidInputError(
            f"workers must be 1 for an encoder that is an object, got {workers}: other processes load it by its name"
        )


@contextmanager
def start_workers(store: Store, count: int, encoder: str | Path | None) -> Iterator[None]:
    """Start processes on this machine that help with a re-index, and wait for them at the end."""
    command = [sys.executable, "-m", "agent_memory", "reindex", "--join", "--json"]
    command += [] if encoder is None else ["--to", str(encoder)]
    # The address may hold a password, which others could see among the arguments.
    surroundings = {**os.environ, "AGENT_MEMORY_PATH": store.database.address}
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(count):
            started.append(
                subprocess.Popen(command, env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            )
        yield
    finally:
        for process in started:
            _wait(process)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Wait for a helper, which ends when there is nothing left to claim; one that does not is ended."""
    try:
        _, said = process.communicate(timeout=_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
    if process.returncode not in (0, _TOO_LATE):
        _log.warning("a helper of the re-index ended with %d: %s", process.returncode, said.decode()[-500:].strip())
