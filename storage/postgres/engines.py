"""SQLAlchemy's side of connections to PostgreSQL, which are opened by psycopg."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import psycopg

from agent_memory.files import call_whole

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Engines:
    """SQLAlchemy's side of all stores, made when a statement is first built with it: it keeps what it has compiled."""

    def __init__(self) -> None:
        self._given = threading.local()
        self._engine: Any = None

    def _make(self, raw: psycopg.Connection[Any]) -> Any:  # noqa: ANN401 - SQLAlchemy's engine
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        engine = create_engine(
            "postgresql+psycopg://",
            creator=lambda: self._given.raw,
            poolclass=NullPool,
            pool_reset_on_return=None,
            use_native_hstore=False,
        )
        # The first connection of an engine is looked at and rolled back, which may not happen to one in a transaction.
        given: dict[str, Any] = {**raw.info.get_parameters(), "password": raw.info.password or None}
        with psycopg.connect(**given) as self._given.raw:
            engine.connect().close()
        return engine

    def connect(self, driver: Any) -> Connection:  # noqa: ANN401 - as Link has it
        """Return SQLAlchemy's side of a connection; what it takes for one transaction begins and ends elsewhere."""
        if self._engine is None:
            self._engine = call_whole(lambda: self._make(driver.raw))
        self._given.raw = driver.raw
        try:
            connection: Connection = self._engine.connect()
        finally:
            del self._given.raw
        connection.begin()
        return connection


ENGINES = Engines()
"""Those of this process."""
