"""``Caller``: one request with who made it, and how its work is carried out, repeated and recorded."""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache, partial
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from fastapi import Depends, Request, Response
from fastapi.params import Query

from agent_memory import inputs
from agent_memory.errors import AgentMemoryError, InvalidInputError, StorageError
from agent_memory.formats import payload
from agent_memory.live.store import guard_writes
from agent_memory.memory import Memory
from agent_memory.reports import AuditRecord, Role
from agent_memory.server.keys import Principal
from agent_memory.server.problems import Problem, status_of
from agent_memory.server.serving import Serving
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.ledger import Ledger

_log = logging.getLogger("agent_memory")
_R = TypeVar("_R")
_MAX_KEY_CHARS = 255
_PROGRESS_S = 0.5

Plan = dict[str, Any]


@dataclass
class Answer:
    """What a request comes to.

    Attributes:
        body: Records, or anything made of them.
        status: Status of the answer.
        headers: Further headers.
        count: Number of entries concerned, for the audit log.
        kept: What is kept with an idempotency key: no content. None keeps the body, which must hold none.
        bounded: Whether it may be asked for in smaller parts, and is refused if it is too large.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    count: int | None = None
    kept: Mapping[str, Any] | None = None
    bounded: bool = True


class Caller:
    """One request, with who made it.

    Args:
        request: The request.
        serving: The server.
        principal: Who made it.
    """

    def __init__(self, request: Request, serving: Serving, principal: Principal) -> None:
        self.request, self.serving, self.principal = request, serving, principal

    @cached_property
    def memory(self) -> Memory:
        """The memory as this caller sees it; no other scope can be reached through it."""
        return self.serving.view(self.principal.namespace)

    @property
    def sees_all(self) -> bool:
        """Whether this caller sees the whole store, and may be told about it."""
        return not self.principal.home

    @property
    def quota(self) -> int | None:
        """Number of entries that the namespace of the caller's key may hold; None for any."""
        key = self.principal.key
        return self.serving.settings.max_entries if key is None or key.max_entries is None else key.max_entries

    async def read(self, call: Callable[[], Any]) -> Response:
        """Answer with what a call returns."""
        return await self.serving.run(lambda: self.respond(as_answer(call())))

    async def search(self, call: Callable[[], Any]) -> Response:
        """Answer with what a search returns, when its turn has come."""

        def answer() -> Response:
            with self.serving.lane.take():
                return self.respond(as_answer(call()))

        return await self.serving.run(answer)

    async def write(
        self,
        action: str,
        work: Callable[[Plan], Answer],
        *,
        plan: Callable[[], Plan] = dict,
        rebuild: Callable[[Plan], Answer] | None = None,
    ) -> Response:
        """Carry out a write once, also if it is sent again with the same Idempotency-Key, and record it.

        Args:
            action: What the audit log calls it.
            work: Carries it out, by a plan.
            plan: Makes the plan: what must be the same if the write is carried out again after a crash.
            rebuild: Answers again from a plan, where the answer has content that is not kept.
        """
        name = self.read_key()
        body = await self.request.body() if name is not None else b""
        once = partial(self._once, name, body, work, plan, rebuild)
        # What was written is told at any size: its caller sent as much.
        return await self.serving.run(lambda: self.respond(replace(self.audited(action, once), bounded=False)))

    def audited(self, action: str, call: Callable[[], Answer]) -> Answer:
        """Return what a write comes to, which stays within the quota and is recorded.

        Args:
            action: What the audit log calls it.
            call: Carries it out.
        """
        try:
            with nullcontext() if self.quota is None else guard_writes(self._check_quota):
                answer = call()
        except AgentMemoryError as error:
            self._record(action, None, status_of(error))
            raise
        except Problem as error:
            self._record(action, None, error.status_code)
            raise
        self._record(action, answer.count, answer.status)
        return answer

    def read_key(self) -> str | None:
        """Return the Idempotency-Key of the request, if it has one."""
        name = self.request.headers.get("idempotency-key")
        if name is not None and not 0 < len(name) <= _MAX_KEY_CHARS:
            raise Problem(400, "idempotency-key", f"Idempotency-Key must have 1 to 255 characters, got {len(name)}")
        return name

    def _record(self, action: str, count: int | None, status: int) -> None:
        ledger, who = self.serving.ledger, self.principal
        if ledger is None:
            return
        moment = datetime.now(UTC)
        record = AuditRecord(
            at=moment, key_id=who.key_id, action=action, namespace=who.namespace, count=count, status=status
        )
        try:
            ledger.append_audit(record)
        except StorageError:
            _log.exception("the audit log could not be written")

    def _once(
        self,
        name: str | None,
        body: bytes,
        work: Callable[[Plan], Answer],
        plan: Callable[[], Plan],
        rebuild: Callable[[Plan], Answer] | None,
    ) -> Answer:
        ledger = self.serving.ledger
        if name is None or ledger is None:
            return work(plan())
        reply_id, planned, result = self.claim(ledger, name, body, plan())
        if result is not None:
            return rebuild(planned) if rebuild else Answer(result["body"], result["status"])
        return self._carry_out(reply_id, work, planned)

    def claim(self, ledger: Ledger, name: str, body: bytes, plan: Plan) -> tuple[str, Plan, Mapping[str, Any] | None]:
        """Return the id of a request with an Idempotency-Key, its plan, and what it came to; None if it is to be done.

        Raises:
            Problem: The key was sent with another request (422), or this one is under way (409).
        """
        place = "\x1f".join(self.principal.namespace)
        who = f"{self.principal.key_id}\0{place}\0{name}".encode()
        reply_id = hmac.new(ledger.secret, who, hashlib.sha256).hexdigest()
        request = self.request
        target = f"{request.method} {request.url.path}?{request.url.query}\n{request.headers.getlist('if-match')}\n"
        # Keyed with what only the caller knows, so that a short text cannot be guessed from it.
        fingerprint = hmac.new(name.encode(), target.encode() + body, hashlib.sha256).hexdigest()
        found = ledger.begin_reply(reply_id, fingerprint, plan, datetime.now(UTC))
        if found is None:
            return reply_id, plan, None
        former, known, result = found
        if former not in ("", fingerprint):
            raise Problem(422, "idempotency-key-reused", "this Idempotency-Key was sent with another request before")
        if former and result is None:
            detail = "a request with this Idempotency-Key is under way"
            raise Problem(409, "under-way", detail, headers={"retry-after": "1"})
        return reply_id, dict(known), result

    def _carry_out(self, reply_id: str, work: Callable[[Plan], Answer], planned: Plan) -> Answer:
        ledger = self.serving.ledger
        assert_open = self.serving.memory._store.database.assert_open
        if ledger is None:
            raise StorageError("the server's records are gone")
        try:
            assert_open()
            answer = work(planned)
        except (InvalidInputError, Problem, KeyError):
            ledger.finish_reply(reply_id, None)
            raise
        except BaseException:
            ledger.release_reply(reply_id)
            raise
        kept = answer.kept if answer.kept is not None else {"body": payload.to_json(answer.body)}
        ledger.finish_reply(reply_id, {"status": answer.status, **kept})
        return answer

    # --- answers and limits ------------------------------------------------------------------------------

    def respond(self, answer: Answer) -> Response:
        """Return the response that an answer becomes."""
        text = payload.dumps(answer.body).encode()
        most = self.serving.settings.max_answer_bytes
        if len(text) > most and answer.bounded and not _is_single(answer.body):
            detail = f"the answer takes {len(text)} bytes; the limit is {most}: ask for fewer items"
            raise Problem(422, "answer-too-large", detail, limit=most)
        return Response(text, answer.status, answer.headers, media_type="application/json")

    def check_room(self, new: int) -> None:
        """Raise a Problem (507) if the namespace of the caller's key may not hold that many more entries.

        What is written meanwhile is seen when they are written themselves; this spares the work before.
        """
        if self.quota is not None:
            with self.memory._store.read() as tx:
                self._check_room(self._count(tx), new)

    def _count(self, tx: Transaction) -> int:
        moment = self.memory._store.database.now()
        return tx.entries.count(Condition(namespace=self.principal.home, moment=moment))

    def _check_room(self, stored: int, new: int) -> None:
        most = self.quota
        if most is not None and new > 0 and stored + new > most:
            left = max(0, most - stored)
            detail = f"{new} more entries do not fit: {stored} of {most} are stored, {left} are left"
            raise Problem(507, "quota", detail, limit=most, stored=stored, left=left)

    @contextmanager
    def _check_quota(self, tx: Transaction) -> Iterator[None]:
        """Refuse, inside of its transaction, to write more entries than the caller's key allows."""
        before = self._count(tx)
        yield
        self._check_room(before, self._count(tx) - before)

    def check_number(self, what: str, number: int) -> None:
        """Raise InvalidInputError if a request names more than it may."""
        most = self.serving.settings.max_items
        if number > most:
            raise InvalidInputError(f"{what} may name {most} at once, got {number}")


