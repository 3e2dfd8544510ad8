"""From a query to hits, in one read transaction: what is returned is one state of the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory import timewords
from agent_memory.errors import StorageError
from agent_memory.live.searcher import Searcher, slice_result
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.recall import ranking
from agent_memory.recall.ranking import Candidate
from agent_memory.recall.request import Mode, Request
from agent_memory.records import Entry, Hit, Hits
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import LexicalQuery

if TYPE_CHECKING:
    from agent_memory.encoders.reranker import Reranker
    from agent_memory.index import SearchResult

_POOL = 100  # candidates of each source, at least
_LENDERS = 50
_WORDS_POOL = 1_000
_TOGETHER = 64  # questions that are answered in one read transaction


class Search:
    """One recall under way, inside a read transaction.

    Args:
        store: The store.
        space: The embedding space of the request's vector.
        tx: The transaction; nothing may have been read in it yet.
        request: What is wanted.
        extra: Ids to score even if no source brings them up.
    """

    def __init__(
        self, store: Store, space: Space, tx: Transaction, request: Request, extra: Iterable[int] = ()
    ) -> None:
        self._started = time.perf_counter()
        self._store, self._space, self._tx = store, space, tx
        self._trust = 1.0 if request.readable or request.mode is Mode.DENSE else ranking.UNREAD
        self.request = request
        self._extra = list(extra)
        self.candidates: dict[int, Candidate] = {}
        self.tiers: SearchResult | None = None
        self.intervals: list[timewords.Interval] = []
        self.words = LexicalQuery((), (), 0.0)
        self.lexical_ranks: dict[int, int] = {}
        self.dropped: dict[int, int] = {}
        self.unsought: set[int] = set()
        self._shares: dict[int, float] = {}
        self.ranked: list[Candidate] = []
        self._given: Searcher | None = None

    @property
    def searcher(self) -> Searcher:
        """What finds the entries that may be returned."""
        if self._given is None:
            raise StorageError("this search has not begun")
        return self._given

    def run(self) -> list[Candidate]:
        """Return the best candidates, best first, k at most."""
        if not self._begin():
            return []
        if self._dense:
            self._search_dense([self])
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
            search._begin(first.searcher)
        at_once = first.request.budget_ms is None
        if at_once and first._dense:
            first._search_dense(searches)
        for search in searches:
            search._started = time.perf_counter()
            if not at_once and search._dense:
                search._search_dense([search])
            yield search._finish()

    @property
    def _dense(self) -> bool:
        return self.request.mode is not Mode.LEXICAL

    def _begin(self, searcher: Searcher | None = None) -> bool:
        """Find out what to search, or take it from another search; returns False if nothing was ever stored."""
        self._given = searcher or self._store.searcher(self._tx, self._space, self.request.condition, dense=self._dense)
        if self._given.empty:
            return False
        if self._dense:
            self._evolve()
        return True

    @property
    def _wanted(self) -> int:
        """How many candidates are wanted of each source."""
        request = self.request
        simple = request.mode is Mode.DENSE and not (request.diversity or request.collapse or request.rerank)
        return (request.k if simple else max(_POOL, 4 * request.k)) + len(self.searcher.hidden)

    def _finish(self) -> list[Candidate]:
        request = self.request
        self._collect()
        ranked = [candidate for candidate in ranking.ordered(self.candidates) if candidate.id not in self.unsought]
        if request.mode is Mode.LEXICAL:
            ranked = [candidate for candidate in ranked if candidate.lexical > 0]
        if request.rerank is not None and request.text is not None:
            ranked = self._rerank(ranked, request.rerank, request.text)
        self.ranked = [candidate for candidate in ranked if candidate.id not in self.searcher.hidden]
        return self._cut(self.ranked)

    def _evolve(self) -> None:
        """Read the question behind the latent memory of its session."""
        request = self.request
        generation = self._tx.generations.live() if request.session is not None else None
        if generation is None:
            return
        vector = self._space.sessions.evolve_query(
            self._tx,
            generation,
            request.vector,
            request.text or "",
            scope=request.scope,
            session=request.session,
            as_of=request.as_of,
        )
        self.request = replace(request, vector=vector)

    # --- candidates --------------------------------------------------------------------------------------

    def _collect(self) -> None:
        request = self.request
        self._add_dense()
        if request.text is not None and request.mode is not Mode.DENSE and not self._is_out_of_time():
            self.intervals = timewords.intervals(request.text, request.now)
            self._add_lexical(request.text)
            self._add_dated()
        if request.as_of is not None:
            self._add_former()
        self._add_words()
        if request.text is not None and request.mode is Mode.HYBRID and not self._is_out_of_time():
            self._add_neighbours()
        self.unsought = self.searcher.select_allowed(self._extra) - self.candidates.keys()
        self._score(self.unsought)
        self._add_words()
        self._add_circumstances()

    def _is_out_of_time(self) -> bool:
        budget_ms = self.request.budget_ms
        return budget_ms is not None and (time.perf_counter() - self._started) * 1000 >= budget_ms

    def _search_dense(self, searches: Sequence[Search]) -> None:
        """Ask the index for the candidates of searches like this one."""
        request = self.request
        found = self.searcher.search(
            np.stack([search.request.vector for search in searches]),
            self._wanted,
            exact=request.exact,
            explain=request.explain or bool(self._extra),
            budget_ms=None if request.exact else request.budget_ms,
        )
        for at, search in enumerate(searches):
            search.tiers = slice_result(found, at)

    def _add_dense(self) -> None:
        if self.tiers is None:
            return
        for entry_id, score in zip(self.tiers.ids[0].tolist(), self.tiers.scores[0].tolist(), strict=True):
            if entry_id >= 0:
                self.candidates[entry_id] = Candidate(entry_id, score, self._trust)

    def _add_lexical(self, text: str) -> None:
        self.words = self._tx.lexical.parse(text)
        # More than become candidates: neighbours of candidates are looked up among them.
        self._shares = self.searcher.search_words(self.words, max(self._wanted, _WORDS_POOL))
        self.lexical_ranks = {entry_id: rank for rank, entry_id in enumerate(self._shares, start=1)}
        self._score(list(self._shares)[: self._wanted])

    def _add_dated(self) -> None:
        """Bring up the best of the stretches of time that the query names, which may be far down otherwise."""
        if not self.intervals or not self._dense:
            return
        spans = [(interval.start, interval.end) for interval in self.intervals]
        result = self.searcher.search(self.request.vector[None], self._wanted, spans=spans, exact=True)
        self._score({entry_id for entry_id in result.ids[0].tolist() if entry_id >= 0})

    def _add_words(self) -> None:
        for entry_id, candidate in self.candidates.items():
            candidate.lexical = self._shares.get(entry_id, candidate.lexical)

    def _add_former(self) -> None:
        """Score the versions that were current at the past moment, and are no longer in the index."""
        if not self._dense:
            return
        cosines = self.searcher.score_former(self.request.vector)
        shares = self._tx.lexical.score_texts(self.words, self._tx.entries.fetch(list(cosines))) if cosines else {}
        for entry_id, score in cosines.items():
            self.candidates[entry_id] = Candidate(entry_id, score, self._trust, shares.get(entry_id, 0.0))

    def _score(self, ids: Iterable[int]) -> None:
        """Make candidates of entries by their cosine, unless they are candidates already."""
        missing = set(ids) - self.candidates.keys()
        if not self._dense:
            self.candidates |= {entry_id: Candidate(entry_id) for entry_id in sorted(missing)}
            return
        for entry_id, score in self.searcher.score(self.request.vector, missing).items():
            self.candidates[entry_id] = Candidate(entry_id, score, self._trust)

    def _add_neighbours(self) -> None:
        strongest = sorted(self.candidates.values(), key=lambda candidate: -candidate.own)[:_LENDERS]
        beside = self._tx.entries.find_neighbours([candidate.id for candidate in strongest])
        new = {entry_id for others in beside.values() for entry_id in others} - self.candidates.keys()
        self._score(self.searcher.select_allowed(new))
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
        rows = self._tx.entries.select_circumstances(list(self.candidates))
        known = {row[0]: ranking.Circumstances(row[1], row[2]) for row in rows}
        ranking.add_circumstances(
            self.candidates, known, intervals=self.intervals, now=request.now, half_life=request.half_life
        )

    # --- choice ------------------------------------------------------------------------------------------

    def _cut(self, ranked: list[Candidate]) -> list[Candidate]:
        request = self.request
        if not (request.diversity or request.collapse):
            return ranked[: request.k]
        generation = self._tx.generations.live()
        if generation is None:
            return []
        ids = [candidate.id for candidate in ranked]
        found, matrix = self._tx.vectors.read(generation, ids, static=True)
        vectors = dict(zip(found.tolist(), matrix.astype(np.float32), strict=True))
        if request.collapse:
            limit = len(ranked) if request.diversity else request.k
            chosen = ranking.without_duplicates(ranked, vectors, limit)
            ranked, self.dropped = chosen.kept, chosen.dropped
        if request.diversity:
            return ranking.diversified(ranked, vectors, request.k, request.diversity)
        return ranked[: request.k]

    def _rerank(self, ranked: list[Candidate], reranker: Reranker, text: str) -> list[Candidate]:
        best = ranked[: max(_LENDERS, self.request.k)]
        texts = self._tx.entries.fetch([candidate.id for candidate in best])
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
                "words": self._tx.lexical.find_matched(self.words, candidate.id),
                "adds": ranking.LEXICAL_WEIGHT * candidate.lexical,
            },
            "neighbour": {"adds": candidate.neighbour, "key": None if lender is None else lender.key},
            "time": {"adds": candidate.time, "words": [interval.words for interval in self.intervals]},
            "importance": candidate.importance,
            "recency": candidate.recency,
            "rerank": candidate.rerank,
            "score": candidate.score,
            "filter": bool(self.searcher.select_allowed([candidate.id])),
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


def recall(store: Store, space: Space, request: Request) -> Hits:
    """Return the hits of a request, best first."""
    with store.read() as tx:
        search = Search(store, space, tx, request)
        return _make_hits(tx, search, search.run())


def recall_many(store: Store, space: Space, requests: Sequence[Request]) -> list[Hits]:
    """Return the hits of each of several requests that differ in their queries only."""
    answers: list[Hits] = []
    # A cross-encoder reads within the transaction; one question's worth of that is long enough.
    together = 1 if any(request.rerank is not None for request in requests) else _TOGETHER
    for at in range(0, len(requests), together):
        with store.read() as tx:
            searches = [Search(store, space, tx, request) for request in requests[at : at + together]]
            found = Search.run_together(searches)
            answers.extend(_make_hits(tx, search, best) for search, best in zip(searches, found, strict=True))
    return answers


def _make_hits(tx: Transaction, search: Search, best: list[Candidate]) -> Hits:
    explain = search.request.explain
    lenders = [candidate.lender for candidate in best if candidate.lender is not None] if explain else []
    entries = tx.entries.fetch([*(candidate.id for candidate in best), *lenders])
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
