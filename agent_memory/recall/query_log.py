"""The query log: off unless the owner of a store turns it on; it never delays a recall."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING

from agent_memory.errors import AgentMemoryError
from agent_memory.files import new_lock
from agent_memory.live.attempt import GivenUpError
from agent_memory.live.store import Store
from agent_memory.recall.request import Mode, Request
from agent_memory.storage.codec import encode_vectors
from agent_memory.storage.records import LoggedQuery
from agent_memory.types import Namespace

if TYPE_CHECKING:
    from agent_memory.encoders import EncoderSpec

_log = logging.getLogger("agent_memory")

_EVERY_S = 10.0  # between writes
_LAST_WAIT_S = 0.5  # for another writer, at close


class QueryLog:
    """Collects the queries of this process and writes them every ten seconds, if no other writer holds the store.

    Recalls never wait for a lock. Queries that cannot be written (another writer, a full disk, a read-only folder) are
    kept in memory for the next attempt, up to ``Config.query_log`` of them; they are lost if the process ends.

    Args:
        store: The store; its settings say how many queries are kept, and whether their text is.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._config = store, store.config
        self._pending: deque[LoggedQuery] = deque(maxlen=store.config.query_log)
        self._writing = new_lock()
        self._next = time.monotonic() + _EVERY_S

    def note(self, request: Request, spec: EncoderSpec) -> None:
        """Log a recall that was answered; recalls by words alone have no vector and are skipped."""
        if not self._config.query_log or request.mode is Mode.LEXICAL:
            return
        text, kept = request.text, self._config.query_text
        self._pending.append(
            LoggedQuery(
                namespace=request.scope,
                asked_at=self._store.database.now(),
                k=request.k,
                fingerprint=spec.fingerprint,
                dtype=spec.dtype,
                vector=encode_vectors(request.vector, spec.dtype).tobytes(),
                digest=hashlib.sha256(text.encode()).digest() if text is not None and kept == "hash" else None,
                text=text if kept == "plain" else None,
            )
        )
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self, *, wait_s: float = 0.0) -> None:
        """Write the collected queries; those that cannot be written now are kept for later. Raises nothing."""
        if not self._pending or self._store.database.read_only or not self._writing.acquire(blocking=False):
            return
        try:
            self._next = time.monotonic() + _EVERY_S
            taken = [self._pending.popleft() for _ in range(len(self._pending))]
            try:
                with self._store.write(wait_s=wait_s) as tx:
                    tx.queries.append(taken, keep=self._config.query_log)
            except (AgentMemoryError, GivenUpError) as error:
                _log.debug("%d queries were not logged yet: %s", len(taken), error)
                room = self._config.query_log - len(self._pending)
                self._pending.extendleft(reversed(taken[-room:] if room > 0 else []))
        finally:
            self._writing.release()

    def clear(self, namespace: Namespace) -> int:
        """Delete the queries asked in or below a namespace, written or not; returns how many."""
        with self._writing:
            pending = list(self._pending)
            self._pending.clear()
            kept = [one for one in pending if one.namespace[: len(namespace)] != namespace]
            self._pending.extend(kept)
            with self._store.write() as tx:
                return tx.queries.clear(namespace) + len(pending) - len(kept)

    def discard(self, namespaces: Collection[Namespace]) -> None:
        """Drop the queries that are not written yet and were asked in, above or below some namespaces."""
        with self._writing:
            pending = list(self._pending)
            self._pending.clear()
            self._pending.extend(one for one in pending if not any(_touch(one.namespace, n) for n in namespaces))

    def close(self) -> None:
        """Write the queries that are left."""
        self.flush(wait_s=_LAST_WAIT_S)


def _touch(one: Namespace, other: Namespace) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
