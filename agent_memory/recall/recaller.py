"""``Recaller``: answers questions, in the present embedding space, and notes them in the query log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.recall.answer import recall, recall_many
from agent_memory.recall.query_log import QueryLog
from agent_memory.recall.request import RecallOptions, Request, encode_requests, make_request
from agent_memory.recall.why import why
from agent_memory.records import Hits, Trace
from agent_memory.telemetry.stages import Facts, stage
from agent_memory.types import FloatArray, Namespace


class Recaller:
    """Finds the entries of one store that answer questions.

    Args:
        store: The store.
        queries: Where the questions are logged.
        namespace: The memory's namespace; nothing outside of it is ever found.
    """

    def __init__(self, store: Store, queries: QueryLog, namespace: Namespace) -> None:
        self._store, self._queries, self._namespace = store, queries, namespace

    def recall(self, query: object, namespace: Sequence[str] | None, options: RecallOptions) -> Hits:
        """Return the hits of a question; see ``Memory.recall``."""
        request = self._make_request(query, namespace, options)

        def answer(space: Space) -> Hits:
            (encoded,) = encode_requests([request], space)
            hits = recall(self._store, space, encoded)
            self._queries.note(encoded, space.spec)
            return hits

        with stage("recall", query=request.text, **self._describe(request)) as facts:
            facts["hits"] = hits = self._store.call_in_space(answer)
            facts["records"] = len(hits)
        return hits

    def recall_many(
        self,
        /,
        queries: Sequence[str],
        *,
        namespace: Sequence[str] | None = None,
        **options: Unpack[RecallOptions],
    ) -> list[Hits]:
        """Answer several questions, encoded and searched for together; the hits of each, in the order given.

        Args:
            queries: Questions or statements.
            namespace: As for ``recall``.
            **options: ``k``, ``session``, ``speaker``, ``where``, ``since``, ``until``, ``as_of``, ``mode``, ``exact``,
                ``diversity``, ``collapse``, ``half_life``, ``now``, ``timezone``, ``budget_ms``, ``rerank``,
                ``min_confidence`` and ``explain``, as for ``recall``.

        Raises:
            InvalidInputError: A question or an argument is unusable.
            EncoderError: The questions could not be encoded.

        Example:
            >>> entry = memory.add("Alice moved to Berlin in May.")
            >>> [len(hits) for hits in memory.recall_many(["Where is Alice?", "When did she move?"], k=1)]
            [1, 1]
        """
        _check_options("recall_many", options)
        if isinstance(queries, str) or not isinstance(queries, Sequence):
            raise InvalidInputError(f"queries must be a list of texts, got {type(queries).__name__}")
        texts = [inputs.check_query(query, self._store.config) for query in queries]
        requests = [self._make_request(text, namespace, options) for text in texts]

        def answer(space: Space) -> list[Hits]:
            encoded = encode_requests(requests, space)
            answers = recall_many(self._store, space, encoded)
            for request in encoded:
                self._queries.note(request, space.spec)
            return answers

        described = self._describe(requests[0]) if requests else {}
        with stage("recall", questions=len(requests), **described) as facts:
            found = self._store.call_in_space(answer)
            facts["records"] = sum(map(len, found))
        return found

    def why(
        self,
        /,
        query: str | FloatArray,
        key: str,
        *,
        namespace: Sequence[str] | None = None,
        entry_namespace: Sequence[str] | None = None,
        **options: Unpack[RecallOptions],
    ) -> Trace:
        """Say what became of one entry in a recall: at which stage it was dropped and by how much, or its rank.

        Args:
            query: As for ``recall``.
            key: The entry's key, in exactly the namespace that holds it.
            namespace: As for ``recall``: what is searched, with all below it.
            entry_namespace: The namespace that holds the entry, where it is another than the one that is searched.
            **options: The other arguments of ``recall``, as for ``recall_many``.

        Raises:
            InvalidInputError: An argument is unusable.
            EncoderError: The query could not be encoded.

        Example:
            >>> entry = memory.add("Alice moved to Berlin in May.", key="move", metadata={"year": 2024})
            >>> memory.why("Where does Alice live?", "move", where={"year": 2025}).stage
            'filter'
        """
        _check_options("why", options)
        request = self._make_request(query, namespace, {**options, "explain": True})
        name, place = inputs.check_name("key", key), request.scope
        if entry_namespace is not None:
            place = inputs.resolve_namespace(entry_namespace, self._namespace)

        def answer(space: Space) -> Trace:
            (encoded,) = encode_requests([request], space)
            return why(self._store, space, encoded, namespace=place, key=name)

        with stage("why", query=request.text, key=name, **self._describe(request)):
            return self._store.call_in_space(answer)

    def _describe(self, request: Request) -> Facts:
        return {"store": self._store, "session": request.session, "k": request.k, "mode": str(request.mode)}

    def _make_request(self, query: object, namespace: Sequence[str] | None, options: RecallOptions) -> Request:
        self._store.database.assert_open()
        scope = inputs.resolve_namespace(namespace, self._namespace)
        return make_request(
            query, config=self._store.config, scope=scope, present=self._store.database.now(), **options
        )


def _check_options(method: str, options: Mapping[str, object]) -> None:
    """Raise TypeError, as Python does, for a keyword argument that a method does not have."""
    for name in options:
        if name not in RecallOptions.__annotations__:
            raise TypeError(f"Memory.{method}() got an unexpected keyword argument {name!r}")
