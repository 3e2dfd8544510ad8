"""What the contracts write into a store, and how they look at all of it. Nothing here knows a back end."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from agent_memory.reports import GenerationState
from agent_memory.storage.base import Database, Transaction
from agent_memory.storage.codec import canonical_json
from agent_memory.storage.records import ANY, Condition, Draft, Generation
from agent_memory.types import FloatArray

NOW = datetime(2025, 6, 1, 12, tzinfo=UTC)
DIMENSION = 8
LATENTS_BYTES = 12
MANY = 70_000
"""More ids than PostgreSQL takes parameters in one statement; SQLite by default takes half as many."""


def at(minutes: float) -> datetime:
    """A moment so many minutes after NOW."""
    return NOW + timedelta(minutes=minutes)


def current(minutes: float = 0, **fields: Any) -> Condition:
    """The condition for what is current so many minutes after NOW."""
    return Condition(moment=at(minutes), **fields)


def unit_vector(seed: str) -> FloatArray:
    """A vector of unit length, the same for the same seed, as half precision keeps it."""
    number = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "little")
    vector = np.random.default_rng(number).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float16).astype(np.float32)


def stored(seed: str) -> bytes:
    """The stored form of ``unit_vector``."""
    return unit_vector(seed).astype("<f2").tobytes()


def latents(seed: str) -> bytes:
    """Latents of the right size."""
    return hashlib.sha256(seed.encode()).digest()[:LATENTS_BYTES]


def make_draft(key: str, text: str | None = None, **fields: Any) -> Draft:
    """A draft whose text is by default its key, with the vector of its text unless told otherwise."""
    text = f"text of {key}" if text is None else text
    metadata = canonical_json(fields.pop("metadata", {}))
    given = dict.fromkeys(("session", "speaker", "event_time", "expires_at", "importance"))
    given |= {"namespace": (), "vector": stored(text)} | fields
    return Draft(key=key, text=text, metadata=metadata, **given)


def make_segment(key: str, session: str = "s", **fields: Any) -> Draft:
    """A draft in a session, with its evolved vector and latents."""
    return make_draft(key, session=session, evolved=stored(f"{key} evolved"), latents=latents(key), **fields)


def begin(tx: Transaction, state: GenerationState = GenerationState.BUILDING, **fields: Any) -> Generation:
    """Begin a generation of half precision."""
    given = {"fingerprint": "f1", "encoder": {"name": "words"}, "dimension": DIMENSION, "tiers": (4, DIMENSION)}
    given |= {"dtype": "float16", "session_encoder": None, "now": NOW}
    return tx.generations.begin(state=state, **{**given, **fields})


def begin_live(database: Database, **fields: Any) -> Generation:
    """Give an empty store its live generation."""
    with database.write() as tx:
        return begin(tx, GenerationState.LIVE, **fields)


def put(database: Database, *drafts: Draft, minutes: float = 0, keep_versions: int = 10) -> list[int]:
    """Write drafts in a transaction of their own; returns their ids. The first call begins the live generation."""
    with database.write() as tx:
        generation = tx.generations.live() or begin(tx, GenerationState.LIVE)
        written = tx.drafts.put(drafts, generation.id, at(minutes), keep_versions=keep_versions)
        return [entry_id for entry_id, _ in written.entries]


def supersede(database: Database, old_id: int, new_id: int, minutes: float = 0) -> int | None:
    """Let one entry take the place of another, in a transaction of its own."""
    with database.write() as tx:
        return tx.drafts.supersede(old_id, new_id, at(minutes))


def remove(database: Database, *ids: int) -> int:
    """Remove entries with their whole lines in a transaction of their own; returns how many keys are gone."""
    with database.write() as tx:
        return tx.drafts.remove(tx.entries.select_lineage(ids, later=True)).keys


def find_keys(database: Database, condition: Condition) -> list[str]:
    """Return the keys of the entries that satisfy a condition, in the order they were added."""
    with database.read() as tx:
        return [entry.key for _, entry in tx.entries.select(condition)]


def find_words(database: Database, words: str, condition: Condition | None = None) -> list[int]:
    """Return the ids of all entries in the full-text index that hold a word, ascending."""
    with database.read() as tx:
        return sorted(tx.lexical.search(tx.lexical.parse(words), limit=100_000, condition=condition))


def read_vectors(
    tx: Transaction, generation: Generation, ids: Sequence[int], **options: bool
) -> dict[int, list[float]]:
    """Return what ``Vectors.read`` returns, by entry id."""
    found, matrix = tx.vectors.read(generation, ids, **options)
    return dict(zip(found.tolist(), matrix.astype(np.float32).tolist(), strict=True))


def read_store(database: Database) -> dict[str, Any]:
    """Return all that a store says, for comparison."""
    with database.read() as tx:
        rows = tx.entries.select(ANY)
        ids = [entry_id for entry_id, _ in rows]
        generations = tx.generations.find_in_state(*GenerationState)
        places = sorted({(entry.namespace, entry.session) for _, entry in rows if entry.session is not None})
        words = {word for _, entry in rows for word in entry.text.split()} | {"never"}
        heads = {place: tx.sessions.find_head(*place) for place in places}
        return {
            "entries": rows,
            "texts": tx.entries.select_texts(after_id=0, limit=len(ids) + 1),
            "seqs": (tx.changes.first_seq(), tx.changes.last_seq()),
            "changes": sorted(tx.changes.ids_since(0).tolist()),
            "generations": tx.generations.list_all(),
            "files": [tx.generations.read_file(generation.id, "model") for generation in generations],
            "static": [tx.vectors.read_stored(generation, ids) for generation in generations],
            "searched": [read_vectors(tx, generation, ids, former=True) for generation in generations],
            "heads": heads,
            "latents": [
                tx.sessions.read_last_latents(generation, head.id, 1_000)
                for generation in generations
                for head in heads.values()
                if head is not None
            ],
            "words": {word: tx.lexical.search(tx.lexical.parse(word), limit=1_000) for word in sorted(words)},
            "queries": (tx.queries.count(()), tx.queries.read_texts(1_000)),
            "jobs": tx.jobs.list_all(),
            "lease": tx.leases.find_holder("work", NOW),
            "schedules": tx.schedules.list_all(),
        }


def find_faults(database: Database) -> list[object]:
    """Return everything that is wrong with a store by its own account."""
    with database.read() as tx:
        faults: list[object] = [*tx.find_faults(), *tx.lexical.find_faults()]
        generation = tx.generations.live()
        if generation is not None:
            faults += tx.vectors.find_faults(generation, tx.entries.select_ids(ANY).tolist()).items()
        return faults
