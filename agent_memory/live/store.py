"""``Store``: what an open memory holds. Database, index, embedding spaces, settings, and the calls under way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from agent_memory.config import Config
from agent_memory.errors import EncoderMismatchError, InvalidInputError, MissingDependencyError, StorageError
from agent_memory.files import clean_parts, make_folder
from agent_memory.live.attempt import begin_to_write
from agent_memory.live.columns import LiveColumns
from agent_memory.live.gathering import Gathering
from agent_memory.live.index import LiveIndex
from agent_memory.live.internal import LiveInternal
from agent_memory.live.searcher import Searcher
from agent_memory.live.served import ServedIndex
from agent_memory.live.space import Space
from agent_memory.live.spaces import Spaces
from agent_memory.live.targets import DATABASE
from agent_memory.live.words import PATIENCE_SERVED, LiveWords
from agent_memory.storage.base import Database, Transaction
from agent_memory.storage.calls import Calls, keep_interrupts
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.database import SqliteDatabase
from agent_memory.types import Progress

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.storage.postgres.database import PostgresDatabase

_R = TypeVar("_R")
Guard: TypeAlias = Callable[[Transaction], AbstractContextManager[None]]
_guard: ContextVar[Guard | None] = ContextVar("agent_memory_guard", default=None)


def read_dimension(folder: Path) -> int | None:
    """Return the native dimension of a store's live generation, without its encoder; None if nothing is stored."""
    database = SqliteDatabase(folder / "memory.db", lock_timeout_s=Config().lock_timeout_s)
    try:
        database.prepare()
        with database.read() as tx:
            generation = tx.generations.live()
        return None if generation is None else generation.dimension
    finally:
        database.close()


@contextmanager
def guard_writes(guard: Guard) -> Iterator[None]:
    """Have a guard around all that is written while the block runs: what it raises, the transaction is rolled back for.

    Args:
        guard: Called with each transaction that writes; entered before what it does, and left before its commit.
    """
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def has_store(place: Path | str) -> bool:
    """Return whether there is a store in a folder, or at the URL of a PostgreSQL database; nothing is made."""
    if isinstance(place, Path):
        return (place / DATABASE).is_file()
    with closing(open_served(place, Config())) as database:
        return database.exists


def open_database(place: Path | str) -> SqliteDatabase | PostgresDatabase:
    """Return the database of a folder, which must exist, or of a URL; it is not looked at yet."""
    if isinstance(place, str):
        return open_served(place, Config())
    return SqliteDatabase(place / DATABASE, lock_timeout_s=Config().lock_timeout_s)


def bring_up(place: Path | str, progress: Progress) -> None:
    """Migrate a store to this version, and write its full-text index again if its rules have changed.

    Opening a store does the same, without a word on how far it is.

    Args:
        place: The store's folder, or the URL of a PostgreSQL database.
        progress: Called with (entries done, entries in all) while the full-text index is written.
    """
    database = open_database(place)
    try:
        database.prepare(progress)
    finally:
        database.close()


def open_served(url: str, config: Config) -> PostgresDatabase:
    """Return the database of a URL.

    Raises:
        InvalidInputError: The URL cannot be used.
        MissingDependencyError: psycopg is not installed.
    """
    try:
        from agent_memory.storage.postgres.database import PostgresDatabase
    except ImportError as error:
        raise MissingDependencyError("psycopg", "postgres") from error
    return PostgresDatabase(url, lock_timeout_s=config.lock_timeout_s)


