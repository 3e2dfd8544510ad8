"""SQLAlchemy, the tables and what compiles conditions, imported when a statement is first built with them.

Opening a store, adding an entry and asking a question run statements that are written out. Importing SQLAlchemy takes
longer than all of them together, so the modules that hold them name it through here.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlalchemy as sa

    from agent_memory.storage.sqlite import conditions
    from agent_memory.storage.sqlite import schema as tables

__all__ = ["conditions", "sa", "tables"]


class _Later:
    """A module that is imported when it is first asked for anything."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the module has
        return getattr(import_module(self._name), name)


if not TYPE_CHECKING:
    sa = _Later("sqlalchemy")
    tables = _Later("agent_memory.storage.sqlite.schema")
    conditions = _Later("agent_memory.storage.sqlite.conditions")
