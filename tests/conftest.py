from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import WordEncoder

from agent_memory import Config, Memory

Open = Callable[..., Memory]
_NUMBERS = itertools.count()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def open_memory(folder: Path) -> Iterator[Open]:
    """Opens the test's store, any number of times; all are closed at the end."""
    opened: list[Memory] = []

    def open_(**options: object) -> Memory:
        options.setdefault("encoder", WordEncoder())
        options.setdefault("config", Config(lock_timeout_s=5))
        memory = Memory(options.pop("path", folder), **options)
        opened.append(memory)
        return memory

    yield open_
    for memory in opened:
        memory.close()


@pytest.fixture
def memory(open_memory: Open) -> Memory:
    return open_memory()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of this session of tests; without fsync, as no test of its users needs it."""
    pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")
    from support_postgres import Server

    server = Server(fsync="off", full_page_writes="off")
    yield server
    server.stop()


@pytest.fixture(params=["folder", "postgres"])
def place(request: pytest.FixtureRequest) -> Path | str:
    """Where a new store may be: in a folder, and on a server."""
    return request.getfixturevalue("folder" if request.param == "folder" else "url")


@pytest.fixture
def url(postgres: Any) -> Iterator[str]:
    """The address of a store on PostgreSQL that is not there yet; its schema is dropped at the end."""
    import psycopg

    schema = f"store_{next(_NUMBERS)}"
    yield postgres.url(schema=schema)
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
