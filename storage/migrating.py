"""Runs the migrations of a store; Alembic keeps what it is doing in globals of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_memory.files import new_lock

if TYPE_CHECKING:
    from sqlalchemy import Connection

_running = new_lock()


def upgrade(connection: Connection, folder: str) -> None:
    """Bring a schema to the newest revision; of several threads, whatever their stores, one does it at a time.

    Args:
        connection: In a transaction of the store.
        folder: The migrations, as Alembic names them: ``package:folder``.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", folder)
    config.attributes["connection"] = connection
    with _running:
        command.upgrade(config, "head")
