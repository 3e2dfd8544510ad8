"""``Search``: finds and ranks the candidates of one recall, inside one read transaction."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.encoders.reranker import AddingReranker
from agent_memory.errors import StorageError
from agent_memory.live.searcher import Searcher, slice_result
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.recall import confidence, ranking
from agent_memory.recall.asking import AGENTS, asks_for_the_agent, asks_for_work
from agent_memory.recall.passages import score_nearest
from agent_memory.recall.ranking import Candidate
from agent_memory.recall.renewal import FIRST, renew
from agent_memory.recall.request import Mode, Request
from agent_memory.recall.reranking import count_read, rerank
from agent_memory.records import Entry, Evidence
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import LexicalQuery
from agent_memory.telemetry.stages import stage
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from agent_memory.index import SearchResult
    from agent_memory.timewords import Interval
    from agent_memory.types import IdArray

_POOL = 100  # minimum number of candidates from each source
_LONG = 10  # long entries of which the nearest passage is read
_LENDERS = 50  # candidates whose neighbours are looked up
_WORDS_POOL = 1_000  # entries that the full-text index scores


class Search:
    """One recall in progress.

    Args:
        store: The store.
        space: Embedding space of the request's vector.
        tx: A read transaction in which nothing was read yet.
        request: The recall.
        extra: Ids to score even if no source finds them.

    Attributes:
        request: The recall, its vector evolved if it names a session.
        trust: Weight of cosines.
        candidates: Everything that was scored, by entry id.
        ranked: Candidates that may be returned, best first.
        dropped: Id of the better near-duplicate, by id of the dropped candidate.
        tiers: What the index found; None if it was not searched.
        words: The words of the query that are searched for.
        lexical_ranks: Rank by words, by entry id.
        intervals: Intervals of time that the query names.
        calibration: What the numbers of a hit are worth; None if nothing was measured for such a question.
        features: What the confidence of the best candidates is made of, by entry id.
        confidences: Their confidence, by entry id.
        stale: Id of the later candidate that probably updates a candidate, by id of that one.
    """

    def __init__(
        self, store: Store, space: Space, tx: Transaction, request: Request, extra: Iterable[int] = ()
    ) -> None:
        self._started = time.perf_counter()
        self._store, self._space, self._tx = store, space, tx
        self.trust = 1.0 if request.readable or request.mode is Mode.DENSE else ranking.UNREAD
        self.request = request
        self._extra = list(extra)
        self.candidates: dict[int, Candidate] = {}
        self.tiers: SearchResult | None = None
        self.intervals: list[Interval] = []
        self.words = LexicalQuery((), (), 0.0)
        self.lexical_ranks: dict[int, int] = {}
        self.dropped: dict[int, int] = {}
        self._unfound: set[int] = set()
        self._shares: dict[int, float] = {}
        self._promising: list[int] | None = None
        self.ranked: list[Candidate] = []
        self._searcher: Searcher | None = None
        self._entries: dict[int, Entry] = {}
        self.calibration = confidence.find_calibration(request, space.spec)
        self.features: dict[int, FloatArray] = {}
        self.confidences: dict[int, float] = {}
        self.stale: dict[int, int] = {}

    @property
    def searcher(self) -> Searcher:
        """Finds the entries that may be returned."""
        if self._searcher is None:
            raise StorageError("this search has not begun")
        return self._searcher

    def run(self) -> list[Candidate]:
        """Return at most k candidates, best first."""
        if not self._begin():
            return []
        if self._dense:
            with stage("tiers"):
                self._search_dense([self])
        return self._finish()

    @classmethod
    def run_together(cls, searches: Sequence[Search]) -> Iterator[list[Candidate]]:
        """Yield the result of ``run`` for each of several searches that differ in their queries only.

        All must use the same transaction. The index is searched for all of them at once, unless they have a time
        budget.
        """
        first = searches[0]
        if not first._begin():
            yield from ([] for _ in searches)
            return
        for search in searches[1:]:
            search._begin(first.searcher)
        together = first.request.budget_ms is None
        if together and first._dense:
            first._search_dense(searches)
        for search in searches:
            search._started = time.perf_counter()
            if not together and search._dense:
                search._search_dense([search])
            yield search._finish()

    @property
    def _dense(self) -> bool:
        return self.request.mode is not Mode.LEXICAL

    def _begin(self, searcher: Searcher | None = None) -> bool:
        """Open a searcher, or use another search's; returns False if the store is empty."""
        self._searcher = searcher or self._store.searcher(
            self._tx,
            self._space,
            self.request.condition,
            dense=self._dense,
            in_haste=self.request.budget_ms is not None,
        )
        if self._searcher.empty:
            return False
        if self._dense:
            self._evolve()
        return True

    @property
    def _pool_size(self) -> int:
        """Number of candidates to take from each source."""
        request = self.request
        simple = request.mode is Mode.DENSE and not (request.diversity or request.collapse or request.rerank)
        return (max(FIRST + 1, request.k) if simple else max(_POOL, 4 * request.k)) + len(self.searcher.hidden)

    def _finish(self) -> list[Candidate]:
        request = self.request
        self._collect()
        ranked = ranking.rank_candidates(self._list_found())
        if request.mode is Mode.LEXICAL:
            ranked = [candidate for candidate in ranked if candidate.lexical > 0]
        self._rate(ranked)
        adding = isinstance(request.rerank, AddingReranker)
        if adding:  # before the later one of two is raised: it stays first
            ranked = self._rerank(ranked)
        ranked = self._renew(ranked)
        if not adding:
            ranked = self._rerank(ranked)
        hidden = self.searcher.hidden
        self.ranked = [candidate for candidate in ranked if candidate.id not in hidden] if hidden else ranked
        return self._select(self.ranked)

    def _list_found(self) -> list[Candidate]:
        """Return the candidates that may be returned."""
        if self._promising is not None:
            return [self.candidates[number] for number in self._promising]
        return [candidate for candidate in self.candidates.values() if candidate.id not in self._unfound]

    def _evolve(self) -> None:
        """Evolve the query's vector with the latent memory of its session."""
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
            with stage("words"):
                self._add_lexical(request.text)
                self._add_words_of_passages()
            from agent_memory.timewords import intervals  # nine languages, which adding an entry can do without

            self.intervals = intervals(
                request.text, request.now, date_order=request.date_order, stop=self._is_out_of_time
            )
            self._add_dated()
        if request.as_of is not None:
            self._add_former()
        turns, weights = None, ranking.PLAIN
        if request.text is not None and request.mode is Mode.HYBRID and not self._is_out_of_time():
            turns = self._find_turns()
            if turns is not None:
                weights = ranking.FOR_WORK if asks_for_work(request.text) else ranking.IN_SESSION
            self._add_neighbours(weights.neighbour)
        self._unfound = self.searcher.select_allowed(self._extra) - self.candidates.keys()
        self._add_by_cosine(self._unfound, blank=True)
        if turns is not None:
            ranking.lend_words(self.candidates, turns, self._shares, weights)
        self._add_circumstances()

    def _is_out_of_time(self) -> bool:
        budget_ms = self.request.budget_ms
        return budget_ms is not None and (time.perf_counter() - self._started) * 1000 >= budget_ms

    def _search_dense(self, searches: Sequence[Search]) -> None:
        """Search the index for this search and others like it."""
        request = self.request
        found = self.searcher.search(
            np.stack([search.request.vector for search in searches]),
            self._pool_size,
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
                self.candidates[entry_id] = Candidate(entry_id, score, self.trust)

    def _add_lexical(self, text: str) -> None:
        self.words = self.searcher.parse_words(text)
        # Neighbours need their shares too, so more entries are scored here than become candidates.
        self._shares = self.searcher.search_words(self.words, max(self._pool_size, _WORDS_POOL))
        self.lexical_ranks = {entry_id: rank for rank, entry_id in enumerate(self._shares, start=1)}
        for entry_id, candidate in self.candidates.items():
            candidate.lexical = self._shares.get(entry_id, 0.0)
        self._add_by_cosine(list(self._shares)[: self._pool_size], blank=True)

    def _add_words_of_passages(self) -> None:
        """Let the words of its nearest passage count for a long entry, if they are more than those of the whole."""
        if not self._dense or not self.words.phrases:
            return
        long = self.searcher.select_long(list(self.candidates))
        best = heapq.nlargest(_LONG, long, key=lambda number: (self.candidates[number].dense, -number))
        entries = self.fetch(sorted(best)) if best else {}
        for entry_id, share in score_nearest(self._tx, self.request, self.words, entries).items() if entries else ():
            if share > self.candidates[entry_id].lexical:
                self.candidates[entry_id].lexical = self._shares[entry_id] = share

    def _add_dated(self) -> None:
        """Add the best entries of the intervals that the query names, which may rank too low to be found otherwise."""
        if not self._dense:
            return
        for is_open in (False, True):
            spans = [(interval.start, interval.end) for interval in self.intervals if interval.open is is_open]
            if not spans or self._is_out_of_time():
                continue
            # An open span may hold most of the store, too much to compare the query with every vector of.
            result = self.searcher.search(self.request.vector[None], self._pool_size, spans=spans, exact=not is_open)
            self._add_by_cosine({entry_id for entry_id in result.ids[0].tolist() if entry_id >= 0})

    def _add_former(self) -> None:
        """Add the versions that were current at ``as_of`` and have left the index since."""
        former = self.searcher.list_former()
        if not former:
            return
        cosines = self.searcher.score_former(self.request.vector, former) if self._dense else {}
        shares = self._tx.lexical.score_texts(self.words, self.fetch(former)) if self.words.phrases else {}
        for entry_id in dict.fromkeys((*cosines, *shares)):
            cosine, share = cosines.get(entry_id, 0.0), shares.get(entry_id, 0.0)
            self.candidates[entry_id] = Candidate(entry_id, cosine, self.trust, share)

    def _add_by_cosine(self, ids: Iterable[int], *, blank: bool = False) -> None:
        """Add entries as candidates, scored by their cosine; existing candidates stay as they are.

        Args:
            ids: The entries.
            blank: True to add those without a vector too, with a cosine of 0.
        """
        missing = set(ids) - self.candidates.keys()
        if not self._dense:
            shares = self._shares
            self.candidates |= {
                number: Candidate(number, lexical=shares.get(number, 0.0)) for number in sorted(missing)
            }
            return
        cosines = self.searcher.score(self.request.vector, missing)
        if blank:
            cosines |= {entry_id: 0.0 for entry_id in sorted(missing - cosines.keys())}
        for entry_id, score in cosines.items():
            self.candidates[entry_id] = Candidate(entry_id, score, self.trust, self._shares.get(entry_id, 0.0))

    def _find_turns(self) -> IdArray | None:
        """Return the turns of the session that is searched, in order; None if words count for their own turn alone."""
        request = self.request
        if request.session is None or not self._store.config.nearby_words:
            return None
        # Former versions have ids that say nothing of their place.
        if request.as_of is not None or self._tx.sessions.count_named(request.scope, request.session) != 1:
            return None
        return self.searcher.list_allowed()

    def _add_neighbours(self, weight: float) -> None:
        scores = {entry_id: candidate.text_score for entry_id, candidate in self.candidates.items()}
        strongest = heapq.nlargest(_LENDERS, scores, key=scores.__getitem__)
        beside = self._tx.entries.find_neighbours(strongest)
        new = {entry_id for others in beside.values() for entry_id in others} - self.candidates.keys()
        self._add_by_cosine(self.searcher.select_allowed(new))
        mutual: dict[int, list[int]] = {}
        for entry_id, others in beside.items():
            for other in others:
                mutual.setdefault(other, []).append(entry_id)
        ranking.lend_scores(self.candidates, mutual, weight)

    def _add_circumstances(self) -> None:
        request = self.request
        if request.mode is Mode.DENSE and request.half_life is None:
            return
        self._promising = self._list_promising()
        promising = list(self.candidates) if self._promising is None else self._promising
        timed = bool(self.intervals) or request.half_life is not None
        hybrid = request.mode is Mode.HYBRID and request.text is not None
        rows = self._tx.entries.select_circumstances(promising, important=not timed, speakers=AGENTS if hybrid else ())
        mentions = self._tx.mentions.select(promising) if self.intervals else {}
        known = {
            number: ranking.Circumstances(moment, importance, (who or "").lower() in AGENTS, mentions.get(number, ()))
            for number, moment, importance, who in rows
        }
        agent = 0.0
        if hybrid and any(facts.by_agent for facts in known.values()):
            agent = ranking.AGENT_WEIGHT if asks_for_the_agent(request.text or "") else -ranking.AGENT_WEIGHT
        ranking.add_circumstances(
            self.candidates,
            known,
            intervals=self.intervals,
            now=request.now,
            half_life=request.half_life,
            agent=agent,
        )

    def _rate(self, ranked: Sequence[Candidate]) -> None:
        """Set the confidence of the best candidates, and of those that were asked for."""
        if self.calibration is None and not self.request.explain:
            return
        rated = [candidate for candidate in ranked if candidate.id not in self.searcher.hidden]
        # As many as may come to be among the hits.
        count = max(self.request.k, FIRST, count_read(self.request.rerank, self.request.k))
        if any(entry_id in self.candidates for entry_id in self._extra):
            count = len(rated)
        features = confidence.measure(rated, self.request, len(self.words.phrases), count)
        ids = [candidate.id for candidate in rated[: len(features)]]
        self.features = dict(zip(ids, features, strict=True))
        if self.calibration is not None:
            self.confidences = dict(zip(ids, self.calibration.rate(features).tolist(), strict=True))

    def _renew(self, ranked: list[Candidate]) -> list[Candidate]:
        if self._is_out_of_time():
            return ranked
        shown = [candidate for candidate in ranked if candidate.id not in self.searcher.hidden]
        self.stale = renew(self._tx, self.request, shown, dated=bool(self.intervals), fetch=self.fetch)
        for earlier, later in self.stale.items():
            # What answers the question in the earlier one is in the later one, in its present form.
            is_first = self.candidates[later].score > self.candidates[earlier].score
            if is_first and {earlier, later} <= self.confidences.keys():
                self.confidences[later] = max(self.confidences[earlier], self.confidences[later])
        return ranking.rank_candidates(ranked) if self.stale else ranked

    @property
    def evidence(self) -> Evidence:
        """Whether anything that was found answers the question."""
        if self.calibration is None:
            return "unknown"
        first = list(self.confidences.values())[: confidence.RATED]
        return self.calibration.judge(max(first, default=None))

    def _list_promising(self) -> list[int] | None:
        """Return candidates among which the best k are, whatever circumstances add; None if all are looked at."""
        request = self.request
        if self._extra or request.explain or request.diversity or request.collapse or request.rerank is not None:
            return None
        hidden, lexical = self.searcher.hidden, request.mode is Mode.LEXICAL
        scores = {
            number: one.score
            for number, one in self.candidates.items()
            if number not in hidden and (one.lexical > 0 or not lexical)
        }
        reach = max(request.k, FIRST) + 1  # a later one may be raised, and confidence looks at what comes next
        if len(scores) <= reach:
            return list(scores)
        most = ranking.measure_scope(intervals=bool(self.intervals), half_life=request.half_life is not None)
        bar = heapq.nlargest(reach, scores.values())[-1] - most
        return [number for number, score in scores.items() if score >= bar]

    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return entries by id, each read from the database once; missing ones are left out."""
        missing = [number for number in dict.fromkeys(ids) if number not in self._entries]
        if missing:
            self._entries |= self._tx.entries.fetch(missing)
        return {number: self._entries[number] for number in ids if number in self._entries}

    # --- selection ------------------------------------------------------------------------------------------

    def _select(self, ranked: list[Candidate]) -> list[Candidate]:
        request = self.request
        if not (request.diversity or request.collapse):
            return ranked[: request.k]
        generation = self._tx.generations.live()
        if generation is None:
            return []
        ids = [candidate.id for candidate in ranked]
        found, matrix = self._tx.vectors.read(generation, ids, static=True)
        nothing = np.zeros(generation.dimension, np.float32)  # an entry without a vector is like no other
        vectors = dict.fromkeys(ids, nothing) | dict(zip(found.tolist(), matrix.astype(np.float32), strict=True))
        if request.collapse:
            limit = len(ranked) if request.diversity else request.k
            unique = ranking.drop_duplicates(ranked, vectors, limit)
            ranked, self.dropped = unique.kept, unique.dropped
        if request.diversity:
            return ranking.diversify(ranked, vectors, request.k, request.diversity)
        return ranked[: request.k]

    def _rerank(self, ranked: list[Candidate]) -> list[Candidate]:
        return rerank(self._tx, self.request, self.words, ranked, fetch=self.fetch, trust=self.trust)
