"""Receipts and copies in SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.erasures import Erasures, StoredCopy, StoredErasure
from agent_memory.storage.sqlite.changes import last_number
from agent_memory.storage.sqlite.lazy import sa, tables
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.storage.sqlite.values import read_integer, read_text, read_time

_STATE = "SELECT (SELECT coalesce(max(id), 0) FROM erasures), (SELECT count(*) FROM erasures WHERE finished_at IS NULL)"


_UNFINISHED = "SELECT token FROM erasures WHERE finished_at IS NULL"
_FLOOR = (
    "SELECT max(json_extract(facts, '$.seq')) FROM erasures "
    "WHERE (finished_at IS NOT NULL OR deferred = 0) AND json_valid(facts)"
)
_AMONG = "IN (SELECT value FROM json_each(?))"
_LEFT = {
    "rows": f"SELECT count(*) FROM entries WHERE id {_AMONG}",
    "vectors": f"SELECT count(*) FROM vectors WHERE entry_id {_AMONG}",
    "rows of passages": f"SELECT count(*) FROM passages WHERE entry_id {_AMONG}",
    "rows of words": f"SELECT count(*) FROM lexical_docsize WHERE id {_AMONG}",
}


def encode_ids(ids: Sequence[int]) -> str:
    """Return ascending numbers as text: runs of them as ``first-last``."""
    runs: list[list[int]] = []
    for number in ids:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in runs)


def decode_ids(text: str) -> tuple[int, ...]:
    """Return the numbers that ``encode_ids`` was given.

    Raises:
        StorageError: They are damaged.
    """
    return tuple(_iter_ids(text))


def _iter_ids(text: str) -> Iterator[int]:
    left = 10**9
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise StorageError(f"the row numbers of an erasure are damaged: {run[:40]!r}")
        left -= int(last or first) - int(first)
        if left < 0:
            raise StorageError(f"the row numbers of an erasure are damaged: {run[:40]!r}")
        yield from range(int(first), int(last or first) + 1)


def parse_erasure(row: Mapping[str, Any]) -> StoredErasure:
    """Return the receipt of a row, by column name, with times as SQLite has them or as SQLAlchemy reads them.

    Raises:
        StorageError: It is damaged.
    """
    try:
        facts = {str(name): int(number) for name, number in dict(json.loads(row["facts"])).items()}
        return StoredErasure(
            token=str(row["token"]),
            store_id=str(row["store_id"]),
            made_at=_parse_time(row["made_at"]),
            selection=str(row["selection"]),
            digest=str(row["digest"]),
            ids=decode_ids(row["ids"]),
            facts=facts,
            deferred=bool(row["deferred"]),
            finished_at=_parse_time(row["finished_at"]),
        )
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"a receipt is damaged: {error}") from error


def parse_copy(row: Mapping[str, Any]) -> StoredCopy:
    """Return the copy of a row, by column name; raises StorageError."""
    last_id = read_integer(row["last_id"])
    path, kind = (str(row[name]) for name in ("path", "kind"))
    return StoredCopy(path=path, kind=kind, made_at=_parse_time(row["made_at"]), last_id=last_id)


def _parse_time(value: object) -> Any:  # noqa: ANN401 - as SQLAlchemy
    return read_time(value) if isinstance(value, int) else value


class SqliteErasures(Group, Erasures):
    """``Erasures`` in SQLite."""

    @override
    def add(self, erasure: StoredErasure) -> None:
        values = {
            "token": erasure.token,
            "store_id": erasure.store_id,
            "made_at": erasure.made_at,
            "selection": erasure.selection,
            "digest": erasure.digest,
            "ids": encode_ids(erasure.ids),
            "facts": json.dumps(dict(erasure.facts)),
            "deferred": int(erasure.deferred),
            "finished_at": erasure.finished_at,
        }
        self._connection.execute(sa.insert(tables.erasures).values(**values))

    @override
    def finish(self, tokens: Sequence[str], now: datetime) -> None:
        for token in tokens:
            self._connection.execute(
                sa.update(tables.erasures).where(tables.erasures.c.token == token).values(finished_at=now)
            )

    @override
    def list_unfinished(self, *, deferred: bool = True) -> list[str]:
        query = _UNFINISHED if deferred else f"{_UNFINISHED} AND deferred = 0"
        rows = driver(self._connection).execute(f"{query} ORDER BY id").fetchall()
        return [str(read_text(row[0])) for row in rows]

    @override
    def read_floor(self) -> int:
        floor = driver(self._connection).execute(_FLOOR).fetchone()[0]
        return floor if isinstance(floor, int) else 0

    @override
    def find_left(self, ids: Sequence[int]) -> list[str]:
        raw, given = driver(self._connection), json.dumps(list(ids))
        counts = {what: raw.execute(query, (given,)).fetchone()[0] for what, query in _LEFT.items()}
        return [f"database: {number} {what} are still there" for what, number in counts.items() if number]

    @override
    def list_all(self) -> list[StoredErasure]:
        query = sa.select(tables.erasures).order_by(tables.erasures.c.id)
        return [parse_erasure(dict(row._mapping)) for row in self._connection.execute(query)]

    @override
    def read_state(self) -> tuple[int, int]:
        last, unfinished = driver(self._connection).execute(_STATE).fetchone()
        return last, unfinished

    @override
    def note_copy(self, path: str, kind: str, now: datetime, *, last_id: int | None = None) -> None:
        last = last_number(self._connection, "entries") if last_id is None else last_id
        values = {"kind": kind, "made_at": now, "last_id": last}
        self._put_row(tables.copies, "path", path, values)

    @override
    def drop_copies(self, paths: Sequence[str]) -> None:
        for path in paths:
            self._connection.execute(sa.delete(tables.copies).where(tables.copies.c.path == path))

    @override
    def list_copies(self) -> list[StoredCopy]:
        rows = self._connection.execute(
            sa.select(tables.copies).order_by(tables.copies.c.made_at, tables.copies.c.path)
        )
        return [parse_copy(dict(row._mapping)) for row in rows]
