"""The tools and resources of the MCP server; their names, descriptions and arguments are what a model sees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ParamSpec, TypeVar
from urllib.parse import quote, unquote

from pydantic import BeforeValidator, Field

from agent_memory.aio import run_in_thread
from agent_memory.errors import AgentMemoryError, InvalidInputError, NotFoundError
from agent_memory.formats.payload import dumps, to_json
from agent_memory.inputs import MAX_K
from agent_memory.integrations._mcp_pages import PAGE, Object, brief, page, ranked, start_of, whole
from agent_memory.memory import Memory
from agent_memory.records import PROVENANCE, Entry, cap_provenance

_P = ParamSpec("_P")
_R = TypeVar("_R")

# Models fill arguments that they mean to leave out.
EMPTY = BeforeValidator(lambda value: None if value == "" else value)

Query = Annotated[str, Field(description='A question or statement, e.g. "Where does Alice live?"')]
Key = Annotated[str, Field(description="The key of an entry, as recall shows it.")]
Cursor = Annotated[str | None, EMPTY, Field(description="The `next` of the answer before, for what follows it.")]
InSession = Annotated[str | None, EMPTY, Field(description="Only entries of this conversation.")]
Where = Annotated[
    Object | None,
    EMPTY,
    Field(description='Only entries whose metadata match, e.g. {"year": {"$gte": 2024}, "topic": {"$in": ["a"]}}.'),
]

# What clients may tell their users before a call: the hints of the protocol, by tool.
HINTS: Mapping[str, Mapping[str, Any]] = {
    "remember": {"title": "Remember", "readOnlyHint": False, "destructiveHint": False},
    "recall": {"title": "Recall", "readOnlyHint": True},
    "read": {"title": "Read one entry", "readOnlyHint": True},
    "forget": {"title": "Forget", "readOnlyHint": False, "destructiveHint": True, "idempotentHint": True},
    "why": {"title": "Explain a recall", "readOnlyHint": True},
    "list_sessions": {"title": "List conversations", "readOnlyHint": True},
}


class _Shared:
    def __init__(self, memory: Memory, fails: type[Exception]) -> None:
        self._memory = memory
        self._fails = fails

    async def _run(self, call: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await run_in_thread(lambda: call(*args, **kwargs))
        except AgentMemoryError as error:
            raise self._fails(str(error)) from error


class Tools(_Shared):
    """The tools.

    Args:
        memory: Where they look and write.
        fails: What the package tells a client of an error by.
        clean: Returns what of a text is kept; None to keep all.
    """

    def __init__(self, memory: Memory, fails: type[Exception], clean: Callable[[str], str] | None = None) -> None:
        super().__init__(memory, fails)
        self._clean = clean

    async def remember(
        self,
        text: Annotated[str, Field(description="What to keep: one self-contained sentence is best.")],
        session: Annotated[str | None, EMPTY, Field(description="The conversation that it belongs to.")] = None,
        speaker: Annotated[str | None, EMPTY, Field(description="Who said it.")] = None,
        key: Annotated[
            str | None, EMPTY, Field(description="A name for it; an entry that has the name is replaced.")
        ] = None,
        metadata: Annotated[Object | None, EMPTY, Field(description="An object that recall can filter by.")] = None,
        event_time: Annotated[
            str | None, EMPTY, Field(description="When it happened, ISO 8601, e.g. 2024-05-01; now if left out.")
        ] = None,
        expires_at: Annotated[
            str | None,
            EMPTY,
            Field(description="When to stop returning it, ISO 8601, in the future; a day is its last."),
        ] = None,
        importance: Annotated[
            Annotated[float, Field(ge=0, le=1)] | None, EMPTY, Field(description="From 0 to 1.")
        ] = None,
    ) -> Object:
        """Keep a fact for later conversations."""
        entry = await self._run(
            self._add,
            text,
            session=session,
            speaker=speaker,
            key=key,
            metadata=_as_agent(metadata),
            event_time=event_time,
            expires_at=expires_at,
            importance=importance,
        )
        return brief(entry)

    def _add(self, text: str, **given: Any) -> Entry:
        return self._memory.add(text if self._clean is None else self._clean(text), **given)

    async def recall(
        self,
        query: Query,
        k: Annotated[
            int,
            BeforeValidator(lambda value: 5 if value == "" else value),
            Field(ge=1, le=PAGE, description="How many entries at most."),
        ] = 5,
        session: InSession = None,
        speaker: Annotated[str | None, EMPTY, Field(description="Only entries of this speaker.")] = None,
        where: Where = None,
        since: Annotated[str | None, EMPTY, Field(description="Only what happened then or later, ISO 8601.")] = None,
        until: Annotated[
            str | None,
            EMPTY,
            Field(description="Only what happened then or earlier, ISO 8601; a day or year is included."),
        ] = None,
        timezone: Annotated[
            str | None,
            EMPTY,
            Field(description="Zone of the user's days, e.g. Europe/Berlin; the server's if left out."),
        ] = None,
        min_confidence: Annotated[
            Annotated[float, Field(ge=0, le=1)] | None,
            EMPTY,
            Field(description="Leave out what answers with less chance than this; nothing is left out by default."),
        ] = None,
        cursor: Cursor = None,
    ) -> Object:
        """Find what is remembered about a question or statement, best first. `read` shows texts that were cut.

        `evidence` says whether the memory knows: with "none", say so rather than answer from what was found.
        """
        filters: Object = {"session": session, "speaker": speaker, "where": where}
        filters |= {"since": since, "until": until, "timezone": timezone, "min_confidence": min_confidence or 0.0}
        start = await self._run(start_of, cursor)
        most = min(start + k + 1, MAX_K)
        found = await self._run(self._memory.recall, query, k=most, **filters)
        hits = found[start:]
        shown = page("hits", [ranked(hit) for hit in hits[:k]], cursor, more=len(hits) > k)
        return {**shown, "evidence": found.evidence}

    async def read(self, key: Key, cursor: Cursor = None) -> Object:
        """Read one entry whole; a very long text comes in stretches."""
        return whole(await self._run(self._memory.get, key), await self._run(start_of, cursor))

    async def forget(
        self,
        key: Annotated[str | None, EMPTY, Field(description="The key of one entry.")] = None,
        session: Annotated[str | None, EMPTY, Field(description="All entries of this conversation.")] = None,
        where: Annotated[
            Object | None,
            EMPTY,
            Field(description='All entries whose metadata match, e.g. {"topic": "home"}; with a session, only in it.'),
        ] = None,
        everything: Annotated[
            bool,
            BeforeValidator(lambda value: False if value == "" else value),
            Field(description="True only if nothing at all is to be kept: forgets every entry, or lets `where` do it."),
        ] = False,
    ) -> dict[str, int]:
        """Delete for good: one entry by its key, or all of a session, or all whose metadata match."""
        return {"forgotten": await self._run(_forget, self._memory, key, session, where, everything)}

    async def why(self, query: Query, key: Key) -> Object:
        """Explain the place of an entry among the answers to a query, also if recall did not return it."""
        shown: Object = to_json(await self._run(self._memory.why, query, key))
        return shown

    async def list_sessions(self, cursor: Cursor = None) -> Object:
        """List the conversations that are remembered, in the order they were begun."""
        start = await self._run(start_of, cursor)
        found = (await self._run(self._memory.sessions))[start:]
        return page("sessions", [to_json(each) for each in found[: PAGE + 1]], cursor)


class Resources(_Shared):
    """The resources. Names in their addresses are percent-encoded; ``next`` is the address of what follows."""

    async def entries(self) -> str:
        """The entries in the order they were added, the first page of them."""
        return await self._entries("memory://pages", None)

    async def entries_page(self, cursor: str) -> str:
        """A further page of the entries."""
        return await self._entries("memory://pages", cursor)

    async def session(self, session: str) -> str:
        """The entries of a conversation, oldest first, the first page of them."""
        return await self.session_page(session, None)

    async def session_page(self, session: str, cursor: str | None) -> str:
        """A further page of the entries of a conversation."""
        name = unquote(session)
        return await self._entries(f"memory://sessions/{quote(name, safe='')}", cursor, session=name)

    async def entry(self, key: str) -> str:
        """One entry; a very long text in stretches."""
        return await self.entry_stretch(key, None)

    async def entry_stretch(self, key: str, cursor: str | None) -> str:
        """One entry, a further stretch of its text."""
        entry = await self._run(_get, self._memory, key)
        shown = whole(entry, await self._run(start_of, cursor))
        return _with_address(shown, f"memory://entries/{quote(entry.key, safe='')}")

    async def _entries(self, address: str, cursor: str | None, **filters: Any) -> str:
        start = await self._run(start_of, cursor)
        found = await self._run(self._memory.entries, limit=PAGE + 1, offset=start, **filters)
        return _with_address(page("entries", [brief(entry) for entry in found], cursor), address)


def resources_of(resources: Resources) -> Mapping[str, Callable[..., Any]]:
    """Return the resources by their addresses."""
    return {
        "memory://entries": resources.entries,
        "memory://pages/{cursor}": resources.entries_page,
        "memory://entries/{key}": resources.entry,
        "memory://entries/{key}/{cursor}": resources.entry_stretch,
        "memory://sessions/{session}": resources.session,
        "memory://sessions/{session}/{cursor}": resources.session_page,
    }


def _as_agent(metadata: Object | None) -> Object:
    """Return metadata that say that a model wrote this, unless they say that it comes from further down."""
    return dict(cap_provenance({PROVENANCE: "agent"} | (metadata or {}), "agent"))


def _with_address(shown: Object, address: str) -> str:
    return dumps({**shown, "next": f"{address}/{shown['next']}"} if "next" in shown else shown)


def _get(memory: Memory, key: str) -> Entry:
    try:
        return memory.get(key)
    except NotFoundError:
        return memory.get(unquote(key))


def _forget(memory: Memory, key: str | None, session: str | None, where: Object | None, everything: bool) -> int:
    """Forget, but not all there is unless that was said."""
    if everything and key is None and session is None:
        return memory.forget(where=where) if where else memory.forget(everything=True)
    if everything:
        raise InvalidInputError("everything goes with a where or alone, not with a key or a session")
    if where and key is None and session is None and not memory.entries(where={"$not": where}, limit=1):
        count = memory.stats().entries
        if count:
            raise InvalidInputError(f"this would forget all {count} entries; say so with everything=true, or narrow it")
    return memory.forget(key, session=session, where=where)
