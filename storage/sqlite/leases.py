"""Leases: who may do a piece of work, until when. A dead holder's lease runs out by itself."""

from __future__ import annotations

import os
import socket
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from agent_memory.errors import LeaseHeldError
from agent_memory.storage.sqlite.schema import leases

LEASE = timedelta(seconds=60)


def new_holder() -> str:
    """Return a name for this process as a holder, unlike any other: host, process and eight random bytes."""
    return f"{socket.gethostname()}:{os.getpid()}:{os.urandom(8).hex()}"


def _is_dead(holder: str) -> bool:
    """Return whether a holder is a process of this machine that is no more."""
    host, _, rest = holder.partition(":")
    pid = rest.partition(":")[0]
    if host != socket.gethostname() or not pid.isdecimal() or len(pid) > 9:
        return False
    try:
        os.kill(int(pid), 0)  # signal 0 is not sent, it only asks
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def holder_of(connection: Connection, name: str, now: datetime) -> str | None:
    """Return who holds a lease, or None if it is free.

    An expiry further away than any lease lasts was written by a clock that has been set back since; it is not
    believed. Every write under a lease is fenced by ``renew``, so that the former holder cannot write afterwards.
    """
    row = connection.execute(select(leases).where(leases.c.name == name)).first()
    if row is None or not now < row.expires_at <= now + LEASE or _is_dead(row.holder):
        return None
    return str(row.holder)


def acquire(connection: Connection, name: str, holder: str, now: datetime) -> None:
    """Take a lease that is free, expired, or already one's own.

    Raises:
        LeaseHeldError: Another holder has it.
    """
    other = holder_of(connection, name, now)
    if other not in (None, holder):
        raise LeaseHeldError(name, str(other))
    taken = insert(leases).values(name=name, holder=holder, expires_at=now + LEASE)
    changed = {"holder": holder, "expires_at": now + LEASE}
    connection.execute(taken.on_conflict_do_update(index_elements=["name"], set_=changed))


def renew(connection: Connection, name: str, holder: str, now: datetime) -> None:
    """Extend a lease inside the transaction that does work under it.

    Raises:
        LeaseHeldError: It was lost to another holder; the transaction must not commit.
    """
    mine = update(leases).where(leases.c.name == name, leases.c.holder == holder).values(expires_at=now + LEASE)
    if connection.execute(mine).rowcount != 1:
        other = connection.execute(select(leases.c.holder).where(leases.c.name == name)).scalar()
        raise LeaseHeldError(name, str(other))


def release(connection: Connection, name: str, holder: str) -> None:
    """Give a lease back; does nothing if it is no longer one's own."""
    connection.execute(delete(leases).where(leases.c.name == name, leases.c.holder == holder))
