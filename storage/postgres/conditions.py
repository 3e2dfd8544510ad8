"""Conditions in PostgreSQL: those of SQLite, with PostgreSQL's functions for JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import override

from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.slots import Group

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement


class Filtering(Group):
    """Compiles conditions with PostgreSQL's functions for JSON."""

    @override
    def _compile(self, condition: Condition) -> ColumnElement[bool]:
        from agent_memory.storage.postgres.filters import compile_filter
        from agent_memory.storage.sqlite.conditions import compile_condition

        return compile_condition(condition, compile_filter)
