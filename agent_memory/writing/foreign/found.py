"""What readers of other systems' files yield: entries, and what they pass over."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from agent_memory.errors import InvalidInputError

Item = dict[str, Any]
"""Arguments of ``Memory.add``. The namespace is relative to that of the importing memory; times may have any form that
``times.read_time`` understands."""


@dataclass(frozen=True, slots=True)
class Found:
    """An entry of a file, or what stands in the place of one and is passed over.

    Attributes:
        place: Where in the file, for messages: "line 7", or "line 1, conversation 3".
        item: The entry; None if it is passed over.
        reason: Why, in a word or two: "empty", "another branch".
        refused: What is wrong with an entry that cannot be kept; the others of its store are.
    """

    place: str
    item: Item | None = field(default=None, hash=False)
    reason: str = ""
    refused: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the caller wants of a file.

    Attributes:
        all_branches: Keep answers that were regenerated, questions that were edited, and what sub-agents said.
        max_text_chars: Where to cut a text that stands for something longer, which is kept in the metadata.
    """

    all_branches: bool = False
    max_text_chars: int = 1_000_000


class Keys:
    """Gives every turn of a file a key of its own, the same whenever the file is read again."""

    def __init__(self) -> None:
        self._taken: dict[str, bytes] = {}

    def take(self, key: str, content: object) -> str | None:
        """Return a key that no other content has: the given one, or that with a number; None for a mere repetition."""
        digest = hashlib.sha256(repr(content).encode("utf-8", "replace")).digest()[:16]
        number, name = 1, key
        while (taken := self._taken.setdefault(name, digest)) is not digest:
            if taken == digest:
                return None
            number += 1
            name = f"{key}#{number}"
        return name


def refuse(place: str, what: str) -> NoReturn:
    """Raise InvalidInputError for something malformed."""
    raise InvalidInputError(f"{place}: {what}")


def get_list(place: str, value: Mapping[str, Any], name: str) -> list[Any]:
    """Return the list that an object has under a name, empty if it has none."""
    found = value.get(name)
    if found is not None and not isinstance(found, list):
        refuse(place, f"{name} must be a list, got {type(found).__name__}")
    return found or []


def get_text(place: str, value: Mapping[str, Any], *names: str) -> str | None:
    """Return the string that an object has under the first of some names that it has; None if it has none."""
    for name in names:
        found = value.get(name)
        if found is None:
            continue
        if not isinstance(found, str):
            refuse(place, f"{name} must be a string, got {type(found).__name__}")
        return found
    return None


def get_object(place: str, value: object, what: str) -> Mapping[str, Any]:
    """Return a value that must be an object."""
    if not isinstance(value, Mapping):
        refuse(place, f"{what} must be an object, got {type(value).__name__}")
    return value


def follow_branch(parents: Mapping[str, str | None], leaf: str | None) -> Iterator[str]:
    """Yield the ids from a leaf of a tree up to its root; a ring of ids is gone round once."""
    seen: set[str] = set()
    while leaf is not None and leaf in parents and leaf not in seen:
        seen.add(leaf)
        yield leaf
        leaf = parents[leaf]
