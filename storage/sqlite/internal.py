"""Entries of internal namespaces, found without reading all entries: few stores have any."""

from __future__ import annotations

import json
from collections.abc import Sequence

from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.sqlite.values import NOT_INTERNAL, decode_namespace, encode_namespace, read_integer, read_text
from agent_memory.types import is_internal

_FEW = 1_000  # namespaces up to which stepping from one to the next is faster than reading their index
_STEPS = (
    "WITH RECURSIVE places(place, number) AS (SELECT min(namespace), 1 FROM entries UNION ALL "
    "SELECT (SELECT min(namespace) FROM entries WHERE namespace > place), number + 1 FROM places "
    f"WHERE place IS NOT NULL AND number <= {_FEW}) SELECT place FROM places WHERE place IS NOT NULL"
)
_SCAN = f"SELECT DISTINCT namespace FROM entries WHERE NOT {NOT_INTERNAL}"
_HERE = "SELECT id FROM entries WHERE namespace = ? AND superseded_at IS NULL"
_AMONG = (
    "SELECT id FROM entries WHERE id IN (SELECT value FROM json_each(?)) AND superseded_at IS NULL "
    f"AND NOT {NOT_INTERNAL}"
)


def select_internal_ids(connection: Link, ids: Sequence[int] | None) -> list[int]:
    """Return the unsuperseded entries in internal namespaces; see ``Entries.select_internal_ids``."""
    raw = driver(connection)
    if ids is not None:
        return [read_integer(row[0]) for row in raw.execute(_AMONG, (json.dumps(list(ids)),)).fetchall()]
    places = raw.execute(_STEPS).fetchall()
    if len(places) > _FEW:
        places = raw.execute(_SCAN).fetchall()
    spaces = (decode_namespace(read_text(row[0])) for row in places)
    found: list[int] = []
    for space in filter(is_internal, spaces):
        rows = raw.execute(_HERE, (encode_namespace(space),)).fetchall()
        found += [read_integer(row[0]) for row in rows]
    return found
