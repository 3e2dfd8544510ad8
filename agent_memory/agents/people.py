"""Files of other people: read whole, written whole or not at all, through their links, with their permissions."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.files import SHARED, write_bytes


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of one file.

    Attributes:
        path: The file, as its agent names it; where it is a link, what that leads to is changed.
        before: What it held; None if there was none.
        after: What it shall hold; None to delete it.
    """

    path: Path
    before: bytes | None
    after: bytes | None


def read_file(path: Path) -> bytes | None:
    """Return what a file holds; None if there is none.

    Raises:
        StorageError: It cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error


def write_all(edits: Sequence[Edit]) -> list[Path]:
    """Make all edits, or none of them; returns the folders that were made for them, outermost first.

    Raises:
        InvalidInputError: A file or its folder is read-only, or is not what it was when it was read; nothing was
            written.
        StorageError: A file cannot be written; those before it are as they were.
    """
    for edit in edits:
        _check(edit)
    made: list[Path] = []
    done: list[Edit] = []
    try:
        for edit in edits:
            made += _make_parents(Path(os.path.realpath(edit.path)))
            _write(edit)
            done.append(edit)
    except OSError as error:
        for edit in reversed(done):
            with suppress(OSError):
                _write(Edit(edit.path, edit.after, edit.before))
        remove_empty(made)
        raise StorageError(f"{edit.path} cannot be written: {error.strerror}; nothing was changed") from error
    return made


def remove_empty(folders: Sequence[Path]) -> None:
    """Delete folders that are empty, innermost first."""
    for folder in sorted(folders, key=lambda one: len(one.parts), reverse=True):
        with suppress(OSError):
            folder.rmdir()


def _check(edit: Edit) -> None:
    real = Path(os.path.realpath(edit.path))
    if read_file(edit.path) != edit.before:
        raise InvalidInputError(f"{edit.path} has been changed meanwhile; nothing was written")
    # By its mode, not by trying: root may write everything, and a rename asks for the folder's permission alone.
    for place in (real, _nearest(real.parent)):
        if place.exists() and not place.stat().st_mode & stat.S_IWUSR:
            raise InvalidInputError(f"{place} is read-only (mode {stat.S_IMODE(place.stat().st_mode):04o})")
        if place.exists() and not os.access(place, os.W_OK):
            raise InvalidInputError(f"{place} belongs to somebody else, and cannot be written")
    if real.exists() and not real.is_file():
        raise InvalidInputError(f"{real} is no file")


def _nearest(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise InvalidInputError(f"{folder} is no folder")
    return folder


def _make_parents(real: Path) -> list[Path]:
    missing = []
    folder = real.parent
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir()
    return missing[::-1]


def _write(edit: Edit) -> None:
    real = Path(os.path.realpath(edit.path))
    if edit.after is None:
        real.unlink(missing_ok=True)
        return
    facts = real.stat() if real.exists() else None
    if facts is not None and facts.st_nlink > 1:  # another name of the same file must not be left behind
        real.write_bytes(edit.after)
        return
    write_bytes(real, edit.after, mode=SHARED if facts is None else stat.S_IMODE(facts.st_mode))
    if facts is not None:
        with suppress(OSError):  # root may give it back to whose it was; others own it
            os.chown(real, facts.st_uid, facts.st_gid)
        os.chmod(real, stat.S_IMODE(facts.st_mode))
