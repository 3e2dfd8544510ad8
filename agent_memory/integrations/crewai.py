"""CrewAI: ``AgentMemoryStorage``, a storage backend for CrewAI's unified memory.

    memory = Memory(storage=AgentMemoryStorage("./my-crew"))
    crew = Crew(agents=..., tasks=..., memory=memory)

The store keeps the vectors of CrewAI's embedder, and scopes and categories as filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.config import Config
from agent_memory.errors import DimensionMismatchError, MissingDependencyError
from agent_memory.formats.names import decode_key, encode_key, encode_name
from agent_memory.integrations._erasing import Erase, check_erase, check_ids, forget_all
from agent_memory.integrations._given import LateMemory
from agent_memory.integrations._opening import Adapter, Given, below, relative
from agent_memory.integrations._plain import key_of, plain, restored
from agent_memory.integrations._text import entry_text
from agent_memory.integrations._vectors import anywhere, closest, direction
from agent_memory.memory import Memory
from agent_memory.records import Entry
from agent_memory.types import FloatArray, Namespace

try:
    from crewai.memory.storage.backend import EmbeddingDimensionMismatchError
    from crewai.memory.types import MemoryRecord, ScopeInfo
except ModuleNotFoundError as error:
    raise MissingDependencyError("crewai", "crewai") from error

Where = dict[str, Any]

_MOST = 10_000  # values in one filter
_RECORDS: Where = {"record": {"$exists": True}}


class EmbeddingSizeError(DimensionMismatchError, EmbeddingDimensionMismatchError):
    """An embedding of another size than those of the store: this package's error, and that of CrewAI's contract.

    Attributes:
        stored_dim: As ``expected``.
        new_dim: As ``actual``.
    """

    def __init__(self, expected: int, actual: int) -> None:
        Exception.__init__(self, str(EmbeddingDimensionMismatchError(expected, actual)))
        self.expected = self.stored_dim = expected
        self.actual = self.new_dim = actual


class AgentMemoryStorage(Adapter):
    """Records of CrewAI in a memory.

    Args:
        memory: The folder of a store, or an open memory whose vectors have the size of the embedder's.
        namespace: Where the records live, within the memory's namespace.
        config: Settings of the memory that a folder is opened with; see ``Config``.
        erase: ``"now"``, or ``"later"`` to leave the traces of what is deleted, which nothing reads any more, in the
            store's files until ``maintenance`` or the next deletion that does not defer them.
    """

    def __init__(
        self,
        memory: Given,
        *,
        namespace: Sequence[str] = ("crewai",),
        config: Config | None = None,
        erase: Erase = "now",
    ) -> None:
        self._later = check_erase(erase)
        self._late = LateMemory(memory, "CrewAI", config)
        self._relative = relative(namespace)

    def _release(self) -> None:
        self._late.close()

    # --- writing -----------------------------------------------------------------------------------------

    def save(self, records: list[MemoryRecord]) -> None:
        """Keep records, replacing those with the same ids; all or none of them.

        A record without an embedding keeps the one that it had; one that has none, or one of zeros, is not found by
        searches.

        Raises:
            EmbeddingSizeError: The store holds embeddings of another size.
        """
        if not records:
            return
        memory = self._late.known()
        sizes = [len(record.embedding) for record in records if record.embedding]
        with _in_crewais_words():
            if memory is None or sizes:
                memory = self._late.sized(sizes[0] if sizes else 1)
            scope = below(memory, self._relative)
            former = _former_vectors(memory, [each for each in records if not each.embedding], scope)
            memory.add_many([_as_entry(record, former, memory.encoder.spec.dimension, scope) for record in records])

    def update(self, record: MemoryRecord) -> None:
        """Replace the record with the same id; its embedding stays if the new one has none."""
        self.save([record])

    def touch_records(self, record_ids: list[str]) -> None:
        """Note that records were read."""
        now = datetime.now(UTC).replace(tzinfo=None)
        found = self._found(record_ids).values()
        self.save([_record(entry).model_copy(update={"last_accessed": now}) for entry in found])

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
        where = _where(scope_prefix, categories, metadata_filter)
        scope = below(memory, self._relative)
        ids = None if record_ids is None else check_ids("record_ids", record_ids)
        if older_than is not None:
            wanted = None if ids is None else set(ids)
            records = [_record(entry) for entry in memory.entries(where=where, namespace=scope)]
            old = [each.id for each in records if _aware(each.created_at) < _aware(older_than)]
            ids = [each for each in old if wanted is None or each in wanted]
        if ids is None:
            return int(memory.forget(where=where, namespace=scope, deferred=self._later))
        chunks = [ids[start : start + _MOST] for start in range(0, len(ids), _MOST)]
        doomed = [{"$and": [where, {"record": {"id": {"$in": chunk}}}]} for chunk in chunks]
        return forget_all(memory, [{"where": each, "namespace": scope} for each in doomed], later=self._later)

    def reset(self, scope_prefix: str | None = None) -> None:
        """Delete all records in and below a scope for good."""
        memory = self._late.known()
        if memory is not None:
            memory.forget(where=_where(scope_prefix), namespace=below(memory, self._relative), deferred=self._later)

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
        memory = self._late.asked(len(query_embedding))
        if memory is None or limit < 1:
            return []
        where = {"$and": [_where(scope_prefix, categories, metadata_filter), {"embedded": True}]}
        with _in_crewais_words():
            hits = closest(memory, query_embedding, limit, where, below(memory, self._relative))
        return [(_record(hit.entry), min(hit.score, 1.0)) for hit in hits if hit.score >= min_score]

    def get_record(self, record_id: str) -> MemoryRecord | None:
        """Return the record of an id; None if there is none."""
        entry = self._found([record_id]).get(encode_name(record_id))
        return None if entry is None else _record(entry)

    def _found(self, record_ids: Sequence[str]) -> dict[str, Entry]:
        memory = self._late.known()
        keys = [encode_name(each) for each in record_ids]
        return {} if memory is None else memory.get_many(keys, namespace=below(memory, self._relative))

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
        return dict(Counter(map(decode_key, categories)))

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
        await run_in_thread(lambda: self.save(records))

    async def asearch(self, query_embedding: list[float], **options: Any) -> list[tuple[MemoryRecord, float]]:
        """Do as ``search`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.search(query_embedding, **options))

    async def adelete(self, **options: Any) -> int:
        """Do as ``delete`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.delete(**options))


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
        parts.append({"$or": [{"categories": {encode_key(category): True}} for category in categories]})
    parts += [_has(key_of(name), plain(value)) for name, value in (metadata or {}).items()]
    return {"$and": parts}


