"""A recall, validated: what is asked, of what, and how."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError
from agent_memory.storage.sqlite import entries as reading
from agent_memory.types import FloatArray, Namespace

if TYPE_CHECKING:
    from agent_memory.encoders.reranker import Reranker
    from agent_memory.storage.sqlite.entries import Condition


class Mode(StrEnum):
    """What a recall goes by: meaning and words, meaning alone, or words alone."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One recall, validated.

    Attributes:
        text: The query's text; None if only a vector was given.
        vector: The query's vector, shape (dimension,), of unit length; not used by words alone.
        readable: Whether the encoder knows the script of the text.
        k: How many hits at most.
        mode: What to go by.
        scope: Where to look.
        session: The session that the question is asked in.
        condition: What an entry must satisfy; None for every current entry.
        then: The past moment to read the store as of.
        now: What the query means by now.
        exact: True to compare with every vector.
        diversity: From 0 to 1; weight of difference among the hits.
        collapse: True to leave out near-duplicates of better hits.
        half_life: Age at which the bonus for youth is halved; None for no bonus.
        budget_ms: Time after which no further tier or source is begun.
        rerank: Scores the best candidates anew.
        explain: True to fill ``Hit.trace``.
    """

    text: str | None
    vector: FloatArray
    readable: bool
    k: int
    mode: Mode
    scope: Namespace
    session: str | None
    condition: Condition | None
    then: datetime | None
    now: datetime
    exact: bool
    diversity: float
    collapse: bool
    half_life: timedelta | None
    budget_ms: float | None
    rerank: Reranker | None
    explain: bool


def matching(
    scope: Namespace,
    now: datetime,
    *,
    where: Mapping[str, Any] | None = None,
    key: str | None = None,
    session: str | None = None,
    speaker: str | None = None,
    since: datetime | str | None = None,
    until: datetime | str | None = None,
    then: datetime | None = None,
) -> Condition:
    """Return the condition for entries in or below a namespace that match what callers may ask for."""
    return reading.matching(
        scope,
        now,
        where=where,
        key=inputs.name("key", key),
        session=inputs.name("session", session),
        speaker=inputs.name("speaker", speaker),
        since=inputs.moment("since", since),
        until=inputs.moment("until", until),
        then=then,
    )


def make_request(
    query: object,
    *,
    encode: Callable[[str], FloatArray],
    dimension: int,
    scripts: Collection[str] | None,
    config: Config,
    scope: Namespace,
    k: SupportsIndex = 5,
    as_of: datetime | str | None = None,
    mode: str = "hybrid",
    exact: bool = False,
    diversity: float = 0.0,
    collapse: bool = False,
    half_life: timedelta | None = None,
    now: datetime | str | None = None,
    budget_ms: float | None = None,
    rerank: Reranker | None = None,
    explain: bool = False,
    **filters: Any,  # noqa: ANN401 - those of matching
) -> Request:
    """Return the request that the arguments of ``Memory.recall`` make; the query is encoded last.

    Raises:
        InvalidInputError: An argument is unusable.
        EncoderError: The query could not be encoded.
    """
    then = inputs.moment("as_of", as_of)
    text = inputs.text(query, config, "query") if isinstance(query, str) else None
    if half_life is not None and (not isinstance(half_life, timedelta) or half_life <= timedelta(0)):
        raise InvalidInputError(f"half_life must be a positive timedelta, got {half_life!r}")
    way = inputs.choice("mode", mode, Mode)
    present = datetime.now(UTC)
    bounds = {name: value for name, value in filters.items() if value is not None}
    condition = matching(scope, present, **bounds, then=then) if scope or then or bounds else None
    request = partial(
        Request,
        text=text,
        readable=text is None or _readable(text, scripts),
        k=inputs.positive("k", k),
        mode=Mode.DENSE if text is None else way,
        scope=scope,
        session=inputs.name("session", filters.get("session")),
        condition=condition if scope or then or any(bounds.values()) else None,
        then=then,
        now=inputs.moment("now", now) or then or present,
        exact=exact,
        diversity=inputs.share("diversity", diversity),
        collapse=collapse,
        half_life=half_life,
        budget_ms=None if budget_ms is None else inputs.duration("budget_ms", budget_ms),
        rerank=rerank,
        explain=explain,
    )
    if text is None:
        return request(vector=inputs.vector(query, dimension))
    return request(vector=np.zeros(dimension, np.float32) if way is Mode.LEXICAL else encode(text))


def _readable(text: str, scripts: Collection[str] | None) -> bool:
    """Return whether most letters of a text are of some scripts, as Unicode names them; None for all scripts."""
    if scripts is None or text.isascii():
        return True
    letters = [unicodedata.name(char, "").split(" ", 1)[0] for char in text if char.isalpha()]
    return 2 * sum(name in scripts for name in letters) >= len(letters)