def as_answer(found: Any) -> Answer:  # noqa: ANN401 - whatever a call returns
    """Return the answer that is what a call returns."""
    return found if isinstance(found, Answer) else Answer(found)


def _is_single(body: object) -> bool:
    """Return whether a body is one item, which must be readable at any size; lists can be asked for in parts."""
    return not (isinstance(body, Mapping) and {"items", "hits", "answers"} & set(body))


def allow(role: Role, *, whole: bool = False) -> Any:  # noqa: ANN401 - a dependency
    """Return the dependency of a route: who asks, if that caller may.

    Args:
        role: The role that is needed.
        whole: Whether the route tells about, or acts on, the whole store.
    """

    async def identify(request: Request) -> Caller:
        serving: Serving = request.app.state.serving
        principal = serving.identify(request.headers)
        if not principal.may(role):
            raise Problem(403, "role", f"this needs the role {role}; the key's is {principal.role}", needed=str(role))
        if whole and principal.home:
            scope = "/".join(principal.home)
            raise Problem(403, "scope", f"this concerns the whole store; the key sees {scope!r} only")
        take_token(serving, principal)
        check_query(request)
        return Caller(request, serving, principal)

    return Depends(identify)


def check_query(request: Request) -> None:
    """Raise InvalidInputError for a query parameter that the route would not read, as a misspelt ``dry_run``."""
    if not request.scope["query_string"] or not request.scope["path"].startswith("/v1/"):
        return
    known = _list_query(request.scope["route"].endpoint)
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            taken = f"it takes {', '.join(known)}" if known else "it takes none"
            raise InvalidInputError(f"unknown query parameter {name[:60]!r}; {taken}")
        if given.count(name) > 1 and not known[name]:
            raise InvalidInputError(f"the query parameter {name!r} may be given once, got {given.count(name)}")


