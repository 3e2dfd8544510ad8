"""The items of one session, in exactly one namespace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_memory.formats.names import encode_name
from agent_memory.integrations._opening import below
from agent_memory.memory import Memory
from agent_memory.records import Entry


class Items:
    """What an adapter keeps of a session.

    A filter by namespace reaches what lies below it, where another session may have the same name: that is not touched.

    Args:
        memory: Where it is kept.
        session: The framework's name of the session.
        namespace: Where it lives, within the memory's namespace.
        where: Filter for the adapter's own entries.
    """

    def __init__(self, memory: Memory, session: str, namespace: Sequence[str], where: Mapping[str, Any]) -> None:
        self._memory, self._where = memory, where
        self.place: dict[str, Any] = {"session": encode_name(session), "namespace": below(memory, namespace)}

    def read(self, most: int | None = None) -> list[Entry]:
        """Return the items, or the latest so many of them, oldest first."""
        if most is None:
            return [entry for entry in self._memory.entries(where=self._where, **self.place) if self._is_own(entry)]
        found: list[Entry] = []
        seen = 0
        while len(found) < most:
            page = self._memory.entries(where=self._where, limit=most, offset=seen, newest_first=True, **self.place)
            found += filter(self._is_own, page)
            seen += len(page)
            if len(page) < most:
                break
        return found[:most][::-1]

    def add(self, items: Sequence[Mapping[str, Any]]) -> None:
        """Append items, whose whole content is in their metadata; a very long text is cut."""
        most = self._memory.config.max_text_chars
        self._memory.add_many([{**self.place, **item, "text": item["text"][:most]} for item in items])

    def forget(self, *, deferred: bool) -> None:
        """Delete all items for good."""
        entries = self._memory.entries(where=self._where, **self.place)
        own = [entry.key for entry in entries if self._is_own(entry)]
        if len(own) == len(entries):
            self._memory.forget(where=self._where, deferred=deferred, **self.place)
            return
        for key in own:
            self._memory.forget(key, namespace=self.place["namespace"], deferred=deferred)

    def _is_own(self, entry: Entry) -> bool:
        return bool(entry.namespace == self.place["namespace"])
