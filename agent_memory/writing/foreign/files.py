"""Finds the files behind a path: one file, gzip-compressed or not, those in a zip archive, or those in a folder.

An archive is a stranger's: what it unpacks to is bounded by its own size, and nothing is unpacked to disk. The names
of its members are labels, never paths.
"""

from __future__ import annotations

import errno
import gzip
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar, cast

from agent_memory.errors import InvalidInputError

MAX_MEMBERS = 20_000
"""Number of files that one archive or folder may hold."""

MAX_RATIO = 200
"""How many times its own size an archive may unpack to."""

FREE_BYTES = 64 << 20
"""Bytes that any archive may unpack to, whatever its size."""

MAX_BYTES = 16 << 30
"""Bytes that no archive may unpack to."""

_ENDINGS = (".json", ".jsonl", ".ndjson", ".af")
_ZIP, _GZIP = b"PK", b"\x1f\x8b"
_DAMAGED = (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)


_T = TypeVar("_T")


@dataclass(frozen=True)
class File:
    """A file that may hold conversations.

    Attributes:
        label: What to call it in messages; empty if it is the only one.
        stem: Its name without folder and ending, for what has no name of its own.
        open: Opens it for reading; it can be read again from its beginning.
    """

    label: str
    stem: str
    open: Callable[[], BinaryIO]


def list_files(path: Path) -> Iterator[File]:
    """Yield the files behind a path, those of an archive or folder in the order of their names.

    Raises:
        InvalidInputError: An archive is damaged, encrypted or too large, or there are too many files.
        OSError: The path cannot be read.
    """
    if path.is_dir():
        yield from _list_folder(path)
        return
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    with path.open("rb") as file:
        head = file.read(2)
        if head == _ZIP:
            yield from _list_archive(path, file)
            return
    stem = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    if head == _GZIP:
        budget = _Budget(path.stat().st_size)
        yield File("", stem, lambda: _bound(lambda: cast(BinaryIO, gzip.open(path)), budget))
    else:
        yield File("", stem, partial(_open, path))


def _list_folder(folder: Path) -> Iterator[File]:
    found = []
    for place, folders, names in os.walk(folder):  # links to folders are not followed
        folders.sort()
        paths = [Path(place, name) for name in names if name.endswith(_ENDINGS)]
        found += [path for path in paths if path.is_file() and not path.is_symlink()]
        if len(found) > MAX_MEMBERS:
            raise InvalidInputError(f"{folder} holds more than {MAX_MEMBERS} files")
    for path in sorted(found):
        yield File(str(path.relative_to(folder)), path.stem, partial(_open, path))


def pack_folder(folder: Path, target: Path) -> None:
    """Write an archive that is read as a folder would be.

    Raises:
        InvalidInputError: The folder holds too many files.
        OSError: It cannot be read, or the archive not be written.
    """
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
        for file in _list_folder(folder):
            archive.write(folder / file.label, file.label)


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


def _list_archive(path: Path, file: BinaryIO) -> Iterator[File]:
    budget = _Budget(path.stat().st_size)
    try:
        with zipfile.ZipFile(file) as archive:
            members = [member for member in archive.infolist() if _is_wanted(member)]
            if len(members) > MAX_MEMBERS:
                raise InvalidInputError(f"the archive holds more than {MAX_MEMBERS} files")
            for member in sorted(members, key=lambda member: member.filename):
                label = "".join(one if one.isprintable() else "?" for one in member.filename[:200])
                if member.flag_bits & 1:
                    raise InvalidInputError(f"{label} in the archive is encrypted")

                def open_(member: zipfile.ZipInfo = member) -> BinaryIO:
                    return _bound(lambda: cast(BinaryIO, archive.open(member)), budget)

                yield File(label, PurePosixPath(label).stem, open_)
    except _DAMAGED as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(f"the archive is damaged: {error}") from error


def _is_wanted(member: zipfile.ZipInfo) -> bool:
    name = PurePosixPath(member.filename)
    return (
        not member.is_dir()
        and name.suffix in _ENDINGS
        and not name.name.startswith(".")
        and "__MACOSX" not in name.parts
    )


class _Budget:
    """How many bytes may still be unpacked; one for all members of an archive."""

    def __init__(self, packed: int) -> None:
        self.total = min(max(packed * MAX_RATIO, FREE_BYTES), MAX_BYTES)
        self.spent = 0

    def spend(self, count: int) -> None:
        self.spent += count
        if self.spent > self.total:
            raise InvalidInputError(f"the archive unpacks to more than {self.total} bytes")


class _Unpacked(io.RawIOBase):
    """What is unpacked of a member, within the budget of its archive."""

    def __init__(self, open_: Callable[[], BinaryIO], budget: _Budget) -> None:
        super().__init__()
        self._open, self._budget, self._place = open_, budget, 0
        self._file = self._try(open_)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go back to a place near the beginning; what was unpacked is unpacked again, and counts again."""
        if whence == os.SEEK_CUR:
            offset += self._place
        elif whence != os.SEEK_SET:
            raise io.UnsupportedOperation("cannot seek from the end")
        if offset < self._place:
            self._file.close()
            self._file, self._place = self._try(self._open), 0
        while self._place < offset and (skipped := self._read(offset - self._place)):
            self._place += len(skipped)
        return self._place

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        data = self._read(len(view))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _read(self, most: int) -> bytes:
        data = self._try(lambda: self._file.read(min(most, 1 << 20)))
        self._budget.spend(len(data))
        return data

    def _try(self, act: Callable[[], _T]) -> _T:
        try:
            return act()
        except _DAMAGED as error:
            raise InvalidInputError(f"the compressed data are damaged or cut short: {error}") from error

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _bound(open_: Callable[[], BinaryIO], budget: _Budget) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Unpacked(open_, budget), 1 << 16))
