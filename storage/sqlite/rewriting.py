"""Writes all rows of the full-text index again when the rules change that its terms are made by.

A row can only be deleted with the very terms it was inserted with, so a store never holds rows of two sets of rules. It
notes by which rules its rows were written, and while they are being written, up to which entry: many short
transactions, after each of which a process may be killed and any other go on.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent_memory.errors import SchemaTooNewError, StorageError
from agent_memory.files import failpoint
from agent_memory.storage.sqlite import lexical
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.words.terms import RULES
from agent_memory.types import Progress

_REPORT_S = 5.0

_log = logging.getLogger("agent_memory")


@dataclass(frozen=True, slots=True)
class WordsState:
    """What the rows of the full-text index were written by.

    Attributes:
        rules: Number of the rules of ``storage/words``; 0 for rows from before they had a number.
        stemmers: Version of the Snowball stemmers.
        after: Id of the last entry whose row was written; None if all are.
    """

    rules: int
    stemmers: str
    after: int | None


@cache
def read_own_rules() -> tuple[int, str]:
    """Return the rules and stemmers by which this process writes."""
    from Stemmer import version

    return RULES, version()


def read_state(connection: Link, path: Path) -> WordsState:
    """Return the state of a store's rows.

    Raises:
        SchemaTooNewError: A newer version of this package wrote them.
    """
    row = driver(connection).execute("SELECT value FROM meta WHERE name = 'words'").fetchone()
    if row is None:
        return WordsState(0, "", 0)
    try:
        state = WordsState(**json.loads(row[0]))
        valid = isinstance(state.rules, int) and isinstance(state.after, int | None)
    except (TypeError, ValueError) as error:
        raise StorageError(f"{path}: the state of the full-text index is damaged: {str(row[0])[:60]!r}") from error
    if not valid:
        raise StorageError(f"{path}: the state of the full-text index is damaged: {row[0][:60]!r}")
    if state.rules > RULES:
        raise SchemaTooNewError(
            f"{path} has a full-text index by rules {state.rules}; this version of agent-memory knows up to {RULES}. "
            "Upgrade agent-memory. The store was not touched."
        )
    return state


def note_state(connection: Link, after: int | None) -> None:
    """Note that rows by this process's rules are written up to an entry, or all of them."""
    rules, stemmers = read_own_rules()
    value = json.dumps({"rules": rules, "stemmers": stemmers, "after": after})
    driver(connection).execute("REPLACE INTO meta (name, value) VALUES ('words', ?)", (value,))


def rewrite_words(connections: Connections, progress: Progress | None = None) -> None:
    """Bring the full-text index to this process's rules, from where any process has left off.

    Args:
        connections: The database, its schema up to date.
        progress: Called with (entries done, entries in all), if there is something to do.

    Raises:
        StorageError: The store is read-only, and its rows were only written in part.
        SchemaTooNewError: A newer version of this package wrote the rows.
    """
    with connections.read() as connection:
        state = read_state(connection, connections.path)
    if state.after is None and (state.rules, state.stemmers) == read_own_rules():
        return
    if connections.read_only:
        if state.after is not None:
            raise StorageError(
                f"{connections.path} is read-only, and its full-text index is being rewritten: open it once where it "
                "can be written"
            )
        _log.warning(
            "%s has a full-text index by former rules, and is read-only: some words may not be found", connections.path
        )
        return
    with connections.read() as connection:
        done, total = _count_entries(connection, _read_begun(connection, connections.path))
    reported = time.monotonic()
    written: int | None = 0
    while written is not None:
        with connections.write() as connection:
            written = _write_page(connection, connections.path)
            failpoint("words-before-commit")
        failpoint("words-after-commit")
        done = total if written is None else min(total, done + written)
        if progress is not None and total:
            progress(done, total)
        if written is not None and time.monotonic() - reported > _REPORT_S:
            reported = time.monotonic()
            _log.info("rewriting the full-text index of %s: %d of %d entries", connections.path, done, total)
    if total:
        _log.info("rewrote the full-text index of %s: %d entries", connections.path, total)


def _read_begun(connection: Link, path: Path) -> int:
    """Return up to which entry rows by this process's rules are written."""
    state = read_state(connection, path)
    return state.after or 0 if (state.rules, state.stemmers) == read_own_rules() else 0


def _count_entries(connection: Link, after: int) -> tuple[int, int]:
    """Return the number of indexed entries up to an id, and of all."""
    count = "SELECT count(*) FILTER (WHERE id <= ?), count(*) FROM entries WHERE superseded_at IS NULL"
    done, total = driver(connection).execute(count, (after,)).fetchone()
    return done, total


def _write_page(connection: Link, path: Path) -> int | None:
    """Write the next rows, wherever any process has got to; returns how many, None if none are left."""
    state = read_state(connection, path)
    if (state.rules, state.stemmers) == read_own_rules():
        after = state.after
        if after is None:
            return None
    else:  # also what was begun by others' rules
        lexical.delete_all(connection)
        after = 0
    last, written = lexical.insert_page(connection, after)
    note_state(connection, last)
    return written if last is not None else None
