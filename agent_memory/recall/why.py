"""Explains why an entry was, or was not, among the hits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.live.rows import evolve_passages
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.recall.answer import explain_score
from agent_memory.recall.confidence import FEATURES
from agent_memory.recall.passages import find_passages
from agent_memory.recall.request import Mode, Request
from agent_memory.recall.search import Search
from agent_memory.records import Entry, Trace
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import LATER, Condition
from agent_memory.types import Namespace

if TYPE_CHECKING:
    from agent_memory.recall.ranking import Candidate


_NOTHING = 1e-12
_NO_WORD = "it holds no word of the query"


def why(store: Store, space: Space, request: Request, *, namespace: Namespace, key: str) -> Trace:
    """Return the stage at which a recall dropped an entry, or its rank; see ``Memory.why``."""
    with store.read() as tx:
        found = _find(tx, request, namespace, key)
    if found is None:
        return Trace(key=key, returned=False, stage="unknown", reason=f"there is no entry with key {key!r}")
    entry_id, entry = found
    with store.read() as tx:
        search = Search(store, space, tx, request, extra=[entry_id])
        best = search.run()
        obstacle = _find_obstacle(tx, entry_id, entry, request)
        if obstacle is not None:
            return Trace(key=key, returned=False, stage=obstacle[0], reason=obstacle[1])
        return _explain(tx, search, best, entry_id, entry)


def _find(tx: Transaction, request: Request, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
    """Return (id, entry) of a key: the version that the request is about, or else the newest."""
    if request.as_of is not None:
        then = Condition(namespace=namespace, key=key, state="as_of", moment=request.as_of)
        for entry_id in tx.entries.select_ids(then).tolist():
            return entry_id, tx.entries.fetch([entry_id])[entry_id]
    return tx.entries.find_newest(namespace, key)


def _find_obstacle(tx: Transaction, entry_id: int, entry: Entry, request: Request) -> tuple[str, str] | None:
    """Return (stage, reason) if the entry could not be a hit at any score."""
    if request.as_of is None and entry.superseded_at is not None:
        return "superseded", f"another entry superseded it at {entry.superseded_at.isoformat()}"
    present = request.condition.moment if request.as_of is None else None
    if present is not None and entry.expires_at is not None and entry.expires_at <= present:
        return "expired", f"it expired at {entry.expires_at.isoformat()}"
    if not tx.entries.matches(entry_id, request.condition):
        return "filter", "it does not match the requested namespace, session, time or metadata"
    return None


def _explain(tx: Transaction, search: Search, best: list[Candidate], entry_id: int, entry: Entry) -> Trace:
    candidate = search.candidates.get(entry_id)
    if candidate is None:
        return Trace(key=entry.key, returned=False, stage="words", reason=_NO_WORD)
    span = find_passages(tx, search.request, search.words, {entry_id: entry}, trust=search.trust).get(entry_id)
    detail = explain_score(tx, search, candidate, {entry_id: entry}) | {"passage": span}
    facts: dict[str, Any] = {"key": entry.key, "score": candidate.score, "detail": detail}
    ranks = {other.id: rank for rank, other in enumerate(search.ranked, start=1)}
    chance, floor = search.confidences.get(entry_id), search.request.min_confidence
    if (needed := _find_needed(search, entry_id)) is not None:
        detail["needed"] = needed
    if any(other.id == entry_id for other in best) and (chance or 0.0) < floor:
        reason = f"its confidence is {chance or 0.0:.2f}, and min_confidence {floor:.2f}{_say_needed(needed, detail)}"
        return Trace(returned=False, stage="confidence", reason=reason, rank=ranks[entry_id], **facts)
    for rank, other in enumerate(best, start=1):
        if other.id == entry_id:
            where = "" if span is None else f", by its characters {span[0]} to {span[1]}"
            return Trace(returned=True, stage="returned", reason=f"it is hit {rank}{where}", rank=rank, **facts)
    if search.request.mode is Mode.LEXICAL and not candidate.lexical:
        return Trace(returned=False, stage="words", reason=_NO_WORD, **facts)
    if entry_id in search.dropped:
        twin_id = search.dropped[entry_id]
        twin = tx.entries.fetch([twin_id])[twin_id].key
        reason = f"it is a near-duplicate of {twin!r}, which ranks higher"
        return Trace(returned=False, stage="duplicate", reason=reason, rank=ranks.get(entry_id), **facts)
    margin = best[-1].score - candidate.score if best else None
    if entry_id in ranks:
        outranked = ranks[entry_id] > search.request.k
        stage = "rank" if outranked or not search.request.diversity else "diversity"
        reason = f"it ranks {ranks[entry_id]} of {len(ranks)}; k is {search.request.k}"
        return Trace(returned=False, stage=stage, reason=reason, rank=ranks[entry_id], margin=margin, **facts)
    if (blank := _find_blank(tx, entry_id)) is not None:
        return Trace(returned=False, stage="words", reason=blank, margin=margin, **facts)
    return _explain_tier(tx, search, entry_id, margin, facts)


def _find_needed(search: Search, entry_id: int) -> dict[str, float] | None:
    """Return what an entry lacks to count as evidence: the confidence, and the cosine or the words that give it."""
    calibration, chance = search.calibration, search.confidences.get(entry_id)
    if calibration is None or chance is None:
        return None
    floor = max(search.request.min_confidence, calibration.weak)
    if chance >= floor or not 0 < floor < 1:
        return None
    features = dict(zip(FEATURES, map(float, search.features[entry_id]), strict=True))
    values = {name: calibration.needed(features, floor, name) for name in ("cosine", "words")}
    return {"confidence": floor, **{name: value for name, value in values.items() if value is not None and value <= 1}}


def _say_needed(needed: dict[str, float] | None, detail: Mapping[str, Any]) -> str:
    if needed is None:
        return ""
    has = {"cosine": ("cosine", detail["dense"]), "words": ("share of the words", detail["lexical"]["share"])}
    short = [name for name in has if name in needed]
    ways = [f"a {has[name][0]} of {needed[name]:.2f} instead of {has[name][1]:.2f}" for name in short]
    return f"; needed, all else being the same: {' or '.join(ways) or 'more than any cosine or words can give'}"


def _find_blank(tx: Transaction, entry_id: int) -> str | None:
    """Return why an entry has no vector, if it has none."""
    generation = tx.generations.live()
    mark = None if generation is None else tx.vectors.find_blank(generation, [entry_id]).get(entry_id)
    if mark is None:
        return None
    return f"{'its vector is not encoded yet' if mark == LATER else 'it was stored without a vector'}, and {_NO_WORD}"


def _explain_tier(tx: Transaction, search: Search, entry_id: int, margin: float | None, facts: dict[str, Any]) -> Trace:
    """Return the tier that dropped the entry, and by how much it missed the last one handed on."""
    traces = search.tiers.traces[0] if search.tiers is not None and search.tiers.traces else ()
    for tier in traces[:-1]:
        place = tier.rank(entry_id)
        if (place is None or place >= tier.kept) and tier.kept:
            last = int(tier.ids[tier.kept - 1])
            mine, theirs = (_measure_prefix_cosine(tx, search, one, tier.tier) for one in (entry_id, last))
            reason = f"its first {tier.tier} dimensions were not among the {tier.kept} closest"
            return Trace(returned=False, stage=f"tier {tier.tier}", reason=reason, margin=theirs - mine, **facts)
    reason = f"its score is lower than that of all {len(search.ranked)} candidates"
    return Trace(returned=False, stage="rank", reason=reason, margin=margin, **facts)


def _measure_prefix_cosine(tx: Transaction, search: Search, entry_id: int, dimension: int) -> float:
    generation = tx.generations.live()
    if generation is None:
        return 0.0
    _, matrix = tx.vectors.read(generation, [entry_id], former=True)
    rows = [matrix.astype(np.float32)]
    rows += [evolve_passages(passages) for passages in tx.passages.read(generation, [entry_id], former=True)]
    mine = np.concatenate(rows)[:, :dimension]
    query = search.request.vector[:dimension]
    lengths = np.linalg.norm(mine, axis=1) * np.linalg.norm(query)
    return float((mine @ query / np.maximum(lengths, _NOTHING)).max())
