"""Overwrites the unused parts of a SQLite file's pages with zeros.

``secure_delete`` zeroes what is deleted, but when SQLite moves rows between neighbouring pages, copies of them stay in
the unused space of the pages they left, and survive the deletion of the row. ``VACUUM`` would remove them by writing
the whole file again; this rewrites only the bytes that hold something and should not.

Whoever calls it must hold SQLite's write lock, with an empty write-ahead log: then nobody writes pages meanwhile, and
the unused bytes of a page mean nothing to readers. It runs in the process that holds the lock, so that it ends with it.

A process that closes a file loses all POSIX locks it has on it, and with them those of its SQLite connections. So files
stay open here until no connection of this process is left; see ``close_handle``.

Source of the format: https://www.sqlite.org/fileformat2.html, "B-tree Pages".
"""

from __future__ import annotations

import os
from pathlib import Path

_MAGIC = b"SQLite format 3\x00"
_CELLS_AT = {2: 12, 5: 12, 10: 8, 13: 8}  # size of a page's header, by kind: interior and leaf of indexes and tables
MOST_PAGES = 1 << 24  # from here on the first byte of an overflow page, part of a page number, may look like a kind
_BATCH = 1 << 23
_HANDLES: dict[tuple[int, int], int] = {}


def find_unused(page: bytes, head: int, usable: int) -> tuple[int, int]:
    """Return the span between a page's list of cells and its first cell; empty for a page that is no b-tree."""
    size = _CELLS_AT.get(page[head])
    if size is None:
        return 0, 0
    cells = int.from_bytes(page[head + 3 : head + 5], "big")
    start = head + size + 2 * cells
    stop = int.from_bytes(page[head + 5 : head + 7], "big") or 65536
    return (start, stop) if start <= stop <= usable else (0, 0)


def scrub(path: Path, identity: tuple[int, int]) -> int:
    """Zero the unused space of all pages and flush the file; returns the number of pages that held something there.

    Args:
        path: The database.
        identity: Its device and inode; see ``close_handle``.

    Raises:
        OSError: It cannot be read or written, or is another file by now.
        ValueError: It is no SQLite file, or too large.
    """
    handle = _HANDLES.get(identity)
    if handle is None:
        handle = _HANDLES[identity] = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    facts = os.fstat(handle)
    if (facts.st_dev, facts.st_ino) != identity:
        raise OSError(f"{path} is another file by now")
    return _scrub(handle, facts.st_size)


def close_handle(identity: tuple[int, int] | None) -> None:
    """Close what ``scrub`` keeps open of a file. No connection of this process to it may be open."""
    if identity in _HANDLES:
        os.close(_HANDLES.pop(identity))


def _close_all() -> None:
    # A child has no locks of its own yet, and its parent's do not depend on this.
    for identity in list(_HANDLES):
        close_handle(identity)


os.register_at_fork(after_in_child=_close_all)


def _scrub(handle: int, size: int) -> int:
    header = os.pread(handle, 100, 0)
    page_bytes = int.from_bytes(header[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    pages = size // max(1, page_bytes)
    if not header.startswith(_MAGIC) or page_bytes < 512 or pages >= MOST_PAGES:
        raise ValueError(f"no SQLite file of fewer than {MOST_PAGES} pages")
    usable = page_bytes - header[20]
    written = 0
    batch = _BATCH // page_bytes
    for first in range(0, pages, batch):
        block = os.pread(handle, batch * page_bytes, first * page_bytes)
        for at in range(0, len(block), page_bytes):
            page = block[at : at + page_bytes]
            start, stop = find_unused(page, 100 if first + at == 0 else 0, usable)
            if page.count(0, start, stop) != stop - start:
                os.pwrite(handle, bytes(stop - start), first * page_bytes + at + start)
                written += 1
    if written:
        os.fsync(handle)
    return written
