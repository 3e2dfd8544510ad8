"""Settings of a memory, with defaults."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta, tzinfo
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agent_memory.times import parse_zone


class Retention(BaseModel):
    """How long the entries of a namespace are kept, and how many; see ``Config.retention``.

    Attributes:
        max_age: How long after their last change; None for ever.
        max_entries: How many, the latest; None for all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_age: timedelta | None = Field(default=None, gt=timedelta(0))
    max_entries: int | None = Field(default=None, ge=1)


class Config(BaseModel):
    """Settings that callers may change when they open a memory.

    Attributes:
        lock_timeout_s: Seconds to wait for another process that is writing, before LockTimeoutError.
        batch_size: Number of entries that ``add_many`` encodes and commits together; four times as many if their
            vectors are given and they belong to no session.
        max_text_chars: Maximum length of a text, in characters.
        max_query_chars: Maximum length of the text of a query, in characters. A longer one is refused, not cut: what
            would be left out might be the question. Adapters of frameworks ask with the end of a longer message.
        snapshot_every: Number of changes after which a recall writes the index to disk, as ``close`` does.
        keep_versions: Number of former versions kept of each entry, for ``history`` and ``as_of``.
        retention: By namespace (parts joined with ``/``, "" for all), how long its entries and those below it are kept.
            ``purge_expired`` and maintenance forget what is beyond that.
        recall_target: Share of the exact top 10 that the tiers must find; they keep more candidates until they do.
        threads: Number of threads that one index search may use.
        gather_ms: Milliseconds within which the questions of several threads are encoded together; 0 to encode each by
            itself. A question that comes alone never waits. The server sets 2.
        query_log: Number of recent queries that the store keeps as vectors, for dry runs of ``maintenance`` and
            ``reindex``; 0 turns the log off. They stay in the store's file; ``clear_queries`` deletes them.
        query_text: What the log keeps of their text: ``none``, ``hash`` (SHA-256, to match them with your own logs;
            short questions can be guessed from it) or ``plain`` (needed to rehearse another encoder).
        max_mention_chars: Length up to which a text is read for times that it mentions ("next Friday"), told from its
            event time: a question about that Friday finds it. 0 turns it off, which makes bulk writes faster.
        timezone: The zone that times without one are meant in, and in which days, weeks and months begin: a name
            (``Europe/Berlin``) or an offset (``+02:00``). It changes how times are read, never those that are stored.
        date_order: What ``5/8/2023`` in a query means: ``day-first``, ``month-first``, or ``auto``: what another date
            of the query shows (``25/12/2023``), else the custom of its language, which is month first in English.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lock_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    batch_size: int = Field(default=512, ge=1, le=100_000)
    max_text_chars: int = Field(default=1_000_000, ge=1)
    max_query_chars: int = Field(default=10_000, ge=1)
    snapshot_every: int = Field(default=20_000, ge=1)
    keep_versions: int = Field(default=20, ge=0)
    retention: Mapping[str, Retention] = Field(default_factory=dict)
    recall_target: float = Field(default=0.98, gt=0, le=1)
    threads: int = Field(default=1, ge=1, le=256)
    gather_ms: float = Field(default=0.0, ge=0, le=1000)
    query_log: int = Field(default=0, ge=0, le=10_000)
    query_text: Literal["none", "hash", "plain"] = "none"
    max_mention_chars: int = Field(default=2_000, ge=0)
    timezone: str = "UTC"
    date_order: Literal["auto", "day-first", "month-first"] = "auto"

    @field_validator("timezone")
    @classmethod
    def _check_zone(cls, value: str) -> str:
        parse_zone("timezone", value)
        return value

    @property
    def zone(self) -> tzinfo:
        """The zone that ``timezone`` names."""
        return parse_zone("timezone", self.timezone)
