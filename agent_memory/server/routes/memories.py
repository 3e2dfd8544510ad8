"""Entries: add, read, change, supersede, forget."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Body, Query, Request, Response
from pydantic import Discriminator, Tag

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.formats.passages import split_passages
from agent_memory.memory import Memory
from agent_memory.records import Entry, Erasure
from agent_memory.server import schemas
from agent_memory.server.calls import Answer, Caller, Plan, Reader, Writer, load_json
from agent_memory.server.describing import answers
from agent_memory.server.pages import page_entries
from agent_memory.server.problems import Problem
from agent_memory.server.receipts import answer_receipt, show_preview
from agent_memory.writing.items import make_key

router = APIRouter(tags=["memories"])

NamespaceQuery = Annotated[
    list[str] | None, Query(description="Outermost name first: `namespace=acme&namespace=user-42`.")
]
LimitQuery = Annotated[int, Query(ge=1, le=10_000, description="Most items of the page.")]
CursorQuery = Annotated[str | None, Query(description="The `next` of the page before.")]
TextQuery = Annotated[str | None, Query(max_length=512)]


def _tell_apart(body: object) -> str:
    return "many" if isinstance(body, schemas.Items) or (isinstance(body, dict) and "items" in body) else "one"


_OneOrMany = Annotated[
    Annotated[schemas.NewItem, Tag("one")] | Annotated[schemas.Items, Tag("many")],
    Body(),
    Discriminator(_tell_apart),
]


def name_in_path(text: str) -> str:
    """Return a name from a path, where it is percent-encoded.

    Raises:
        InvalidInputError: It is no name.
    """
    try:
        return inputs.check_name("key", unquote(text, errors="strict"))
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{text[:60]!r} is not percent-encoded UTF-8") from error


def make_etag(entry: Entry) -> str:
    """Return what tells one version of an entry from all others."""
    facts = "\0".join((*entry.namespace, entry.key, entry.updated_at.isoformat(), str(entry.superseded_at)))
    return f'"{hashlib.sha256(facts.encode()).hexdigest()[:24]}"'


def find_etag(given: Sequence[str], etag: str, *, weak: bool = False) -> bool:
    """Return whether the lines of a condition's header name an ETag, or any (RFC 9110, 13.1).

    Args:
        given: Values of ``If-Match`` or ``If-None-Match``.
        etag: The entry's.
        weak: Whether a weak ETag counts, which says only that the content means the same.
    """
    named = [one.strip() for line in given for one in line.split(",")]
    return any(one in ("*", etag) or (weak and one.removeprefix("W/") == etag) for one in named)


def check_match(request: Request, entry: Entry) -> None:
    """Raise a Problem (412) if ``If-Match`` asks for another version of an entry."""
    given, etag = request.headers.getlist("if-match"), make_etag(entry)
    if given and not find_etag(given, etag):
        raise Problem(412, "changed", f"the entry has the ETag {etag}, not {', '.join(given)[:80]}")


def show(entry: Entry, *, status: int = 200) -> Answer:
    """Return the answer that is one entry."""
    headers = {"etag": make_etag(entry)}
    if status == 201:
        headers["location"] = f"/v1/memories/{quote(entry.key, safe='')}"
    return Answer(entry, status, headers, count=1, kept={})


@router.post(
    "/memories",
    status_code=201,
    responses=answers(schemas.Entry | schemas.EntryList, 409, 410, 507, status=201, text="Remembered, on disk."),
)
async def add(
    caller: Writer,
    body: _OneOrMany,
) -> Response:
    """Remember one text, or many (`items`). When this answers, they are on disk and will be recalled."""
    if isinstance(body, schemas.Items):
        return await _add_many(caller, body)
    item = body.given()

    def work(plan: Plan) -> Answer:
        return show(_add(caller, [item], None, plan)[0], status=201)

    def rebuild(plan: Plan) -> Answer:
        return show(_find_again(caller, [item], plan)[0], status=201)

    return await caller.write("add", work, plan=partial(_plan_keys, [item]), rebuild=rebuild)


async def _add_many(caller: Caller, body: schemas.Items) -> Response:
    items, session = body.items, body.session
    caller.check_number("items", len(items))

    def answer(entries: Sequence[Entry]) -> Answer:
        return Answer({"items": entries}, 201, count=len(entries), kept={})

    def work(plan: Plan) -> Answer:
        return answer(_add(caller, items, session, plan))

    def rebuild(plan: Plan) -> Answer:
        return answer(_find_again(caller, items, plan))

    return await caller.write("add", work, plan=partial(_plan_keys, items), rebuild=rebuild)


def _plan_keys(items: Sequence[Any]) -> Plan:
    """Return the keys to give to items without one: a second attempt must not add them again."""
    return {"keys": [None if isinstance(item, dict) and item.get("key") is not None else make_key() for item in items]}


def _add(caller: Caller, items: Sequence[Any], session: Any, plan: Plan) -> list[Entry]:  # noqa: ANN401 - as sent
    caller.check_room(sum(not isinstance(item, dict) or item.get("key") is None for item in items))
    retried = caller.request.headers.get("idempotency-key") is not None
    if not retried:
        if len(items) == 1 and session is None and isinstance(items[0], dict):
            return [caller.memory.add(**items[0])]
        return caller.memory.add_many(items, session=session)
    keyed = [
        item if key is None or not isinstance(item, str | dict) else {**_as_item(item), "key": key}
        for item, key in zip(items, plan["keys"], strict=True)
    ]
    there = _find(caller.memory, items, plan)
    missing = [item for item, entry in zip(keyed, there, strict=True) if entry is None]
    added = iter(caller.memory.add_many(missing, session=session))
    return [entry if entry is not None else next(added) for entry in there]


def _as_item(item: Any) -> dict[str, Any]:  # noqa: ANN401 - as sent
    return {"text": item} if isinstance(item, str) else dict(item)


def _find(memory: Memory, items: Sequence[Any], plan: Plan) -> list[Entry | None]:
    """Return the entries that an earlier attempt has added under keys of its own making."""
    found: list[Entry | None] = []
    for item, key in zip(items, plan["keys"], strict=True):
        given = _as_item(item) if isinstance(item, str | dict) else {}
        scope = inputs.resolve_namespace(given.get("namespace"), memory.namespace)
        found.append(None if key is None else memory.get_many([key], namespace=scope).get(key))
    return found


def _find_again(caller: Caller, items: Sequence[Any], plan: Plan) -> list[Entry]:
    memory, entries = caller.memory, []
    for item, key in zip(items, plan["keys"], strict=True):
        given = _as_item(item)
        scope = inputs.resolve_namespace(given.get("namespace"), memory.namespace)
        name = key or given["key"]
        entry = memory.get_many([name], namespace=scope).get(name)
        if entry is None:
            raise Problem(410, "gone", f"this request has added {name!r} before; it was forgotten or expired since")
        entries.append(entry)
    return entries


@router.get("/memories", responses=answers(schemas.EntryPage))
async def list_memories(
    caller: Reader,
    where: Annotated[str | None, Query(description="Metadata filter as JSON.")] = None,
    session: TextQuery = None,
    speaker: TextQuery = None,
    since: Annotated[str | None, Query(description="Earliest event time, ISO 8601; or a period's beginning.")] = None,
    until: Annotated[str | None, Query(description="Latest event time, ISO 8601; a day is included.")] = None,
    namespace: NamespaceQuery = None,
    limit: LimitQuery = 100,
    cursor: CursorQuery = None,
    offset: Annotated[int, Query(ge=0, le=2**31, description="Entries to skip, instead of a cursor.")] = 0,
    count: Annotated[bool, Query(description="Also tell how many match.")] = False,
) -> Response:
    """List entries in the order they were added."""

    def read() -> dict[str, Any]:
        filters = {
            "where": None if where is None else load_json(where, "where"),
            "session": session,
            "speaker": speaker,
            "since": since,
            "until": until,
        }
        place = {"namespace": namespace, "limit": limit, "cursor": cursor, "offset": offset, "count": count}
        return page_entries(caller, **place, filters=filters)  # type: ignore[arg-type]

    return await caller.read(read)


@router.post("/memories/get", responses=answers(schemas.EntryMap))
async def get_many(caller: Reader, body: schemas.Keys) -> Response:
    """Read entries by their keys; missing ones are left out."""

    def read() -> dict[str, Any]:
        _check_keys(caller, body)
        return {"items": caller.memory.get_many(body.keys, namespace=body.namespace)}

    return await caller.read(read)


@router.post("/memories/vectors", responses=answers(schemas.VectorMap))
async def get_vectors(caller: Reader, body: schemas.Keys) -> Response:
    """Read the static vectors of entries by their keys; missing ones are left out."""

    def read() -> dict[str, Any]:
        _check_keys(caller, body)
        return {"items": caller.memory.vectors(body.keys, namespace=body.namespace)}

    return await caller.read(read)


def _check_keys(caller: Caller, body: schemas.Keys) -> None:
    caller.check_number("keys", len(inputs.check_names("keys", body.keys)))


@router.post("/memories/expiry", responses=answers(schemas.Count))
async def set_expiry(caller: Writer, body: schemas.Expiries) -> Response:
    """Set when entries expire, by their keys; those that are not there are passed over."""

    def work(_: Plan) -> Answer:
        caller.check_number("expiries", len(body.expiries) if isinstance(body.expiries, dict) else 0)
        count = caller.memory.set_expiry(body.expiries, namespace=body.namespace)
        return Answer({"count": count}, count=count)

    return await caller.write("set-expiry", work)


@router.post("/memories/forget", responses=answers(schemas.Forgotten | schemas.Preview, 409))
async def forget_many(caller: Writer, body: schemas.Forget) -> Response:
    """Forget for good a key, what a filter matches, a session, or everything, with all versions of each entry.

    The answer is a receipt. `dry_run` only tells what would go.
    """
    given = body.given()
    return await _forget(caller, lambda: caller.memory.forget(**given), given.get("dry_run", False))


async def _forget(caller: Caller, work: Callable[[], Erasure], dry_run: object) -> Response:
    if dry_run is not False:  # what is no flag is refused there
        return await caller.read(lambda: show_preview(caller, work()))
    return await caller.write("forget", lambda _: answer_receipt(caller, work()))


@router.get("/memories/{key}", responses=answers(schemas.Entry, 404))
async def get(caller: Reader, request: Request, key: str, namespace: NamespaceQuery = None) -> Response:
    """Read one entry. `If-None-Match` with its ETag answers 304."""

    def read() -> Answer:
        found = show(caller.memory.get(name_in_path(key), namespace=namespace))
        if find_etag(request.headers.getlist("if-none-match"), found.headers["etag"], weak=True):
            raise Problem(304, "unchanged", "the entry is the same", headers=found.headers)
        return found

    return await caller.read(read)


@router.patch("/memories/{key}", responses=answers(schemas.Entry, 404, 409, 410, 412))
async def update(
    caller: Writer,
    request: Request,
    key: str,
    body: schemas.Changed,
    namespace: NamespaceQuery = None,
) -> Response:
    """Change the given fields of an entry; null removes one. `If-Match` refuses to change another version."""
    accept = partial(check_match, request)

    def work(_: Plan) -> Answer:
        changed = body.given()
        return show(caller.memory._writer.update(name_in_path(key), changed, namespace, accept=accept))

    def rebuild(_: Plan) -> Answer:
        try:
            return show(caller.memory.get(name_in_path(key), namespace=namespace))
        except NotFoundError:
            raise Problem(410, "gone", f"{key!r} was forgotten or expired since") from None

    return await caller.write("update", work, rebuild=rebuild)


@router.delete("/memories/{key}", responses=answers(schemas.Forgotten | schemas.Preview, 409, 412))
async def forget(
    caller: Writer,
    request: Request,
    key: str,
    namespace: NamespaceQuery = None,
    deferred: Annotated[bool, Query(description="Leave the traces in files to maintenance.")] = False,
    dry_run: Annotated[bool, Query(description="Only tell what would go.")] = False,
) -> Response:
    """Forget one entry for good. Answers with 0 if there is none: forgetting may be asked for again.

    `If-Match` refuses to forget another version than the one that was read.
    """
    name = name_in_path(key)

    def accept(entry: Entry | None) -> None:
        if entry is not None:
            check_match(request, entry)
        elif "if-match" in request.headers:
            raise Problem(412, "changed", f"there is no entry {name!r}, and If-Match asks for one")

    forget_version = partial(caller.memory._eraser.forget_version, name, accept=accept)
    return await _forget(
        caller, lambda: forget_version(namespace=namespace, deferred=deferred, dry_run=dry_run), dry_run
    )


@router.get("/memories/{key}/history", responses=answers(schemas.EntryList, 404))
async def history(caller: Reader, key: str, namespace: NamespaceQuery = None) -> Response:
    """Read every version of an entry, and of the entries it superseded, oldest first; then what took its place."""

    def read() -> Answer:  # it has no parts that one could ask for
        return Answer({"items": caller.memory.history(name_in_path(key), namespace=namespace)}, bounded=False)

    return await caller.read(read)


@router.get("/memories/{key}/passages", responses=answers(schemas.Passages, 404))
async def passages(caller: Reader, key: str, namespace: NamespaceQuery = None) -> Response:
    """Read where the passages of a text begin and end: stretches of a long one, each with a vector of its own."""

    def read() -> dict[str, Any]:
        scope = inputs.resolve_namespace(namespace, caller.memory.namespace)
        with caller.memory._store.read() as tx:
            entry_id, entry = tx.entries.find(scope, name_in_path(key), caller.memory._store.database.now())
            generation = tx.generations.live()
            stored = tx.passages.read(generation, [entry_id]) if generation else []
        return {"items": stored[0].spans if stored else split_passages(entry.text)}

    return await caller.read(read)


@router.post("/memories/{key}/supersede", responses=answers(schemas.Entry, 404, 409, 410))
async def supersede(caller: Writer, key: str, body: schemas.Supersede) -> Response:
    """Let another entry (`by`) take the place of this one."""

    def work(_: Plan) -> Answer:
        return show(caller.memory.supersede(name_in_path(key), body.by, namespace=body.namespace))

    def rebuild(_: Plan) -> Answer:
        return show(caller.memory.get(body.by, namespace=body.namespace))

    return await caller.write("supersede", work, rebuild=rebuild)
