"""Search by words in PostgreSQL: an array of terms for each entry, a GIN index over them, and BM25 in SQL.

``storage/words`` chooses the terms, as for SQLite. What FTS5's tokenizer makes of them there is done here before they
are stored: they are separated, and stemmed by FTS5 itself, since there are several versions of Porter's stemmer. The
score is FTS5's formula with its constants, so that both back ends rank alike. (BM25: Robertson and Zaragoza 2009.)
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from typing_extensions import override

from agent_memory.records import Entry
from agent_memory.storage.entries import MOST_WORDS, TermCounts
from agent_memory.storage.postgres.conditions import Filtering
from agent_memory.storage.records import Condition, EntryTerms, LexicalQuery
from agent_memory.storage.sqlite import lexical as shared
from agent_memory.storage.sqlite.lazy import sa, tables
from agent_memory.storage.sqlite.lexical import SqliteLexical, Stems
from agent_memory.storage.sqlite.scopes import write_condition
from agent_memory.storage.sqlite.slots import driver
from agent_memory.storage.sqlite.terms import stem_apart
from agent_memory.storage.words.terms import Word, join_labels, list_terms
from agent_memory.types import BM25_B, BM25_K1, IdArray

if TYPE_CHECKING:
    from agent_memory.storage.postgres.driver import Driver, Handler

_LEAST_WEIGHT = 1e-6  # of a word that most entries hold, as in FTS5
_TERM = re.compile("[a-z0-9\x80-\U0010ffff]+")
_FORM = re.compile('"([^"]*)"')
_COMMON = 200  # rows from which a word is common

_Form = tuple[str, ...]
_LONGEST = 2_600  # bytes of a term: an index takes 2,712 with what goes along


def split_terms(terms: str) -> list[str]:
    """Return the terms of ``list_terms`` one by one, stemmed; of one too long for the server's index, a digest."""
    return list(map(_shorten, stem_apart(_TERM.findall(terms.lower()))))


def _shorten(term: str) -> str:
    if 4 * len(term) <= _LONGEST or len(term.encode()) <= _LONGEST:
        return term
    return term[:16] + hashlib.sha256(term.encode()).hexdigest()


def _list_forms(phrase: str) -> list[_Form]:
    """Return the sequences of terms that a phrase of a query stands for."""
    return [tuple(split_terms(form)) for form in _FORM.findall(phrase)]


def _hold(form: _Form) -> tuple[str, list[Any]]:
    """Return SQL and values for whether a row holds a form."""
    sql: str = "terms @> %s::text[]"
    given: list[Any] = [list(form)]
    if len(form) == 1:
        return sql, given
    counted, more = _count(form)
    return f"{sql} AND {counted} > 0", [*given, *more]


def _count(form: _Form) -> tuple[str, list[Any]]:
    """Return SQL and values for how often a row holds a form."""
    if len(form) == 1:
        return "cardinality(array_positions(terms, %s))", [form[0]]
    follow = "terms[place:place + %s] = %s::text[]"
    sql = f"(SELECT count(*) FROM unnest(array_positions(terms, %s)) place WHERE {follow})"
    return sql, [form[0], len(form) - 1, list(form)]


def _ask_count(forms: Sequence[_Form]) -> tuple[str, list[Any]]:
    """Return the question of how many rows hold one of some forms."""
    parts = [_hold(form) for form in forms]
    held = parts[0][0] if len(parts) == 1 else " OR ".join(f"({sql})" for sql, _ in parts)
    return f"SELECT count(*) FROM lexical WHERE {held}", [value for _, values in parts for value in values]


# --- writing ---------------------------------------------------------------------------------------------

_INSERT = "INSERT INTO lexical (entry_id, size, terms) VALUES (%s, %s, %s)"
_ADD = "UPDATE totals SET value = value + %s WHERE name = %s"
_DELETE = "DELETE FROM lexical WHERE entry_id = ANY(%s) RETURNING size"


def _insert_rows(driver: Driver, rows: Sequence[Sequence[Any]]) -> None:
    found = [(entry_id, split_terms(terms)) for entry_id, terms in rows]
    driver.send(_INSERT, [(entry_id, len(terms), terms) for entry_id, terms in found])
    _add(driver, len(found), sum(len(terms) for _, terms in found))


def _delete_rows(driver: Driver, rows: Sequence[Sequence[Any]]) -> None:
    sizes = driver.run(_DELETE, ([row[0] for row in rows],)).fetchall()
    _add(driver, -len(sizes), -sum(size for (size,) in sizes))


def _add(driver: Driver, rows: int, terms: int) -> None:
    if rows:
        driver.send(_ADD, [(rows, "lexical_rows"), (terms, "lexical_terms")])


