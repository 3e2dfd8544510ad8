"""Values of entries by number: a test is made once for each distinct value, and then looked up for all entries."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from agent_memory.storage.filters import (
    Among,
    AnyItem,
    Compare,
    CompareTime,
    Filter,
    SameJson,
    SizeIs,
    TypeIs,
)
from agent_memory.storage.matching import COMPARE, holds, kinds_of
from agent_memory.storage.moments import read_micros
from agent_memory.types import IdArray

Mask: TypeAlias = npt.NDArray[np.bool_]
Field: TypeAlias = tuple[str, str | int | float | None]
"""A member of metadata: its JSON type, and its value; of an array or object the JSON, of a constant None."""

ABSENT: Field = ("absent", None)
_MOST_TABLES, _MOST_ANSWERS = 64, 4_000_000
_FIELD_BYTES = 150  # what a distinct value costs beside its characters


class Numbered:
    """One value of each entry, as its number among the distinct ones.

    Attributes:
        codes: The number of each row's value, int32; longer than there are rows.
        values: The distinct values, in order of arrival.
        nbytes: About how much memory it takes.
    """

    def __init__(self, default: object) -> None:
        self.codes = np.zeros(0, np.int32)
        self.values: list[Any] = [default]
        self._numbers: dict[Any, int] = {default: 0}
        self._tables: dict[object, Mask] = {}
        self._chars = 0

    @property
    def nbytes(self) -> int:
        """About how much memory it takes."""
        return self.codes.nbytes + _FIELD_BYTES * len(self.values) + self._chars

    def put(self, rows: IdArray, values: Sequence[Any], capacity: int) -> None:
        """Set the values of rows."""
        if capacity > len(self.codes):
            self.codes = lengthen(self.codes, capacity)
        numbers = self._numbers
        for value in values:
            if value not in numbers:
                numbers[value] = len(self.values)
                self.values.append(value)
                self._chars += _count_chars(value)
        self.codes[rows] = [numbers[value] for value in values]

    def keep(self, rows: Mask) -> None:
        """Keep some rows, and only the values that they have."""
        codes = self.codes[: len(rows)][rows]
        used = np.zeros(len(self.values), np.bool_)
        used[codes] = True
        used[0] = True
        self.codes = (np.cumsum(used) - 1)[codes].astype(np.int32)
        self.values = list(compress(self.values, used))
        self._numbers = {value: number for number, value in enumerate(self.values)}
        self._chars = sum(map(_count_chars, self.values))
        self._tables.clear()

    def look_up(self, name: object, test: Callable[[Any], bool], count: int) -> Mask:
        """Return for each of the first rows whether a test holds of its value.

        Args:
            name: Names the test.
            test: Returns what it says of a value.
            count: Number of rows.
        """
        table = self._tables.pop(name, None)
        if table is None or len(table) != len(self.values):
            table = np.fromiter(map(test, self.values), np.bool_, len(self.values))
        while len(self._tables) >= max(1, min(_MOST_TABLES, _MOST_ANSWERS // len(table))):
            del self._tables[next(iter(self._tables))]
        self._tables[name] = table
        return table[self.codes[:count]]


class Column(Numbered):
    """A member of the metadata of each entry, as ``Field``."""

    def __init__(self) -> None:
        super().__init__(ABSENT)
        self._parsed: dict[str, list[Any]] = {}
        self._micros: dict[str, int | None] = {}

    @override
    def keep(self, rows: Mask) -> None:
        super().keep(rows)
        self._parsed, self._micros = {}, {}

    def test(self, where: Filter, count: int) -> Mask:
        """Return for each of the first rows whether a test of this member alone holds.

        Raises:
            ValueError: A value is not JSON.
        """
        return self.look_up(where, self._make_test(where), count)

    def _make_test(self, where: Filter) -> Callable[[Field], bool]:
        """Return a function that makes a test of a value."""
        match where:
            case TypeIs(_, types):
                return lambda one: one[0] in types
            case SameJson(_, kind, text):
                return (kind, text).__eq__
            case Compare(_, op, right):
                compare, kinds = COMPARE[op], kinds_of(texts=isinstance(right, str))
                return lambda one: one[0] in kinds and compare(one[1], right)
            case Among(_, given, texts):
                among, kinds = frozenset(given), kinds_of(texts=texts)
                return lambda one: one[0] in kinds and one[1] in among
            case CompareTime(_, op, micros):
                return lambda one: one[0] == "text" and self._compare_time(str(one[1]), op, micros)
            case SizeIs(_, size):
                return lambda one: one[0] == "array" and len(self._parse(str(one[1]))) == size
            case AnyItem(_, part):
                return lambda one: one[0] == "array" and any(holds(part, item) for item in self._parse(str(one[1])))
            case _:
                raise ValueError(f"{type(where).__name__} is no test of a member alone")

    def _compare_time(self, text: str, op: str, micros: int) -> bool:
        if text not in self._micros:
            self._micros[text] = read_micros(text)
        moment = self._micros[text]
        return moment is not None and COMPARE[op](moment, micros)

    def _parse(self, text: str) -> list[Any]:
        if text not in self._parsed:
            self._parsed[text] = list(json.loads(text, parse_int=_parse_integer))
        return self._parsed[text]


def lengthen(array: npt.NDArray[Any], capacity: int) -> npt.NDArray[Any]:
    """Return an array with room for more."""
    longer = np.zeros(capacity, array.dtype)
    longer[: len(array)] = array
    return longer


def _count_chars(value: object) -> int:
    return sum(map(_count_chars, value)) if isinstance(value, tuple) else len(value) if isinstance(value, str) else 0


def _parse_integer(text: str) -> int | float:
    """Return an integer as back ends read it: a larger one than they hold is a fraction."""
    number = int(text)
    return number if -(2**63) <= number < 2**63 else float(number)