def _has(name: str, value: Any) -> Where:
    """Return the filter for records whose metadata have a value, which no item of a list has for it."""
    if value is None:
        missing = {"record": {"metadata": {name: {"$exists": False}}}}
        return {"$or": [missing, {"record": {"metadata": {name: None}}}]}
    return {"record": {"metadata": {name: {"$eq": value, "$not_contains": value}}}}


def _former_vectors(memory: Memory, records: Sequence[MemoryRecord], scope: Namespace) -> dict[str, FloatArray]:
    """Return the embeddings that records without one had before, by key."""
    if not records:
        return {}
    known = memory.get_many([encode_name(record.id) for record in records], namespace=scope)
    return memory.vectors([key for key, entry in known.items() if entry.metadata.get("embedded")], namespace=scope)


def _as_entry(
    record: MemoryRecord, former: dict[str, FloatArray], dimension: int, namespace: Namespace
) -> dict[str, Any]:
    key = encode_name(record.id)
    vector = direction(record.embedding or former.get(key))
    return {
        "text": entry_text(record.content),
        "key": key,
        "namespace": namespace,
        "importance": record.importance,
        "event_time": _aware(record.created_at),
        "vector": anywhere(dimension) if vector is None else vector,
        "metadata": {
            "record": plain(
                {**record.model_dump(mode="json", exclude={"embedding", "metadata"}), "metadata": record.metadata}
            ),
            "scope": _path(record.scope),
            "categories": {encode_key(category): True for category in record.categories},
            "embedded": vector is not None,
        },
    }


def _record(entry: Entry) -> MemoryRecord:
    return MemoryRecord.model_validate(restored(entry.metadata["record"]))


@contextmanager
def _in_crewais_words() -> Iterator[None]:
    try:
        yield
    except DimensionMismatchError as error:
        raise EmbeddingSizeError(error.expected, error.actual) from error


def _aware(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
