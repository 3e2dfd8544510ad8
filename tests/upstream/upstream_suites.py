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

    from agent_memory.integrations.openai_agents import AgentMemorySession

    class Session(AgentMemorySession):
        def __init__(self, session_id, db_path=":memory:", *_, session_settings=None, **__):
            in_memory = str(db_path) == ":memory:"
            folder = tempfile.mkdtemp(prefix="agent-memory-upstream-") if in_memory else f"{db_path}.folder"
            super().__init__(folder, session=session_id, session_settings=session_settings)

    agents.SQLiteSession = agents.memory.SQLiteSession = sqlite_session.SQLiteSession = Session


def _replace_lancedb_storage() -> None:
    import tempfile

    from crewai.memory.storage import lancedb_storage

    from agent_memory.integrations.crewai import AgentMemoryStorage

    class Storage(AgentMemoryStorage):
        def __init__(self, path=None, table_name="memories", vector_dim=None, **_):
            super().__init__(path or tempfile.mkdtemp(prefix="agent-memory-upstream-"))

    lancedb_storage.LanceDBStorage = Storage


def _replace_list_memory() -> None:
    import tempfile

    from autogen_core import memory

    from agent_memory.integrations.autogen import AutoGenMemory

    class Listed(AutoGenMemory):
        def __init__(self, name=None, memory_contents=()):
            super().__init__(tempfile.mkdtemp(prefix="agent-memory-upstream-"))
            self.name = name

    memory.ListMemory = Listed


_SQL = "it looks into the connection or the tables of SqliteStore"
_SQL_SESSION = "it looks into the connections or private helpers of SQLiteSession"
_DAMAGED = "it writes damaged rows into SQLiteSession's table; `agent-memory check` finds such rows here"
_ERRORS = "the error is one of this package: InvalidInputError for TypeError, ClosedError for RuntimeError"

_OWN_CONFIG = "a component is dumped and loaded under its own name, with its own settings"

SUITES: dict[str, Suite] = {
    "langgraph": Suite(
        folder="libs/checkpoint-sqlite",
        sources=("libs/checkpoint", "libs/checkpoint-sqlite"),
        tests=("tests/test_store.py", "tests/test_async_store.py", "tests/test_ttl.py"),
        replace=_replace_sqlite_stores,
        known={
            "test_nonnull_migrations": _SQL,
            "test_vector_store_initialization": _SQL,
            "test_sql_injection_vulnerability": "SqliteStore refuses odd names in filters; here they are safe",
            "test_no_running_loop": "one class serves both ways: a synchronous call in a loop is slow, not refused",
        },
    ),
    "openai-agents": Suite(
        folder=".",
        sources=("src", "."),
        tests=("tests/memory/test_session.py", "tests/memory/test_session_limit.py"),
        replace=_replace_sqlite_session,
        known={
            "corrupt": _DAMAGED,
            "test_sqlite_session_close_": _SQL_SESSION,
            "file_lock_is_shared": _SQL_SESSION,
            "failed_clear_session_rolls_back": _SQL_SESSION,
            "failed_pop_item_releases": _SQL_SESSION,
            "rollback_failure_evicts": _SQL_SESSION,
            "post_commit_cancellation_propagates": _SQL_SESSION,
            "closed_rejects_empty_add_items": _ERRORS,
            "failed_add_items_releases_write_lock": _ERRORS,
            "rejects_unknown_dictionary_fields": _ERRORS,
        },
    ),
    "crewai": Suite(
        folder="lib/crewai",
        sources=(),
        tests=(
            "tests/memory/test_unified_memory.py",
            "tests/memory/test_dimension_mismatch.py",
            "tests/memory/test_memory_root_scope.py",
        ),
        replace=_replace_lancedb_storage,
        known={
            "test_close_drains_and_shuts_down": "LanceDB's storage has no close, and is read afterwards; ours is closed"
        },
    ),
    "autogen": Suite(
        folder="python/packages/autogen-core",
        sources=(),
        tests=("tests/test_memory.py",),
        replace=_replace_list_memory,
        known={
            "config_to_base_model": _OWN_CONFIG,
            "config_from_base_model": _OWN_CONFIG,
            "test_list_memory_update_context": "ListMemory adds all it holds; ours what the user's message reminds of",
            "test_list_memory_content_types": "bytes are refused: they have no words to be found by",
        },
    ),
}
