"""Reading columns of entries in PostgreSQL: members of the metadata, for filters that a process answers by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from agent_memory.storage.filters import Path
from agent_memory.storage.numbered import ABSENT, Field
from agent_memory.storage.postgres.connections import get_driver
from agent_memory.storage.sqlite.slots import Link
from agent_memory.types import IdArray

_PAGE = 8_192
_MEMBERS = (
    "SELECT id, json_kind(found), CASE json_typeof(found) WHEN 'string' THEN found #>> '{{}}' ELSE found::text END "
    "FROM (SELECT id, metadata::json{steps} AS found FROM entries WHERE superseded_at IS NULL AND id > %s{among} "
    "ORDER BY id LIMIT %s) page ORDER BY id"
)


def read_members(connection: Link, path: Path, ids: IdArray | None) -> Iterator[tuple[IdArray, Sequence[Field]]]:
    """Yield a member of the metadata of unsuperseded entries; see ``Entries.read_members``."""
    among: tuple[object, ...] = () if ids is None else (ids.tolist(),)
    statement = _MEMBERS.format(steps=" -> %s::text" * len(path), among="" if ids is None else " AND id = ANY(%s)")
    after = 0
    while page := get_driver(connection).run(statement, (*path, after, *among, _PAGE)).fetchall():
        yield np.array([row[0] for row in page], np.int64), [_parse(kind, text) for _, kind, text in page]
        after = int(page[-1][0])


def _parse(kind: str, text: str | None) -> Field:
    match kind:
        case "integer":
            return kind, int(text or 0)
        case "real":
            return kind, float(text or 0)
        case "text" | "array" | "object":
            return kind, text
        case "absent":
            return ABSENT
        case _:
            return kind, None
