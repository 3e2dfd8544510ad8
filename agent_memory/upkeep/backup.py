"""Backup and restore: a copy of the database, taken while it is in use, and verified before it counts."""

from __future__ import annotations

import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import make_folder, write_beside
from agent_memory.live.store import Store
from agent_memory.live.targets import DATABASE, INDEX, check_target, is_own
from agent_memory.storage.sqlite.copying import install_copy, read_store_id, restore_copy
from agent_memory.types import Progress

_SHORT_ID = 8


def backup(store: Store, path: Path, progress: Progress | None = None) -> int:
    """Write a verified copy of a store to one file; see ``Memory.backup``."""
    target = check_target(store.folder, path)
    try:
        make_folder(target.parent)
        with write_beside(target) as part:
            entries = store.database.copy_to(part, progress)
            install_copy(part, target)
    except OSError as error:
        raise StorageError(f"cannot write the backup {target}: {error}") from error
    if not store.database.read_only:
        with store.write() as tx:
            tx.erasures.note_copy(str(target), "backup", datetime.now(UTC))
    return entries


def backup_into(store: Store, folder: Path, keep: int) -> tuple[Path, int]:
    """Write a backup into a folder and delete the store's oldest ones there; returns (file, entries).

    Whose a backup is, is in the file: those of other stores, links, and files that only have the name are left alone.
    """
    with store.read() as tx:
        store_id = tx.read_store_id()
    short = store_id[:_SHORT_ID]
    path = folder / f"memory-{short}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
    entries = backup(store, path)
    name = re.compile(rf"memory-{short}-[0-9]{{8}}T[0-9]{{12}}\.db")
    mine = sorted((one for one in folder.iterdir() if name.fullmatch(one.name)), reverse=True)
    for old in [one for one in mine if read_store_id(one) == store_id][keep:]:
        old.unlink(missing_ok=True)
    return path, entries


def restore(source: Path, folder: Path, *, replace: bool = False) -> int:
    """Make a store of a backup; see ``Memory.restore``."""
    folder = Path(os.path.realpath(folder))
    database = folder / DATABASE
    if not source.is_file():
        raise NotFoundError(f"there is no backup {source}")
    if is_own(folder, Path(os.path.realpath(source))):
        raise InvalidInputError(f"{source} is the store itself, or belongs to it")
    if database.exists() and not replace:
        raise InvalidInputError(f"{folder} holds a store already; restore elsewhere, or say replace")
    try:
        make_folder(folder)
        return restore_copy(source, database, lambda: _drop_index(folder / INDEX))
    except OSError as error:
        raise StorageError(f"cannot restore to {folder}: {error}") from error


def _drop_index(index: Path) -> None:
    if index.is_symlink():
        index.unlink()
    shutil.rmtree(index, ignore_errors=True)
