"""The contract of sharing the work on a generation among processes, on any number of machines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(slots=True)
class Claim:
    """A range of entries that one process works on; others pass it over until its connection ends.

    Attributes:
        first: The first entry.
        last: The last one.
        encoded: Texts encoded for it, to be set when it is done; None gives it back.
    """

    first: int
    last: int
    encoded: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeCount:
    """How far the ranges of a generation are.

    Attributes:
        total: Ranges; 0 before it is divided.
        left: Ranges that are not done.
        entries: Entries in those that are done.
        encoded: Texts encoded for them.
    """

    total: int
    left: int
    entries: int
    encoded: int


class Ranges(ABC):
    """The ranges of entries into which the work on a generation is divided; see ``Database.claim``."""

    @abstractmethod
    def divide(self, generation_id: int, size: int) -> None:
        """Divide the entries without a vector in a generation into ranges, unless it was divided before.

        Args:
            generation_id: The generation.
            size: Entries in a range.
        """

    @abstractmethod
    def count(self, generation_id: int) -> RangeCount:
        """Return how far the ranges of a generation are."""
