"""Backup and restore: a copy of the database, taken while it is in use, and verified before it counts."""

from __future__ import annotations

import shutil
from pathlib import Path

from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import part_of
from agent_memory.storage.base import Database
from agent_memory.storage.sqlite.copying import install_copy, remove_parts, restore_copy
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
        entries = database.copy_to(part, progress)
        install_copy(part, target)
    except OSError as error:
        raise StorageError(f"cannot write the backup {target}: {error}") from error
    finally:
        remove_parts(part)
    return entries


def restore(source: Path, folder: Path, *, replace: bool = False) -> int:
    """Make a store of a backup; see ``Memory.restore``."""
    source, folder = source.expanduser(), folder.expanduser()
    database = folder / "memory.db"
    if not source.is_file():
        raise NotFoundError(f"there is no backup {source}")
    if database.exists() and not replace:
        raise InvalidInputError(f"{folder} holds a store already; restore elsewhere, or say replace")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return restore_copy(source, database, lambda: shutil.rmtree(folder / "index", ignore_errors=True))
    except OSError as error:
        raise StorageError(f"cannot restore to {folder}: {error}") from error
