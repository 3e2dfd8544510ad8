"""Marks candidates that a later one probably updates, and ranks the later one first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.live.stale import LIKENESS, Statement, is_later
from agent_memory.recall.ranking import Candidate, rank_candidates
from agent_memory.recall.request import Mode, Request
from agent_memory.storage.base import Transaction

if TYPE_CHECKING:
    from agent_memory.types import FloatArray

MORE = 10
"""Candidates beyond k that may be the later ones."""

_MOST = 50
_STEP = 1e-6  # by how much the later one's score exceeds the earlier one's
# Questions about what was, to which the earlier one is the answer.
_PAST = re.compile(
    r"\b(?:first|originally?|initially?|at first|earliest|earlier|previous(?:ly)?|former(?:ly)?|before|used to|"
    r"zuerst|anfangs|ursprünglich|früher|vorher|d'abord|avant|auparavant|initialement|primero|antes|inicialmente)\b"
    r"|最初|以前|之前|原来|以前は|최초|이전",
    re.IGNORECASE,
)


def renew(tx: Transaction, request: Request, ranked: Sequence[Candidate], *, dated: bool) -> dict[int, int]:
    """Raise later candidates above the earlier ones that they update; in the order of ``ranked`` nothing else changes.

    Args:
        tx: The search's transaction.
        request: The recall.
        ranked: Candidates, best first. Where a later one is raised, its ``newer`` says by how much.
        dated: Whether the question names a time, so that the later one is not what it is after.

    Returns:
        Id of the later candidate, by id of the one that it updates.
    """
    first = list(ranked[: min(_MOST, request.k + MORE)])
    stale = _find_stale(tx, first)
    if request.mode is Mode.DENSE or dated or (request.text is not None and _PAST.search(request.text)):
        return stale
    known = {candidate.id: candidate for candidate in first}
    for candidate in rank_candidates(first):
        later = known.get(stale.get(candidate.id, -1))
        if later is not None and later.score <= candidate.score:
            later.newer += candidate.score - later.score + _STEP
    return stale


def _find_stale(tx: Transaction, candidates: Sequence[Candidate]) -> dict[int, int]:
    generation = tx.generations.live()
    if generation is None or len(candidates) < 2:
        return {}
    found, matrix = tx.vectors.read(generation, [candidate.id for candidate in candidates], static=True)
    vectors: FloatArray = matrix.astype(np.float32)
    alike = np.argwhere(np.triu(vectors @ vectors.T, 1) >= LIKENESS)
    if not len(alike):
        return {}
    pairs = [(int(found[one]), int(found[other])) for one, other in alike.tolist()]
    entries = tx.entries.fetch(sorted({entry_id for pair in pairs for entry_id in pair}))
    return follow_updates({entry_id: Statement(entry) for entry_id, entry in entries.items()}, pairs)


def follow_updates(statements: Mapping[int, Statement], pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the latest update of each statement that is out of date, by id.

    What was said, denied and said again is up to date: of A, B and A again, only B is out of date.

    Args:
        statements: By id.
        pairs: Ids of those that are alike.
    """
    direct: dict[int, int] = {}
    for one, other in pairs:
        later, earlier = (one, other) if _is_later(statements, one, other) else (other, one)
        if statements[later].updates(statements[earlier]):
            former = direct.get(earlier)
            if former is None or _is_later(statements, later, former):
                direct[earlier] = later
    stale = {}
    for earlier, later in direct.items():
        while later in direct:
            later = direct[later]
        if statements[later].words != statements[earlier].words:
            stale[earlier] = later
    return stale


def _is_later(statements: Mapping[int, Statement], one: int, other: int) -> bool:
    mine, theirs = statements[one].entry, statements[other].entry
    return is_later(mine, theirs) or (not is_later(theirs, mine) and one > other)
