from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support import WordEncoder
from support_server import Served, serve_in_process

from agent_memory import Config, Memory
from agent_memory.server.settings import Settings


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves a store within the test's process, any number of times; all are stopped at the end."""
    with ExitStack() as stack:

        def serve_(path: Path | None = None, *, encoder: object = None, config: object = None, **settings: object):
            folder = tmp_path / "store" if path is None else path

            def open_memory() -> Memory:
                return Memory(folder, encoder=encoder or WordEncoder(), config=config or Config(lock_timeout_s=5))

            return stack.enter_context(serve_in_process(open_memory, Settings(**settings)))

        yield serve_


@pytest.fixture
def served(serve) -> Served:
    return serve()
