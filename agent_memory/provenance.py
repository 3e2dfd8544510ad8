"""Where an entry's words come from: a reserved field of its metadata that no later write can raise.

The levels, from the least trusted to the most: ``import`` (read from a file), ``tool`` (what a program printed),
``agent`` (what a model wrote), ``user`` (what a person said). An entry without one is of unknown origin, which ranks
below all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIELD = "provenance"
"""The name in the metadata, so that filters can ask for it: ``where={"provenance": "user"}``."""

LEVELS = ("import", "tool", "agent", "user")
"""From the least trusted to the most."""


def read_level(metadata: Mapping[str, Any]) -> str | None:
    """Return the level that metadata name; None for none, and for a value that is the caller's own."""
    value = metadata.get(FIELD)
    return value if isinstance(value, str) and value in LEVELS else None


def cap(metadata: Mapping[str, Any], most: str | None) -> Mapping[str, Any]:
    """Return metadata whose level is at most the given one; None allows no level at all."""
    level = read_level(metadata)
    if level is None or (most is not None and LEVELS.index(level) <= LEVELS.index(most)):
        return metadata
    return {name: value for name, value in metadata.items() if name != FIELD} | ({FIELD: most} if most else {})
