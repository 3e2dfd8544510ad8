"""Leases in SQLite."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import delete, select, update
from typing_extensions import override

from agent_memory.errors import LeaseHeldError
from agent_memory.storage.operations import LEASE_S, Leases, is_dead
from agent_memory.storage.sqlite.schema import leases
from agent_memory.storage.sqlite.slots import Group

_LEASE = timedelta(seconds=LEASE_S)


class SqliteLeases(Group, Leases):
    """``Leases`` in SQLite."""

    @override
    def find_holder(self, name: str, now: datetime) -> str | None:
        row = self._connection.execute(select(leases).where(leases.c.name == name)).first()
        # An expiry later than any lease can have comes from a clock that was set back since, and is ignored. ``renew``
        # fences every write under a lease, so that the former holder cannot write any more.
        if row is None or not now < row.expires_at <= now + _LEASE or is_dead(row.holder):
            return None
        return str(row.holder)

    @override
    def acquire(self, name: str, holder: str, now: datetime) -> None:
        other = self.find_holder(name, now)
        if other not in (None, holder):
            raise LeaseHeldError(name, str(other))
        self._put_row(leases, "name", name, {"holder": holder, "expires_at": now + _LEASE})

    @override
    def renew(self, name: str, holder: str, now: datetime) -> None:
        mine = update(leases).where(leases.c.name == name, leases.c.holder == holder).values(expires_at=now + _LEASE)
        if self._connection.execute(mine).rowcount != 1:
            other = self._connection.execute(select(leases.c.holder).where(leases.c.name == name)).scalar()
            raise LeaseHeldError(name, str(other))

    @override
    def release(self, name: str, holder: str) -> None:
        self._connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))
