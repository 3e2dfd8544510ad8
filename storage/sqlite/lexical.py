"""Search by words: an FTS5 index over speaker and text, scored by BM25.

What the terms of a text are is decided by ``storage/words``, not by SQLite: its ``ascii`` tokenizer only separates
them, and ``porter`` stems those of ASCII letters. The FTS5 table does not store text: to delete a row, the terms it was
inserted with must be repeated, so rows are written again when the rules change (``rewriting``).

A score is BM25 as a share of the maximum that a document can reach for the query, from 0 to 1. Unlike plain BM25 it is
comparable between queries and stores. (BM25: Robertson and Zaragoza 2009; k1 = 1.2 and b = 0.75 are FTS5's.)
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from typing_extensions import override

from agent_memory.records import Entry
from agent_memory.storage.entries import MOST_WORDS, Lexical, TermCounts
from agent_memory.storage.records import Condition, EntryTerms, LexicalQuery
from agent_memory.storage.sqlite.driver import ERRORS, sqlite3
from agent_memory.storage.sqlite.lazy import conditions, sa, tables
from agent_memory.storage.sqlite.scopes import write_condition
from agent_memory.storage.sqlite.slots import Group, Link, driver
from agent_memory.storage.sqlite.terms import TOKENIZER, describe_rules, read_all_terms, read_terms, stem_terms
from agent_memory.storage.sqlite.values import read_integer, read_text
from agent_memory.storage.words.languages import MARKED, MARKS
from agent_memory.storage.words.terms import Word, choose_words, join_labels, list_terms
from agent_memory.types import BM25_K1, IdArray

if TYPE_CHECKING:
    from sqlalchemy import Select

Forms: TypeAlias = Sequence[tuple[str, ...]]
"""The sequences of terms that stand for a word."""

_ERASES = (3, 42)  # the first version of SQLite whose full-text index can delete words at once

INSERT_ROW = "INSERT INTO lexical(rowid, terms) VALUES (?, ?)"
DELETE_ROW = "INSERT INTO lexical(lexical, rowid, terms) VALUES ('delete', ?, ?)"
DELETE_ALL = "INSERT INTO lexical(lexical) VALUES ('delete-all')"

PAGE_ROWS = 2_000
"""Number of rows that a rebuild writes at once."""


def insert_rows(connection: Link, rows: Iterable[tuple[int, str]]) -> None:
    """Index rows, given as (entry id, terms)."""
    driver(connection).executemany(INSERT_ROW, rows)


def delete_rows(connection: Link, rows: Iterable[tuple[int, str]]) -> None:
    """Delete rows from the index, given as (entry id, terms); the terms must be those they were inserted with."""
    driver(connection).executemany(DELETE_ROW, rows)


def erase_words(raw: sqlite3.Connection) -> None:
    """Make deletions take words out of the index's pages from now on, and take out those deleted before.

    Before SQLite 3.42, the pages are written again instead, here and after each deletion.
    """
    if sqlite3.sqlite_version_info >= _ERASES:
        raw.execute("INSERT INTO lexical(lexical, rank) VALUES ('secure-delete', 1)")
    raw.execute("INSERT INTO lexical(lexical) VALUES ('optimize')")


def rewrite_separators(connection: Link) -> None:
    """Write the index's pages again if a term that no row has is left between them.

    FTS5 finds a page by the beginning of its first term, which it keeps when the term is deleted.
    """
    raw = driver(connection)
    raw.execute("CREATE VIRTUAL TABLE temp.terms USING fts5vocab(main, 'lexical', 'row')")
    try:
        for (found,) in raw.execute("SELECT DISTINCT term FROM lexical_idx").fetchall():
            start = (found if isinstance(found, bytes) else str(found).encode())[1:].decode("utf-8", "ignore")
            if start and raw.execute(_BEGINS, (start, start + "\U0010ffff")).fetchone() is None:
                break
        else:
            return
    finally:
        raw.execute("DROP TABLE temp.terms")
    # A single segment is left alone: a second one makes that all are merged.
    raw.execute("INSERT INTO lexical(rowid, terms) VALUES (?, ?)", (_NO_ROW, _NO_TERM))
    raw.execute("INSERT INTO lexical(lexical) VALUES ('optimize')")
    raw.execute("INSERT INTO lexical(lexical, rowid, terms) VALUES ('delete', ?, ?)", (_NO_ROW, _NO_TERM))


def forget_segments(connection: Link) -> None:
    """Make FTS5 read again which segments there are, in this transaction.

    It remembers them per connection, and asks whether others have changed them when a query begins, but not before an
    integrity check, which then takes segments that another connection has merged for missing ones.
    """
    with contextlib.suppress(*ERRORS):  # what is damaged is found by the check
        driver(connection).execute(_ANY, (f'"{_NO_TERM}"',)).fetchone()


def is_erased(raw: sqlite3.Connection) -> bool:
    """Return whether deletions take words out of the index's pages by themselves."""
    found = raw.execute("SELECT v FROM lexical_config WHERE k = 'secure-delete'").fetchone()
    return sqlite3.sqlite_version_info >= _ERASES and found is not None and found[0] == 1


