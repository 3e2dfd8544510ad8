"""``RemoteMemory``: a memory that a server holds (``agent-memory serve``), with the methods of ``Memory``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.encoders.base import EncoderSpec
from agent_memory.errors import InvalidInputError
from agent_memory.formats.payload import from_json
from agent_memory.inputs import UNSET
from agent_memory.memory import Memory
from agent_memory.recall.reader import check_topics
from agent_memory.recall.request import make_condition, make_request
from agent_memory.records import Entry, Erasure, Hit, Hits, Session, Topics, Trace
from agent_memory.remote.operator import PAGE, Given, RemoteOperator, like, quote_name
from agent_memory.remote.wire import AnswerTooLargeError, Wire
from agent_memory.storage.filters import EVERYTHING, parse_filter
from agent_memory.times import name_zone
from agent_memory.types import FloatArray, Namespace, Progress
from agent_memory.writing.items import NewEntry, get_fields, parse_entry

if TYPE_CHECKING:
    import httpx

_NONE = timedelta(0)
_BATCH_BYTES = 500_000  # of one request, unless one item has more: some seconds of encoding


class RemoteEncoder:
    """The encoder of a server's store; its vectors come from there.

    Args:
        wire: The connection.
        spec: Identity of the embedding space.
    """

    def __init__(self, wire: Wire, spec: EncoderSpec) -> None:
        self._wire, self._spec = wire, spec

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space."""
        return self._spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Return vectors of texts to store, float32 of shape (n, dimension), unit length."""
        found = [self._encode(texts[at : at + PAGE], queries=False) for at in range(0, len(texts), PAGE)]
        if progress is not None and texts:
            progress(len(texts), len(texts))
        return np.concatenate(found) if found else np.empty((0, self._spec.dimension), np.float32)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return vectors of queries, float32 of shape (n, dimension), unit length."""
        return self._encode(texts, queries=True)

    def _encode(self, texts: Sequence[str], *, queries: bool) -> FloatArray:
        answer = self._wire.send("POST", "/v1/encode", {"texts": list(texts), "queries": queries})
        return np.asarray(answer["vectors"], np.float32).reshape(len(texts), self._spec.dimension)


