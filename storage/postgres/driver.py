"""psycopg's side of a connection, with the few methods of SQLite's module that the groups use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg

from agent_memory.errors import ClosedError, InvalidInputError, LockTimeoutError, StorageError
from agent_memory.storage.postgres.dialect import translate
from agent_memory.storage.sqlite.values import encode_namespace
from agent_memory.types import Namespace

if TYPE_CHECKING:
    from agent_memory.storage.postgres.facts import Patient

ERRORS = (psycopg.Error,)
_LONGEST_NAMES = 2_600  # bytes; an entry of a B-tree takes 2,704
NO_NUL = "PostgreSQL stores no text that holds the character NUL (U+0000); take it out, or use a store on SQLite"

Handler = Callable[["Driver", Sequence[Sequence[Any]]], None]
Row = tuple[Any, ...]
Question = tuple[str, Sequence[Any]]

_MOST_FORESEEN = 12
_MOST_COMMON = 10_000
_MOST_KEPT = 200  # rows of an answer
_MOST_PENDING = 1_000  # rows
_LONGEST_NAME = 1_000

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Answer:
    """The rows that a statement has returned.

    Args:
        rows: The rows.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._left = iter(rows)

    def fetchone(self) -> Row | None:
        """Return the next row; None behind the last."""
        return next(self._left, None)

    def fetchall(self) -> list[Row]:
        """Return the rows that are left."""
        return list(self._left)

    def __iter__(self) -> Iterator[Row]:
        return self._left


class Habits:
    """What transactions of a store ask first, so that it can be asked along with their beginning.

    Statements are foreseen that the last two transactions of a kind have both asked, with the same values. What nobody
    asks in the end has cost the server some microseconds; a round trip over a network costs hundreds.
    """

    def __init__(self) -> None:
        self._last: dict[str, dict[str, Question]] = {}
        self._foreseen: dict[str, tuple[Question, ...]] = {}
        self._common: dict[tuple[tuple[str, ...], ...], int] = {}
        self._indexed = 0

    def list_common(self, indexed: int) -> dict[tuple[tuple[str, ...], ...], int]:
        """Return how many rows held common words when they were counted last, by their forms; to be added to.

        Args:
            indexed: Number of rows that have words; once it has changed by a tenth, all are counted again.
        """
        if abs(indexed - self._indexed) * 10 > self._indexed or len(self._common) > _MOST_COMMON:
            self._common, self._indexed = {}, indexed
        return self._common

    def foresee(self, kind: str) -> tuple[Question, ...]:
        """Return what a transaction of a kind (read, write) is likely to ask."""
        return self._foreseen.get(kind, ())

    def forget(self, kind: str) -> None:
        """Foresee nothing for a kind of transaction."""
        self._foreseen.pop(kind, None)
        self._last.pop(kind, None)

    def note(self, kind: str, asked: Mapping[str, Question]) -> None:
        """Note what a transaction has asked."""
        last = self._last.get(kind, {})
        both = [question for key, question in asked.items() if key in last]
        self._foreseen[kind] = tuple(both[:_MOST_FORESEEN])
        self._last[kind] = dict(asked)


