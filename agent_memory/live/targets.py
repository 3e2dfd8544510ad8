"""Which files may be written and read beside a store: never the store's own, however they are spelled."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from agent_memory.errors import InvalidInputError, StorageError

DATABASE = "memory.db"
LEDGER = "server.db"
INDEX = "index"


def check_target(folder: Path, target: Path) -> Path:
    """Return the file that a backup or an export is to be written to.

    A link of that name is replaced by the file; it is not followed.

    Args:
        folder: The store's folder.
        target: The file, as an absolute path.

    Raises:
        InvalidInputError: It is a folder, a device or the like, or one of the store's own files.
        StorageError: It cannot be looked at.
    """
    try:
        if target.is_dir():
            raise InvalidInputError(f"{target} is a folder; give the name of a file")
        if target.exists() and not target.is_symlink() and not stat.S_ISREG(target.lstat().st_mode):
            raise InvalidInputError(f"{target} is no regular file")
        if is_own(folder, target):
            raise InvalidInputError(f"{target} is the store itself, or belongs to it")
    except OSError as error:
        raise StorageError(f"{target} cannot be written: {error}") from error
    return target


def is_own(folder: Path, path: Path) -> bool:
    """Return whether a file is one of a store's own, by whatever name: relative, through links, as a hard link."""
    if _identify(path) in set(_identify_files(folder)):
        return True
    parent = Path(os.path.realpath(path.parent))
    if _is_same(parent, folder):
        # File systems that ignore case are common, and a store's names are reserved in any case.
        name = path.name.casefold()
        return name == INDEX or name.startswith((DATABASE, LEDGER, f".{DATABASE}.", f".{LEDGER}."))
    return any(_is_same(place, folder / INDEX) for place in (parent, *parent.parents))


def _identify_files(folder: Path) -> Iterator[tuple[int, int]]:
    for place in (*folder.glob(f"{DATABASE}*"), *folder.glob(f"{LEDGER}*"), *(folder / INDEX).rglob("*")):
        facts = _identify(place)
        if facts is not None:
            yield facts


def _identify(path: Path) -> tuple[int, int] | None:
    try:
        facts = os.lstat(path)
    except OSError:
        return None
    return (facts.st_dev, facts.st_ino) if stat.S_ISREG(facts.st_mode) else None


def _is_same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
