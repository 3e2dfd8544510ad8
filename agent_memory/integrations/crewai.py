"""CrewAI: ``AgentMemoryStorage``, a storage backend for CrewAI's unified memory.

    memory = Memory(storage=AgentMemoryStorage("./my-crew"))
    crew = Crew(agents=..., tasks=..., memory=memory)

The store keeps the vectors of CrewAI's embedder, and scopes and categories as filters.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_memory.errors import MissingDependencyError
from agent_memory.integrations._given import LateMemory
from agent_memory.integrations._names import encode_name
from agent_memory.integrations._opening import below
from agent_memory.integrations._text import entry_text
from agent_memory.memory import Memory
from agent_memory.records import Entry

try:
    from crewai.memory.types import MemoryRecord, ScopeInfo
except ModuleNotFoundError as error:
    raise MissingDependencyError("crewai", "crewai") from error

Where = dict[str, Any]

_RECORDS: Where = {"record": {"$exists": True}}


class AgentMemoryStorage:
    """Records of CrewAI in a memory.

    Args:
        memory: The folder of a store, or an open memory whose vectors have the size of the embedder's.
        namespace: Where the records live, within the memory's namespace.
    """

    def __init__(self, memory: Memory | str | Path, *, namespace: Sequence[str] = ("crewai",)) -> None:
        self._late = LateMemory(memory, "CrewAI")
        self._relative = tuple(namespace)

    def close(self) -> None:
        """Close the memory if it was opened here."""
        self._late.close()

    # --- writing -----------------------------------------------------------------------------------------

    def save(self, records: list[MemoryRecord]) -> None:
        """Keep records that have embeddings, replacing those with the same ids; all or none of them."""
        if not records:
            return
        memory = self._late.known()
        sizes = [len(record.embedding) for record in records if record.embedding]
        if memory is None or sizes:
            memory = self._late.sized(sizes[0] if sizes else 1)
        scope = below(memory, self._relative)
        lacking = [encode_name(record.id) for record in records if not record.embedding]
        former = memory.vectors(lacking, namespace=scope) if lacking else {}
        memory.add_many([_as_entry(record, former, memory.encoder.spec.dimension, scope) for record in records])

    def update(self, record: MemoryRecord) -> None:
        """Replace the record with the same id; its embedding stays if the new one has none."""
        self.save([record])

    def touch_records(self, record_ids: list[str]) -> None:
        """Note that records were read."""
        now = datetime.now(UTC).replace(tzinfo=None)
        for record_id in record_ids:
            record = self.get_record(record_id)
            if record is not None:
                self.save([record.model_copy(update={"last_accessed": now})])

    def delete(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        record_ids: list[str] | None = None,
        older_than: datetime | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> int:
        """Delete the records that match all that is given, for good; returns how many."""
        memory = self._late.known()
        if memory is None:
            return 0
        scope = below(memory, self._relative)
        entries = self._entries(scope_prefix, categories, metadata_filter)
        wanted = None if record_ids is None else {encode_name(each) for each in record_ids}
        doomed = [
            entry.key
            for entry in entries
            if (wanted is None or entry.key in wanted)
            and (older_than is None or _aware(_record(entry).created_at) < _aware(older_than))
        ]
        return sum(memory.forget(key, namespace=scope) for key in doomed)

    def reset(self, scope_prefix: str | None = None) -> None:
        """Delete all records in and below a scope for good."""
        memory = self._late.known()
        if memory is not None:
            memory.forget(where=_where(scope_prefix), namespace=below(memory, self._relative))

    # --- reading -----------------------------------------------------------------------------------------

    def search(
        self,
        query_embedding: list[float],
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
        limit: int = 10,
        min_score: float = 0.0,
    ) -> list[tuple[MemoryRecord, float]]:
        """Return the records closest to an embedding that match, with cosine similarities, best first."""
        memory = self._late.known()
        if memory is None or limit < 1:
            return []
        hits = memory.recall(
            query_embedding,  # type: ignore[arg-type]
            k=limit,
            where={"$and": [_where(scope_prefix, categories, metadata_filter), {"embedded": True}]},
            namespace=below(memory, self._relative),
        )
        return [(_record(hit.entry), min(hit.score, 1.0)) for hit in hits if hit.score >= min_score]

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return the record of an id; None if there is none."""
        memory = self._late.known()
        key = encode_name(record_id)
        found = {} if memory is None else memory.get_many([key], namespace=below(memory, self._relative))
        return _record(found[key]) if key in found else None

    def list_records(self, scope_prefix: str | None = None, limit: int = 200, offset: int = 0) -> list[MemoryRecord]:
        """Return the records in and below a scope, newest first."""
        records = [_record(entry) for entry in self._entries(scope_prefix)]
        records.sort(key=lambda record: _aware(record.created_at), reverse=True)
        return records[offset : offset + limit]

    def get_scope_info(self, scope: str) -> ScopeInfo:
        """Return facts about the records in and below a scope."""
        records = self.list_records(scope, limit=2**31)
        return ScopeInfo(
            path=_path(scope),
            record_count=len(records),
            categories=sorted({category for record in records for category in record.categories}),
            oldest_record=records[-1].created_at if records else None,
            newest_record=records[0].created_at if records else None,
            child_scopes=self.list_scopes(scope),
        )

    def list_scopes(self, parent: str = "/") -> list[str]:
        """Return the scopes immediately below a scope."""
        start = _path(parent).rstrip("/") + "/"
        scopes = {entry.metadata["record"]["scope"] for entry in self._entries(parent)}
        below_it = {_path(scope)[len(start) :].split("/")[0] for scope in scopes if _path(scope).startswith(start)}
        return sorted(start + child for child in below_it if child)

    def list_categories(self, scope_prefix: str | None = None) -> dict[str, int]:
        """Return how many records in and below a scope have each category."""
        categories = [each for entry in self._entries(scope_prefix) for each in entry.metadata["categories"]]
        return dict(Counter(categories))

    def count(self, scope_prefix: str | None = None) -> int:
        """Return how many records there are in and below a scope."""
        return len(self._entries(scope_prefix))

    def _entries(
        self,
        scope_prefix: str | None = None,
        categories: list[str] | None = None,
        metadata_filter: dict[str, Any] | None = None,
    ) -> list[Entry]:
        memory = self._late.known()
        if memory is None:
            return []
        where = _where(scope_prefix, categories, metadata_filter)
        return memory.entries(where=where, namespace=below(memory, self._relative))

    # --- for asyncio -------------------------------------------------------------------------------------

    async def asave(self, records: list[MemoryRecord]) -> None:
        """Do as ``save`` does, without blocking the event loop."""
        await asyncio.to_thread(self.save, records)

    async def asearch(self, query_embedding: list[float], **options: Any) -> list[tuple[MemoryRecord, float]]:
        """Do as ``search`` does, without blocking the event loop."""
        return await asyncio.to_thread(self.search, query_embedding, **options)

    async def adelete(self, **options: Any) -> int:
        """Do as ``delete`` does, without blocking the event loop."""
        return await asyncio.to_thread(self.delete, **options)


