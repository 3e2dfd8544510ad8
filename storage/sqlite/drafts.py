"""Writing entries in SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from typing_extensions import override

from agent_memory.errors import NotFoundError
from agent_memory.records import Entry
from agent_memory.storage.codec import content_hash
from agent_memory.storage.entries import Drafts
from agent_memory.storage.records import LATER, NO_VECTOR, Draft, Removed, StoredVectors, Written
from agent_memory.storage.sqlite import lexical
from agent_memory.storage.sqlite.changes import last_number, log_changes
from agent_memory.storage.sqlite.checksums import (
    COVERED,
    carry,
    change,
    checksum,
    checksum_evolved,
    checksum_static,
    seal,
    stored_values,
)
from agent_memory.storage.sqlite.entries import AT_PLACES, IN_LIST, list_places
from agent_memory.storage.sqlite.mentions import copy_mentions, put_mentions
from agent_memory.storage.sqlite.passages import SPAN_BYTES, copy_passages, put_passages
from agent_memory.storage.sqlite.places import drop_empty_sessions, enter_sessions, leave_sessions
from agent_memory.storage.sqlite.slots import Group, Link, driver
from agent_memory.storage.sqlite.values import (
    ENTRIES,
    decode_namespace,
    encode_namespace,
    microseconds,
    read_integer,
    read_row,
    read_text,
)
from agent_memory.storage.words.terms import list_terms

_COLUMNS = (
    *("namespace", "key", "session_id", "speaker", "text", "metadata", "event_time", "expires_at", "importance"),
    *("content_hash", "seq", "created_at", "updated_at", "checksum", "id"),
)
_INSERT = f"INSERT INTO entries ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_REPLACE = f"UPDATE entries SET {', '.join(f'{name} = ?' for name in _COLUMNS[:-1])} WHERE id = ?"
_PUT_VECTOR = (
    "REPLACE INTO vectors (entry_id, generation_id, static, evolved, latents, checksum, evolved_checksum) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)

_READ_VECTORS = (
    "SELECT entry_id, generation_id, static, evolved, latents, checksum, evolved_checksum FROM vectors "
    "WHERE entry_id IN (SELECT value FROM json_each(?))"
)
_COUNT_PASSAGES = f"SELECT coalesce(sum(length(spans) / {SPAN_BYTES}), 0) FROM passages "
_COUNT_PASSAGES += "WHERE entry_id IN (SELECT value FROM json_each(?))"
_COVERED = COVERED["entries", "checksum"]

_SURPLUS = (
    "SELECT id, session_id, superseded_by FROM (SELECT one.id, one.session_id, one.superseded_by, "
    "row_number() OVER (PARTITION BY one.superseded_by ORDER BY one.id DESC) AS age "
    "FROM entries one JOIN entries kept ON kept.id = one.superseded_by AND kept.key = one.key "
    "WHERE one.superseded_by IN (SELECT value FROM json_each(?))) versions WHERE age > ?"
)
"""Selects the former versions of entries beyond a number of them each."""

_COUNT_VECTORS = (
    f"SELECT count(*) FILTER (WHERE length(static) > {len(LATER)}), count(latents) FROM vectors "
    "WHERE entry_id IN (SELECT value FROM json_each(?))"
)

_STAYING = (
    "WITH gone(id) AS (SELECT value FROM json_each(?)) "
    "SELECT DISTINCT former.namespace, former.key FROM gone JOIN entries former USING (id) "
    "JOIN entries kept ON kept.id = former.superseded_by AND kept.key = former.key "
    "AND kept.namespace = former.namespace WHERE kept.id NOT IN (SELECT id FROM gone)"
)
"""Selects the entries that lose former versions only."""

_DROP_OTHERS = "DELETE FROM vectors WHERE entry_id = ? AND generation_id != ?"
"""Deletes vectors of the former text in other generations; a missing vector tells a re-index to catch up."""

_FORGET_SESSION = (
    "UPDATE vectors SET evolved = NULL, latents = NULL, evolved_checksum = NULL "
    "WHERE entry_id = ? AND evolved IS NOT NULL"
)
"""Clears the evolved vectors of an entry that has left its session."""

_Place = tuple[str, str]


def _write(
    connection: Link,
    fresh: Sequence[tuple[Any, ...]],
    replaced: Sequence[tuple[Any, ...]],
    placed: Sequence[tuple[int, Draft]],
    former: Sequence[SimpleNamespace],
    generation_id: int,
) -> None:
    raw = driver(connection)
    terms = {number: list_terms(draft.text, draft.speaker) for number, draft in placed}
    indexed = {row.id: list_terms(row.text, row.speaker) for row in former}
    same = {number for number, words in indexed.items() if terms[number] == words}  # deleting words is slow
    lexical.delete_rows(connection, [(number, words) for number, words in indexed.items() if number not in same])
    if replaced:
        raw.executemany(_REPLACE, replaced)
        raw.executemany(_DROP_OTHERS, [(number, generation_id) for number, draft in placed if draft.vector is not None])
        raw.executemany(_FORGET_SESSION, [(number,) for number, draft in placed if draft.session is None])
    raw.executemany(_INSERT, fresh)
    rows = (_vector_row(number, generation_id, one) for number, one in placed if one.vector is not None)
    raw.executemany(_PUT_VECTOR, rows)
    mentioned = ((number, draft.mentions) for number, draft in placed if draft.mentions)
    put_mentions(connection, mentioned, [row[-1] for row in replaced])
    long = ((number, StoredVectors(one.vector or NO_VECTOR, one.passages)) for number, one in placed if one.passages)
    put_passages(raw, generation_id, long)
    lexical.insert_rows(connection, ((number, words) for number, words in terms.items() if number not in same))


def _vector_row(entry_id: int, generation_id: int, draft: Draft) -> tuple[object, ...]:
    """Return the values of ``_PUT_VECTOR``."""
    total = checksum_static(entry_id, generation_id, draft.vector)
    evolved = checksum_evolved(entry_id, generation_id, draft.evolved, draft.latents)
    return entry_id, generation_id, draft.vector, draft.evolved, draft.latents, total, evolved


def _delete_words(connection: Link, rows: Iterable[SimpleNamespace]) -> None:
    lexical.delete_rows(connection, [(row.id, list_terms(row.text, row.speaker)) for row in rows])


def _list_outdated_sessions(
    former: SimpleNamespace | None, entry: Entry, draft: Draft, session_id: int | None
) -> set[int]:
    """Return the sessions whose evolved vectors are outdated from a written entry on."""
    touched: set[int | None] = {session_id}
    if former is None:
        unchanged = draft.evolved is not None or not draft.has_vector  # an entry without one is no segment
    else:
        touched.add(former.session_id)
        unchanged = (
            draft.vector is None and session_id == former.session_id and _get_inputs(former) == _get_inputs(entry)
        )
    return set() if unchanged else {number for number in touched if number is not None}


def _get_inputs(entry: SimpleNamespace | Entry) -> tuple[object, ...]:
    """Return what a session encoder reads of an entry, beside its vector and session."""
    return entry.speaker, entry.text, entry.event_time


def _make_row(
    entry: Entry, namespace: str, session_id: int | None, metadata: str, text_hash: bytes, seq: int, entry_id: int
) -> tuple[Any, ...]:
    """Return the values of ``_COLUMNS``."""
    updated_at = microseconds(entry.updated_at)
    values = (
        namespace,
        entry.key,
        session_id,
        entry.speaker,
        entry.text,
        metadata,
        # Most entries have the time of writing as their event time.
        updated_at if entry.event_time is entry.updated_at else microseconds(entry.event_time),
        None if entry.expires_at is None else microseconds(entry.expires_at),
        None if entry.importance is None else float(entry.importance),
        text_hash,
        seq,
        updated_at if entry.created_at is entry.updated_at else microseconds(entry.created_at),
        updated_at,
    )
    return *values, checksum((*values, entry_id, None, None)), entry_id


_WHOLE = f"SELECT {', '.join(ENTRIES)} FROM entries"
_KNOWN = f"{_WHOLE.replace('FROM', 'FROM places CROSS JOIN')} WHERE {AT_PLACES} AND superseded_at IS NULL"
_AMONG = f"{_WHOLE} WHERE id IN (SELECT value FROM json_each(?))"
_UNSUPERSEDED = f"{_WHOLE} WHERE id = ? AND superseded_at IS NULL"
_COPY = f"INSERT INTO entries ({', '.join(ENTRIES)}) VALUES ({', '.join('?' * len(ENTRIES))})"


def _read_rows(connection: Link, query: str, *given: object) -> list[SimpleNamespace]:
    return [read_row(ENTRIES, values) for values in driver(connection).execute(query, given).fetchall()]


def _select_known(connection: Link, places: Sequence[_Place]) -> dict[_Place, SimpleNamespace]:
    """Return the unsuperseded rows at (namespace, key), by place: namespaces in their order, and keys sorted."""
    found: dict[_Place, SimpleNamespace] = {}
    for start in range(0, len(places), IN_LIST):
        part = places[start : start + IN_LIST]
        query = f"{list_places(len(part))} {_KNOWN}"
        for row in _read_rows(connection, query, *(name for place in part for name in place)):
            found[row.namespace, row.key] = row
    order = {namespace: number for number, namespace in enumerate(dict.fromkeys(scope for scope, _ in places))}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1])))


def _find_oldest_twins(
    connection: Link, places: Sequence[tuple[str, bytes]], keys: Sequence[str]
) -> dict[tuple[str, bytes], str]:
    """Return the key of the oldest entry, stored or in this batch, by namespace and content hash."""
    oldest = dict(zip(reversed(places), reversed(keys), strict=True))
    wanted = list(oldest)
    for start in range(0, len(wanted), IN_LIST):
        part = wanted[start : start + IN_LIST]
        values = [value for place in part for value in place]
        rows = driver(connection).execute(_make_twin_query(len(part)), values).fetchall()
        oldest.update({place: read_text(row[0]) for place, row in zip(part, rows, strict=True) if row[0] is not None})
    return oldest


@lru_cache(maxsize=IN_LIST)
def _make_twin_query(count: int) -> str:
    """Return the query for the oldest entry of each of ``count`` namespaces and hashes, in their order."""
    oldest = "SELECT key FROM entries WHERE content_hash = hash AND namespace = scope AND superseded_at IS NULL"
    wanted = f"WITH wanted(place, scope, hash) AS (VALUES {', '.join(f'({place}, ?, ?)' for place in range(count))})"
    return f"{wanted} SELECT ({oldest} ORDER BY id LIMIT 1) FROM wanted ORDER BY place"


def _archive(
    connection: Link, rows: Sequence[SimpleNamespace], next_id: int, now: datetime, *, keep: int
) -> dict[int, int]:
    """Copy entries and their vectors to new rows before they are replaced.

    Args:
        connection: A write transaction.
        rows: The entries.
        next_id: Id of the first copy.
        now: When they stop being current.
        keep: Number of versions to keep of each entry; older ones are deleted. 0 keeps none.

    Returns:
        As ``Written.dirty_past``.
    """
    dropped: dict[int, int] = {}

    def note(session_id: int | None, place: int) -> None:
        if session_id is not None:  # those after it were evolved with it
            dropped[session_id] = min(dropped.get(session_id, place + 1), place + 1)

    if keep < 1 or not rows:
        for row in rows:
            note(row.session_id, row.id)
        return dropped
    raw = driver(connection)
    copies = [
        {**vars(row), "id": copy_id, "superseded_at": now, "superseded_by": row.id}
        for copy_id, row in enumerate(rows, start=next_id)
    ]
    sealed = (copy | {"checksum": _carry(row, copy)} for row, copy in zip(rows, copies, strict=True))
    raw.executemany(_COPY, (stored_values(ENTRIES, copy) for copy in sealed))
    copy_ids = {row.id: copy["id"] for row, copy in zip(rows, copies, strict=True)}
    _copy_vectors(connection, copy_ids)
    copy_mentions(connection, copy_ids)
    surplus = raw.execute(_SURPLUS, (json.dumps(list(copy_ids)), keep)).fetchall()
    if surplus:
        _delete(connection, [read_integer(number) for number, _, _ in surplus])
    for _, session_id, kept_id in surplus:
        note(session_id, kept_id)
    return dropped


def _carry(row: SimpleNamespace, changed: Mapping[str, Any]) -> int | None:
    before, after = stored_values(_COVERED, vars(row)), stored_values(_COVERED, changed)
    return carry(row.checksum, before, after)


def _copy_vectors(connection: Link, copy_ids: Mapping[int, int]) -> None:
    """Copy what former versions of entries were found by; a damaged vector is left out, and encoded again later."""
    raw = driver(connection)
    rows = raw.execute(_READ_VECTORS, (json.dumps(list(copy_ids)),)).fetchall()
    copied: list[tuple[object, ...]] = []
    sound: dict[int, dict[int, int]] = {}
    for entry_id, generation_id, static, evolved, latents, total, evolved_total in rows:
        if total != checksum_static(entry_id, generation_id, static):
            continue
        if evolved_total != checksum_evolved(entry_id, generation_id, evolved, latents):
            evolved = None
        copy_id = sound.setdefault(generation_id, {})[entry_id] = copy_ids[entry_id]
        sums = checksum_static(copy_id, generation_id, static), checksum_evolved(copy_id, generation_id, evolved, None)
        copied.append((copy_id, generation_id, static, evolved, None, *sums))
    raw.executemany(_PUT_VECTOR, copied)
    for generation_id, ids in sound.items():
        copy_passages(raw, generation_id, ids)


def _describe_removed(
    rows: Sequence[SimpleNamespace], staying: set[tuple[str, str]], vectors: int, latents: int
) -> Removed:
    dirty: dict[int, int] = {}
    dirty_past: dict[int, int] = {}
    for row in rows:
        if row.session_id is None:
            continue
        # A former version has the place of the entry that kept its id; all that counts is not to begin after it.
        place = min(row.id, row.superseded_by or row.id)
        dirty_past[row.session_id] = min(dirty_past.get(row.session_id, place), place)
        if row.superseded_at is None:
            dirty[row.session_id] = min(dirty.get(row.session_id, row.id), row.id)
    return Removed(
        keys=len({(row.namespace, row.key) for row in rows} - staying),
        rows=len(rows),
        vectors=vectors,
        latents=latents,
        dirty=dirty,
        dirty_past=dirty_past,
        scopes=frozenset(decode_namespace(value) for value in {row.namespace for row in rows}),
        since=min((row.created_at for row in rows), default=None),
    )


def _delete(connection: Link, ids: Sequence[int]) -> None:
    """Delete rows of entries, with their vectors; what they have superseded stays so."""
    raw = driver(connection)
    for start in range(0, len(ids), IN_LIST):
        part = list(ids[start : start + IN_LIST])
        marks = ", ".join("?" * len(part))
        # SQLite would set it to NULL by itself, but not the checksum right.
        left = f"superseded_by IN ({marks}) AND id NOT IN ({marks})"
        change(raw, "entries", left, (*part, *part), {"superseded_by": None})
        raw.execute(f"DELETE FROM entries WHERE id IN ({marks})", part)


class SqliteDrafts(Group, Drafts):
    """``Drafts`` in SQLite."""

    @override
    def put(
        self,
        drafts: Sequence[Draft],
        generation_id: int,
        now: datetime,
        *,
        keep_versions: int,
    ) -> Written:
        places = [(encode_namespace(draft.namespace), draft.key) for draft in drafts]
        final = dict(zip(places, drafts, strict=True))
        known = _select_known(self._connection, [place for place, draft in final.items() if not draft.generated])
        next_id = last_number(self._connection, "entries") + 1
        ids = [known[place].id if place in known else next_id + offset for offset, place in enumerate(final)]
        seqs = log_changes(self._connection, ids, "put")
        head_seq = seqs[-1] if seqs else 0
        session_ids = enter_sessions(self._connection, final.values(), head_seq, now)
        hashes = [content_hash(draft.text) for draft in final.values()]
        scoped = [(namespace, found) for (namespace, _), found in zip(final, hashes, strict=True)]
        twins = _find_oldest_twins(self._connection, scoped, [key for _, key in final])
        stored: dict[_Place, tuple[int, Entry]] = {}
        fresh: list[tuple[Any, ...]] = []
        replaced: list[tuple[Any, ...]] = []
        dirty: dict[int, int] = {}
        for (place, draft), found, seq, entry_id in zip(final.items(), hashes, seqs, ids, strict=True):
            former = known.get(place)
            kept = former is not None and (former.expires_at is None or former.expires_at > now)
            created_at = former.created_at if former is not None and kept else now
            session_id = None if draft.session is None else session_ids[place[0], draft.session]
            twin = twins[place[0], found]
            entry = draft.make_entry(now, created_at, None if twin == draft.key else twin)
            stored[place] = entry_id, entry
            row = _make_row(entry, place[0], session_id, draft.metadata, found, seq, entry_id)
            (fresh if former is None else replaced).append(row)
            if former is not None or session_id is not None:
                for touched in _list_outdated_sessions(former, entry, draft, session_id):
                    dirty[touched] = min(dirty.get(touched, entry_id), entry_id)
        dropped = _archive(self._connection, list(known.values()), next_id + len(final), now, keep=keep_versions)
        placed = list(zip(ids, final.values(), strict=True))
        _write(self._connection, fresh, replaced, placed, list(known.values()), generation_id)
        drop_empty_sessions(self._connection, list(dropped))  # not before: what was written may be in one of them
        leave_sessions(self._connection, [row.session_id for row in known.values()], head_seq)
        return Written([stored[place] for place in places], dirty, dropped)

    @override
    def remove(self, ids: Sequence[int]) -> Removed:
        raw = driver(self._connection)
        gone: list[SimpleNamespace] = []
        vectors = latents = 0
        staying = raw.execute(_STAYING, (json.dumps([int(entry_id) for entry_id in ids]),)).fetchall()
        for start in range(0, len(ids), IN_LIST):
            part = [int(entry_id) for entry_id in ids[start : start + IN_LIST]]
            rows = _read_rows(self._connection, _AMONG, json.dumps(part))
            _delete_words(self._connection, [row for row in rows if row.superseded_at is None])
            found = raw.execute(_COUNT_VECTORS, (json.dumps(part),)).fetchone()
            parts = raw.execute(_COUNT_PASSAGES, (json.dumps(part),)).fetchone()
            vectors, latents = vectors + found[0] + parts[0], latents + found[1]
            _delete(self._connection, part)
            seqs = log_changes(self._connection, [row.id for row in rows], "forget")
            leave_sessions(self._connection, [row.session_id for row in rows], max(seqs, default=0))
            gone += rows
        if gone:
            self._erase_words()
        return _describe_removed(gone, set(staying), vectors, latents)

    def _erase_words(self) -> None:
        """Take the words of deleted rows out of the pages of the full-text index."""
        raw = driver(self._connection)
        if not lexical.is_erased(raw):
            lexical.erase_words(raw)
        else:
            lexical.rewrite_separators(self._connection)

    @override
    def mend(self, texts: Mapping[int, tuple[str, StoredVectors]], generation_id: int) -> None:
        for entry_id, (text, found) in texts.items():
            raw = driver(self._connection)
            edited = "id = ? AND content_hash IS NOT ?"
            if raw.execute(f"SELECT 1 FROM entries WHERE {edited}", (entry_id, content_hash(text))).fetchone():
                raw.execute("UPDATE entries SET content_hash = ? WHERE id = ?", (content_hash(text), entry_id))
                seal(raw, "entries", "id = ?", (entry_id,))
            raw.execute(_DROP_OTHERS, (entry_id, generation_id))
            total = checksum_static(entry_id, generation_id, found.static)
            raw.execute(_PUT_VECTOR, (entry_id, generation_id, found.static, None, None, total, None))
            put_passages(raw, generation_id, [(entry_id, found)])
        log_changes(self._connection, list(texts), "put")

    @override
    def set_expiry(self, expiries: Mapping[int, datetime | None]) -> None:
        raw = driver(self._connection)
        for entry_id, moment in expiries.items():
            change(raw, "entries", "id = ?", (entry_id,), {"expires_at": moment})

    @override
    def supersede(self, old_id: int, new_id: int, now: datetime) -> int | None:
        rows = _read_rows(self._connection, _UNSUPERSEDED, old_id)
        if not rows:
            raise NotFoundError(f"there is no entry {old_id}, or it was superseded already")
        row = rows[0]
        _delete_words(self._connection, [row])
        marks = {"superseded_at": now, "superseded_by": new_id}
        change(driver(self._connection), "entries", "id = ?", (old_id,), marks)
        seqs = log_changes(self._connection, [old_id], "supersede")
        leave_sessions(self._connection, [row.session_id], seqs[0])
        session_id: int | None = row.session_id
        return session_id
