"""Power losses: what a recorded process left behind, as a disk may have it when the power failed at some moment.

``power_loss.c`` records what a process does to files; ``Disk`` plays the record up to a moment and builds a folder that
is allowed then:

* What was written to a file before its last sync is there. Of what was written since, any sectors may be missing or
  torn, and the file may have its new size all the same.
* Names that were made, renamed or deleted since the last sync of their folder are each there or not. A rename is
  atomic. Whatever is in a folder without a name is lost.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

_HEAD = struct.Struct("=cQQII")
_SECTOR = 512
_ODDS = (0.0, 0.1, 0.5, 0.9, 1.0)


def compile_recorder(folder: Path) -> Path | None:
    """Compile the recorder into a folder; None without a compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    source, library = Path(__file__).parent / "crash" / "power_loss.c", folder / "power_loss.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


class Record(NamedTuple):
    """One thing that happened: the letter of ``power_loss.c``, and where the log ended after it."""

    what: str
    inode: int
    offset: int
    first: bytes
    second: bytes
    end: int


def read_log(path: Path) -> Iterator[Record]:
    """Yield the records of a log in order."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        what, inode, offset, first, second = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        yield Record(
            what.decode(),
            inode,
            offset,
            data[at : at + first],
            data[at + first : at + first + second],
            at + first + second,
        )
        at += first + second


@dataclass
class File:
    """A file: what is safe, and the writes (offset, data) and cuts (size, None) since the last sync."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        for offset, data in self.pending:
            _apply(self.safe, offset, data)
        self.pending.clear()

    def lose(self, chance: random.Random) -> bytearray:
        content, odds = bytearray(self.safe), chance.choice(_ODDS)
        for offset, data in self.pending:
            if data is None:
                if chance.random() < odds:
                    _apply(content, offset, None)
                continue
            for start, stop in _iter_sectors(offset, len(data)):
                if chance.random() < odds:
                    piece = data[start - offset : stop - offset]
                    torn = chance.random() < 0.05
                    _apply(content, start, piece[: chance.randrange(len(piece))] if torn else piece)
                elif chance.random() < 0.5:
                    content.extend(bytes(max(0, stop - len(content))))
        return content


@dataclass
class Change:
    """A change of names, all or nothing; ``done`` when it is safe."""

    gone: tuple[Folder, str] | None
    made: tuple[Folder, str, File | Folder] | None
    done: bool = False

    def apply(self) -> None:
        if self.gone:
            self.gone[0].safe.pop(self.gone[1], None)
        if self.made:
            self.made[0].safe[self.made[1]] = self.made[2]
        self.done = True


@dataclass(eq=False)
class Folder:
    """A folder: the names as the process sees them, those that are safe, and the changes since the last sync."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.pending:
            if not change.done:
                change.apply()
        self.pending.clear()


class Disk:
    """What a process did to the folder ``root`` so far."""

    def __init__(self, root: Path) -> None:
        self.root = PurePosixPath(root)
        self.top = Folder()
        self.folders = [self.top]
        self.inodes: dict[int, File | Folder] = {root.stat().st_ino: self.top}

    def play(self, record: Record) -> None:
        """Do what a record says."""
        names = [self._find(name) for name in (record.first, record.second)] if record.what in "CDURL" else []
        match record.what:
            case "C":
                self.inodes[record.inode] = File()
                self._change(None, (*names[0], self.inodes[record.inode]))
            case "D":
                self.inodes[record.inode] = made = Folder()
                self.folders.append(made)
                self._change(None, (*names[0], made))
            case "L":
                self._change(None, (*self._find(record.first), self.inodes[record.inode]))
            case "U":
                self._change(names[0], None)
            case "R":
                self._change(names[0], (*names[1], names[0][0].names[names[0][1]]))
            case "W":
                self.inodes[record.inode].pending.append((record.offset, record.first))
            case "T":
                self.inodes[record.inode].pending.append((record.offset, None))
            case "S":
                self.inodes[record.inode].sync()

    def _find(self, name: bytes) -> tuple[Folder, str]:
        if not name:
            return self.top, ""
        path, folder = PurePosixPath(name.decode()).relative_to(self.root), self.top
        for part in path.parts[:-1]:
            folder = folder.names[part]
        return folder, path.name

    def _change(self, gone: tuple[Folder, str] | None, made: tuple[Folder, str, File | Folder] | None) -> None:
        change = Change(gone, made)
        if gone:
            del gone[0].names[gone[1]]
            gone[0].pending.append(change)
        if made:
            made[0].names[made[1]] = made[2]
            if not gone or made[0] is not gone[0]:
                made[0].pending.append(change)

    def read_now(self) -> dict[str, bytes]:
        """Return the content of all files as the process sees them."""

        def walk(folder: Folder, path: PurePosixPath) -> Iterator[tuple[str, bytes]]:
            for name, item in folder.names.items():
                if isinstance(item, Folder):
                    yield from walk(item, path / name)
                else:
                    content = bytearray(item.safe)
                    for offset, data in item.pending:
                        _apply(content, offset, data)
                    yield str(path / name), bytes(content)

        return dict(walk(self.top, PurePosixPath()))

    def write_after_loss(self, target: Path, chance: random.Random) -> None:
        """Write what the disk may have after the power failed now."""
        left, contents = self._lose_names(chance), {}

        def write(folder: Folder, path: Path) -> None:
            path.mkdir()
            for name, item in left[folder].items():
                if isinstance(item, Folder):
                    write(item, path / name)
                # The -shm file is memory of running processes; nothing that counts of it outlives them.
                elif not name.endswith("-shm"):
                    if id(item) not in contents:
                        contents[id(item)] = item.lose(chance)
                    (path / name).write_bytes(contents[id(item)])

        write(self.top, target)

    def _lose_names(self, chance: random.Random) -> dict[Folder, dict[str, File | Folder]]:
        """Return the names left in each folder: the safe ones, and some of the changes since."""
        changes = {id(change): change for folder in self.folders for change in folder.pending if not change.done}
        left, odds = {folder: dict(folder.safe) for folder in self.folders}, chance.choice(_ODDS)
        for change in changes.values():
            if chance.random() < odds:
                if change.gone:
                    left[change.gone[0]].pop(change.gone[1], None)
                if change.made:
                    left[change.made[0]][change.made[1]] = change.made[2]
        return left


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    """Write data at an offset, or without data cut or extend to a size."""
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _iter_sectors(offset: int, length: int) -> Iterator[tuple[int, int]]:
    at, end = offset, offset + length
    while at < end:
        stop = min(end, (at // _SECTOR + 1) * _SECTOR)
        yield at, stop
        at = stop