def _path(scope: str | None) -> str:
    return "/" + (scope or "").strip("/")


def _where(
    scope: str | None = None, categories: list[str] | None = None, metadata: dict[str, Any] | None = None
) -> Where:
    """Return the filter for records in or below a scope, of any of the categories, with all the metadata."""
    parts = [_RECORDS]
    path = _path(scope)
    if path != "/":
        # "0" is the character after "/": the range holds exactly what lies below the path.
        parts.append({"$or": [{"scope": path}, {"scope": {"$gte": f"{path}/", "$lt": f"{path}0"}}]})
    if categories:
        parts.append({"$or": [{"categories": {category: True}} for category in categories]})
    parts += [{"record": {"metadata": {name: value}}} for name, value in (metadata or {}).items()]
    return {"$and": parts}


def _as_entry(
    record: MemoryRecord, former: dict[str, Any], dimension: int, namespace: tuple[str, ...]
) -> dict[str, Any]:
    key = encode_name(record.id)
    vector = record.embedding or former.get(key)
    return {
        "text": entry_text(record.content),
        "key": key,
        "namespace": namespace,
        "importance": record.importance,
        "event_time": _aware(record.created_at),
        "vector": [1.0] + [0.0] * (dimension - 1) if vector is None else vector,
        "metadata": {
            "record": record.model_dump(mode="json", exclude={"embedding"}),
            "scope": _path(record.scope),
            "categories": dict.fromkeys(record.categories, True),
            "embedded": vector is not None,
        },
    }


def _record(entry: Entry) -> MemoryRecord:
    return MemoryRecord.model_validate(entry.metadata["record"])


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
