"""A recall, validated: the question, where to look, and how."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, SupportsIndex, TypedDict

import numpy as np

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError
from agent_memory.live.space import Space
from agent_memory.storage.filters import parse_filter
from agent_memory.storage.records import Condition
from agent_memory.types import FloatArray, Namespace, Time

if TYPE_CHECKING:
    from agent_memory.encoders.reranker import Reranker


class RecallOptions(TypedDict, total=False):
    """The keyword arguments of ``Memory.recall``, but for ``namespace``; see there."""

    k: SupportsIndex
    session: str | None
    speaker: str | None
    where: Mapping[str, Any] | None
    since: Time | None
    until: Time | None
    as_of: Time | None
    mode: str
    exact: bool
    diversity: float
    collapse: bool
    half_life: timedelta | None
    now: Time | None
    budget_ms: float | None
    rerank: Reranker | None
    explain: bool


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
        vector: The query's vector, shape (dimension,), of unit length; empty until ``encode_requests``.
        readable: Whether the encoder knows the script of the text.
        k: Maximum number of hits.
        mode: What to go by.
        scope: Where to look.
        session: The session that the question is asked in.
        condition: What an entry must satisfy.
        as_of: The past moment to read the store as of.
        now: What the query means by now.
        exact: True to compare with every vector.
        diversity: From 0 to 1; weight of difference among the hits.
        collapse: True to leave out near-duplicates of better hits.
        half_life: Age at which the bonus for recent entries is halved; None for no bonus.
        budget_ms: Time after which no further tier or source is begun.
        rerank: Scores the best candidates again.
        explain: True to fill ``Hit.trace``.
    """

    text: str | None
    vector: FloatArray
    readable: bool = True
    k: int
    mode: Mode
    scope: Namespace
    session: str | None
    condition: Condition
    as_of: datetime | None
    now: datetime
    exact: bool
    diversity: float
    collapse: bool
    half_life: timedelta | None
    budget_ms: float | None
    rerank: Reranker | None
    explain: bool


def make_condition(
    scope: Namespace,
    now: datetime,
    *,
    where: Mapping[str, Any] | None = None,
    key: str | None = None,
    session: str | None = None,
    speaker: str | None = None,
    since: Time | None = None,
    until: Time | None = None,
    as_of: datetime | None = None,
) -> Condition:
    """Return the condition for entries in or below a namespace that match what callers may ask for.

    Raises:
        InvalidInputError: A filter or an argument is unusable.
    """
    return Condition(
        namespace=scope,
        state="current" if as_of is None else "as_of",
        moment=as_of or now,
        where=parse_filter(where),
        key=inputs.check_optional_name("key", key),
        session=inputs.check_optional_name("session", session),
        speaker=inputs.check_optional_name("speaker", speaker),
        since=inputs.parse_time("since", since),
        until=inputs.parse_time("until", until),
    )


def make_request(
    query: object,
    *,
    config: Config,
    scope: Namespace,
    k: SupportsIndex = 5,
    session: str | None = None,
    speaker: str | None = None,
    where: Mapping[str, Any] | None = None,
    since: Time | None = None,
    until: Time | None = None,
    as_of: Time | None = None,
    mode: str = "hybrid",
    exact: bool = False,
    diversity: float = 0.0,
    collapse: bool = False,
    half_life: timedelta | None = None,
    now: Time | None = None,
    budget_ms: float | None = None,
    rerank: Reranker | None = None,
    explain: bool = False,
) -> Request:
    """Return the request that the arguments of ``Memory.recall`` make; its query is not encoded yet.

    Raises:
        InvalidInputError: An argument is unusable.
    """
    moment = inputs.parse_time("as_of", as_of)
    text = inputs.check_text("query", query, config) if isinstance(query, str) else None
    if half_life is not None and (not isinstance(half_life, timedelta) or half_life <= timedelta(0)):
        raise InvalidInputError(f"half_life must be a positive timedelta, got {half_life!r}")
    chosen = inputs.parse_choice("mode", mode, Mode)
    present = datetime.now(UTC)
    bounds: dict[str, Any] = {"where": where, "session": session, "speaker": speaker, "since": since, "until": until}
    return Request(
        text=text,
        vector=np.empty(0, np.float32) if text is not None else inputs.parse_vector(query),
        k=inputs.check_count("k", k),
        mode=Mode.DENSE if text is None else chosen,
        scope=scope,
        session=inputs.check_optional_name("session", session),
        condition=make_condition(scope, present, as_of=moment, **bounds),
        as_of=moment,
        now=inputs.parse_time("now", now) or moment or present,
        exact=exact,
        diversity=inputs.check_share("diversity", diversity),
        collapse=collapse,
        half_life=half_life,
        budget_ms=None if budget_ms is None else inputs.check_duration("budget_ms", budget_ms),
        rerank=rerank,
        explain=explain,
    )


def encode_requests(requests: Sequence[Request], space: Space) -> list[Request]:
    """Return requests with the vectors of their queries in a space, encoded together.

    Raises:
        DimensionMismatchError: A vector that was given has another number of dimensions.
        EncoderError: The queries could not be encoded.
    """
    wanted = [request.text for request in requests if request.text is not None and request.mode is not Mode.LEXICAL]
    texts = list(dict.fromkeys(wanted))
    vectors = dict(zip(texts, space.encode_queries(texts), strict=True))
    scripts: Collection[str] | None = getattr(space.encoder, "scripts", None)
    encoded = []
    for request in requests:
        if request.text is None:
            inputs.check_dimension(request.vector, space.spec.dimension)
            encoded.append(request)
            continue
        vector = vectors.get(request.text)
        vector = np.zeros(space.spec.dimension, np.float32) if vector is None else vector
        encoded.append(replace(request, vector=vector, readable=_is_readable(request.text, scripts)))
    return encoded


def _is_readable(text: str, scripts: Collection[str] | None) -> bool:
    """Return whether most letters of a text are of some scripts, as Unicode names them; None for all scripts."""
    if scripts is None or text.isascii():
        return True
    letters = [unicodedata.name(char, "").split(" ", 1)[0] for char in text if char.isalpha()]
    return 2 * sum(name in scripts for name in letters) >= len(letters)
