"""The contract of an index of vectors that the database itself keeps; see ``Config.index``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from agent_memory.storage.records import Generation
from agent_memory.types import FloatArray, IdArray


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestState:
    """How far the index of a generation is.

    Attributes:
        seq: The change of the log up to which it holds all entries that it holds at all.
        filled: The highest entry that was looked at when it was filled.
        complete: Whether all entries were looked at.
        rows: How many rows it holds at most; those that were forgotten are counted.
        candidates: How many candidates the approximate index hands on for ten results; 0 to compare with every row.
        recall: The share of the exact ten that were found with so many, when that was measured.
    """

    seq: int
    filled: int = 0
    complete: bool = False
    rows: int = 0
    candidates: int = 0
    recall: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestRows:
    """Rows to search.

    Attributes:
        ids: Ids of the rows, int64 (n,).
        entries: The entry of each, int64 (n,).
        vectors: In the generation's number format, (n, dimension), of unit length.
    """

    ids: IdArray
    entries: IdArray
    vectors: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestFound:
    """What was found for one query, best first; equal scores in ascending order of id.

    Attributes:
        ids: Ids of the candidates, int64 (c,).
        scores: Their inner products with the query, float32 (c,).
        nearness: Their cosines in the first dimensions, by which the approximate index chose them, float32 (c,);
            None if every row was compared.
    """

    ids: IdArray
    scores: FloatArray
    nearness: FloatArray | None


def choose_coarse(generation: Generation) -> int:
    """Return how many of the first dimensions the approximate index looks at: those of the tier before the last."""
    return generation.tiers[-2] if len(generation.tiers) > 1 else generation.dimension


class Nearest(ABC):
    """The index of vectors that the database keeps of each generation.

    Its rows go with their entries: what deletes an entry deletes them in the same transaction. New and changed entries
    are taken in later, from the change log; until then, callers search what ``NearestState.seq`` does not cover
    themselves.
    """

    @abstractmethod
    def assert_usable(self, generation: Generation | None = None) -> None:
        """Raise if the database cannot keep such an index at all, or not of a generation.

        Raises:
            ExtensionError: What it needs is not installed there, or too old.
            InvalidInputError: The vectors have too many dimensions.
        """

    @abstractmethod
    def see_newest(self) -> None:
        """Make a read transaction see what was committed meanwhile; nothing that it has read holds any more."""

    @abstractmethod
    def read_state(self, generation: Generation) -> NearestState | None:
        """Return how far the index of a generation is; None if there is none."""

    # --- searching ---------------------------------------------------------------------------------------

    @abstractmethod
    def search(
        self,
        generation: Generation,
        queries: FloatArray,
        k: int,
        *,
        candidates: int,
        allowed: IdArray | None,
        without: IdArray,
    ) -> list[NearestFound]:
        """Return the candidates of each query, at least k if there are so many rows.

        Args:
            generation: The generation.
            queries: float32 (m, dimension), of unit length.
            k: Results wanted.
            candidates: How many candidates the approximate index hands on; 0 to compare with every row.
            allowed: Ids of the rows that may be returned, int64 (n,); None for all.
            without: Entries whose rows are not looked at, int64 (n,).
        """

    @abstractmethod
    def score(self, generation: Generation, query: FloatArray, ids: IdArray) -> tuple[IdArray, FloatArray]:
        """Return those of some rows that there are, int64 (m,), and their inner products with a query, float32 (m,)."""

    @abstractmethod
    def read_ids(self, generation: Generation, *, first: int = 0) -> IdArray:
        """Return the ids of all rows from a number on, int64 (n,), ascending."""

    @abstractmethod
    def read_vectors(self, generation: Generation, ids: IdArray) -> FloatArray:
        """Return the vectors of those of some rows that there are, float32 (m, dimension), in ascending order of id."""

    # --- writing -----------------------------------------------------------------------------------------

    @abstractmethod
    def begin(self, generation: Generation, state: NearestState) -> None:
        """Make an empty index in the place of what there is of a generation."""

    @abstractmethod
    def list_next(self, generation: Generation, after: int, limit: int) -> IdArray:
        """Return the first unsuperseded entries after a number that have a vector, int64 (n,), ascending."""

    @abstractmethod
    def put(self, generation: Generation, entries: IdArray, rows: Sequence[NearestRows]) -> int:
        """Put rows in the place of all rows of some entries; returns by how many there are more now."""

    @abstractmethod
    def record(self, generation: Generation, state: NearestState) -> None:
        """Record how far the index is."""
