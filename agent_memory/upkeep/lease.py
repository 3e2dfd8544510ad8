"""The lease under which one process at a time builds, swaps and deletes generations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent_memory.errors import StorageError
from agent_memory.live.store import Store
from agent_memory.storage.operations import new_holder

LEASE = "reindex"
"""Name of the lease."""


@contextmanager
def hold_lease(store: Store) -> Iterator[str]:
    """Hold the lease inside the block; yields the holder's name.

    Raises:
        LeaseHeldError: Another process holds it.
    """
    holder = new_holder()
    try:  # also around taking it: an interrupt must not leave it held
        with store.write() as tx:
            tx.leases.acquire(LEASE, holder, store.database.now())
        yield holder
    finally:
        try:
            with store.write() as tx:
                tx.leases.release(LEASE, holder)
        except StorageError:
            pass  # the lease expires by itself
