"""The terms that rows of the full-text index hold, for an index beside it that must find the same.

Porter's stemmer exists in several versions that differ in a few words. So FTS5 itself is asked what it makes of a
term, by a temporary table that holds no row afterwards.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from agent_memory.storage.records import EntryTerms
from agent_memory.storage.sqlite.driver import ERRORS, sqlite3
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.sqlite.values import read_integer, read_text
from agent_memory.storage.words.terms import RULES, list_terms

TOKENIZER = "porter ascii"
_TOKEN = re.compile("[A-Za-z0-9\x80-\U0010ffff]+")
"""What the ``ascii`` tokenizer takes for a term; it lowers ASCII letters."""

_PAGE_ROWS = 8_192
_PAGE = "SELECT id, text, speaker FROM entries WHERE superseded_at IS NULL AND id > ? ORDER BY id LIMIT ?"
_AMONG = (
    "SELECT id, text, speaker FROM entries WHERE superseded_at IS NULL AND id IN (SELECT value FROM json_each(?)) "
    "ORDER BY id"
)
_MAKE = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.stems "
    f"USING fts5(terms, tokenize='{TOKENIZER}', content='', columnsize=0)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS temp.stemmed USING fts5vocab(temp, 'stems', 'instance')",
)

_STEMMED = "SELECT offset, CAST(term AS BLOB) FROM temp.stemmed"


class _Apart(threading.local):
    """A database in memory, of this thread, that FTS5 is asked in."""

    raw: Any = None


_APART = _Apart()
_STEMS: dict[str, str] = {}
_MOST_STEMS = 200_000


def describe_rules() -> str:
    """Return what decides which terms a text has."""
    from Stemmer import version

    return f"{TOKENIZER}, rules {RULES}, stemmers {version()}"


def stem_terms(connection: Link, terms: Sequence[str]) -> list[str]:
    """Return what FTS5 indexes for each of some terms, which hold nothing that separates terms."""
    return _stem(driver(connection), terms)


def stem_apart(terms: Sequence[str]) -> list[str]:
    """Return what FTS5 would index for each of some terms, for a store that has no FTS5."""
    found = {term: _STEMS.get(term) for term in terms}
    if missing := [term for term, stem in found.items() if stem is None]:
        if len(_STEMS) > _MOST_STEMS:
            _STEMS.clear()
        if _APART.raw is None:
            _APART.raw = sqlite3.connect(":memory:", isolation_level=None)
        new = dict(zip(missing, _stem(_APART.raw, missing), strict=True))
        _STEMS.update(new)
        found |= new
    return [found[term] or "" for term in terms]


def _stem(raw: Any, terms: Sequence[str]) -> list[str]:  # noqa: ANN401 - a connection of either of two modules
    if not terms:
        return []
    put = "INSERT INTO temp.stems(rowid, terms) VALUES (1, ?)"
    try:
        raw.execute(put, (" ".join(terms),))
    except ERRORS:
        for statement in _MAKE:
            raw.execute(statement)
        raw.execute(put, (" ".join(terms),))
    found = dict(raw.execute(_STEMMED).fetchall())
    raw.execute("INSERT INTO temp.stems(stems) VALUES ('delete-all')")
    # A term of more than 32,768 bytes is cut there, which may be in the middle of a character.
    return [bytes(found[at]).decode(errors="ignore") for at in range(len(terms))]


class _Reader:
    """Takes rows into terms; each distinct term is stemmed once."""

    def __init__(self, connection: Link) -> None:
        self._connection = connection
        self._stems: dict[str, str] = {}

    def read(self, rows: Iterable[Sequence[object]]) -> EntryTerms:
        """Return the terms of rows, given as (id, text, speaker)."""
        ids: list[int] = []
        lengths: list[int] = []
        tokens: list[str] = []
        for row_id, text, speaker in rows:
            found = _TOKEN.findall(list_terms(read_text(text), read_text(speaker)))
            ids.append(read_integer(row_id))
            lengths.append(len(found))
            tokens += found
        numbers = {token: at for at, token in enumerate(dict.fromkeys(tokens))}
        new = [token for token in numbers if token not in self._stems]
        self._stems |= zip(new, stem_terms(self._connection, new), strict=True)
        places: dict[str, int] = {}
        stem_of = np.array([places.setdefault(self._stems[token], len(places)) for token in numbers], np.int64)
        return EntryTerms(
            ids=np.array(ids, np.int64),
            lengths=np.array(lengths, np.int64),
            numbers=stem_of[np.fromiter(map(numbers.__getitem__, tokens), np.int64, len(tokens))],
            vocabulary=list(places),
        )


def read_terms(connection: Link, ids_json: str) -> EntryTerms:
    """Return the terms of the unsuperseded entries among some, given as a JSON array."""
    return _Reader(connection).read(driver(connection).execute(_AMONG, (ids_json,)).fetchall())


def read_all_terms(connection: Link) -> Iterator[EntryTerms]:
    """Yield the terms of all unsuperseded entries, some thousand at once."""
    reader, after = _Reader(connection), 0
    while page := driver(connection).execute(_PAGE, (after, _PAGE_ROWS)).fetchall():
        yield reader.read(page)
        after = read_integer(page[-1][0])
