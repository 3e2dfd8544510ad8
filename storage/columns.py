"""Columns of entries in memory: conditions answered from arrays, just as the back end answers them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agent_memory.storage.filters import AllOf, AnyOf, Filter, Not, Path, is_plain
from agent_memory.storage.moments import count_micros
from agent_memory.storage.numbered import Column, Field, Mask, Numbered, lengthen
from agent_memory.storage.records import Condition
from agent_memory.types import INTERNAL, IdArray, Namespace, is_internal


@dataclass(frozen=True, slots=True)
class EntryFacts:
    """What is told of unsuperseded entries beside their texts.

    Attributes:
        ids: The entries, int64 (n,), ascending.
        namespaces: The namespace of each.
        speakers: The speaker of each.
        event_times: Microseconds from 1970, int64 (n,).
    """

    ids: IdArray
    namespaces: Sequence[Namespace]
    speakers: Sequence[str | None]
    event_times: IdArray


def list_paths(where: Filter) -> set[Path] | None:
    """Return the members of metadata that a filter looks at; None if it can only be left to the back end."""
    match where:
        case AllOf(parts) | AnyOf(parts):
            found: set[Path] = set()
            for part in parts:
                inner = list_paths(part)
                if inner is None:
                    return None
                found |= inner
            return found
        case Not(part):
            return list_paths(part)
        case _:
            return {where.path} if all(map(is_plain, where.path)) else None


def can_answer(condition: Condition) -> bool:
    """Return whether columns can answer a condition, given those of the members that its filter looks at."""
    given = (condition.key, condition.session, condition.spans)
    return (
        condition.state in ("current", "unsuperseded")
        and not condition.superseded
        and all(one is None for one in given)
        and list_paths(condition.where) is not None
    )


class Columns:
    """Unsuperseded entries: what ``EntryFacts`` tells of them, and members of their metadata."""

    def __init__(self) -> None:
        self._count = 0
        self._ids, self._times = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._alive = np.zeros(0, np.bool_)
        self._namespaces, self._speakers = Numbered(()), Numbered(None)
        self._members: dict[Path, Column] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def paths(self) -> list[Path]:
        """The members that it holds, the one that was not used for longest first."""
        return list(self._members)

    def measure(self, path: Path) -> int:
        """Return about how many bytes a member takes."""
        return self._members[path].nbytes

    def drop(self, path: Path) -> None:
        """Drop a member."""
        self._members.pop(path, None)

    def find_rows(self, ids: IdArray) -> IdArray:
        """Return the row of each of some entries, int64 (n,); -1 for those that it never held."""
        mine = self._ids[: self._count]
        if not len(mine):
            return np.full(len(ids), -1, np.int64)
        rows = np.minimum(np.searchsorted(mine, ids), len(mine) - 1)
        return np.where(mine[rows] == ids, rows, -1)

    def put(self, facts: EntryFacts, members: Mapping[Path, Sequence[Field]]) -> bool:
        """Add entries, or take up what has changed of them; returns False if new ones are not the last by id.

        Args:
            facts: The entries.
            members: Their members, for each path that is held.
        """
        rows = self.find_rows(facts.ids)
        new = rows < 0
        added = int(new.sum())
        if added and self._count and int(facts.ids[new][0]) <= int(self._ids[self._count - 1]):
            return False
        rows[new] = np.arange(self._count, self._count + added)
        capacity = self._reserve(self._count + added)
        self._count += added
        self._ids[rows], self._times[rows] = facts.ids, facts.event_times
        self._namespaces.put(rows, facts.namespaces, capacity)
        self._speakers.put(rows, facts.speakers, capacity)
        for path, column in self._members.items():
            column.put(rows, members[path], capacity)
        self._alive[rows] = True
        return True

    def _reserve(self, count: int) -> int:
        if count > len(self._ids):
            capacity = count + count // 4
            self._ids, self._times = lengthen(self._ids, capacity), lengthen(self._times, capacity)
            self._alive = lengthen(self._alive, capacity)
        return len(self._ids)

    def add_member(self, path: Path, pages: Iterator[tuple[IdArray, Sequence[Field]]]) -> None:
        """Hold a member of metadata, given for all entries."""
        column = Column()
        column.put(np.empty(0, np.int64), (), len(self._ids))
        for ids, fields in pages:
            column.put(self.find_rows(ids), fields, len(self._ids))
        self._members[path] = column

    def remove(self, ids: IdArray) -> None:
        """Take entries out; unknown ids are ignored."""
        rows = self.find_rows(ids)
        self._alive[rows[rows >= 0]] = False

    def purge(self) -> None:
        """Keep nothing of entries that were taken out."""
        alive = self._alive[: self._count].copy()
        self._ids, self._times = self._ids[: self._count][alive], self._times[: self._count][alive]
        self._alive = np.ones(len(self._ids), np.bool_)
        for one in (self._namespaces, self._speakers, *self._members.values()):
            one.keep(alive)
        self._count = len(self._ids)

    def select(self, condition: Condition, expired: IdArray) -> IdArray:
        """Return the entries that satisfy a condition, int64 (n,), ascending.

        Args:
            condition: One that ``can_answer`` accepts; the members that it looks at are held.
            expired: Entries that have expired by its moment, int64 (m,): no change is logged when an expiry is moved.

        Raises:
            ValueError: A member is not what a back end could have read.
        """
        count = self._count
        mask: Mask = self._alive[:count].copy()
        rows = self.find_rows(expired)
        mask[rows[rows >= 0]] = False
        if scope := condition.namespace:
            mask &= self._namespaces.look_up(scope, lambda one: one[: len(scope)] == scope, count)
        if not condition.internal:
            mask &= ~self._namespaces.look_up(INTERNAL, is_internal, count)
        if (speaker := condition.speaker) is not None:
            mask &= self._speakers.look_up(speaker, lambda one: one == speaker, count)
        if condition.since is not None:
            mask &= self._times[:count] >= count_micros(condition.since)
        if condition.until is not None:
            mask &= self._times[:count] <= count_micros(condition.until)
        if condition.where != AllOf():
            mask &= self._test(condition.where)
        return self._ids[:count][mask]

    def _test(self, where: Filter) -> Mask:
        match where:
            case AllOf(parts):
                return self._join(parts, np.logical_and, True)
            case AnyOf(parts):
                return self._join(parts, np.logical_or, False)
            case Not(part):
                return ~self._test(part)
            case _:
                column = self._members[where.path] = self._members.pop(where.path)  # now the last used
                return column.test(where, self._count)

    def _join(self, parts: Collection[Filter], join: Callable[..., Mask], start: bool) -> Mask:
        found = np.full(self._count, start)
        for part in parts:
            join(found, self._test(part), out=found)
        return found