def _delete_all(driver: Driver, _: Sequence[Sequence[Any]]) -> None:
    driver.run("DELETE FROM lexical")
    driver.run("UPDATE totals SET value = 0 WHERE name IN ('lexical_rows', 'lexical_terms')")


HANDLERS: dict[str, Handler] = {
    shared.INSERT_ROW: _insert_rows,
    shared.DELETE_ROW: _delete_rows,
    shared.DELETE_ALL: _delete_all,
}
"""What is done in the place of the statements by which FTS5 is written."""

_TOTAL = "SELECT value FROM totals WHERE name = %s"
_DIFFERENCES = {
    "entries are not in it": (
        "SELECT count(*) FROM entries WHERE superseded_at IS NULL AND NOT EXISTS "
        "(SELECT 1 FROM lexical WHERE entry_id = id)"
    ),
    "rows in it are of no entry": (
        "SELECT count(*) FROM lexical WHERE NOT EXISTS "
        "(SELECT 1 FROM entries WHERE id = entry_id AND superseded_at IS NULL)"
    ),
    "rows in it are counted wrongly": (
        "SELECT count(*) FROM "
        "(SELECT count(*) AS rows, coalesce(sum(cardinality(terms)), 0) AS terms FROM lexical) one "
        "WHERE rows != (SELECT value FROM totals WHERE name = 'lexical_rows') "
        "OR terms != (SELECT value FROM totals WHERE name = 'lexical_terms')"
    ),
}

_TERMS_ROWS = 8_192
_TERMS_AMONG = "SELECT entry_id, terms FROM lexical WHERE entry_id = ANY(%s) ORDER BY entry_id"
_TERMS_PAGE = "SELECT entry_id, terms FROM lexical WHERE entry_id > %s ORDER BY entry_id LIMIT %s"


def _make_terms(rows: Sequence[tuple[int, list[str]]]) -> EntryTerms:
    places: dict[str, int] = {}
    numbers = [places.setdefault(term, len(places)) for _, terms in rows for term in terms]
    return EntryTerms(
        ids=np.array([entry_id for entry_id, _ in rows], np.int64),
        lengths=np.array([len(terms) for _, terms in rows], np.int64),
        numbers=np.array(numbers, np.int64),
        vocabulary=list(places),
    )


