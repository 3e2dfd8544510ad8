"""Search by words: an FTS5 index over speaker and text, scored by BM25.

Words are folded (case, accents) and stemmed by SQLite's ``porter unicode61`` tokenizer. It has no idea of words in
scripts without spaces, so runs of Chinese, Japanese and Korean characters are split into overlapping pairs first.
The FTS5 table keeps no text of its own: rows are deleted by repeating the terms they were inserted with.

A score is BM25 as a share of the most that any document could reach for the query, from 0 to 1: unlike BM25 itself it
can be compared between queries and stores. (BM25: Robertson and Zaragoza 2009; k1 = 1.2 and b = 0.75 are FTS5's.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, column, func, literal_column, select, table, text

from agent_memory.storage.sqlite.database import driver
from agent_memory.storage.sqlite.entries import Condition
from agent_memory.storage.sqlite.schema import entries

TOKENIZER = "porter unicode61 remove_diacritics 2"
_K1 = 1.2
_MOST_TERMS = 12
_QUERY_WORDS = 200  # of a query longer than this, the rest only repeats
_UNSPACED = re.compile(
    "[\u2e80-\u2fdf\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r'"([^"]{2,200})"|“([^”]{2,200})”')
# Words that say how a question is asked, not what about. Left in when a query has no others.
_STOP = frozenset(
    "a about am an and any are as at be been but by can could d did do does doing for from had has have he her hers "
    "him his how i if in into is it its just ll m me my no not of on or our re s she should so some t than that the "
    "their them then there these they this those to us ve was we were what when where which who whom whose why will "
    "with would you your".split()
)


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """The words of a query that are looked for.

    Attributes:
        phrases: FTS5 phrases, quoted, the rarest first.
        weights: Inverse document frequency of each.
    """

    phrases: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def most(self) -> float:
        """The largest BM25 score that a document can have."""
        return (_K1 + 1) * sum(self.weights)


def terms(text: str, speaker: str | None = None) -> str:
    """Return what FTS5 indexes of an entry."""
    spaced = text if text.isascii() else _UNSPACED.sub(lambda run: f" {_pairs(run.group())} ", text)
    return f"{speaker} {spaced}" if speaker else spaced


def _pairs(run: str) -> str:
    return run if len(run) == 1 else " ".join(run[place : place + 2] for place in range(len(run) - 1))


def insert_rows(connection: Connection, rows: Iterable[tuple[int, str]]) -> None:
    """Index rows, given as (entry id, terms)."""
    driver(connection).executemany("INSERT INTO lexical(rowid, terms) VALUES (?, ?)", rows)


def delete_rows(connection: Connection, rows: Iterable[tuple[int, str]]) -> None:
    """Take rows out of the index, given with the terms they were inserted with."""
    delete = "INSERT INTO lexical(lexical, rowid, terms) VALUES ('delete', ?, ?)"
    driver(connection).executemany(delete, rows)


def faults(connection: Connection) -> list[str]:
    """Return in what the index differs from the entries, one sentence each; reads all of it, and takes no lock.

    The integrity check of FTS5 itself is a write, and knows nothing of what should be in a table that keeps no text.
    """
    # A damaged index ends the transaction, and the temporary table with it.
    connection.execute(text("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, 'lexical', 'instance')"))
    numbers = {what: connection.execute(query).scalar_one() for what, query in _DIFFERENCES.items()}
    connection.execute(text("DROP TABLE temp.words"))
    return [f"full-text index: {number} {what}" for what, number in numbers.items() if number]


_DIFFERENCES = {
    "entries are not in it": text(
        "SELECT count(*) FROM entries WHERE superseded_at IS NULL AND id NOT IN (SELECT id FROM lexical_docsize)"
    ),
    "rows in it are of no entry": text(
        "SELECT count(*) FROM lexical_docsize WHERE id NOT IN (SELECT id FROM entries WHERE superseded_at IS NULL)"
    ),
    "entries have words that are not in it": text(
        "SELECT count(*) FROM lexical_docsize WHERE sz <> x'00' AND id NOT IN (SELECT doc FROM temp.words)"
    ),
    "rows in it have words of no entry": text(
        "SELECT count(*) FROM (SELECT DISTINCT doc FROM temp.words) WHERE doc NOT IN (SELECT id FROM lexical_docsize)"
    ),
}


def rebuild(connection: Connection, *, unreadable: bool = False) -> None:
    """Index all current entries anew, in a write transaction.

    Args:
        connection: The transaction.
        unreadable: True if FTS5 refuses to open the index, and cannot be told to empty it: its tables are brought into
            the state of a new one, an empty averages record (1) and structure record (10).
            Source: ``sqlite3Fts5IndexReinit`` in SQLite's fts5_index.c.
    """
    if unreadable:
        for name in ("data", "idx", "docsize"):
            connection.execute(text(f"DELETE FROM lexical_{name}"))
        connection.execute(text("INSERT INTO lexical_data(id, block) VALUES (1, x''), (10, x'00000000000000')"))
    else:
        connection.execute(text("INSERT INTO lexical(lexical) VALUES ('delete-all')"))
    after = 0
    while True:
        page = connection.execute(_PAGE, {"after": after}).all()
        if not page:
            return
        insert_rows(connection, [(row.id, terms(row.text, row.speaker)) for row in page])
        after = page[-1].id


_PAGE = (
    select(entries.c.id, entries.c.text, entries.c.speaker)
    .where(entries.c.superseded_at.is_(None), entries.c.id > bindparam("after"))
    .order_by(entries.c.id)
    .limit(1_000)
)


def words_of(query: str) -> list[str]:
    """Return the words of a query worth looking for, in order and once each; quoted phrases come first."""
    quoted = [first or second for first, second in _QUOTED.findall(query)]
    words = [word.lower() for word in _WORD.findall(terms(query))][:_QUERY_WORDS]
    telling = [word for word in words if word not in _STOP] or words
    phrases = [" ".join(_WORD.findall(terms(phrase))) for phrase in quoted]
    return list(dict.fromkeys([phrase for phrase in phrases if " " in phrase] + telling))


def rows_indexed(connection: Connection) -> int:
    """Return how many rows FTS5 counts, without counting them.

    Source: the averages record of FTS5 (row 1 of its data table) begins with that number as an SQLite varint: seven
    bits a byte, the highest first, the top bit set in all but the last.
    """
    record = connection.execute(text("SELECT block FROM lexical_data WHERE id = 1")).scalar()
    number = 0
    for byte in (record or b"")[:8]:
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return number


def parse(connection: Connection, query: str) -> LexicalQuery:
    """Choose the rarest words of a query and work out the score of a perfect match."""
    total = rows_indexed(connection)
    found = []
    for word in words_of(query):
        phrase = f'"{word}"'
        hits = driver(connection).execute(_COUNT, (phrase,)).fetchone()[0]
        if hits:
            found.append((hits, phrase))
    rarest = sorted(found)[:_MOST_TERMS]
    weights = [max(1e-6, math.log((total - hits + 0.5) / (hits + 0.5))) for hits, _ in rarest]
    return LexicalQuery(tuple(phrase for _, phrase in rarest), tuple(weights))


_COUNT = "SELECT count(*) FROM lexical WHERE lexical MATCH ?"
_lexical = table("lexical", column("rowid"))
_SCORE = (-func.bm25(literal_column("lexical"))).label("score")


def search(
    connection: Connection,
    query: LexicalQuery,
    *,
    limit: int,
    condition: Condition | None = None,
) -> dict[int, float]:
    """Return the scores of the best entries by words, best first.

    Args:
        connection: A transaction.
        query: From ``parse``.
        limit: How many at most.
        condition: What an entry must satisfy; None for every current entry.

    Returns:
        Share of the largest possible BM25 score, from 0 to 1, by entry id.
    """
    if not query.phrases:
        return {}
    statement = select(_lexical.c.rowid, _SCORE).where(text("lexical MATCH :phrases"))
    if condition is not None:
        statement = statement.join(entries, entries.c.id == _lexical.c.rowid).where(condition)
    statement = statement.order_by(literal_column("score").desc(), _lexical.c.rowid).limit(limit)
    rows = connection.execute(statement, {"phrases": " OR ".join(query.phrases)})
    return {entry_id: min(1.0, max(0.0, score) / query.most) for entry_id, score in rows}


def matched(connection: Connection, query: LexicalQuery, entry_id: int) -> list[str]:
    """Return the words of a query that an entry holds."""
    one = text("SELECT 1 FROM lexical WHERE lexical MATCH :phrase AND rowid = :id")
    return [
        phrase.strip('"')
        for phrase in query.phrases
        if connection.execute(one, {"phrase": phrase, "id": entry_id}).scalar() is not None
    ]


def score_former(connection: Connection, query: LexicalQuery, rows: Sequence[tuple[int, str]]) -> dict[int, float]:
    """Return the scores of rows that are not in the index, given as (id, terms), such as former versions.

    The words weigh what they weigh in the index; how often a row repeats them is not counted.
    """
    if not rows or not query.phrases:
        return {}
    connection.execute(text(f"CREATE VIRTUAL TABLE temp.former USING fts5(terms, tokenize='{TOKENIZER}')"))
    try:
        values = [{"id": row_id, "terms": words} for row_id, words in rows]
        connection.execute(text("INSERT INTO temp.former(rowid, terms) VALUES (:id, :terms)"), values)
        scores: dict[int, float] = {}
        holds = text("SELECT rowid FROM temp.former WHERE former MATCH :phrase")
        for phrase, weight in zip(query.phrases, query.weights, strict=True):
            for row_id in connection.execute(holds, {"phrase": phrase}).scalars():
                scores[row_id] = scores.get(row_id, 0.0) + weight / query.most
        return scores
    finally:
        connection.execute(text("DROP TABLE temp.former"))
