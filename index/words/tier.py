"""``WordsTier``: the words of a store's entries, changed by whole segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent_memory.index.words.segment import MAX_ROWS, Numbers, Page, Segment, build_segment, merge_segments
from agent_memory.index.words.snapshot import write_words
from agent_memory.index.words.view import Piece, Scratch, WordsView
from agent_memory.types import IdArray

_MERGE_RATIO = 4
_MOST_DEAD = 4  # one row in so many


class WordsTier:
    """Which entry holds which term how often. One thread changes it; views of it stay as they are.

    Args:
        pieces: Segments to begin with.
    """

    def __init__(self, pieces: Iterable[Piece] = ()) -> None:
        self._pieces = list(pieces)
        self._scratch = Scratch()
        self._view: WordsView | None = None

    def __len__(self) -> int:
        return sum(piece.count for piece in self._pieces)

    @property
    def nbytes(self) -> int:
        """Bytes of the segments, mapped ones included."""
        return sum(piece.segment.nbytes for piece in self._pieces)

    @property
    def is_mapped(self) -> bool:
        """Whether some of it is in files."""
        return any(piece.segment.stored is not None for piece in self._pieces)

    def view(self) -> WordsView:
        """Return the tier as it is now."""
        if self._view is None:
            self._view = WordsView(self._pieces, self._scratch)
        return self._view

    def holds(self, ids: IdArray, lengths: IdArray) -> bool:
        """Return whether it holds just these entries, with so many terms each; ids (n,) ascend."""
        mine = [(_select(piece.segment.ids, piece), _select(piece.segment.lengths, piece)) for piece in self._pieces]
        own = np.concatenate([np.empty(0, np.int64), *(one for one, _ in mine)])
        order = np.argsort(own)
        terms = np.concatenate([np.empty(0, np.int64), *(one for _, one in mine)])
        return np.array_equal(own[order], ids) and np.array_equal(terms[order], lengths)

    def remove(self, ids: IdArray) -> None:
        """Take entries out; unknown ids are ignored."""
        self._view = None
        for at, piece in enumerate(self._pieces):
            rows = piece.segment.find_rows(ids)
            if len(rows):
                alive = np.ones(len(piece.segment), np.bool_) if piece.alive is None else piece.alive.copy()
                alive[rows] = False
                terms = int(piece.segment.lengths[alive].sum(dtype=np.int64))
                self._pieces[at] = Piece(piece.segment, alive, int(alive.sum()), terms)

    def add(self, page: Page) -> None:
        """Add entries that are not in it, at most ``MAX_ROWS`` at once."""
        if len(page.ids):
            self._view = None
            self._pieces.append(_make_piece(build_segment(page)))
            self._tidy()

    def _tidy(self) -> None:
        """Merge segments until each is a few times as large as the next, and has few rows that are gone."""
        pieces = [piece for piece in self._pieces if piece.count]
        pieces.sort(key=lambda piece: -piece.count)
        while len(pieces) > 1:
            start, after = len(pieces) - 1, pieces[-1].count
            while start and pieces[start - 1].count < min(_MERGE_RATIO * after, MAX_ROWS - after):
                start -= 1
                after += pieces[start].count
            if start == len(pieces) - 1:
                break
            pieces[start:] = [_merge(pieces[start:])]
        self._pieces = [
            _merge([piece]) if _MOST_DEAD * (len(piece.segment) - piece.count) > len(piece.segment) else piece
            for piece in pieces
        ]

    def compact(self) -> None:
        """Merge segments as far as they may grow: a search takes about as long in each, however small it is."""
        self._view = None
        groups: list[list[Piece]] = []
        for piece in sorted(self._pieces, key=lambda piece: -piece.count):
            if groups and sum(one.count for one in groups[-1]) + piece.count <= MAX_ROWS:
                groups[-1].append(piece)
            elif piece.count:
                groups.append([piece])
        self._pieces = [_merge(group) if len(group) > 1 else group[0] for group in groups]

    def purge(self) -> None:
        """Write every segment again that holds something of an entry which is gone."""
        self._view = None
        whole = [piece for piece in self._pieces if piece.count]
        self._pieces = [_merge([piece]) if piece.count < len(piece.segment) else piece for piece in whole]

    def save(self, folder: Path, *, rules: str, seq: int) -> Path:
        """Write a snapshot; see ``write_words``."""
        path, stored = write_words(folder, self._pieces, rules=rules, seq=seq)
        self._pieces = [
            replace(piece, segment=replace(piece.segment, stored=one))
            for piece, one in zip(self._pieces, stored, strict=True)
        ]
        return path


def _select(array: Numbers, piece: Piece) -> Numbers:
    return array if piece.alive is None else array[piece.alive]


def _make_piece(segment: Segment) -> Piece:
    return Piece(segment, None, len(segment), int(segment.lengths.sum(dtype=np.int64)))


def _merge(pieces: Sequence[Piece]) -> Piece:
    return _make_piece(merge_segments([(piece.segment, piece.alive) for piece in pieces]))