_BEGINS = "SELECT 1 FROM temp.terms WHERE term >= ? AND term < ? LIMIT 1"
_NO_ROW, _NO_TERM = 2**62, "0"

_DIFFERENCES = {
    "entries are not in it": (
        "SELECT count(*) FROM entries WHERE superseded_at IS NULL AND id NOT IN (SELECT id FROM lexical_docsize)"
    ),
    "rows in it are of no entry": (
        "SELECT count(*) FROM lexical_docsize WHERE id NOT IN (SELECT id FROM entries WHERE superseded_at IS NULL)"
    ),
    "entries have words that are not in it": (
        "SELECT count(*) FROM lexical_docsize WHERE sz <> x'00' AND id NOT IN (SELECT doc FROM temp.words)"
    ),
    "rows in it have words of no entry": (
        "SELECT count(*) FROM (SELECT DISTINCT doc FROM temp.words) WHERE doc NOT IN (SELECT id FROM lexical_docsize)"
    ),
}


_PAGE = "SELECT id, text, speaker FROM entries WHERE superseded_at IS NULL AND id > ? ORDER BY id LIMIT ?"


def delete_all(connection: Link) -> None:
    """Empty the index."""
    driver(connection).execute(DELETE_ALL)


def insert_page(connection: Link, after: int) -> tuple[int | None, int]:
    """Index the next unsuperseded entries behind an id; returns the last one's, None if none are left, and how many."""
    page = driver(connection).execute(_PAGE, (after, PAGE_ROWS)).fetchall()
    insert_rows(connection, [(row[0], list_terms(read_text(row[1]), read_text(row[2]))) for row in page])
    return (read_integer(page[-1][0]) if len(page) == PAGE_ROWS else None), len(page)


def _read_totals(connection: Link) -> tuple[int, int]:
    """Return the numbers of indexed rows and of their terms without counting them.

    Source: the averages record of FTS5 (row 1 of its data table) begins with them as SQLite varints: seven bits per
    byte, highest first, the top bit set in all bytes but the last.
    """
    row = driver(connection).execute("SELECT block FROM lexical_data WHERE id = 1").fetchone()
    numbers, number = [0, 0], 0
    record = row[0] if row and isinstance(row[0], bytes) else b""
    for at in (0, 1):
        for length, byte in enumerate(record[:8], start=1):
            number = number << 7 | byte & 0x7F
            if byte < 0x80:
                numbers[at], number, record = number, 0, record[length:]
                break
    return numbers[0], numbers[1]


_COUNT = "SELECT count(*) FROM lexical WHERE lexical MATCH ?"
_ANY = "SELECT 1 FROM lexical WHERE lexical MATCH ? LIMIT 1"
_SCORE = "lexical.rowid, -bm25(lexical) AS score"
_BEST_FIRST = "ORDER BY score DESC, lexical.rowid LIMIT ?"
_SEARCH = f"SELECT {_SCORE} FROM lexical WHERE lexical MATCH ? {_BEST_FIRST}"
_SEARCH_AMONG = f"SELECT {_SCORE} FROM lexical JOIN entries ON entries.id = lexical.rowid WHERE lexical MATCH ? AND "


_HOLDING = "SELECT rowid FROM temp.texts WHERE texts MATCH ?"
_EMPTY_TEXTS = "INSERT INTO temp.texts(texts) VALUES ('delete-all')"
_MAKE_TEXTS = (
    f"CREATE VIRTUAL TABLE IF NOT EXISTS temp.texts USING fts5(terms, tokenize='{TOKENIZER}', content='', columnsize=0)"
)


def _search_among(condition: Condition) -> Select[Any]:
    """Return the query that ``_SEARCH`` is, among the entries of which a condition holds."""
    lexical, entries = sa.table("lexical", sa.column("rowid")), tables.entries
    score = (-sa.func.bm25(sa.literal_column("lexical"))).label("score")
    query = sa.select(lexical.c.rowid, score).join(entries, entries.c.id == lexical.c.rowid)
    query = query.where(sa.text("lexical MATCH :phrases"), conditions.compile_condition(condition))
    return query.order_by(sa.literal_column("score").desc(), lexical.c.rowid)


