"""``Reader``: what a memory tells of its entries without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, SupportsIndex

import numpy as np

from agent_memory import inputs
from agent_memory.errors import NotFoundError
from agent_memory.live.store import Store
from agent_memory.recall.request import make_condition
from agent_memory.records import Entry, Session
from agent_memory.types import FloatArray, Namespace, Time

_MOST = 2**31


class Reader:
    """Reads entries of one store.

    Args:
        store: The store.
        namespace: The scope; nothing outside is ever read.
    """

    def __init__(self, store: Store, namespace: Namespace) -> None:
        self._store, self._namespace = store, namespace

    def get(self, key: str, *, namespace: Sequence[str] | None = None) -> Entry:
        """Return the entry of a key in exactly this namespace.

        Raises:
            NotFoundError: There is none, or it has expired.
        """
        scope = inputs.resolve_namespace(namespace, self._namespace)
        with self._store.read() as tx:
            return tx.entries.find(scope, inputs.check_name("key", key), datetime.now(UTC))[1]

    def get_many(self, keys: Sequence[str], *, namespace: Sequence[str] | None = None) -> dict[str, Entry]:
        """Return the entries of the given keys in exactly this namespace; keys without one are left out."""
        scope, names = inputs.resolve_namespace(namespace, self._namespace), inputs.check_names("keys", keys)
        with self._store.read() as tx:
            return tx.entries.select_by_key(scope, names, datetime.now(UTC))

    def history(self, key: str, *, namespace: Sequence[str] | None = None) -> list[Entry]:
        """Return every version of an entry, oldest first, with what it superseded; the current one comes last.

        Raises:
            NotFoundError: There was never such a key here, or it was forgotten.
        """
        scope, name = inputs.resolve_namespace(namespace, self._namespace), inputs.check_name("key", key)
        with self._store.read() as tx:
            found = tx.entries.list_versions(scope, name)
        if not found:
            raise NotFoundError(f"no entry with key {key!r}")
        return found

    def entries(
        self,
        *,
        where: Mapping[str, Any] | None = None,
        session: str | None = None,
        speaker: str | None = None,
        since: Time | None = None,
        until: Time | None = None,
        namespace: Sequence[str] | None = None,
        limit: SupportsIndex | None = None,
        offset: SupportsIndex = 0,
    ) -> list[Entry]:
        """Return the entries that match, in the order they were added; arguments as for ``recall``."""
        scope = inputs.resolve_namespace(namespace, self._namespace)
        bounds: dict[str, Any] = {
            "where": where,
            "session": session,
            "speaker": speaker,
            "since": since,
            "until": until,
        }
        condition = make_condition(scope, datetime.now(UTC), **bounds)
        most = None if limit is None else inputs.check_count("limit", limit, most=_MOST)
        skip = inputs.check_count("offset", offset, most=_MOST) if offset else 0
        with self._store.read() as tx:
            return [entry for _, entry in tx.entries.select(condition, limit=most, offset=skip)]

    def sessions(self, *, namespace: Sequence[str] | None = None) -> list[Session]:
        """Return the sessions that hold live entries, in the order they began."""
        condition = make_condition(inputs.resolve_namespace(namespace, self._namespace), datetime.now(UTC))
        with self._store.read() as tx:
            return tx.entries.list_sessions(condition)

    def namespaces(self, *, namespace: Sequence[str] | None = None) -> list[Namespace]:
        """Return the namespaces that hold live entries, here and below, sorted."""
        condition = make_condition(inputs.resolve_namespace(namespace, self._namespace), datetime.now(UTC))
        with self._store.read() as tx:
            return tx.entries.list_namespaces(condition)

    def vectors(self, keys: Sequence[str], *, namespace: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return the static vectors of the given keys in exactly this namespace, as ``get_many`` does entries.

        Each is float32 of shape (dimension,) and unit length.
        """
        scope, names = inputs.resolve_namespace(namespace, self._namespace), inputs.check_names("keys", keys)
        with self._store.read() as tx:
            generation = tx.generations.live()
            found = tx.entries.select_ids_by_key(scope, names, datetime.now(UTC))
            if generation is None or not found:
                return {}
            ids, matrix = tx.vectors.read(generation, list(found.values()), static=True)
        rows = dict(zip(ids.tolist(), matrix.astype(np.float32), strict=True))
        return {key: rows[entry_id] for key, entry_id in found.items() if entry_id in rows}