class PostgresLexical(Filtering, SqliteLexical):
    """``Lexical`` in PostgreSQL."""

    _common: dict[tuple[_Form, ...], int] | None = None

    @property
    def _driver(self) -> Driver:
        return cast("Driver", driver(self._connection))

    @override
    def find_faults(self) -> list[str]:
        (scoped,) = self._driver.run("SELECT row_security_active('lexical')").fetchone()
        asked = {what: query for what, query in _DIFFERENCES.items() if not (scoped and "totals" in query)}
        numbers = {what: self._driver.run(query).fetchone()[0] for what, query in asked.items()}
        found = [f"full-text index: {number} {what}" for what, number in numbers.items() if number]
        wrong = self._count_wrong()
        return [*found, f"full-text index: {wrong} rows in it have other words than their entries"] if wrong else found

    def _count_wrong(self) -> int:
        wrong, after = 0, 0
        page = (
            "SELECT id, text, speaker, terms FROM entries JOIN lexical ON entry_id = id "
            "WHERE superseded_at IS NULL AND id > %s ORDER BY id LIMIT %s"
        )
        while rows := self._driver.run(page, (after, shared.PAGE_ROWS)).fetchall():
            wrong += sum(split_terms(list_terms(text, speaker)) != terms for _, text, speaker, terms in rows)
            after = rows[-1][0]
        return wrong

    @override
    def rebuild(self, *, unreadable: bool = False) -> None:
        shared.delete_all(self._connection)
        after: int | None = 0
        while after is not None:
            after, _ = shared.insert_page(self._connection, after)

    @override
    def _count_indexed(self) -> int:
        return int(self._driver.run(_TOTAL, ("lexical_rows",)).fetchone()[0])

    @override
    def _stem(self, terms: Sequence[str]) -> list[str]:
        return split_terms(" ".join(terms))

    @override
    def read_terms(self, ids: IdArray) -> EntryTerms:
        return _make_terms(self._driver.run(_TERMS_AMONG, (ids.tolist(),)).fetchall())

    @override
    def read_all_terms(self) -> Iterator[EntryTerms]:
        after = 0
        while rows := self._driver.run(_TERMS_PAGE, (after, _TERMS_ROWS)).fetchall():
            yield _make_terms(rows)
            after = rows[-1][0]

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
        self._common = self._driver.habits.list_common(self._count_indexed()) if rough and counts is None else None
        return super().parse(query, counts=counts, most=most, absent=absent)

    @override
    def _holds(self, term: str, stems: Stems) -> bool:
        counted = stems.count(((term,),))
        # A count, although one row would do: the planner, which keeps no samples of words, reads the table for one row.
        return (self._count_rows([tuple(split_terms(term))]) if counted is None else counted) > 0

    @override
    def _count_hits(self, phrase: str) -> int:
        return self._count_rows(_list_forms(phrase))

    def _count_rows(self, forms: Sequence[_Form]) -> int:
        """Return how many rows hold one of some forms: to count a common word, the server reads as many rows."""
        common, name = self._common, tuple(forms)
        if common is not None and name in common:
            return common[name]
        hits = int(self._driver.run(*_ask_count(forms)).fetchone()[0])
        if common is not None and hits >= _COMMON:
            common[name] = hits
        return hits

    @override
    def _count(self, words: Sequence[Word], stems: Stems, absent: bool) -> list[tuple[int, str, Word]]:
        if stems.count(()) is None:  # nobody else counts: all words are counted at once
            forms = [[tuple(split_terms(" ".join(form))) for form in word.forms] for word in words]
            self._driver.ask([_ask_count(one) for one in forms if tuple(one) not in (self._common or ())])
        return super()._count(words, stems, absent)

    @override
    def search(self, query: LexicalQuery, *, limit: int, condition: Condition | None = None) -> dict[int, float]:
        if not query.phrases:
            return {}
        forms = [form for phrase in query.phrases for form in _list_forms(phrase)]
        score, weights = self._write_score(forms)
        where, given = self._write_where(condition)
        first = [form[0] for form in forms]
        statement = (
            f"SELECT entry_id, score FROM (SELECT entry_id, {score} AS score FROM lexical WHERE terms && %s::text[]"
            f"{where}) AS found WHERE score > 0 ORDER BY score DESC, entry_id LIMIT %s"
        )
        rows = self._driver.run(statement, (*weights, first, *given, limit)).fetchall()
        return {entry_id: min(1.0, max(0.0, float(score)) / query.best) for entry_id, score in rows}

    def _write_score(self, forms: Sequence[_Form]) -> tuple[str, list[Any]]:
        """Return BM25 as SQL over a row of the index, and its values."""
        rows, average = self._count_indexed(), self.measure_average()
        parts, given = [], []
        self._driver.ask([_ask_count([form]) for form in forms if (form,) not in (self._common or ())])
        for form in forms:
            hits = min(rows, self._count_rows([form]))  # of a while ago, there may have been more
            weight = math.log((rows - hits + 0.5) / (hits + 0.5))
            counted, values = _count(form)
            long = "%s::float8 * (1 - %s::float8 + %s::float8 * size / %s::float8)"
            parts.append(f"%s::float8 * (({counted} * %s::float8) / ({counted} + {long}))")
            given += [
                weight if weight > 0 else _LEAST_WEIGHT,
                *values,
                BM25_K1 + 1,
                *values,
                BM25_K1,
                BM25_B,
                BM25_B,
                average,
            ]
        return " + ".join(parts), given

    def _write_where(self, condition: Condition | None) -> tuple[str, list[Any]]:
        """Return SQL for the rows of entries of which a condition holds, and its values."""
        if condition is None:
            return "", []
        if (plain := write_condition(condition)) is not None:
            sql, given = plain
            here = sql.replace("?", "%s")
            return f" AND EXISTS (SELECT 1 FROM entries WHERE entries.id = entry_id AND {here})", list(given)
        chosen = sa.select(tables.entries.c.id).where(self._compile(condition))
        return " AND entry_id = ANY(%s)", [list(self._connection.execute(chosen).scalars())]

    @override
    def find_matched(self, query: LexicalQuery, entry_id: int) -> list[str]:
        row = self._driver.run("SELECT terms FROM lexical WHERE entry_id = %s", (entry_id,)).fetchone()
        if row is None:
            return []
        words = zip(query.phrases, query.words, strict=True)
        return join_labels([word for phrase, word in words if _is_held(phrase, row[0])])

    @override
    def measure_average(self) -> float:
        terms = int(self._driver.run(_TOTAL, ("lexical_terms",)).fetchone()[0])
        return terms / max(1, self._count_indexed())

    @override
    def score_texts(self, query: LexicalQuery, entries: Mapping[int, Entry]) -> dict[int, float]:
        scores: dict[int, float] = {}
        for entry_id, one in entries.items():
            terms = split_terms(list_terms(one.text, one.speaker))
            for phrase, weight in zip(query.phrases, query.weights, strict=True):
                if _is_held(phrase, terms):
                    scores[entry_id] = scores.get(entry_id, 0.0) + weight / query.best
        return scores


def _is_held(phrase: str, terms: Sequence[str]) -> bool:
    """Return whether a row's terms hold one of a phrase's forms."""
    return any(
        tuple(terms[start : start + len(form)]) == form
        for form in _list_forms(phrase)
        for start in range(len(terms) - len(form) + 1)
    )
