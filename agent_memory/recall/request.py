"""Requests: the validated arguments of a recall."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import TYPE_CHECKING, Any, SupportsIndex, TypedDict, Unpack

import numpy as np

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.encoders.registry import load_reranker
from agent_memory.errors import InvalidInputError
from agent_memory.live.space import Space
from agent_memory.storage.filters import parse_filter
from agent_memory.storage.records import Condition
from agent_memory.times import parse_zone
from agent_memory.types import FloatArray, Namespace, Time, is_internal

if TYPE_CHECKING:
    from agent_memory.encoders.reranker import Reranker


class RecallOptions(TypedDict, total=False):
    """The keyword arguments of ``Memory.recall`` except ``namespace``; described there."""

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
    timezone: str | tzinfo | None
    budget_ms: float | None
    rerank: Reranker | str | None
    min_confidence: float
    explain: bool


class Mode(StrEnum):
    """What a recall searches by: meaning and words, meaning alone, or words alone."""

    HYBRID = "hybrid"
    DENSE = "dense"
    LEXICAL = "lexical"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """The validated arguments of one recall.

    Attributes:
        text: The query's text; None if only a vector was given.
        vector: The query's vector, float32 of shape (dimension,), unit length; empty until ``encode_requests``.
        readable: Whether the encoder knows the script of the text.
        k: Maximum number of hits.
        mode: What to search by.
        scope: Namespace to search.
        session: The session that the question is asked in.
        condition: What an entry must satisfy.
        as_of: Past time at which to read the store; None for the present.
        now: The time that "today" in the query refers to, in the zone of its days.
        date_order: What ``5/8/2023`` in the query means; see ``Config``.
        exact: True to compare the query with every vector.
        diversity: Weight of difference among the hits, from 0 to 1.
        collapse: True to drop near-duplicates of better hits.
        half_life: Age at which the bonus for recent entries is halved; None for no bonus.
        budget_ms: Milliseconds after which no further tier or source is started.
        rerank: Cross-encoder that scores the best candidates; None for none.
        min_confidence: Least confidence of a hit, from 0 to 1; 0 returns those without one too.
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
    date_order: str
    exact: bool
    diversity: float
    collapse: bool
    half_life: timedelta | None
    budget_ms: float | None
    rerank: Reranker | None
    min_confidence: float
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
    zone: tzinfo = UTC,
) -> Condition:
    """Return the condition for entries in or below a namespace that match the given filters.

    Internal namespaces are left out, unless the given one is internal.

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
        since=inputs.parse_time("since", since, zone),
        until=inputs.parse_last("until", until, zone),
        internal=is_internal(scope),
    )


def make_request(
    query: object,
    *,
    config: Config,
    scope: Namespace,
    present: datetime | None = None,
    **options: Unpack[RecallOptions],
) -> Request:
    """Return the request for a call of ``Memory.recall``; its query is not encoded yet.

    Args:
        query: A text or a vector.
        config: Limits.
        scope: Namespace to search.
        present: The present time; by the clock of this machine if left out.
        **options: As for ``Memory.recall``, with the same defaults.

    Raises:
        InvalidInputError: An argument is unusable.
    """
    text = inputs.check_query(query, config) if isinstance(query, str) else None
    mode = inputs.parse_choice("mode", options.get("mode", Mode.HYBRID), Mode)
    zone = choose_zone(options.get("timezone"), options.get("now"), config)
    as_of = inputs.parse_last("as_of", options.get("as_of"), zone)
    present = datetime.now(UTC) if present is None else present
    now = inputs.parse_time("now", options.get("now"), zone) or as_of or present
    session, budget_ms = options.get("session"), options.get("budget_ms")
    filters: dict[str, Any] = {name: options.get(name) for name in ("where", "session", "speaker", "since", "until")}
    return Request(
        text=text,
        vector=np.empty(0, np.float32) if text is not None else inputs.parse_vector(query),
        k=inputs.check_count("k", options.get("k", 5)),
        mode=Mode.DENSE if text is None else mode,
        scope=scope,
        session=inputs.check_optional_name("session", session),
        condition=make_condition(scope, present, as_of=as_of, zone=zone, **filters),
        as_of=as_of,
        now=_place(now, zone),
        date_order=config.date_order,
        exact=inputs.check_flag("exact", options.get("exact", False)),
        diversity=inputs.check_share("diversity", options.get("diversity", 0.0)),
        collapse=inputs.check_flag("collapse", options.get("collapse", False)),
        half_life=_check_half_life(options.get("half_life")),
        budget_ms=None if budget_ms is None else inputs.check_duration("budget_ms", budget_ms),
        rerank=load_reranker(options.get("rerank")),
        min_confidence=inputs.check_share("min_confidence", options.get("min_confidence", 0.0)),
        explain=inputs.check_flag("explain", options.get("explain", False)),
    )


def _place(now: datetime, zone: tzinfo) -> datetime:
    """Return a moment as the clocks of a zone show it."""
    try:
        return now.astimezone(zone)
    except OverflowError as error:
        raise InvalidInputError(f"now is not a usable date and time: {now.isoformat()} in {zone}") from error


def choose_zone(named: object, now: object, config: Config) -> tzinfo:
    """Return the zone in which a call's times and days are meant: the one it names, that of ``now``, or the memory's.

    A ``now`` in UTC names a moment rather than a place, so it does not override ``Config.timezone``.

    Raises:
        InvalidInputError: The zone is unknown.
    """
    if named is not None:
        return parse_zone("timezone", named)
    own = now.tzinfo if isinstance(now, datetime) else None
    return config.zone if own is None or own.utcoffset(None) == timedelta(0) else own


def _check_half_life(value: timedelta | None) -> timedelta | None:
    if value is not None and (not isinstance(value, timedelta) or value <= timedelta(0)):
        raise InvalidInputError(f"half_life must be a positive timedelta, got {inputs.describe(value)}")
    return value


def encode_requests(requests: Sequence[Request], space: Space) -> list[Request]:
    """Return requests with the vectors of their queries, encoded together.

    Raises:
        DimensionMismatchError: A given vector has another number of dimensions than the space.
        EncoderError: The queries could not be encoded.
    """
    encodable = [request for request in requests if request.mode is not Mode.LEXICAL]
    texts = list(dict.fromkeys(request.text for request in encodable if request.text is not None))
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
    """Return whether at least half of a text's letters belong to the given scripts; None stands for all scripts."""
    if scripts is None or text.isascii():
        return True
    letters = [unicodedata.name(char, "").split(" ", 1)[0] for char in text if char.isalpha()]
    return 2 * sum(name in scripts for name in letters) >= len(letters)
