"""Copies of a whole store to another place: from a folder to a PostgreSQL database, back, or of the same kind."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import make_folder
from agent_memory.live.store import has_store, open_database
from agent_memory.live.targets import DATABASE
from agent_memory.records import Copied
from agent_memory.storage.cloning import clone
from agent_memory.storage.connected import ConnectedDatabase
from agent_memory.types import Progress

Place = Path | str


def copy(
    source: Place, target: Place, progress: Progress | None = None, *, dry_run: bool = False, known: bool = True
) -> Copied:
    """Copy a store; see ``Memory.copy``.

    Args:
        source: As of ``Memory.copy``, as are those that follow.
        target: Where to.
        progress: Called with what is done.
        dry_run: Write nothing.
        known: Whether the two stores are told of each other.
    """
    source, target = _resolve(source), _resolve(target)
    if source == target:
        raise InvalidInputError(f"{_name(source)} cannot be copied to itself")
    if not has_store(source):
        raise NotFoundError(f"there is no store in {_name(source)}")
    exists = isinstance(target, str) or (target / DATABASE).exists()
    if not exists and not dry_run:
        try:
            make_folder(target)  # type: ignore[arg-type]  # it is no URL
        except OSError as error:
            raise StorageError(f"{target} cannot be the folder of a store: {error}") from error
    begun = datetime.now(UTC)
    with ExitStack() as opened:
        origin = opened.enter_context(closing(open_database(source)))
        copied = opened.enter_context(closing(open_database(target)))
        origin.prepare()
        done = clone(origin, copied, progress, exists=exists, dry_run=dry_run)
        if known and not dry_run:
            for database, other in ((origin, target), (copied, source)):
                note(database, _name(other), begun)
    return Copied(
        source=_name(source),
        target=_name(target),
        entries=done.counts["entries"],
        sessions=done.counts["sessions"],
        vectors=done.counts["vectors"],
        receipts=done.counts["erasures"],
        rows=sum(done.counts.values()),
        found=done.found,
        damaged=done.damaged,
        digest=done.digest,
        dry_run=dry_run,
    )


def note(database: ConnectedDatabase, other: str, begun: datetime) -> None:
    """Let a store know of a copy, so that its receipts of ``forget`` name it."""
    if not database.read_only:
        with database.write() as tx:
            tx.erasures.note_copy(other, "copy", begun)


def _resolve(place: Place) -> Place:
    return place if isinstance(place, str) else Path(os.path.realpath(place))


def _name(place: Place) -> str:
    """Return where a store is as it is shown: without a password."""
    if isinstance(place, Path):
        return str(place)
    from agent_memory.storage.postgres.address import parse_address

    return parse_address(place).name