@lru_cache(maxsize=256)
def _list_query(endpoint: Callable[..., Any]) -> dict[str, bool]:
    """Return the query parameters of a route, and whether each may be given several times."""
    hints = get_type_hints(endpoint, include_extras=True)
    marked = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}
    return {
        next(mark.alias or name for mark in marks if isinstance(mark, Query)): "list[" in str(kind)
        for name, (kind, *marks) in marked.items()
        if any(isinstance(mark, Query) for mark in marks)
    }


def take_token(serving: Serving, principal: Principal) -> None:
    """Count a request; raises a Problem (429) if there were too many in this minute."""
    key = principal.key
    rate = serving.settings.rate_per_minute if key is None or key.rate_per_minute is None else key.rate_per_minute
    if rate is None:
        return
    left, wait_s = serving.buckets.take(principal.home, rate)
    if wait_s:
        headers = {
            "retry-after": str(int(wait_s) + 1),
            "ratelimit-limit": str(rate),
            "ratelimit-remaining": str(left),
        }
        detail = f"more than {rate} requests a minute in this namespace; wait {wait_s:.1f} s"
        raise Problem(429, "rate", detail, headers=headers, limit=rate, left=left)


Reader = Annotated[Caller, allow(Role.READER)]
Writer = Annotated[Caller, allow(Role.WRITER)]
Admin = Annotated[Caller, allow(Role.ADMIN)]
Watcher = Annotated[Caller, allow(Role.READER, whole=True)]
Operator = Annotated[Caller, allow(Role.ADMIN, whole=True)]


def load_json(text: str, what: str) -> dict[str, Any]:
    """Return the JSON object in a query parameter."""
    return inputs.parse_object(what, text)
