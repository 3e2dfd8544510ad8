"""From a query to hits, in one read transaction: what is returned is one state of the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory import timewords
from agent_memory.errors import StorageError
from agent_memory.live.index import LiveIndex, Reading
from agent_memory.live.sessions import Sessions
from agent_memory.recall import ranking
from agent_memory.recall.ranking import Candidate
from agent_memory.recall.request import Mode, Request
from agent_memory.records import Entry, Hit, Hits
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import lexical
from agent_memory.storage.sqlite import vectors as stored
from agent_memory.storage.sqlite.database import Connection, Database

if TYPE_CHECKING:
    from agent_memory.encoders.reranker import Reranker
    from agent_memory.index import SearchResult
    from agent_memory.storage.sqlite.entries import Condition
    from agent_memory.storage.sqlite.vectors import Generation
    from agent_memory.types import IdArray

_FEW_EXPIRED = 1_000
_POOL = 100  # candidates of each source, at least
_LENDERS = 50
_WORDS_POOL = 1_000
_TOGETHER = 64  # questions that are answered in one read transaction


class Search:
    """One recall under way, inside a read transaction.

    Args:
        connection: The transaction; nothing may have been read in it yet.
        live_index: The index.
        accept: Raises if the query's vector does not belong to the generation found.
        sessions: Evolves the query's vector, if it is asked in a session.
        request: What is wanted.
        extra: Ids to score even if no source brings them up.
    """

    def __init__(
        self,
        connection: Connection,
        live_index: LiveIndex,
        accept: Callable[[Generation], None],
        sessions: Sessions,
        request: Request,
        extra: Iterable[int] = (),
    ) -> None:
        self._started = time.perf_counter()
        self._present = datetime.now(UTC)
        self._connection = connection
        self._live_index = live_index
        self._trust = 1.0 if request.readable or request.mode is Mode.DENSE else ranking.UNREAD
        self._accept = accept
        self._sessions = sessions
        self.request = request
        self._extra = list(extra)
        self.candidates: dict[int, Candidate] = {}
        self.allowed: IdArray | None = None
        self.tiers: SearchResult | None = None
        self.intervals: list[timewords.Interval] = []
        self.words = lexical.LexicalQuery((), ())
        self.lexical_ranks: dict[int, int] = {}
        self.dropped: dict[int, int] = {}
        self.unsought: set[int] = set()
        self._expired: set[int] = set()
        self._shares: dict[int, float] = {}
        self.ranked: list[Candidate] = []
        self._condition: Condition | None = None
        self._wanted = 0
        self._index: Reading | None = None

    def run(self) -> list[Candidate]:
        """Return the best candidates, best first, k at most."""
        if not self._begin():
            return []
        if self._index is not None:
            self._dense([self])
        return self._finish()

    @classmethod
    def run_together(cls, searches: Sequence[Search]) -> Iterator[list[Candidate]]:
        """Yield what ``run`` returns for each of several searches, which differ in their queries only.

        They must be of one transaction. The index is asked for all of them at once, unless each has a budget of
        its own.
        """
        first = searches[0]
        if not first._begin():
            yield from ([] for _ in searches)
            return
        for search in searches[1:]:
            search._begin(first)
        at_once = first.request.budget_ms is None
        if at_once and first._index is not None:
            first._dense(searches)
        for search in searches:
            search._started = time.perf_counter()
            if not at_once and search._index is not None:
                search._dense([search])
            yield search._finish()

    def _begin(self, like: Search | None = None) -> bool:
        """Find out what to search, or take it from a search like this one; False if nothing was ever stored."""
        if self.request.mode is not Mode.LEXICAL:
            self._index = like._index if like else Reading(self._live_index, self._connection, self._accept)
            if self._index is None or self._index.empty:
                return False
            self._evolve()
        if like is None:
            self._restrict()
        else:
            self._condition, self.allowed, self._expired = like._condition, like.allowed, like._expired
            self._wanted = like._wanted
        return True

    def _finish(self) -> list[Candidate]:
        request = self.request
        self._collect()
        ranked = [candidate for candidate in ranking.ordered(self.candidates) if candidate.id not in self.unsought]
        if request.mode is Mode.LEXICAL:
            ranked = [candidate for candidate in ranked if candidate.lexical > 0]
        if request.rerank is not None and request.text is not None:
            ranked = self._reranked(ranked, request.rerank, request.text)
        self.ranked = [candidate for candidate in ranked if candidate.id not in self._expired]
        return self._cut(self.ranked)

    def _evolve(self) -> None:
        """Read the question behind the latent memory of its session."""
        generation = stored.live_generation(self._connection) if self.request.session is not None else None
        if generation is None:
            return
        vector = self._sessions.question(
            self._connection,
            generation,
            self.request.vector,
            self.request.text or "",
            scope=self.request.scope,
            session=self.request.session,
            then=self.request.then,
        )
        self.request = replace(self.request, vector=vector)

    # --- candidates --------------------------------------------------------------------------------------

    def _restrict(self) -> None:
        """Find out which entries may be returned, and how many candidates are wanted of each source."""
        request = self.request
        condition, surplus = request.condition, 0
        if condition is None:
            # Expired entries are few until they are purged: looking past them beats listing all the others.
            self._expired = set(reading.expired_ids(self._connection, self._present))
            surplus = len(self._expired)
            condition = reading.matching((), self._present) if surplus > _FEW_EXPIRED else None
        if condition is not None:
            self.allowed = reading.matching_ids(self._connection, condition)
            surplus = 0
        simple = request.mode is Mode.DENSE and not (request.diversity or request.collapse or request.rerank)
        self._wanted = (request.k if simple else max(_POOL, 4 * request.k)) + surplus
        self._condition = condition

    def _collect(self) -> None:
        request, condition, wanted = self.request, self._condition, self._wanted
        self._add_dense()
        if request.text is not None and request.mode is not Mode.DENSE and not self._out_of_time():
            self.intervals = timewords.intervals(request.text, request.now)
            self._add_lexical(request.text, wanted, condition)
            self._add_dated(wanted)
        if request.then is not None:
            self._add_former(condition)
        self._add_words()
        if request.text is not None and request.mode is Mode.HYBRID and not self._out_of_time():
            self._add_neighbours()
        self.unsought = {entry_id for entry_id in self._extra if self._allows(entry_id)} - self.candidates.keys()
        self._score(self.unsought)
        self._add_words()
        self._add_circumstances()

    def _out_of_time(self) -> bool:
        budget_ms = self.request.budget_ms
        return budget_ms is not None and (time.perf_counter() - self._started) * 1000 >= budget_ms

    def _allows(self, entry_id: int) -> bool:
        return self.allowed is None or bool(np.isin(entry_id, self.allowed))

    def _dense(self, searches: Sequence[Search]) -> None:
        """Ask the index for the candidates of searches like this one."""
        request = self.request
        found = self._reading.search(
            np.stack([search.request.vector for search in searches]),
            self._wanted,
            allowed=self.allowed,
            exact=request.exact,
            explain=request.explain or bool(self._extra),
            budget_ms=None if request.exact else request.budget_ms,
        )
        for at, search in enumerate(searches):
            mine = slice(at, at + 1)
            search.tiers = replace(found, scores=found.scores[mine], ids=found.ids[mine], traces=found.traces[mine])

    @property
    def _reading(self) -> Reading:
        if self._index is None:
            raise StorageError("a recall by words alone has no index to search")
        return self._index

    def _add_dense(self) -> None:
        if self.tiers is None:
            return
        for entry_id, score in zip(self.tiers.ids[0].tolist(), self.tiers.scores[0].tolist(), strict=True):
            if entry_id >= 0:
                self.candidates[entry_id] = Candidate(entry_id, score, self._trust)

    def _add_lexical(self, text: str, wanted: int, condition: Condition | None) -> None:
        self.words = lexical.parse(self._connection, text)
        # More than become candidates: neighbours of candidates are looked up among them.
        limit = max(wanted, _WORDS_POOL)
        self._shares = lexical.search(self._connection, self.words, limit=limit, condition=condition)
        self.lexical_ranks = {entry_id: rank for rank, entry_id in enumerate(self._shares, start=1)}
        self._score(list(self._shares)[:wanted])

    def _add_dated(self, wanted: int) -> None:
        """Bring up the best of the stretches of time that the query names, which may be far down otherwise."""
        if not self.intervals or self.request.mode is Mode.LEXICAL:
            return
        spans = [(interval.start, interval.end) for interval in self.intervals]
        dated = reading.matching_ids(self._connection, reading.within(spans))
        if self.allowed is not None:
            dated = np.intersect1d(dated, self.allowed)
        result = self._reading.search(self.request.vector, wanted, allowed=dated, exact=True)
        self._score({entry_id for entry_id in result.ids[0].tolist() if entry_id >= 0})

    def _add_words(self) -> None:
        for entry_id, candidate in self.candidates.items():
            candidate.lexical = self._shares.get(entry_id, candidate.lexical)

    def _add_former(self, condition: Condition | None) -> None:
        """Score the versions that were current at the past moment, and are no longer in the index."""
        if condition is None or self.request.mode is Mode.LEXICAL:
            return
        generation = stored.live_generation(self._connection)
        former = reading.matching_ids(self._connection, reading.former(condition))
        if generation is None or not len(former):
            return
        ids, vectors = stored.read_vectors(self._connection, generation, former, former=True)
        dense = vectors.astype(np.float32) @ self.request.vector
        texts = reading.fetch(self._connection, former.tolist())
        rows = [(entry_id, lexical.terms(entry.text, entry.speaker)) for entry_id, entry in texts.items()]
        shares = lexical.score_former(self._connection, self.words, rows)
        for entry_id, score in zip(ids.tolist(), dense.tolist(), strict=True):
            self.candidates[entry_id] = Candidate(entry_id, score, self._trust, shares.get(entry_id, 0.0))

    def _score(self, ids: Iterable[int]) -> None:
        """Make candidates of entries by their cosine, unless they are candidates already."""
        missing = np.array(sorted(set(ids) - self.candidates.keys()), np.int64)
        if not len(missing):
            return
        if self.request.mode is Mode.LEXICAL:
            self.candidates |= {entry_id: Candidate(entry_id) for entry_id in missing.tolist()}
            return
        result = self._reading.search(self.request.vector, len(missing), allowed=missing, exact=True)
        for entry_id, score in zip(result.ids[0].tolist(), result.scores[0].tolist(), strict=True):
            if entry_id >= 0:
                self.candidates[entry_id] = Candidate(entry_id, score, self._trust)

    def _add_neighbours(self) -> None:
        strongest = sorted(self.candidates.values(), key=lambda candidate: -candidate.own)[:_LENDERS]
        beside = reading.neighbours(self._connection, [candidate.id for candidate in strongest])
        new = {entry_id for others in beside.values() for entry_id in others} - self.candidates.keys()
        if self.allowed is not None:
            new &= set(np.intersect1d(np.array(sorted(new), np.int64), self.allowed).tolist())
        self._score(new)
        self._add_words()
        mutual: dict[int, list[int]] = {}
        for entry_id, others in beside.items():
            for other in others:
                mutual.setdefault(other, []).append(entry_id)
        ranking.lend(self.candidates, mutual)

    def _add_circumstances(self) -> None:
        request = self.request
        if request.mode is Mode.DENSE and request.half_life is None:
            return
        rows = reading.circumstances(self._connection, list(self.candidates))
        known = {row[0]: ranking.Circumstances(row[1], row[2]) for row in rows}
        ranking.add_circumstances(
            self.candidates, known, intervals=self.intervals, now=request.now, half_life=request.half_life
        )

    # --- choice ------------------------------------------------------------------------------------------

    def _cut(self, ranked: list[Candidate]) -> list[Candidate]:
        request = self.request
        if not (request.diversity or request.collapse):
            return ranked[: request.k]
        generation = stored.live_generation(self._connection)
        if generation is None:
            return []
        ids = [candidate.id for candidate in ranked]
        found, matrix = stored.read_vectors(self._connection, generation, ids, static=True)
        vectors = dict(zip(found.tolist(), matrix.astype(np.float32), strict=True))
        if request.collapse:
            limit = len(ranked) if request.diversity else request.k
            chosen = ranking.without_duplicates(ranked, vectors, limit)
            ranked, self.dropped = chosen.kept, chosen.dropped
        if request.diversity:
            return ranking.diversified(ranked, vectors, request.k, request.diversity)
        return ranked[: request.k]

    def _reranked(self, ranked: list[Candidate], reranker: Reranker, text: str) -> list[Candidate]:
        best = ranked[: max(_LENDERS, self.request.k)]
        texts = reading.fetch(self._connection, [candidate.id for candidate in best])
        scores = reranker.score(text, [texts[candidate.id].text for candidate in best])
        for candidate, score in zip(best, scores.tolist(), strict=True):
            candidate.rerank = score
        return sorted(best, key=lambda candidate: (-candidate.score, candidate.id))

    # --- explanation -------------------------------------------------------------------------------------

    def trace(self, candidate: Candidate, keys: dict[int, Entry]) -> dict[str, Any]:
        """Return how a candidate came by its score."""
        lender = None if candidate.lender is None else keys.get(candidate.lender)
        return {
            "tiers": self.tier_places(candidate.id),
            "dense": candidate.dense,
            "trust": candidate.trust,
            "lexical": {
                "share": candidate.lexical,
                "rank": self.lexical_ranks.get(candidate.id),
                "words": lexical.matched(self._connection, self.words, candidate.id),
                "adds": ranking.LEXICAL_WEIGHT * candidate.lexical,
            },
            "neighbour": {"adds": candidate.neighbour, "key": None if lender is None else lender.key},
            "time": {"adds": candidate.time, "words": [interval.words for interval in self.intervals]},
            "importance": candidate.importance,
            "recency": candidate.recency,
            "rerank": candidate.rerank,
            "score": candidate.score,
            "filter": self._allows(candidate.id),
        }

    def tier_places(self, entry_id: int) -> list[dict[str, Any]]:
        """Return where each tier ranked an entry, and how far it was from being handed on."""
        places = []
        for tier in self.tiers.traces[0] if self.tiers is not None and self.tiers.traces else ():
            place = tier.rank(entry_id)
            score = None if place is None else float(tier.scores[place])
            last = float(tier.scores[tier.kept - 1]) if 0 < tier.kept <= len(tier.scores) else None
            places.append(
                {
                    "dimension": tier.tier,
                    "rank": None if place is None else place + 1,
                    "score": score,
                    "candidates": len(tier.ids),
                    "kept": tier.kept,
                    "last_kept_score": last,
                }
            )
        return places


def recall(
    database: Database,
    live_index: LiveIndex,
    accept: Callable[[Generation], None],
    sessions: Sessions,
    request: Request,
) -> Hits:
    """Return the hits of a request, best first."""
    with database.read() as connection:
        search = Search(connection, live_index, accept, sessions, request)
        return _hits(connection, search, search.run())


def recall_many(
    database: Database,
    live_index: LiveIndex,
    accept: Callable[[Generation], None],
    sessions: Sessions,
    requests: Sequence[Request],
) -> list[Hits]:
    """Return the hits of each of several requests that differ in their queries only."""
    answers: list[Hits] = []
    # A cross-encoder reads within the transaction; one question's worth of that is long enough.
    together = 1 if any(request.rerank is not None for request in requests) else _TOGETHER
    for at in range(0, len(requests), together):
        with database.read() as connection:
            searches = [
                Search(connection, live_index, accept, sessions, request) for request in requests[at : at + together]
            ]
            found = Search.run_together(searches)
            answers.extend(_hits(connection, search, best) for search, best in zip(searches, found, strict=True))
    return answers


def _hits(connection: Connection, search: Search, best: list[Candidate]) -> Hits:
    explain = search.request.explain
    lenders = [candidate.lender for candidate in best if candidate.lender is not None] if explain else []
    entries = reading.fetch(connection, [*(candidate.id for candidate in best), *lenders])
    if strays := [candidate.id for candidate in best if candidate.id not in entries]:
        raise StorageError(f"the full-text index names entries {strays[:3]}, which are not there")
    hits = [
        Hit(
            entry=entries[candidate.id],
            score=candidate.score,
            rank=rank,
            trace=search.trace(candidate, entries) if explain else None,
        )
        for rank, candidate in enumerate(best, start=1)
    ]
    return Hits(hits, tier_reached=search.tiers.tier_reached if search.tiers is not None else None)
