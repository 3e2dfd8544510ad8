"""Backup and restore: a copy of the database, taken while it is in use, and verified before it counts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import failpoint, part_of, put_in_place
from agent_memory.storage.sqlite import copying
from agent_memory.storage.sqlite.database import Database
from agent_memory.storage.sqlite.migrate import check_revision
from agent_memory.types import Progress


def backup(database: Database, path: Path, progress: Progress | None = None) -> int:
    """Write a verified copy of a store to one file; see ``Memory.backup``."""
    target = path.expanduser()
    if target.is_dir():
        raise InvalidInputError(f"{target} is a folder; a backup is one file")
    if target.absolute() == database.path.absolute():
        raise InvalidInputError(f"{target} is the store itself")
    part = part_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        expected = copying.copy_online(database, part, progress)
        failpoint("backup-copied")
        entries = copying.verified(part, expected)
        _put_in_place(part, target)
    except OSError as error:
        raise StorageError(f"cannot write the backup {target}: {error}") from error
    finally:
        _remove(part)
    return entries


def restore(source: Path, folder: Path, *, replace: bool = False) -> int:
    """Make a store of a backup; see ``Memory.restore``."""
    source, folder = source.expanduser(), folder.expanduser()
    database = folder / "memory.db"
    if not source.is_file():
        raise NotFoundError(f"there is no backup {source}")
    if database.exists() and not replace:
        raise InvalidInputError(f"{folder} holds a store already; restore elsewhere, or say replace")
    part = part_of(database)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(source, part)
        check_revision(part)
        entries = copying.verified(part, None)
        failpoint("restore-copied")
        if database.exists():
            copying.assert_unused(database)
        # The former write-ahead log belongs to the former database and must not be replayed into this one. What it
        # held was moved into the former database just now.
        for left in (f"{database}-wal", f"{database}-shm"):
            Path(left).unlink(missing_ok=True)
        shutil.rmtree(folder / "index", ignore_errors=True)
        failpoint("restore-before-rename")
        _put_in_place(part, database)
    except OSError as error:
        raise StorageError(f"cannot restore to {folder}: {error}") from error
    finally:
        _remove(part)
    return entries


def _put_in_place(part: Path, target: Path) -> None:
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    failpoint("backup-before-rename")
    put_in_place(part, target)


def _remove(part: Path) -> None:
    for left in (part, *(part.with_name(part.name + tail) for tail in ("-journal", "-wal", "-shm"))):
        left.unlink(missing_ok=True)
