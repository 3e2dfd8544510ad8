"""Deleting through adapters: several deletions are one erasure, whose traces are taken out of the files once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

from agent_memory.errors import InvalidInputError
from agent_memory.inputs import is_iterable, type_name
from agent_memory.memory import Memory

Erase: TypeAlias = Literal["now", "later"]


def check_erase(erase: str) -> bool:
    """Return whether traces in files are left to maintenance.

    Raises:
        InvalidInputError: It is neither ``"now"`` nor ``"later"``.
    """
    if erase not in ("now", "later"):
        raise InvalidInputError(f"erase must be 'now' or 'later', got {erase!r}")
    return erase == "later"


def check_ids(what: str, ids: object) -> list[str]:
    """Return ids as a list.

    Raises:
        InvalidInputError: They are a single string, whose characters would be taken for ids, or not all are strings.
    """
    if isinstance(ids, str | bytes) or not is_iterable(ids):
        raise InvalidInputError(f"{what} must be a list of strings, got {type_name(ids)}")
    given = list(ids)
    odd = [each for each in given if not isinstance(each, str)]
    if odd:
        raise InvalidInputError(f"{what} must be a list of strings, got {type_name(odd[0])} in it")
    return given


def forget_all(memory: Memory, selections: Iterable[Mapping[str, Any]], *, later: bool) -> int:
    """Forget what is selected; returns how many entries that were.

    Args:
        memory: Where to forget.
        selections: Arguments of ``Memory.forget``, for each call.
        later: Leave the traces in files to maintenance; otherwise the last call takes out those of all.
    """
    given = list(selections)
    return sum(
        int(memory.forget(**one, deferred=later or number < len(given))) for number, one in enumerate(given, start=1)
    )
