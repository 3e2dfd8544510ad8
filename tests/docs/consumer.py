"""A program that uses the installed wheel; test_typed_consumer.py has it checked by strict type checkers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory import (
    AsyncMemory,
    Config,
    Entry,
    Hit,
    Hits,
    InvalidInputError,
    Maintenance,
    Memory,
    NotFoundError,
    ReindexReport,
    Report,
    Session,
    Stats,
    Trace,
    format_hits,
)
from agent_memory.encoders import Encoder, EncoderSpec, Progress

FloatArray = npt.NDArray[np.float32]


class LengthEncoder:
    """An encoder of one's own fits the protocol without inheriting anything."""

    @property
    def spec(self) -> EncoderSpec:
        return EncoderSpec(name="length", revision="1", dimension=2, tiers=(2,), max_tokens=100)

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        rows = np.array([[len(text), 1.0] for text in texts], np.float32)
        if progress is not None:
            progress(len(texts), len(texts))
        unit: FloatArray = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        return self.encode_documents(texts)


def use(folder: Path) -> list[str]:
    encoder: Encoder = LengthEncoder()
    config = Config(lock_timeout_s=5, query_log=10)
    with Memory(folder, encoder=encoder, session_encoder=None, namespace=("acme",), config=config) as memory:
        entry: Entry = memory.add(
            "Alice moved to Berlin.", session="chat", metadata={"year": 2025}, event_time="2025-05-01"
        )
        entries: list[Entry] = memory.add_many(["One.", {"text": "Two.", "speaker": "bob"}])
        hits: Hits = memory.recall("Where is Alice?", k=2, where={"year": {"$gte": 2024}}, half_life=timedelta(days=30))
        many: list[Hits] = memory.recall_many(["Who?", "Where?"], k=1)
        first: Hit = hits[0]
        score: float = first.score
        trace: Trace = memory.why("Where is Alice?", entry.key)
        found: dict[str, Entry] = memory.get_many([entry.key])
        sessions: list[Session] = memory.sessions()
        former: list[Entry] = memory.history(entry.key)
        vector = memory.vectors([entry.key])[entry.key]
        shape: tuple[int, ...] = vector.shape
        stats: Stats = memory.stats()
        report: Report = memory.check()
        look: Maintenance = memory.maintenance(dry_run=True)
        plan: ReindexReport = memory.reindex(tiers=(1, 2), dry_run=True)
        problems: list[str] = []
        try:
            memory.get("nothing")
        except NotFoundError as error:
            problems.append(str(error))
        try:
            memory.recall("x", k=0)
        except InvalidInputError as error:
            problems.append(str(error))
        removed = int(memory.forget(where={"year": 2025}))
        block: str = format_hits(first_hits for first_hits in hits)
    names = [session.name for session in sessions]
    return [
        *names,
        block,
        trace.stage,
        str((score, shape, removed, stats.entries, report.ok, look.done, plan.state)),
    ] + [str(len(part)) for part in (entries, many, found, former)]


async def use_async(folder: Path) -> str:
    async with AsyncMemory(folder) as memory:
        entry: Entry = await memory.add("Bob likes tea.", event_time=datetime.now(UTC))
        hits: Hits = await memory.recall("tea", k=1)
        return entry.key + hits[0].text


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in use(Path("typed-store")))
    sys.stdout.write(asyncio.run(use_async(Path("typed-async-store"))))
