"""Reading columns of entries in SQLite: what filters look at, for an index beside the database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np

from agent_memory.errors import StorageError
from agent_memory.storage.columns import EntryFacts
from agent_memory.storage.filters import Path
from agent_memory.storage.numbered import ABSENT, Field
from agent_memory.storage.sqlite.driver import ERRORS
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.sqlite.values import decode_namespace, read_integer, read_text
from agent_memory.types import IdArray

_PAGE = 8_192
_CURRENT = "FROM entries WHERE superseded_at IS NULL AND id > ?"
_AMONG = f"{_CURRENT} AND id IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT ?"
_ALL = f"{_CURRENT} ORDER BY id LIMIT ?"
_FACTS = "SELECT id, namespace, speaker, event_time"
_MEMBER = "SELECT id, json_type(metadata, ?1), json_extract(metadata, ?1)"
_CONSTANTS = ("null", "true", "false")


def read_facts(connection: Link, ids: IdArray | None) -> Iterator[EntryFacts]:
    """Yield what is told of unsuperseded entries; see ``Entries.read_facts``."""
    decode = cache(decode_namespace)
    for page in _read(connection, _FACTS, (), ids):
        yield EntryFacts(
            ids=np.array([row[0] for row in page], np.int64),
            namespaces=[decode(read_text(row[1])) for row in page],
            speakers=[read_text(row[2]) for row in page],
            event_times=np.array([read_integer(row[3]) for row in page], np.int64),
        )


def read_members(connection: Link, path: Path, ids: IdArray | None) -> Iterator[tuple[IdArray, Sequence[Field]]]:
    """Yield a member of the metadata of unsuperseded entries; see ``Entries.read_members``."""
    place = "$" + "".join(f'."{name}"' for name in path)
    for page in _read(connection, _MEMBER, (place,), ids):
        fields = [ABSENT if kind is None else (kind, None if kind in _CONSTANTS else value) for _, kind, value in page]
        yield np.array([row[0] for row in page], np.int64), fields


def _read(connection: Link, columns: str, given: tuple[str, ...], ids: IdArray | None) -> Iterator[list[Any]]:
    among = () if ids is None else (json.dumps(ids.tolist()),)
    after, statement = 0, f"{columns} {_ALL if ids is None else _AMONG}"
    while page := _read_page(connection, statement, (*given, after, *among, _PAGE)):
        yield page
        after = read_integer(page[-1][0])


def _read_page(connection: Link, statement: str, given: tuple[object, ...]) -> list[Any]:
    try:
        return driver(connection).execute(statement, given).fetchall()
    except ERRORS as error:
        raise StorageError(f"columns of entries cannot be read: {error}") from error