class Store:
    """One store, open in this process.

    Args:
        place: The store's folder, made if it is missing; or the URL of a PostgreSQL database.
        config: Settings.
        encoder: As for ``Memory``.
        session_encoder: As for ``Memory``.

    Attributes:
        space: The embedding space of the live generation, as far as this process knows.
        folder: The store's folder; of a store on PostgreSQL, which has none, a path that names it in messages.
        name: What the store is called in messages.

    Raises:
        EncoderMismatchError: The store was written with another encoder.
        ExtensionError: The index shall be on a server that cannot keep it.
        InvalidInputError: The index shall be on a server, and the store is in a folder.
        SchemaTooNewError: The store was written by a newer version; it was not touched.
        StorageError: The folder cannot be used.
    """

    def __init__(
        self,
        place: Path | str,
        config: Config,
        encoder: Encoder | str | Path | None,
        session_encoder: SessionEncoder | str | None,
    ) -> None:
        self.config = config
        self._calls = Calls()
        self._closed = False
        if config.index == "server" and not isinstance(place, str):
            raise InvalidInputError(
                f"index must be 'local' for a memory in a folder, got 'server' for {place}: SQLite has no index of "
                "vectors; use a memory on PostgreSQL, or leave index out"
            )
        served = open_served(place, config) if isinstance(place, str) else None
        self.folder = Path(place) if served is None else served.path
        self.name = str(self.folder) if served is None else served.name
        self.spaces = Spaces(self.folder, encoder, session_encoder, self._gather)
        try:
            exists = (self.folder / "memory.db").exists() if served is None else served.exists
            # Who cannot have the encoder that was asked for finds no empty store afterwards.
            new = None if exists else self.spaces.open_new()
            self.database: Database = self._open_folder() if served is None else served
        except BaseException:
            if served is not None:
                served.close()
            raise
        try:
            self.index = self._open_index(served)
            self.database.prepare()
            if not self.database.read_only:
                clean_parts(self.folder)
            self.words = LiveWords(
                self.folder / "index" / "words",
                config,
                read_only=self.database.read_only or served is not None,
                read_erasures=self._read_erasures,
                read_seq=self._read_seq,
                patience=None if served is None else PATIENCE_SERVED,
            )
            self.columns, self.internal = LiveColumns(self._read_seq), LiveInternal()
            found = [(cache, cache.snapshots()) for cache in (self.index, self.words)]
            with self.read() as tx:
                for cache, snapshots in found:
                    cache.discard_newer(tx, snapshots)
                    cache.discard_outdated(tx)
                live = tx.generations.live()
                self.space = new if new is not None and live is None else self.spaces.open(tx, live)
        except BaseException:
            self.database.close()
            raise

    def _open_index(self, served: PostgresDatabase | None) -> LiveIndex | ServedIndex:
        if served is not None and (served.index or self.config.index) == "server":
            index = ServedIndex(self.database, self.config)
            index.assert_usable()  # before anything is written
            return index
        return LiveIndex(
            # What is forgotten on one machine would stay in the files of others: only a folder has snapshots.
            (self.folder if served is None else Path(os.devnull)) / "index",
            self.config,
            read_only=self.database.read_only or served is not None,
            read_erasures=self._read_erasures,
        )

    def _open_folder(self) -> SqliteDatabase:
        try:
            make_folder(self.folder)
        except OSError as error:
            raise StorageError(f"{self.folder} cannot be the folder of a store: {error}") from error
        return SqliteDatabase(self.folder / "memory.db", lock_timeout_s=self.config.lock_timeout_s)

    @cached_property
    def id(self) -> str:
        """The store's id."""
        with self.read() as tx:
            return tx.read_store_id()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Count a call as under way: ``close`` waits for it, and refuses later ones.

        Raises:
            ClosedError: The store was closed.
        """
        call = self._calls.enter()
        try:
            with keep_interrupts():
                yield
        finally:
            self._calls.leave(call)

    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction in which every statement sees the same state of the store."""
        return self.database.read()

    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[Transaction]:
        """Open the store's only write transaction; see ``Database.write``.

        Raises:
            GivenUpError: The caller of this call has given it up; nothing was written.
        """
        with self.database.write(wait_s=wait_s) as tx:
            begin_to_write()
            guard = _guard.get()
            with nullcontext() if guard is None else guard(tx):
                yield tx

    def _gather(self) -> Gathering | None:
        window_ms = self.config.gather_ms
        return Gathering(window_ms / 1000, lambda: len(self._calls)) if window_ms else None

    def _read_erasures(self) -> tuple[int, int]:
        with self.read() as tx:
            return tx.erasures.read_state()

    def _read_seq(self) -> int:
        with self.read() as tx:
            return tx.changes.last_seq()

    def save(self) -> None:
        """Write snapshots of what this process has in memory and has not written yet."""
        self.index.save()
        self.words.save()

    def searcher(
        self, tx: Transaction, space: Space, condition: Condition, *, dense: bool = True, in_haste: bool = False
    ) -> Searcher:
        """Return what finds the entries that satisfy a condition; nothing may have been read in ``tx`` yet."""
        return Searcher(
            self.index,
            self.words,
            self.columns,
            self.internal,
            tx,
            space.accept,
            condition,
            dense=dense,
            in_haste=in_haste,
        )

    # --- the space of the live generation ----------------------------------------------------------------

    def follow(self) -> bool:
        """Take up the space of the live generation if it has changed; returns whether this process has it."""
        with self.read() as tx:
            generation = tx.generations.live()
            if generation is None:
                return False
            if self.space.fits(generation):
                return True
            space = self.spaces.find(tx, generation)
        if space is None:
            return False
        self.space = space
        return True

    def follow_space(self) -> Space:
        """Return the space of the live generation, or the last one known if this process does not have that."""
        self.follow()
        return self.space

    def call_in_space(self, call: Callable[[Space], _R]) -> _R:
        """Return what a call returns in the present space; once more if the live generation changes under it."""
        try:
            return call(self.space)
        except EncoderMismatchError:
            if not self.follow():
                raise
        return call(self.space)

    def close(self) -> None:
        """Wait for the calls under way, write the index snapshot and close the database; later calls raise ClosedError.

        A second close does nothing.

        Raises:
            StorageError: Some calls were still running after ``Config.lock_timeout_s``. They end by themselves.
        """
        if self._closed:
            return
        self._closed = True
        left = self._calls.close(self.config.lock_timeout_s)
        try:
            if not left:
                self.save()
                for cache in (self.index, self.words):
                    cache.release()
        finally:
            self.database.close()
        if left:
            raise StorageError(
                f"{self.name} was closed, but {left} calls were still running after "
                f"{self.config.lock_timeout_s:g} s; no index snapshot was written"
            )