class RemoteMemory(RemoteOperator):
    """A memory that a server holds: the methods of ``Memory``, with the same arguments, results and errors.

    Safe to share between threads. Requests are sent again when the server is busy or the connection breaks; a write is
    carried out once, however often it is sent.

    Args:
        url: Address of the server, such as ``http://127.0.0.1:7700``.
        key: A key that ``agent-memory keys create`` has made; None for a server without keys.
        namespace: The scope of this memory, within that of the key; the key's own if left out.
        timeout_s: Seconds to wait for an answer.
        transport: An httpx transport that carries the requests; None for the network.

    Raises:
        InvalidInputError: The address is unusable, or the namespace lies outside of the key's.
        MissingDependencyError: httpx is not installed.
        StorageError: The server cannot be reached, or does not accept the key.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        namespace: Sequence[str] | None = None,
        timeout_s: float = 60.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = self.path = url
        self._wire = Wire(url, key, timeout_s=timeout_s, transport=transport)
        try:
            facts = self._wire.send("GET", "/v1/me")
            home = tuple(facts["namespace"])
            self.namespace: Namespace = inputs.resolve_namespace(namespace, home)
            if self.namespace != home:
                self._wire.scope = list(self.namespace)
            self._facts = facts
            settings = facts["config"]
            known = {one.name for one in fields(Config)}
            self.config = Config(**{name: value for name, value in settings.items() if name in known})
            self._encoder = RemoteEncoder(self._wire, from_json(EncoderSpec, facts["encoder"]))
        except BaseException:
            self._wire.close()
            raise

    def __repr__(self) -> str:
        scope = f", namespace={self.namespace}" if self.namespace else ""
        return f"RemoteMemory({self._wire.name!r}{scope}, encoder={self.encoder.spec.name!r})"

    @property
    def encoder(self) -> RemoteEncoder:
        """What turns texts and queries into the vectors of the server's store."""
        return self._encoder

    # --- writing -----------------------------------------------------------------------------------------

    @like(Memory.add)
    def add(self, given: Given) -> Entry:  # noqa: D102 - as Memory.add
        progress = given.pop("progress", None)
        entry = _entry(self._wire.send("POST", "/v1/memories", self._check_item(given)))
        if progress is not None:
            progress(1, 1)  # what a server encodes, it encodes out of sight
        return entry

    @like(Memory.add_many)
    def add_many(self, given: Given) -> list[Entry]:  # noqa: D102
        items, progress = given["items"], given.get("progress")
        if isinstance(items, str | bytes | Mapping) or not inputs.is_iterable(items):
            raise InvalidInputError(f"items must be a list of texts or mappings, got {type(items).__name__}")
        session = inputs.check_optional_name("session", given.get("session"))
        checked = []
        for position, item in enumerate(items):
            try:
                checked.append(self._check_item(dict(get_fields(item))))
            except InvalidInputError as error:
                raise type(error)(f"item {position}: {error}") from error
        written: list[Entry] = []
        for batch in _split(checked):
            answer = self._wire.send("POST", "/v1/memories", {"items": batch, "session": session})
            written += map(_entry, answer["items"])
            if progress is not None:
                progress(len(written), len(checked))
        return written

    def _check_item(self, given: Given) -> Given:
        """Return an item as it is sent, after the checks that need no store."""
        parse_entry(given, self.config)
        if given.get("namespace") is not None:
            inputs.resolve_namespace(given["namespace"], self.namespace)
        vector = given.get("vector")
        if vector is not None and vector is not False and not (isinstance(vector, str) and vector == "later"):
            given["vector"] = inputs.parse_vector(given["vector"], self.encoder.spec.dimension)
        return {name: _plain(value) for name, value in given.items() if value is not None}

    @like(Memory.update)
    def update(self, given: Given) -> Entry:  # noqa: D102
        key, scope = inputs.check_name("key", given.pop("key")), self._scope(given.pop("namespace", None))
        changed = {name: value for name, value in given.items() if value is not UNSET}
        if changed.get("event_time", ...) is None or changed.get("text", ...) is None:
            raise InvalidInputError("text and event_time can be changed, but not removed")
        try:
            parse_entry({"text": "-", **changed}, self.config)
        except InvalidInputError:
            self.get(key, namespace=scope.get("namespace"))  # that it is not there would be said first
            raise
        body = {name: _plain(value) for name, value in changed.items()}
        return _entry(self._wire.send("PATCH", _path(key), body, params=scope))

    @like(Memory.supersede)
    def supersede(self, given: Given) -> Entry:  # noqa: D102
        old, new = (inputs.check_name("key", given[name]) for name in ("old", "new"))
        body = {"by": new, **self._scope(given.get("namespace"))}
        return _entry(self._wire.send("POST", f"{_path(old)}/supersede", body))

    @like(Memory.forget)
    def forget(self, given: Given) -> Erasure:  # noqa: D102
        scope = self._scope(given.pop("namespace", None))
        where, key, session = (given.get(name) for name in ("where", "key", "session"))
        flags = {"everything": inputs.check_flag("everything", given.get("everything", False))}
        filtered = (where is not None and parse_filter(where) != EVERYTHING) or session is not None
        if sum([key is not None, filtered, flags["everything"]]) != 1:
            raise InvalidInputError("say what to forget: a key, a non-empty where and/or session, or everything")
        self._check_filters({"where": where, "key": key, "session": session})
        flags |= {name: inputs.check_flag(name, given.get(name, False)) for name in ("deferred", "dry_run")}
        body = {"where": where, "key": key, "session": session, **flags, **scope}
        return Erasure.from_dict(self._wire.send("POST", "/v1/memories/forget", body))

    @like(Memory.set_expiry)
    def set_expiry(self, given: Given) -> int:  # noqa: D102
        scope, expiries = self._scope(given.get("namespace")), given["expiries"]
        if not isinstance(expiries, Mapping):
            raise InvalidInputError(f"expiries must be a mapping of keys to times, got {inputs.type_name(expiries)}")
        zone = self.config.zone
        times = {
            key: _plain(inputs.parse_expiry("expires_at", expiries[key], zone))
            for key in inputs.check_names("expiries", list(expiries))
        }
        count, pairs = 0, list(times.items())
        for start in range(0, len(pairs), PAGE):
            some = dict(pairs[start : start + PAGE])
            count += self._wire.send("POST", "/v1/memories/expiry", {"expiries": some, **scope})["count"]
        return count

    # --- reading -----------------------------------------------------------------------------------------

    @like(Memory.recall)
    def recall(self, given: Given) -> Hits:  # noqa: D102
        return _hits(self._wire.send("POST", "/v1/search", self._check_query(given)))

    @like(Memory.recall_many)
    def recall_many(self, given: Given) -> list[Hits]:  # noqa: D102
        queries = given.pop("queries")
        if isinstance(queries, str) or not isinstance(queries, Sequence):
            raise InvalidInputError(f"queries must be a list of texts, got {type(queries).__name__}")
        texts = [inputs.check_query(query, self.config) for query in queries]
        if not texts:
            return []
        body = self._check_query({"query": "-", **given})
        del body["query"]
        found: list[Hits] = []
        for answer in _ask_in_parts(
            texts, lambda some: self._wire.send("POST", "/v1/search", {"queries": some, **body})
        ):
            found += map(_hits, answer["answers"])
        return found

    @like(Memory.why)
    def why(self, given: Given) -> Trace:  # noqa: D102
        key, place = given.pop("key"), given.pop("entry_namespace", None)
        body = self._check_query(given)
        if place is not None:
            body["entry_namespace"] = list(inputs.resolve_namespace(place, self.namespace))
        return from_json(Trace, self._wire.send("POST", f"{_path(inputs.check_name('key', key))}/why", body))

    def _check_query(self, given: Given) -> Given:
        """Return the arguments of a recall as they are sent, after the checks that need no store."""
        scope = self._scope(given.pop("namespace", None))
        rerank = given.pop("rerank", None)
        make_request(given["query"], config=self.config, scope=(), **{k: v for k, v in given.items() if k != "query"})
        zone = _name_zone(given)
        if rerank is not None and rerank is not True and not (isinstance(rerank, str) and rerank == "default"):
            raise InvalidInputError("rerank must be None, True or 'default' over HTTP: no object of yours is sent")
        body = {name: _plain(value) for name, value in given.items()}
        return {**body, **zone, **scope, **({"rerank": rerank} if rerank else {})}

    def _check_filters(self, filters: Given) -> None:
        make_condition(self.namespace, datetime.now(UTC), **filters)

    @like(Memory.get)
    def get(self, given: Given) -> Entry:  # noqa: D102
        key, scope = inputs.check_name("key", given["key"]), self._scope(given.get("namespace"))
        return _entry(self._wire.send("GET", _path(key), params=scope))

    @like(Memory.get_many)
    def get_many(self, given: Given) -> dict[str, Entry]:  # noqa: D102
        return {key: _entry(value) for key, value in self._by_key("/v1/memories/get", given).items()}

    @like(Memory.vectors)
    def vectors(self, given: Given) -> dict[str, FloatArray]:  # noqa: D102
        found = self._by_key("/v1/memories/vectors", given)
        return {key: np.asarray(value, np.float32) for key, value in found.items()}

    def _by_key(self, path: str, given: Given) -> Given:
        scope, keys = self._scope(given.get("namespace")), inputs.check_names("keys", given["keys"])
        found: Given = {}
        for answer in _ask_in_parts(keys, lambda some: self._wire.send("POST", path, {"keys": some, **scope})):
            found |= answer["items"]
        return found

    @like(Memory.topics)
    def topics(self, given: Given) -> Topics:  # noqa: D102
        from agent_memory.recall.topics import find_topics

        previous = given.pop("previous", None)
        k = check_topics(given.pop("k", None), previous)
        groups: dict[Namespace, list[str]] = {}
        pairs: list[tuple[Entry, FloatArray]] = []
        entries = self.entries(**given)
        for entry in entries:
            groups.setdefault(entry.namespace, []).append(entry.key)
        known = {scope: self.vectors(keys, namespace=scope) for scope, keys in groups.items()}
        for entry in entries:
            vector = known[entry.namespace].get(entry.key)
            pairs += [] if vector is None else [(entry, vector)]
        if not pairs:
            return Topics()
        return find_topics([entry for entry, _ in pairs], np.stack([v for _, v in pairs]), k=k, previous=previous)

    @like(Memory.entries)
    def entries(self, given: Given) -> list[Entry]:  # noqa: D102
        scope = self._scope(given.pop("namespace", None))
        limit, offset = given.pop("limit", None), given.pop("offset", 0)
        newest_first = given.pop("newest_first", False)
        self._check_filters(given)
        most = None if limit is None else inputs.check_count("limit", limit, most=2**31)
        skip = 0 if isinstance(offset, int) and not offset else inputs.check_count("offset", offset, most=2**31)
        reverse = inputs.check_flag("newest_first", newest_first)
        params = {name: _plain(value) for name, value in given.items() if value is not None}
        if "where" in params:
            params["where"] = _as_text(params["where"])
        if reverse:
            total = self._wire.send("GET", "/v1/memories", params={**params, **scope, "limit": 1, "count": True})[
                "total"
            ]
            end = max(0, total - skip)
            skip = 0 if most is None else max(0, end - most)
            most = end - skip
        found: list[Entry] = []
        place: Given = {"offset": skip} if skip else {}
        most_a_page = PAGE
        while most is None or len(found) < most:
            size = most_a_page if most is None else min(most_a_page, most - len(found))
            try:
                page = self._wire.send("GET", "/v1/memories", params={**params, **scope, **place, "limit": size})
            except AnswerTooLargeError:
                if size == 1:
                    raise
                most_a_page = size // 2
                continue
            found += map(_entry, page["items"])
            if page["next"] is None:
                break
            place = {"cursor": page["next"]}
        return found[::-1] if reverse else found

    @like(Memory.history)
    def history(self, given: Given) -> list[Entry]:  # noqa: D102
        key, scope = inputs.check_name("key", given["key"]), self._scope(given.get("namespace"))
        return [_entry(one) for one in self._wire.send("GET", f"{_path(key)}/history", params=scope)["items"]]

    @like(Memory.sessions)
    def sessions(self, given: Given) -> list[Session]:  # noqa: D102
        return [from_json(Session, one) for one in self._list("/v1/sessions", given)]

    @like(Memory.namespaces)
    def namespaces(self, given: Given) -> list[Namespace]:  # noqa: D102
        return [tuple(one) for one in self._list("/v1/namespaces", given)]

    def _list(self, path: str, given: Given) -> list[Any]:
        scope, found, cursor = self._scope(given.get("namespace")), [], None
        while True:
            page = self._wire.send("GET", path, params={**scope, "limit": PAGE, "cursor": cursor})
            found += page["items"]
            cursor = page["next"]
            if cursor is None:
                return found

    # --- the end -----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the connection; the server's store stays open. Later calls raise ClosedError."""
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: Any) -> Any:  # noqa: ANN401 - any argument
    """Return an argument in the form that JSON has."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, date):  # a datetime, too
        return value.isoformat()
    if isinstance(value, NewEntry | str | Mapping | list | tuple) or value is None:
        return value
    whole = hasattr(value, "__index__") and not isinstance(value, bool | np.ndarray)
    return operator.index(value) if whole else value


def _name_zone(given: Given) -> Given:
    """Return the zone that the arguments of a recall imply, by a name that can be sent.

    Raises:
        InvalidInputError: It has none.
    """
    zone, now = given.get("timezone"), given.get("now")
    if zone is None and isinstance(now, datetime) and now.tzinfo is not None and now.tzinfo.utcoffset(None) != _NONE:
        zone = now.tzinfo  # as ``choose_zone`` does, for which a text would be too little
    return {"timezone": name_zone("timezone", zone)} if isinstance(zone, tzinfo) else {}


def _as_text(value: object) -> str:
    from agent_memory.formats.payload import dumps

    return dumps(value)


def _ask_in_parts(items: list[str], ask: Callable[[list[str]], Any]) -> Iterator[Any]:
    """Yield the answers to parts of a list, which are halved where an answer would be too large."""
    waiting = [items[start : start + PAGE] for start in range(0, len(items), PAGE)][::-1]
    while waiting:
        some = waiting.pop()
        try:
            yield ask(some)
        except AnswerTooLargeError:
            if len(some) == 1:
                raise
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]


def _split(items: Sequence[Given]) -> list[list[Given]]:
    """Return items in parts that a request may hold, and a server encodes in time."""
    parts: list[list[Given]] = []
    room = 0
    for item in items:
        size = len(_as_text(item).encode(errors="surrogatepass"))
        if not parts or room < size or len(parts[-1]) == PAGE:
            parts.append([])
            room = _BATCH_BYTES
        parts[-1].append(item)
        room -= size
    return parts


def _path(key: str) -> str:
    return f"/v1/memories/{quote_name(key)}"


def _entry(value: Mapping[str, Any]) -> Entry:
    return from_json(Entry, value)


def _hits(value: Mapping[str, Any]) -> Hits:
    hits = [
        Hit(
            entry=_entry(one),
            score=one["score"],
            rank=one["rank"],
            confidence=one.get("confidence"),
            stale_by=one.get("stale_by"),
            passage=None if one.get("passage") is None else (int(one["passage"][0]), int(one["passage"][1])),
            trace=one.get("trace"),
        )
        for one in value["hits"]
    ]
    return Hits(hits, tier_reached=value["tier_reached"], evidence=value.get("evidence", "unknown"))