_MARK_STEMS: dict[str, str] = {}
_QUERY_STEMS: dict[str, str] = {}
_MOST_STEMS = 10_000


class Stems:
    """The terms of a query as the index holds them, and who counts the entries that hold them.

    Args:
        stem: Returns what the index holds for each of some terms.
        counts: As for ``parse``.
    """

    def __init__(self, stem: Callable[[Sequence[str]], list[str]], counts: TermCounts | None) -> None:
        self._stem, self._counts = stem, counts
        self._known = dict(_MARK_STEMS)

    def learn(self, forms: Iterable[Forms]) -> None:
        """Look up the stems of forms of words, all at once."""
        if self._counts is not None:
            new = dict.fromkeys(term for several in forms for form in several for term in form)
            new = {term: None for term in new if term not in self._known}
            if new:
                self._known |= zip(new, self._stem(list(new)), strict=True)

    def learn_marks(self) -> None:
        """Look up the stems of the marks of languages; they never change."""
        if self._counts is not None and not _MARK_STEMS:
            self.learn([[(mark,) for mark in (MARKED, *MARKS.values())]])
            _MARK_STEMS.update((mark, self._known[mark]) for mark in (MARKED, *MARKS.values()))

    def count(self, forms: Forms) -> int | None:
        """Return the number of entries that hold one of some forms; None if the full-text index must be asked."""
        if self._counts is None or any(len(form) != 1 for form in forms):
            return None
        self.learn([forms])
        return self._counts.count([self._known[form[0]] for form in forms])

    def flatten(self, words: Iterable[Word]) -> tuple[str, ...] | None:
        """Return the terms of words, one after the other; None if the full-text index must be asked."""
        forms = [form for word in words for form in word.forms]
        if self._counts is None or any(len(form) != 1 for form in forms):
            return None
        return tuple(self._known[form[0]] for form in forms)


