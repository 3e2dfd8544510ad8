"""Rehearses a layout before it is built: asks recent queries of an index over a sample of the entries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent_memory.errors import InvalidInputError
from agent_memory.live.rows import Searched
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.reports import ReindexReport, Replay, ReplaySource
from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import decode_vector
from agent_memory.storage.records import ANY, UNSUPERSEDED, Generation
from agent_memory.types import FloatArray, IdArray
from agent_memory.upkeep.measure import (
    choose_rows,
    estimate_bytes,
    measure_agreement,
    measure_latency,
    measure_recall,
)
from agent_memory.upkeep.plan import ReindexRequest, Source, Target, plan_reindex

if TYPE_CHECKING:
    from agent_memory.index import IndexOptions, IndexStats

ROW_BYTES = 24
"""What the database stores of a vector beside its components, roughly."""

_SAMPLE = 10_000  # maximum number of entries in a trial index
_REPLAYED = 200  # maximum number of queries
_ENCODED = 2_000  # maximum number of texts to encode,
_ENCODING_S = 10.0  # within about this many seconds
_ENCODED_TOGETHER = 32
_WRITE_S = 4e-4  # to read, write and index one vector (benchmarks/reindex.py)


@dataclass(frozen=True, slots=True)
class Trial:
    """An index and the questions it is asked.

    Attributes:
        view: The index.
        questions: float32 of shape (n, dimension).
        index_bytes: Size of the index, scaled to the whole store.
        build_s: Seconds to build it, scaled likewise.
    """

    view: Searched
    questions: FloatArray
    index_bytes: int = 0
    build_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Questions:
    """The same questions in the present and the new space; ``places``: rows of the sample that play the query."""

    source: ReplaySource
    before: FloatArray
    after: FloatArray
    places: IdArray | None = None


@dataclass(frozen=True, slots=True)
class _Sample:
    """What a dry run reads of a store.

    Attributes:
        live: The live generation.
        rows: Entries in the store, former versions included.
        current: Entries that are not superseded.
        ids: Entries of the sample, shape (n,).
        vectors: Their static vectors, float32 of shape (n, dimension).
        texts: The texts of the first of them.
        logged: Logged query vectors of the live space, float32 of shape (m, dimension).
        queries: Logged query texts.
    """

    live: Generation
    rows: int
    current: int
    ids: IdArray
    vectors: FloatArray
    texts: list[str]
    logged: FloatArray
    queries: list[str]


def rehearse_reindex(store: Store, request: ReindexRequest, current: Space) -> ReindexReport:
    """Try a re-index on a sample of the entries; writes nothing.

    Args:
        store: The store.
        request: The arguments of ``Memory.reindex``.
        current: Embedding space of the live generation in this process.

    Raises:
        InvalidInputError: As for ``Memory.reindex``.
    """
    target = plan_reindex(store, request, current)
    sample = _read_sample(store, target)
    started = time.perf_counter()
    new = _derive_sample(target, sample)
    encode_s = (time.perf_counter() - started) / max(1, len(new))
    ids, old = sample.ids[: len(new)], sample.vectors[: len(new)]
    questions = _choose_questions(target, current, sample, old, new)
    build = partial(build_trial, ids, options=store.index.options, whole=sample.current)
    spec, live, total = target.space.spec, sample.live, sample.rows
    before = build(old, questions.before, tiers=live.tiers, dtype=live.dtype)
    after = build(new, questions.after, tiers=target.tiers, dtype=spec.dtype)
    replay = compare(before, after, questions.source)
    own_ids = None if questions.places is None else ids[questions.places]
    return ReindexReport(
        job=None,
        state="planned",
        generation=None,
        source=target.source,
        entries=total,
        encoded=total if target.source is Source.ENCODE else 0,
        seconds=(encode_s * total + total * _WRITE_S + after.build_s) / request.max_cpu,
        added_bytes=total * (spec.dimension * np.dtype(spec.dtype).itemsize + ROW_BYTES),
        recall=replay.recall_after,
        agreement=measure_agreement((before.view, after.view), (before.questions, after.questions), own_ids),
        replay=replay,
    )


def _read_sample(store: Store, target: Target) -> _Sample:
    with store.read() as tx:
        live = tx.generations.live()
        if live is None:
            raise InvalidInputError("the store is empty: there is nothing to re-index")
        ids = tx.vectors.sample_ids(live, _ENCODED if target.source is Source.ENCODE else _SAMPLE)
        held, matrix = tx.vectors.read(live, ids, static=True)
        texts = {entry.id: entry.text for entry in tx.vectors.select_texts(held[:_ENCODED].tolist())}
        return _Sample(
            live=live,
            rows=tx.entries.count(ANY),
            current=tx.entries.count(UNSUPERSEDED),
            ids=held,
            vectors=matrix.astype(np.float32),
            texts=[texts[entry_id] for entry_id in held[:_ENCODED].tolist()],
            logged=read_logged_queries(tx, live),
            queries=tx.queries.read_texts(_REPLAYED),
        )


def _derive_sample(target: Target, sample: _Sample) -> FloatArray:
    """Return the new vectors of a sample; only of its first entries if encoding takes long."""
    if target.source is not Source.ENCODE:
        old = sample.vectors
        return old if target.step is None else np.asarray(target.step.apply(old), np.float32)
    started, parts = time.perf_counter(), []
    for start in range(0, len(sample.texts), _ENCODED_TOGETHER):
        encoded = target.space.encode_texts(sample.texts[start : start + _ENCODED_TOGETHER])
        parts.append(np.stack([decode_vector(one.static, target.space.spec.dtype) for one in encoded]))
        if time.perf_counter() - started > _ENCODING_S:
            break
    return np.concatenate(parts) if parts else sample.vectors[:0]


def _choose_questions(target: Target, current: Space, sample: _Sample, old: FloatArray, new: FloatArray) -> _Questions:
    """Return questions that both spaces understand: logged queries if possible, else entries."""
    if target.source is Source.ENCODE and sample.queries:
        before, after = (space.encode_queries(sample.queries) for space in (current, target.space))
        return _Questions(ReplaySource.TEXTS, before, after)
    logged = sample.logged
    if target.source is not Source.ENCODE and len(logged):
        return _Questions(ReplaySource.QUERIES, logged, logged if target.step is None else target.step.apply(logged))
    places = choose_rows(len(old), _REPLAYED)
    return _Questions(ReplaySource.ENTRIES, old[places], new[places], places)


def rehearse_rebuild(
    view: Searched, live: Generation, logged: FloatArray, *, stats: IndexStats | None, options: IndexOptions
) -> Replay:
    """Ask recent queries of the present index and of a new one over a sample of its rows.

    Args:
        view: The index.
        live: The live generation.
        logged: Logged query vectors, float32 of shape (n, dimension); without any, stored entries are asked.
        stats: Facts about the index.
        options: How indexes are built.
    """
    ids = view.ids()
    ids = ids[choose_rows(len(ids), _SAMPLE)]
    matrix = view.vectors_of(ids)
    source = ReplaySource.QUERIES if len(logged) else ReplaySource.ENTRIES
    questions = logged if len(logged) else matrix[choose_rows(len(ids), _REPLAYED)]
    after = build_trial(ids, matrix, questions, tiers=live.tiers, dtype=live.dtype, options=options, whole=len(view))
    size = 0 if stats is None else estimate_bytes(stats, live.dtype, stats.rows + stats.tombstones)
    return compare(Trial(view, questions, size), after, source)


def read_logged_queries(tx: Transaction, live: Generation) -> FloatArray:
    """Return recent logged queries of the live embedding space, float32 of shape (n, dimension); n may be 0."""
    rows = [live.from_bytes(blob) for blob in tx.queries.read_vectors(live, _REPLAYED)]
    usable = [row for row in rows if np.isfinite(row).all() and row.any()]
    return np.stack(usable) if usable else np.empty((0, live.dimension), np.float32)


def build_trial(
    ids: IdArray,
    matrix: FloatArray,
    questions: FloatArray,
    *,
    tiers: Sequence[int],
    dtype: Literal["float16", "float32"],
    options: IndexOptions,
    whole: int,
) -> Trial:
    """Build an index over a sample, with the structure it would have over the whole store.

    Args:
        ids: Entries of the sample, shape (n,).
        matrix: Their vectors, float32 of shape (n, dimension).
        questions: What to ask, float32 of shape (m, dimension).
        tiers: Ascending prefix dimensions.
        dtype: Stored number format.
        options: How the index is built.
        whole: Number of entries in the whole store.
    """
    from agent_memory.index import TieredIndex

    if whole >= options.exact_below:
        options = replace(options, exact_below=0)  # the sample is small, but the store it stands for is not
    started = time.perf_counter()
    index = TieredIndex(matrix.shape[1], tiers, dtype=dtype, options=options)
    index.add(ids, matrix)
    index.maintain()
    build_s = (time.perf_counter() - started) * whole / max(1, len(ids))
    return Trial(index.view(), questions, estimate_bytes(index.stats(), dtype, whole), build_s)


def compare(before: Trial, after: Trial, source: ReplaySource) -> Replay:
    """Ask the questions of both trials and return the results."""
    return Replay(
        source=source,
        queries=len(after.questions),
        entries=len(after.view.ids()),
        recall_before=measure_recall(before.view, before.questions),
        recall_after=measure_recall(after.view, after.questions),
        ms_before=measure_latency(before.view, before.questions),
        ms_after=measure_latency(after.view, after.questions),
        index_bytes_before=before.index_bytes,
        index_bytes_after=after.index_bytes,
        build_seconds=after.build_s,
    )
