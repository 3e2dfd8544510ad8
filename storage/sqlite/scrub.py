"""Overwrites the unused parts of a SQLite file's pages with zeros; run as a program of its own.

``secure_delete`` zeroes what is deleted, but when SQLite moves rows between neighbouring pages, copies of them stay in
the unused space of the pages they left, and survive the deletion of the row. ``VACUUM`` would remove them by writing
the whole file again; this rewrites only the bytes that hold something and should not.

It is a process of its own because a process that closes a file loses all POSIX locks it has on it, and with them the
locks of its SQLite connections. Whoever starts it must hold SQLite's write lock, with an empty write-ahead log: then
nobody writes pages meanwhile, and the unused bytes of a page mean nothing to readers. It imports nothing of this
package, so that it starts in milliseconds.

Source of the format: https://www.sqlite.org/fileformat2.html, "B-tree Pages".
"""

import os
import sys

_MAGIC = b"SQLite format 3\x00"
_CELLS_AT = {2: 12, 5: 12, 10: 8, 13: 8}  # size of a page's header, by kind: interior and leaf of indexes and tables
MOST_PAGES = 1 << 24  # from here on the first byte of an overflow page, part of a page number, may look like a kind
_BATCH = 1 << 23


def find_unused(page: bytes, head: int, usable: int) -> tuple[int, int]:
    """Return the span between a page's list of cells and its first cell; empty for a page that is no b-tree."""
    size = _CELLS_AT.get(page[head])
    if size is None:
        return 0, 0
    cells = int.from_bytes(page[head + 3 : head + 5], "big")
    start = head + size + 2 * cells
    stop = int.from_bytes(page[head + 5 : head + 7], "big") or 65536
    return (start, stop) if start <= stop <= usable else (0, 0)


def scrub(path: str) -> int:
    """Zero the unused space of all pages and flush the file; returns the number of pages that held something there."""
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        header = os.pread(handle, 100, 0)
        page_bytes = int.from_bytes(header[16:18], "big")
        page_bytes = 65536 if page_bytes == 1 else page_bytes
        pages = os.fstat(handle).st_size // max(1, page_bytes)
        if not header.startswith(_MAGIC) or page_bytes < 512 or pages >= MOST_PAGES:
            raise ValueError(f"{path} is no SQLite file of fewer than {MOST_PAGES} pages")
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
    finally:
        os.close(handle)


if __name__ == "__main__":
    print(scrub(sys.argv[1]))  # noqa: T201
