"""LangGraph: ``AgentMemoryStore``, long-term memory as the ``store=`` of a graph or an agent.

    from agent_memory.integrations.langgraph import AgentMemoryStore

    store = AgentMemoryStore("./my-agent")
    agent = create_agent(model, tools, store=store)

It behaves as the stores that ship with LangGraph do. Where they differ among themselves, it keeps the order of
insertion for searches without a query, fills a ranked search up with items that are not indexed, and hides
an item from the moment it expires.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from agent_memory.config import Config
from agent_memory.errors import DimensionMismatchError, InvalidInputError, MissingDependencyError
from agent_memory.formats.names import decode_names, encode_name
from agent_memory.integrations._embeddings import EmbeddingsEncoder, EncoderEmbeddings
from agent_memory.integrations._erasing import Erase, check_erase, forget_all
from agent_memory.integrations._langgraph_batches import Batches
from agent_memory.integrations._langgraph_filters import Where, to_where
from agent_memory.integrations._langgraph_items import (
    ITEMS,
    UNRANKED,
    Layout,
    check_ttl,
    fields_of,
    is_item,
    page_keys_of,
    page_of,
    part_keys,
    refreshed,
    settings_of,
    texts_of,
)
from agent_memory.integrations._langgraph_ranking import rank
from agent_memory.integrations._langgraph_sweeper import Done, Sweeper
from agent_memory.integrations._opening import Adapter, Given, below, opened, read_at
from agent_memory.records import Entry
from agent_memory.storage.filters import MAX_LIST
from agent_memory.types import FloatArray, Namespace, Time

try:
    from langchain_core.embeddings import Embeddings
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        IndexConfig,
        ListNamespacesOp,
        MatchCondition,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        TTLConfig,
        ensure_embeddings,
    )
except ModuleNotFoundError as error:
    raise MissingDependencyError("langgraph", "langgraph") from error

Vectors = dict[str, FloatArray]
_FEW = 8  # deleting so many by their keys costs less than one look at all metadata
Embedded = tuple[Vectors, Vectors]  # those of texts, and those of queries

_TRIES = 5


class AgentMemoryStore(Adapter, Sweeper, BaseStore):
    """A memory as a LangGraph store; safe to share between threads, tasks and processes.

    Args:
        memory: A memory, or the folder of one.
        index: How items are embedded, as for LangGraph's own stores. Without ``embed`` the encoder of the memory
            serves, and without ``fields`` the whole item is embedded. False: items are not embedded, searches
            are not ranked.
        ttl: LangGraph's settings for expiry, in minutes.
        namespace: Where all items lie within the memory's namespace.
        config: Settings of the memory that a folder is opened with.
        erase: ``"now"``, or ``"later"`` to leave the traces of what is deleted, which nothing reads any more, in the
            store's files until ``maintenance`` or the next deletion that does not defer them.

    Raises:
        InvalidInputError: ``embed`` was given together with an open memory, which has an encoder.
        EncoderMismatchError: The folder was written with another embedding.
    """

    supports_ttl = True

    def __init__(
        self,
        memory: Given,
        *,
        index: IndexConfig | Literal[False] | None = None,
        ttl: TTLConfig | None = None,
        namespace: Sequence[str] = ("langgraph",),
        config: Config | None = None,
        erase: Erase = "now",
    ) -> None:
        super().__init__()
        self._later = check_erase(erase)
        self.ttl_config = check_ttl(ttl)
        settings = settings_of(index)
        embed = settings.get("embed")
        self.embeddings: Embeddings | None = None if embed is None else ensure_embeddings(embed)
        given = self.embeddings
        encoder = None if given is None else EmbeddingsEncoder(given, dimension=settings.get("dims"))
        self.memory, self._own = opened(memory, encoder=encoder, config=config)
        dimension, wanted = self.memory.encoder.spec.dimension, settings.get("dims")
        if wanted not in (None, dimension):
            self.close()
            raise InvalidInputError(f"index says {wanted} dims, and the memory's encoder makes {dimension}")
        if self.embeddings is None and index is not False:
            self.embeddings = EncoderEmbeddings(self.memory.encoder)
        self.index_config = dict(index) if index else None
        self._fields = fields_of(settings.get("fields"))
        self._layout = Layout(below(self.memory, namespace), dimension, self.memory.config.max_text_chars)
        self._batches = Batches(self._embed, self._run)

    @classmethod
    def from_conn_string(cls, conn_string: str | Path, **options: Any) -> Self:
        """Open the store of a folder, for ``with`` or ``async with``, in the manner of LangGraph's own stores."""
        return cls(conn_string, **options)

    def setup(self) -> Done:
        """Do nothing, awaited or not: the store sets itself up. Here for code written for LangGraph's own stores."""
        return Done(0)

    def _release(self) -> None:
        self.stop_ttl_sweeper()
        super()._release()

    # --- batches -----------------------------------------------------------------------------------------

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Carry out operations; reads see the state before the batch, and of writes to one key the last wins.

        Raises:
            InvalidInputError: A value has no JSON form, or a filter is malformed. Nothing was written.
        """
        ops = list(ops)
        texts, queries = self._to_embed(ops)
        if self.embeddings is None:
            return self._run(ops, ({}, {}))
        documents = self.embeddings.embed_documents(texts) if texts else []
        asked = [self.embeddings.embed_query(query) for query in queries]
        return self._run(ops, (self._usable(texts, documents), self._usable(queries, asked)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Do as ``batch`` does, without blocking the event loop.

        What several tasks ask for in one turn of the loop, or while an earlier batch is under way, is one batch.
        """
        return await self._batches.submit(list(ops))

    async def _embed(self, ops: Sequence[Op]) -> Embedded:
        texts, queries = self._to_embed(ops)
        if self.embeddings is None:
            return {}, {}
        documents = await self.embeddings.aembed_documents(texts) if texts else []
        asked = await asyncio.gather(*map(self.embeddings.aembed_query, queries))
        return self._usable(texts, documents), self._usable(queries, asked)

    def _to_embed(self, ops: Sequence[Op]) -> tuple[list[str], list[str]]:
        if self.embeddings is None:
            return [], []
        puts = _last_puts(ops)
        texts = dict.fromkeys(text for op in puts for text in texts_of(op, self._fields))
        queries = dict.fromkeys(op.query for op in ops if isinstance(op, SearchOp) and op.query)
        return list(texts), list(queries)

    def _usable(self, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> Vectors:
        """Return vectors by text; what the embedding maps to zero has no direction and is left out."""
        found = {}
        for text, vector in zip(texts, vectors, strict=bool(vectors)):
            array = np.asarray(vector, dtype=np.float32)
            if len(array) != self._layout.dimension:
                raise DimensionMismatchError(self._layout.dimension, len(array))
            if array.any():
                found[text] = array
        return found

    def _run(self, ops: Sequence[Op], embedded: Embedded) -> list[Result]:
        texts, queries = embedded
        results: list[Result] = [None] * len(ops)
        read: list[Entry] = []
        self._get_all(ops, results, read)
        searched: dict[str, list[SearchItem]] = {}
        for place, op in enumerate(ops):
            if isinstance(op, SearchOp):
                if repr(op) not in searched:
                    searched[repr(op)] = self._search(op, queries.get(op.query or ""), read)
                results[place] = list(searched[repr(op)])
            elif isinstance(op, ListNamespacesOp):
                results[place] = self._list(op)
            elif not isinstance(op, GetOp | PutOp):
                raise InvalidInputError(f"unknown operation: {type(op).__name__}")
        self._refresh(read)
        self._write(_last_puts(ops), texts)
        return results

    # --- reading -----------------------------------------------------------------------------------------

    def _get_all(self, ops: Sequence[Op], results: list[Result], read: list[Entry]) -> None:
        gets = [(place, op) for place, op in enumerate(ops) if isinstance(op, GetOp)]
        if not gets:
            return
        where = {place: (self._layout.scope(op.namespace), encode_name(op.key)) for place, op in gets}
        found = read_at(self.memory, list(dict.fromkeys(where.values())))
        for place, op in gets:
            entry = found.get(where[place])
            if entry is not None and is_item(entry):
                entry, pages = self._with_pages(entry)
                results[place] = self._layout.item(entry, pages)
                read += [entry] if op.refresh_ttl else ()

    def _with_pages(self, entry: Entry) -> tuple[Entry, list[str]]:
        """Return an item's entry with its pages; those of the newest write, if it is written meanwhile."""
        for _ in range(_TRIES):
            keys = page_keys_of(entry)
            if not keys:
                break
            found = self.memory.get_many(keys, namespace=entry.namespace)
            pages = [page_of(found.get(key), entry.metadata["stamp"]) for key in keys]
            if None not in pages:
                return entry, [page for page in pages if page is not None]
            entry = self.memory.get_many([entry.key], namespace=entry.namespace).get(entry.key, entry)
        return entry, []

    def _found(self, entry: Entry, score: float | None = None) -> SearchItem:
        entry, pages = self._with_pages(entry)
        return self._layout.found(entry, score, pages)

    def _search(self, op: SearchOp, query: FloatArray | None, read: list[Entry]) -> list[SearchItem]:
        scope = self._layout.scope(op.namespace_prefix)
        conditions = to_where(op.filter)
        if op.limit < 1:
            return []
        if query is None:
            entries = self._unranked(scope, [ITEMS, *conditions], op.limit, op.offset)
            read += entries if op.refresh_ttl else ()
            return [self._found(entry) for entry in entries]
        ranked = rank(self.memory, scope, conditions, query, op.offset + op.limit)
        page = ranked[op.offset :]
        read += [entry for entry, _ in page] if op.refresh_ttl else ()
        found = [self._found(entry, score) for entry, score in page]
        if len(found) < op.limit:
            skipped = max(op.offset - len(ranked), 0)
            rest = self._unranked(scope, [UNRANKED, *conditions], op.limit - len(found), skipped)
            read += rest if op.refresh_ttl else ()
            found += [self._found(entry) for entry in rest]
        return found

    def _unranked(self, scope: Namespace, conditions: list[Where], limit: int, offset: int) -> list[Entry]:
        return self.memory.entries(where={"$and": conditions}, namespace=scope, limit=limit, offset=offset)

    def _refresh(self, read: Sequence[Entry]) -> None:
        """Move the expiry of what was read, in one transaction for each namespace."""
        if not read or not self.ttl_config or not self.ttl_config.get("refresh_on_read", False):
            return
        now = datetime.now(UTC)
        moved: dict[Namespace, dict[str, Time | None]] = {}
        for entry in read:
            expiry = refreshed(entry, now)
            if expiry is not None:
                keys = (entry.key, *part_keys(entry))
                moved.setdefault(entry.namespace, {}).update(dict.fromkeys(keys, expiry))
        for scope, expiries in moved.items():
            self.memory.set_expiry(expiries, namespace=scope)

    def _list(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        known = self.memory.namespaces(namespace=self._layout.base)
        names = [decode_names(scope[len(self._layout.base) :]) for scope in known]
        matching = {
            name[: op.max_depth] for name in names if all(_matches(condition, name) for condition in conditions)
        }
        return sorted(matching)[op.offset : op.offset + op.limit]

    # --- writing -----------------------------------------------------------------------------------------

    def _write(self, puts: Sequence[PutOp], vectors: Vectors) -> None:
        scopes = {name: self._layout.scope(name) for name in {tuple(op.namespace) for op in puts}}
        where = [(scopes[tuple(op.namespace)], encode_name(op.key)) for op in puts]
        former = read_at(self.memory, where) if puts else {}
        items: list[dict[str, Any]] = []
        gone: list[Entry] = []
        surplus: list[tuple[Namespace, str]] = []
        for op, (scope, key) in zip(puts, where, strict=True):
            texts = texts_of(op, self._fields) if vectors else []
            entries = [] if op.value is None else self._layout.entries(op, scope, texts, vectors)
            items += entries
            known = former.get((scope, key))
            if known is not None and not entries:
                gone.append(known)
            elif known is not None:
                written = {entry["key"] for entry in entries}
                surplus += [(scope, name) for name in part_keys(known) if name not in written]
        if items:
            self.memory.add_many(items)
        self._forget(gone, surplus)

    def _forget(self, gone: Sequence[Entry], surplus: Sequence[tuple[Namespace, str]]) -> None:
        """Delete items, and what items that were written again no longer need.

        Many items go in one transaction, by the stamps of their writes. What is left of an item that stays goes by its
        keys: its former versions have the same stamp.
        """
        places = [(entry.namespace, name) for entry in gone for name in (entry.key, *part_keys(entry))]
        stamps: list[str] = []
        if len(places) > _FEW:
            stamps = [entry.metadata["stamp"] for entry in gone if is_item(entry)]
            places = [(entry.namespace, entry.key) for entry in gone if not is_item(entry)]
        places += surplus
        selections: list[dict[str, Any]] = [{"key": key, "namespace": scope} for scope, key in places]
        for start in range(0, len(stamps), MAX_LIST):
            where = {"stamp": {"$in": stamps[start : start + MAX_LIST]}}
            selections.append({"where": where, "namespace": self._layout.base})
        forget_all(self.memory, selections, later=self._later)


def _last_puts(ops: Sequence[Op]) -> list[PutOp]:
    return list({(tuple(op.namespace), op.key): op for op in ops if isinstance(op, PutOp)}.values())


def _matches(condition: MatchCondition, namespace: Namespace) -> bool:
    path = tuple(condition.path)
    if len(namespace) < len(path):
        return False
    ends: dict[str, Callable[[], Namespace]] = {
        "prefix": lambda: namespace[: len(path)],
        "suffix": lambda: namespace[len(namespace) - len(path) :],
    }
    if condition.match_type not in ends:
        raise InvalidInputError(f"unsupported match type: {condition.match_type!r}")
    return all(wanted in ("*", label) for wanted, label in zip(path, ends[condition.match_type](), strict=True))