class Driver:
    """A connection that runs SQLite's statements in PostgreSQL's words, in few round trips.

    * Rows that are written and return nothing are sent along with the next statement, or the commit.
    * A statement that a transaction asks again is answered from memory, as long as nothing was written: a read-only
      transaction sees one state, and a write transaction is the only writer. So is what was foreseen; see ``Habits``.

    Args:
        raw: psycopg's connection, in autocommit mode: transactions begin and end by statements.
        handlers: What is done in the place of statements that PostgreSQL has no form of, by their text.
        habits: Of the store.

    Attributes:
        kind: Of the transaction: ``read`` or ``write``.
        habits: As given.
    """

    text_factory: Any = None  # what SQLite's module has to read damaged text; this server checks what it stores

    def __init__(self, raw: Patient, handlers: dict[str, Handler], habits: Habits) -> None:
        self.raw, self._handlers, self.habits = raw, handlers, habits
        self.kind = "read"
        self._known: dict[str, Answer] | None = None
        self._asked: dict[str, Question] = {}
        self._pending: list[tuple[str, list[Row]]] = []
        self._is_settled = True

    # --- transactions ------------------------------------------------------------------------------------

    def begin(self, kind: str, statements: Sequence[Question]) -> psycopg.Cursor[Any]:
        """Begin a transaction, and ask what is foreseen, in one round trip; returns the last statement's answer.

        Args:
            kind: ``read`` or ``write``.
            statements: What begins it.
        """
        self.settle()
        self.kind, self._known, self._asked, self._pending = kind, {}, {}, []
        foreseen = self.habits.foresee(kind)
        try:
            begun, answers = self._ask_all(statements, foreseen)
        except psycopg.Error as error:
            # Of what is only likely to be asked, nothing may keep this transaction from what it does ask.
            self.habits.forget(kind)
            if not foreseen or self.raw.closed or isinstance(error, psycopg.OperationalError):
                raise  # a lock, a limit, or the connection
            self.raw.execute("ROLLBACK")
            foreseen = ()
            begun, answers = self._ask_all(statements, foreseen)
        for (sql, given), cursor in zip(foreseen, answers, strict=True):
            self._known[_name(sql, given)] = Answer(cursor.fetchall())
        return begun[-1]

    def _ask_all(
        self, statements: Sequence[Question], foreseen: Sequence[Question]
    ) -> tuple[list[psycopg.Cursor[Any]], list[psycopg.Cursor[Any]]]:
        with self.raw.pipeline():
            begun = [self.raw.execute(sql, given) for sql, given in statements]
            return begun, [self.raw.execute(sql, given) for sql, given in foreseen]

    def commit(self) -> None:
        """Write what is pending and commit, in one round trip."""
        self.habits.note("write", self._asked)
        pending, self._pending = self._pending, []
        with self.raw.pipeline():
            self._send(pending)
            self.raw.execute("COMMIT")
        self._known = None

    def end(self) -> None:
        """End a transaction that only read, without waiting for the answer; ``settle`` takes it."""
        self.habits.note("read", self._asked)
        self._known = None
        self.raw.pgconn.send_query(b"COMMIT")
        self._is_settled = False
        self.raw.pgconn.flush()

    def roll_back(self) -> None:
        """Give up a transaction."""
        self._pending, self._known = [], None
        self.settle()
        self.raw.execute("ROLLBACK")

    def settle(self) -> None:
        """Take the answer to the end of the last transaction, if it was not waited for."""
        if self._is_settled:
            return
        self._is_settled = True
        self.raw.await_answer()
        while self.raw.pgconn.get_result() is not None:
            self.raw.await_answer()

    # --- statements --------------------------------------------------------------------------------------

    def execute(self, sql: str, given: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - a cursor, or rows like one
        """Run a statement of SQLite; returns its rows."""
        if sql in self._handlers:
            self._handlers[sql](self, [given])
            return Answer([])
        statement = translate(sql)
        if statement.before is not None:
            self.send(statement.before, [given[: statement.taken]])
        return self.run(statement.sql, given)

    def run(self, sql: str, given: Sequence[Any] = ()) -> Any:  # noqa: ANN401 - as of ``execute``
        """Run a statement in PostgreSQL's own words; returns its rows."""
        begun = sql.lstrip()
        if self.kind == "write" and not begun.startswith(("SELECT", "WITH")):
            self._known = None
        if self._known is None or not begun.startswith("SELECT"):
            return self._execute(sql, given)
        name = _name(sql, given)
        if len(name) <= _LONGEST_NAME:
            self._asked[name] = sql, tuple(given)
        if (known := self._known.get(name)) is not None:
            return Answer(known.rows)
        answer = Answer(self.raw.execute(sql, tuple(given)).fetchall())
        if len(answer.rows) <= _MOST_KEPT and len(name) <= _LONGEST_NAME:
            self._known[name] = answer
        return answer

    def _execute(self, sql: str, given: Sequence[Any]) -> psycopg.Cursor[Any]:
        """Run a statement behind what is pending, in one round trip."""
        if not self._pending:
            return self.raw.execute(sql, tuple(given))
        pending, self._pending = self._pending, []
        with self.raw.pipeline():
            self._send(pending)
            return self.raw.execute(sql, tuple(given))

    def ask(self, questions: Sequence[Question]) -> None:
        """Ask several things that will be asked one by one, in one round trip."""
        if self._known is None:
            return
        new = {name: one for one in questions if (name := _name(*one)) not in self._known}
        if len(new) < 2:
            return
        with self.raw.pipeline():
            answers = [self.raw.execute(sql, tuple(given)) for sql, given in new.values()]
        for name, cursor in zip(new, answers, strict=True):
            self._known[name] = Answer(cursor.fetchall())

    def stream(self, sql: str) -> Iterator[Row]:
        """Yield the rows of a statement as they are needed, since they may be more than memory holds."""
        self.flush()
        with self.raw.cursor(name="stream") as cursor:
            cursor.itersize = 500
            yield from cursor.execute(translate(sql).sql)

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement of SQLite for each row of values; it returns nothing."""
        found = [tuple(row) for row in rows]
        if not found:
            return
        if sql in self._handlers:
            self._handlers[sql](self, found)
            return
        statement = translate(sql)
        if statement.before is not None:
            self.send(statement.before, [row[: statement.taken] for row in found])
        self.send(statement.sql, found)

    def send(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement in PostgreSQL's own words for each row of values, with the next one or the commit."""
        self._known = None
        self._pending.append((sql, [tuple(row) for row in rows]))
        if sum(len(found) for _, found in self._pending) > _MOST_PENDING:
            self.flush()

    def flush(self) -> None:
        """Run what is pending."""
        if self._pending:
            pending, self._pending = self._pending, []
            with self.raw.pipeline():
                self._send(pending)

    def leave(self) -> psycopg.Connection[Any]:
        """Return psycopg's side for others to use: what is pending is written, and what they write not known."""
        self.flush()
        if self.kind == "write":
            self._known = None
        return self.raw

    def _send(self, pending: Sequence[tuple[str, list[Row]]]) -> None:
        for sql, rows in pending:
            with self.raw.cursor() as cursor:
                cursor.executemany(sql, rows)


def _name(sql: str, given: Sequence[Any]) -> str:
    return f"{sql}\0{tuple(given)!r}"


def list_errors() -> tuple[type[Exception], ...]:
    """Return what statements raise; to be called where something was raised."""
    import sys

    theirs = sys.modules.get("sqlalchemy.exc")
    return ERRORS if theirs is None else (theirs.SQLAlchemyError, *ERRORS)


def wrap_error(error: Exception, name: str, timeout_s: float, *, closed: bool = False) -> Exception:
    """Return what a caller gets for an error of psycopg, or of SQLAlchemy about one.

    Args:
        error: The error.
        name: The address of the store, for messages.
        timeout_s: How long locks were waited for.
        closed: Whether the store was closed meanwhile.
    """
    original = getattr(error, "orig", None) or error
    if closed and isinstance(original, psycopg.OperationalError | psycopg.InterfaceError):
        return ClosedError("this memory was closed while in use")
    if isinstance(original, psycopg.errors.LockNotAvailable):
        return LockTimeoutError(timeout_s)
    if isinstance(original, psycopg.DataError) and "NUL" in str(original):
        return InvalidInputError(NO_NUL)
    if isinstance(original, psycopg.errors.UntranslatableCharacter):
        return InvalidInputError(NO_NUL)
    return StorageError(f"{name}: {describe(original)}")


def describe(error: Exception) -> str:
    """Return what an error of the server says, in one line, without the statement or the row that it is about."""
    error = getattr(error, "orig", None) or error
    said = getattr(error, "diag", None)
    if said is not None and said.message_primary:
        return f"{said.message_primary}. {said.message_hint}" if said.message_hint else str(said.message_primary)
    told = " ".join(str(error).split())
    # psycopg says so when the connection was lost while it waited for several answers.
    return "the connection to the server was lost" if "pipeline mode" in told else told


def check_names(namespace: Namespace, *names: str | None) -> None:
    """Raise InvalidInputError if a namespace and a name in it are longer together than an index of the server takes."""
    place = encode_namespace(namespace)
    for name in filter(None, names):
        if (size := len(place.encode()) + len(name.encode())) > _LONGEST_NAMES:
            raise InvalidInputError(
                f"namespace and name take {size} bytes together, and PostgreSQL indexes up to {_LONGEST_NAMES}: "
                f"{name[:40]!r}…"
            )


def check_nul(*texts: str | None, json: str | None = None) -> None:
    """Raise InvalidInputError if a text, or a text in JSON, holds the character that PostgreSQL cannot store.

    Args:
        *texts: Texts as they are; in them the six characters of an escaped NUL are characters like others.
        json: JSON.
    """
    if any(text is not None and "\0" in text for text in texts):
        raise InvalidInputError(NO_NUL)
    if json is not None and "\\u0000" in json and _ESCAPED_NUL.search(json):
        raise InvalidInputError(NO_NUL)
