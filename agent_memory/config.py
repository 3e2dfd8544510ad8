"""Settings of a memory; every one has a sane default."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Config(BaseModel):
    """Settings that callers may change when they open a memory.

    Attributes:
        lock_timeout_s: Seconds to wait for another process that is writing, before LockTimeoutError.
        batch_size: Entries that ``add_many`` encodes and commits together; four times as many of those whose vectors
            are given and that are in no session.
        max_text_chars: Longest text accepted, in characters.
        snapshot_every: Changes after which a recall writes the index to disk; ``close`` writes it too.
        keep_versions: Former versions kept of each entry, for ``history`` and ``as_of``; 0 keeps none.
        recall_target: Share of the exact top ten that the tiers must find; more candidates are kept until they do.
        threads: Threads that one index search may use.
        query_log: How many of the latest queries the store keeps, as vectors, for a dry run of ``maintenance`` or
            ``reindex`` to replay; 0 keeps none. They stay in the store's own file; ``clear_queries`` deletes them.
        query_text: What is kept of their words: ``none``, ``hash`` (SHA-256, to be matched with a log of your own;
            short questions can be guessed from it) or ``plain`` (needed to try another encoder with them).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    lock_timeout_s: float = Field(default=30.0, gt=0, le=3600)
    batch_size: int = Field(default=512, ge=1, le=100_000)
    max_text_chars: int = Field(default=1_000_000, ge=1)
    snapshot_every: int = Field(default=20_000, ge=1)
    keep_versions: int = Field(default=20, ge=0)
    recall_target: float = Field(default=0.98, gt=0, le=1)
    threads: int = Field(default=1, ge=1, le=256)
    query_log: int = Field(default=0, ge=0, le=10_000)
    query_text: Literal["none", "hash", "plain"] = "none"
