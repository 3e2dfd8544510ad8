"""``Later``: encodes in the background what was stored with its vector still to come."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from agent_memory.errors import AgentMemoryError, ClosedError
from agent_memory.files import reset_in_child
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.storage.records import StoredText

_log = logging.getLogger("agent_memory")


class Later:
    """Encodes entries that are ``LATER``, those of a burst together, in a thread that ends when none are left.

    Args:
        store: The store. What a process that was killed has left there is encoded by the next that opens it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reset()
        reset_in_child(self, Later._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._asked = False

    def resume(self) -> None:
        """Start if an earlier process has left something to do."""
        if self._store.database.read_only:
            return
        with self._store.read() as tx:
            awaiting = tx.vectors.is_awaiting()
        if awaiting:
            self.start()

    def start(self) -> None:
        """Let the thread look for entries to encode; one that is at work looks again at its end."""
        with self._lock:
            self._asked = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="agent-memory-later")
                self._thread.start()

    def finish(self) -> None:
        """Wait until nothing is left to encode."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._asked:
                    self._thread = None
                    return
                self._asked = False
            try:
                self._encode_all()
            except ClosedError:
                return
            except AgentMemoryError as error:
                _log.warning("entries are found by their words alone until their vectors can be encoded: %s", error)

    def _encode_all(self) -> None:
        after = 0
        while True:
            with self._store.call():
                found = self._store.call_in_space(lambda space, after=after: self._encode_next(space, after))  # type: ignore[misc]
            if found is None:
                return
            after = found

    def _encode_next(self, space: Space, after: int) -> int | None:
        """Encode the next batch behind an entry; returns its last entry, or None if that was all."""
        with self._store.read() as tx:
            generation = tx.generations.live()
            if generation is None:
                return None
            space.accept(generation)
            batch = tx.vectors.select_later(generation, after=after, limit=self._store.config.batch_size)
        if batch:
            self._fill_in(space, batch)
            return batch[-1].id
        with self._store.write() as tx:
            live = tx.generations.live()
            return None if live is None or tx.vectors.end_waiting(live) else after

    def _fill_in(self, space: Space, batch: Sequence[StoredText]) -> None:
        encoded = space.encode_texts([entry.text for entry in batch])
        ids = [entry.id for entry in batch]
        space.sessions.warm(self._store.database, lambda tx: tx.sessions.find_sessions(ids))
        with self._store.write() as tx:
            generation = space.find_or_begin(tx, self._store.database.now())
            statics = [one.static for one in encoded]
            filled = tx.vectors.fill_in(generation, zip(batch, statics, strict=True))
            tx.passages.put(generation.id, zip(ids, encoded, strict=True))
            tx.changes.log(filled, "put")
            dirty: dict[int, int] = {}
            for session_id, entry_id in tx.sessions.find_sessions(filled):
                dirty[session_id] = min(entry_id, dirty.get(session_id, entry_id))
            space.sessions.replay(tx, generation, dirty)
