"""``Reader``: reads entries, sessions and namespaces without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.live.store import Store
from agent_memory.recall.request import make_condition
from agent_memory.records import Entry, Session, Topics
from agent_memory.types import Address, FloatArray, Namespace, Time

_MOST = 2**31


class Reader:
    """Reads the entries of one store.

    Args:
        store: The store.
        namespace: The memory's namespace; nothing outside of it is ever read.
    """

    def __init__(self, store: Store, namespace: Namespace) -> None:
        self._store, self._namespace = store, namespace

    def get(self, key: str, *, namespace: Sequence[str] | None = None) -> Entry:
        """Return the entry with a key, in exactly this namespace.

        Args:
            key: The entry's key.
            namespace: Where to look; this memory's namespace if left out.

        Raises:
            NotFoundError: No entry has the key, or the entry has expired.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.", key="home")
            >>> memory.get("home").text
            'Alice moved to Berlin.'
        """
        scope = inputs.resolve_namespace(namespace, self._namespace)
        with self._store.read() as tx:
            return tx.entries.find(scope, inputs.check_name("key", key), self._store.database.now())[1]

    def get_many(self, keys: Sequence[str], *, namespace: Sequence[str] | None = None) -> dict[str, Entry]:
        """Return the entries with the given keys, by key, in exactly this namespace; missing ones are left out.

        Args:
            keys: The entries' keys.
            namespace: As for ``get``.

        Example:
            >>> entry = memory.add("Bob likes tea.", key="tea")
            >>> list(memory.get_many(["tea", "no-such-key"]))
            ['tea']
        """
        scope, names = inputs.resolve_namespace(namespace, self._namespace), inputs.check_names("keys", keys)
        with self._store.read() as tx:
            return tx.entries.select_by_key(scope, names, self._store.database.now())

    def get_at(self, places: Sequence[Address]) -> dict[Address, Entry]:
        """Return the entries at (namespace, key), by place, all in one read; missing ones are left out."""
        checked = [
            (inputs.resolve_namespace(namespace, self._namespace), inputs.check_name("key", key))
            for namespace, key in places
        ]
        with self._store.read() as tx:
            return {
                place: entry for place, (_, entry) in tx.entries.select_at(checked, self._store.database.now()).items()
            }

    def history(self, key: str, *, namespace: Sequence[str] | None = None) -> list[Entry]:
        """Return every version of an entry and of the entries it superseded, oldest first; the current one is last.

        If another entry took its place, that follows, and what took the place of that one, up to the current one.

        Args:
            key: The entry's key.
            namespace: As for ``get``.

        Raises:
            NotFoundError: The key was never used here, or its entry was forgotten.

        Example:
            >>> entry = memory.add("Alice lives in Berlin.", key="home")
            >>> entry = memory.update("home", text="Alice lives in Rome.")
            >>> [version.text for version in memory.history("home")]
            ['Alice lives in Berlin.', 'Alice lives in Rome.']
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
        newest_first: bool = False,
    ) -> list[Entry]:
        """Return the entries that match all given filters, in the order they were added.

        Args:
            where: Metadata filter, as for ``recall``.
            session: Only entries of this session.
            speaker: Only entries of this speaker.
            since: Earliest event time, as for ``recall``.
            until: Latest event time, as for ``recall``.
            namespace: Only entries in this namespace or below it; this memory's namespace if left out.
            limit: Maximum number of entries to return; all if left out.
            offset: Number of matching entries to skip first.
            newest_first: True for the reverse order, e.g. with ``limit=10`` for the last ten of a session.

        Example:
            >>> entry = memory.add("Bob likes tea.", speaker="bob", metadata={"topic": "food"})
            >>> [entry.text for entry in memory.entries(speaker="bob", where={"topic": "food"})]
            ['Bob likes tea.']
        """
        condition = make_condition(
            inputs.resolve_namespace(namespace, self._namespace),
            self._store.database.now(),
            where=where,
            session=session,
            speaker=speaker,
            since=since,
            until=until,
            zone=self._store.config.zone,
        )
        most = None if limit is None else inputs.check_count("limit", limit, most=_MOST)
        skip = 0 if isinstance(offset, int) and not offset else inputs.check_count("offset", offset, most=_MOST)
        reverse = inputs.check_flag("newest_first", newest_first)
        with self._store.read() as tx:
            found = tx.entries.select(condition, limit=most, offset=skip, newest_first=reverse)
        return [entry for _, entry in found]

    def sessions(self, *, namespace: Sequence[str] | None = None) -> list[Session]:
        """Return the sessions that hold live entries, in the order they began.

        Args:
            namespace: Only sessions in this namespace or below it; this memory's namespace if left out.

        Example:
            >>> entry = memory.add("I am back from Rome.", session="chat-7")
            >>> [(session.name, session.entries) for session in memory.sessions()]
            [('chat-7', 1)]
        """
        condition = make_condition(inputs.resolve_namespace(namespace, self._namespace), self._store.database.now())
        with self._store.read() as tx:
            return tx.entries.list_sessions(condition)

    def namespaces(self, *, namespace: Sequence[str] | None = None) -> list[Namespace]:
        """Return the namespaces that hold live entries, sorted.

        Args:
            namespace: Only this namespace and those below it; this memory's namespace if left out.

        Example:
            >>> entry = memory.add("Bob works in Oslo.", namespace=("team", "bob"))
            >>> memory.namespaces(namespace=("team",))
            [('team', 'bob')]
        """
        condition = make_condition(inputs.resolve_namespace(namespace, self._namespace), self._store.database.now())
        with self._store.read() as tx:
            return tx.entries.list_namespaces(condition)

    def vectors(self, keys: Sequence[str], *, namespace: Sequence[str] | None = None) -> dict[str, FloatArray]:
        """Return the static vectors of the entries with the given keys, by key; missing ones are left out.

        Args:
            keys: The entries' keys.
            namespace: As for ``get``.

        Returns:
            Vectors of unit length, float32 of shape (dimension,).

        Example:
            >>> entry = memory.add("Bob likes tea.", key="tea")
            >>> memory.vectors(["tea"])["tea"].shape == (memory.encoder.spec.dimension,)
            True
        """
        scope, names = inputs.resolve_namespace(namespace, self._namespace), inputs.check_names("keys", keys)
        with self._store.read() as tx:
            generation = tx.generations.live()
            found = tx.entries.select_ids_by_key(scope, names, self._store.database.now())
            if generation is None or not found:
                return {}
            ids, matrix = tx.vectors.read(generation, list(found.values()), static=True)
        rows = dict(zip(ids.tolist(), matrix.astype(np.float32), strict=True))
        return {key: rows[entry_id] for key, entry_id in found.items() if entry_id in rows}

    def topics(
        self,
        *,
        where: Mapping[str, Any] | None = None,
        session: str | None = None,
        speaker: str | None = None,
        since: Time | None = None,
        until: Time | None = None,
        namespace: Sequence[str] | None = None,
        k: SupportsIndex | None = None,
        previous: Topics | None = None,
    ) -> Topics:
        """Group the entries that match all given filters by what they are about; the same entries give the same groups.

        Args:
            where: As for ``entries``, as are ``session``, ``speaker``, ``since``, ``until`` and ``namespace``.
            session: Only entries of this session.
            speaker: Only entries of this speaker.
            since: Earliest event time.
            until: Latest event time.
            namespace: Only entries in this namespace or below it.
            k: How many topics; found from the entries if left out.
            previous: What ``topics`` returned before. Its topics keep their entries and names, entries added since join
                the closest one, or form new topics if they are far from all.

        Raises:
            InvalidInputError: An argument is unusable.

        Example:
            >>> entries = memory.add_many(["Bob likes tea.", "Ann likes coffee.", "The train to Porto is late."])
            >>> sum(topic.size for topic in memory.topics(k=2))
            3
        """
        from agent_memory.recall.topics import find_topics

        count = check_topics(k, previous)
        condition = make_condition(
            inputs.resolve_namespace(namespace, self._namespace),
            self._store.database.now(),
            where=where,
            session=session,
            speaker=speaker,
            since=since,
            until=until,
            zone=self._store.config.zone,
        )
        with self._store.read() as tx:
            generation, found = tx.generations.live(), dict(tx.entries.select(condition))
            if generation is None or not found:
                return Topics()
            ids, matrix = tx.vectors.read(generation, list(found), static=True)
        order = np.argsort(ids)
        entries = [found[int(number)] for number in ids[order]]
        return find_topics(entries, matrix[order].astype(np.float32), k=count, previous=previous)


def check_topics(k: object, previous: object) -> int | None:
    """Return the number of topics that ``Memory.topics`` was asked for.

    Raises:
        InvalidInputError: It is not a positive number, or the former topics are none, or both were given.
    """
    if previous is not None and not isinstance(previous, Topics):
        raise InvalidInputError(f"previous must be what topics returned, got {inputs.type_name(previous)}")
    if k is not None and previous is not None:
        raise InvalidInputError("give k or previous: former topics keep their number")
    return None if k is None else inputs.check_count("k", k)  # type: ignore[arg-type]
