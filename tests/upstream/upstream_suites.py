"""Which tests of which framework are run, whose classes are replaced there, and what is known to differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Suite:
    """The tests of one framework.

    Attributes:
        folder: Where pytest is started, within the checkout.
        sources: Folders of the checkout that are imported from, before what is installed.
        tests: Files of tests, within ``folder``.
        replace: Puts our classes in the place of the framework's own.
        known: Why a test fails, by a part of its name; the first that fits counts.
        options: Further arguments of pytest.
    """

    folder: str
    sources: tuple[str, ...]
    tests: tuple[str, ...]
    replace: Callable[[], None]
    known: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()


def _replace_sqlite_stores() -> None:
    import tempfile
    from contextlib import asynccontextmanager, contextmanager

    from langgraph.store import sqlite
    from langgraph.store.sqlite import aio, base

    from agent_memory.integrations.langgraph import AgentMemoryStore

    class Store(AgentMemoryStore):
        """Without an index nothing is embedded, as in SqliteStore; a database in memory is a temporary folder."""

        def __init__(self, place, *, index=None, **options):
            super().__init__(place, index=index if index else False, **options)

        @classmethod
        def open(cls, place, **options):
            folder = tempfile.mkdtemp(prefix="agent-memory-upstream-") if place == ":memory:" else f"{place}.folder"
            return cls(folder, **options)

    class SyncStore(Store):
        @classmethod
        @contextmanager
        def from_conn_string(cls, place, **options):
            with cls.open(place, **options) as store:
                yield store

    class AsyncStore(Store):
        @classmethod
        @asynccontextmanager
        async def from_conn_string(cls, place, **options):
            async with cls.open(place, **options) as store:
                yield store

    sqlite.SqliteStore = base.SqliteStore = SyncStore
    sqlite.AsyncSqliteStore = aio.AsyncSqliteStore = AsyncStore


def _replace_sqlite_session() -> None:
    import tempfile

    import agents
    from agents.memory import sqlite_session

    from agent_memory import Memory
    from agent_memory.integrations.openai_agents import AgentMemorySession

    opened: dict[str, Memory] = {}

    class Session(AgentMemorySession):
        def __init__(self, session_id, db_path=":memory:", *_, session_settings=None, **__):
            place = str(db_path)
            if place == ":memory:":
                place = tempfile.mkdtemp(prefix="agent-memory-upstream-")
            if place not in opened:
                opened[place] = Memory(f"{place}.folder")
            super().__init__(opened[place], session=session_id, session_settings=session_settings)

    agents.SQLiteSession = agents.memory.SQLiteSession = sqlite_session.SQLiteSession = Session


def _replace_in_memory_vectors() -> None:
    import langchain_core.vectorstores as vectorstores
    from langchain_core.vectorstores import in_memory

    from agent_memory.integrations.langchain import AgentMemoryVectorStore

    vectorstores.InMemoryVectorStore = in_memory.InMemoryVectorStore = AgentMemoryVectorStore


_SQL = "it looks into the tables, the SQL or private helpers of SqliteStore"
_SQL_SESSION = "it looks into the database or private helpers of SQLiteSession"

SUITES: dict[str, Suite] = {
    "langgraph": Suite(
        folder="libs/checkpoint-sqlite",
        sources=("libs/checkpoint", "libs/checkpoint-sqlite"),
        tests=("tests/test_store.py", "tests/test_async_store.py", "tests/test_ttl.py"),
        replace=_replace_sqlite_stores,
        known={},
    ),
    "openai-agents": Suite(
        folder=".",
        sources=("src", "."),
        tests=("tests/memory/test_session.py", "tests/memory/test_session_limit.py"),
        replace=_replace_sqlite_session,
        known={},
    ),
    "langchain": Suite(
        folder="libs/core",
        sources=("libs/core",),
        tests=(
            "tests/unit_tests/vectorstores/test_in_memory.py",
            "tests/unit_tests/indexing/test_in_memory_indexing.py",
            "tests/unit_tests/indexing/test_indexing.py",
        ),
        replace=_replace_in_memory_vectors,
        known={},
    ),
}
