"""Where a router keeps its sentences: in this object alone, or as entries of a memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import Any, Protocol

import numpy as np

from agent_memory.config import Config
from agent_memory.encoders.base import Encoder
from agent_memory.errors import InvalidInputError
from agent_memory.inputs import parse_namespace
from agent_memory.memory import Memory
from agent_memory.recall.request import make_condition
from agent_memory.routing.table import Line, Table
from agent_memory.types import INTERNAL, FloatArray, Namespace, is_internal

_ROUTE, _LEARNED = "route", "learned"


class Kept(Protocol):
    """What a router asks of the place of its sentences."""

    @property
    def encoder(self) -> Encoder:
        """What encodes sentences and questions."""

    @property
    def config(self) -> Config:
        """The limits of texts."""

    def read(self) -> Table:
        """Return the sentences as they are now."""

    def change(self, dropped: Sequence[Line], added: Sequence[Line]) -> None:
        """Remove sentences and add others; all of them, or none if one cannot be encoded."""


def embedded(line: Line) -> str:
    """Return what is encoded of a sentence: a description behind the name of its route, a learned text by itself."""
    if line.learned or line.route is None:
        return line.text
    return f"{line.route.replace('_', ' ').replace('-', ' ')}: {line.text}"


class KeptHere:
    """Keeps sentences until the router is gone.

    Args:
        encoder: What encodes them.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.config = encoder, Config()
        self._table = Table.of((), np.empty((0, encoder.spec.dimension), np.float32), encoder.spec.tiers[0])

    def read(self) -> Table:
        """Return the sentences; see ``Kept``."""
        return self._table

    def change(self, dropped: Sequence[Line], added: Sequence[Line]) -> None:
        """Remove and add sentences; see ``Kept``."""
        gone, table = {*dropped, *added}, self._table
        if not gone:
            return
        rows = [row for row, line in enumerate(table.lines) if line not in gone]
        vectors: list[FloatArray] = [table.vectors[rows]]
        if added:
            vectors.append(self.encoder.encode_documents([embedded(line) for line in added]))
        lines = [*(table.lines[row] for row in rows), *added]
        self._table = Table.of(lines, np.concatenate(vectors), self.encoder.spec.tiers[0])


class KeptInMemory:
    """Keeps sentences as entries of a memory, and sees what others change there.

    They are in an internal namespace below the given one, where nobody finds them who does not ask for it. Those of
    earlier versions, which were in the given one itself, are moved there.

    Args:
        memory: The memory; it stays the caller's to close.
        namespace: Where in it, relative to its own namespace.

    Raises:
        InvalidInputError: The namespace is empty, or no sequence of names.
    """

    def __init__(self, memory: Memory, namespace: Sequence[str]) -> None:
        self._memory = memory
        place = (*memory.namespace, *parse_namespace(namespace))
        if place == memory.namespace:
            raise InvalidInputError('the routes need a namespace of their own, e.g. namespace=("routes",)')
        self._scope = place if is_internal(place) else (*place, INTERNAL)
        self._ids: frozenset[int] = frozenset()
        self._seen: tuple[object, ...] = ()
        self._table: Table | None = None
        if self._scope != place:
            self._move(place)

    @property
    def encoder(self) -> Encoder:
        """The memory's encoder."""
        return self._memory.encoder

    @property
    def config(self) -> Config:
        """The memory's settings."""
        return self._memory.config

    def read(self) -> Table:
        """Return the sentences; see ``Kept``. What other entries become is looked at, and passed over."""
        with self._memory._store.call(), self._memory._store.read() as tx:
            generation = tx.generations.live()
            place = None if generation is None else generation.identity
            seen = (place, tx.changes.last_seq())
            if self._table is not None and (seen == self._seen or not self._concerns(tx, seen)):
                self._seen = seen
                return self._table
            condition = make_condition(self._scope, self._memory._store.database.now())
            found = [
                (number, entry) for number, entry in tx.entries.select(condition) if entry.namespace == self._scope
            ]
            rows = {number: _read_line(entry.text, entry.metadata) for number, entry in found}
            spec = self.encoder.spec
            vectors = np.empty((0, spec.dimension), np.float32)
            ids = np.empty(0, np.int64)
            if generation is not None and rows:
                ids, matrix = tx.vectors.read(generation, list(rows), static=True)
                vectors = matrix.astype(np.float32)
        table = Table.of((rows[number] for number in ids.tolist()), vectors, spec.tiers[0])
        self._ids, self._seen, self._table = frozenset(rows), seen, table
        return table

    def _concerns(self, tx: Any, seen: tuple[object, ...]) -> bool:  # noqa: ANN401 - a Transaction
        """Return whether something changed among the sentences since they were read."""
        if not self._seen or seen[0] != self._seen[0] or not tx.changes.reach_back_to(self._seen[1]):
            return True
        changed = [int(number) for number in tx.changes.ids_since(self._seen[1])]
        if not self._ids.isdisjoint(changed):
            return True
        return any(entry.namespace == self._scope for entry in tx.entries.fetch(changed).values())

    def _move(self, former: Namespace) -> None:
        """Move the sentences that an earlier version has kept where a recall finds them."""
        condition = make_condition(former, self._memory._store.database.now())
        with self._memory._store.read() as tx:
            found = [entry for _, entry in tx.entries.select(condition) if entry.namespace == former]
        lines = [_read_line(entry.text, entry.metadata) for entry in found]
        mine = [line for line, entry in zip(lines, found, strict=True) if entry.key == _name_key(line)]
        if mine and self._memory._store.database.read_only:
            self._scope = former
            return
        self.change([], mine)
        self._forget(mine, former)

    def change(self, dropped: Sequence[Line], added: Sequence[Line]) -> None:
        """Remove and add sentences; see ``Kept``."""
        if added:
            self._memory.add_many(
                {
                    "text": embedded(line),
                    "key": _name_key(line),
                    "metadata": {_ROUTE: line.route, _LEARNED: line.learned, "text": line.text},
                    "namespace": self._scope,
                }
                for line in added
            )
        self._forget(set(dropped) - set(added), self._scope)

    def _forget(self, lines: Collection[Line], scope: Namespace) -> None:
        keys = sorted({_name_key(line) for line in lines})
        for key in keys:
            self._memory.forget(key, namespace=scope, deferred=key != keys[-1])


def _read_line(text: str, metadata: Any) -> Line:  # noqa: ANN401 - JSON
    route = metadata.get(_ROUTE)
    said = metadata.get("text")
    return Line(
        route if isinstance(route, str) else None,
        said if isinstance(said, str) else text,
        metadata.get(_LEARNED) is True,
    )


def _name_key(line: Line) -> str:
    """Return the key of a sentence: equal ones have the same, so that one that is learned twice is kept once."""
    name = repr((line.route, line.text, line.learned))
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]