class SqliteLexical(Group, Lexical):
    """``Lexical`` in SQLite."""

    @property
    @override
    def rules(self) -> str:
        return describe_rules()

    @override
    def read_terms(self, ids: IdArray) -> EntryTerms:
        return read_terms(self._connection, json.dumps(ids.tolist()))

    @override
    def read_all_terms(self) -> Iterator[EntryTerms]:
        return read_all_terms(self._connection)

    @override
    def find_faults(self) -> list[str]:
        # If the index is damaged, the transaction ends, and the temporary table is gone with it.
        raw = driver(self._connection)
        raw.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, 'lexical', 'instance')")
        numbers = {what: raw.execute(query).fetchone()[0] for what, query in _DIFFERENCES.items()}
        raw.execute("DROP TABLE temp.words")
        return [f"full-text index: {number} {what}" for what, number in numbers.items() if number]

    @override
    def rebuild(self, *, unreadable: bool = False) -> None:
        if unreadable:
            for name in ("data", "idx", "docsize"):
                driver(self._connection).execute(f"DELETE FROM lexical_{name}")
            # The state of a new index: an empty averages record (1) and structure record (10).
            # Source: sqlite3Fts5IndexReinit in SQLite's fts5_index.c.
            driver(self._connection).execute(
                "INSERT INTO lexical_data(id, block) VALUES (1, x''), (10, x'00000000000000')"
            )
        # Also then: FTS5 may remember what it read before of an index that turned out to be sound.
        delete_all(self._connection)
        after: int | None = 0
        while after is not None:
            after, _ = insert_page(self._connection, after)

    @override
    def parse(
        self,
        query: str,
        *,
        counts: TermCounts | None = None,
        most: int = MOST_WORDS,
        rough: bool = False,
        absent: bool = False,
    ) -> LexicalQuery:
        stems = Stems(self._stem, counts)
        found = self._count(choose_words(query, lambda: self._list_languages(stems)), stems, absent)
        rarest = sorted(found, key=lambda one: one[:2])[:most]
        # FTS5 counts rows at the commit: what this transaction has written may be missing.
        total = self._count_indexed() if counts is None else len(counts)
        total = max(total, *(hits for hits, _, _ in rarest), 0)
        weights = [max(1e-6, math.log((total - hits + 0.5) / (hits + 0.5))) for hits, _, _ in rarest]
        return LexicalQuery(
            tuple(phrase for _, phrase, _ in rarest),
            tuple(weights),
            best=(BM25_K1 + 1) * sum(weights),
            words=tuple((word.label, word.place) for _, _, word in rarest),
            terms=stems.flatten(word for _, _, word in rarest),
        )

    def _stem(self, terms: Sequence[str]) -> list[str]:
        """Return what the index holds for each of some terms, which hold nothing that separates terms."""
        found = {term: _QUERY_STEMS.get(term) for term in terms}
        if missing := [term for term, stem in found.items() if stem is None]:
            if len(_QUERY_STEMS) > _MOST_STEMS:
                _QUERY_STEMS.clear()
            new = dict(zip(missing, stem_terms(self._connection, missing), strict=True))
            _QUERY_STEMS.update(new)
            found |= new
        return [found[term] or "" for term in terms]

    def _list_languages(self, stems: Stems) -> list[str]:
        """Return the languages that texts are marked with, beside English."""
        stems.learn_marks()
        if not self._holds(MARKED, stems):
            return []
        return [name for name, mark in MARKS.items() if self._holds(mark, stems)]

    def _count_indexed(self) -> int:
        """Return how many rows are indexed."""
        return _read_totals(self._connection)[0]

    def _count_hits(self, phrase: str) -> int:
        """Return how many rows hold a phrase."""
        return int(driver(self._connection).execute(_COUNT, (phrase,)).fetchone()[0])

    def _holds(self, term: str, stems: Stems) -> bool:
        counted = stems.count(((term,),))
        if counted is not None:
            return counted > 0
        return driver(self._connection).execute(_ANY, (f'"{term}"',)).fetchone() is not None

    def _count(self, words: Sequence[Word], stems: Stems, absent: bool) -> list[tuple[int, str, Word]]:
        """Return (rows, phrase, word) of the words that some row holds, or of all of them."""
        found: list[tuple[int, str, Word]] = []
        terms: set[str] = set()
        stems.learn(word.forms for word in words)
        for word in words:
            if not terms.isdisjoint(word.instead_of):
                continue
            phrase = " OR ".join(f'"{" ".join(form)}"' for form in word.forms)
            hits = stems.count(word.forms)
            if hits is None:
                hits = self._count_hits(phrase)
            if hits or absent:
                found.append((hits, f"({phrase})" if len(word.forms) > 1 else phrase, word))
                terms.update(form[0] for form in word.forms if len(form) == 1)
        return found

    @override
    def search(
        self,
        query: LexicalQuery,
        *,
        limit: int,
        condition: Condition | None = None,
    ) -> dict[int, float]:
        if not query.phrases:
            return {}
        phrases = " OR ".join(query.phrases)
        if condition is None:
            rows = driver(self._connection).execute(_SEARCH, (phrases, limit)).fetchall()
        elif (plain := write_condition(condition)) is not None:
            sql, bound = plain
            statement = f"{_SEARCH_AMONG}{sql} {_BEST_FIRST}"
            rows = driver(self._connection).execute(statement, (phrases, *bound, limit)).fetchall()
        else:
            rows = self._connection.execute(_search_among(condition).limit(limit), {"phrases": phrases})
        return {entry_id: min(1.0, max(0.0, score) / query.best) for entry_id, score in rows}

    @override
    def find_matched(self, query: LexicalQuery, entry_id: int) -> list[str]:
        one, raw = "SELECT 1 FROM lexical WHERE lexical MATCH ? AND rowid = ?", driver(self._connection)
        matched = [
            word
            for phrase, word in zip(query.phrases, query.words, strict=True)
            if raw.execute(one, (phrase, entry_id)).fetchone() is not None
        ]
        return join_labels(matched)

    @override
    def measure_average(self) -> float:
        rows, terms = _read_totals(self._connection)
        return terms / rows if rows else 0.0

    @override
    def score_texts(self, query: LexicalQuery, entries: Mapping[int, Entry]) -> dict[int, float]:
        if not entries or not query.phrases:
            return {}
        raw = driver(self._connection)
        values = [(number, list_terms(one.text, one.speaker)) for number, one in entries.items()]
        scores: dict[int, float] = {}
        _empty_texts(raw)
        try:
            raw.executemany("INSERT INTO temp.texts(rowid, terms) VALUES (?, ?)", values)
            for phrase, weight in zip(query.phrases, query.weights, strict=True):
                for (row_id,) in raw.execute(_HOLDING, (phrase,)).fetchall():
                    scores[row_id] = scores.get(row_id, 0.0) + weight / query.best
        finally:
            _empty_texts(raw)
        return scores


def _empty_texts(raw: sqlite3.Connection) -> None:
    """Empty the temporary full-text index that a connection keeps for texts which are in no other."""
    try:
        raw.execute(_EMPTY_TEXTS)
    except ERRORS:
        raw.execute(_MAKE_TEXTS)
