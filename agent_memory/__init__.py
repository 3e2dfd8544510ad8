"""Long-term memory for AI agents, inside the agent's own process.

    from agent_memory import Memory

    memory = Memory("./my-agent")
    memory.add("Alice moved to Berlin in May.", session="chat-7", speaker="alice")
    memory.recall("Where does Alice live?", k=5)

Names are loaded when they are first used, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # typing alone takes longer to import than all of a command that a helper answers
if TYPE_CHECKING:
    from typing import Any

    from agent_memory.aio import AsyncMemory
    from agent_memory.config import Config, Retention
    from agent_memory.encoders.base import Encoder, EncoderSpec
    from agent_memory.errors import (
        AgentMemoryError,
        CheckpointError,
        ClosedError,
        CorruptSnapshotError,
        DimensionMismatchError,
        EncoderError,
        EncoderMismatchError,
        IndexStateError,
        InvalidInputError,
        LeaseHeldError,
        LockTimeoutError,
        MigrationError,
        MissingDependencyError,
        ModelNotFoundError,
        NotFoundError,
        SchemaTooNewError,
        StaleGenerationError,
        StorageError,
        UnfinishedCopyError,
    )
    from agent_memory.formats.prompt import format_hits
    from agent_memory.memory import Memory
    from agent_memory.records import Copied, Copy, Entry, Erasure, Hit, Hits, Session, Topic, Topics, Trace
    from agent_memory.remote.client import RemoteMemory
    from agent_memory.reports import (
        GenerationInfo,
        GenerationState,
        Imported,
        Job,
        JobState,
        Maintenance,
        MaintenanceAction,
        ReindexReport,
        Replay,
        ReplaySource,
        Report,
        Schedule,
        Stats,
    )
    from agent_memory.routing.router import Choice, Router
    from agent_memory.writing.items import NewEntry

_HOMES = {
    "aio": ["AsyncMemory"],
    "remote.client": ["RemoteMemory"],
    "config": ["Config", "Retention"],
    "encoders.base": ["Encoder", "EncoderSpec"],
    "errors": [
        "AgentMemoryError",
        "CheckpointError",
        "ClosedError",
        "CorruptSnapshotError",
        "DimensionMismatchError",
        "EncoderError",
        "EncoderMismatchError",
        "IndexStateError",
        "InvalidInputError",
        "LeaseHeldError",
        "LockTimeoutError",
        "MigrationError",
        "MissingDependencyError",
        "ModelNotFoundError",
        "NotFoundError",
        "SchemaTooNewError",
        "StaleGenerationError",
        "StorageError",
        "UnfinishedCopyError",
    ],
    "memory": ["Memory"],
    "formats.prompt": ["format_hits"],
    "records": [
        "Copied",
        "Copy",
        "Entry",
        "Erasure",
        "Hit",
        "Hits",
        "Session",
        "Topic",
        "Topics",
        "Trace",
    ],
    "reports": [
        "GenerationInfo",
        "GenerationState",
        "Imported",
        "Job",
        "JobState",
        "Maintenance",
        "MaintenanceAction",
        "ReindexReport",
        "Replay",
        "ReplaySource",
        "Report",
        "Schedule",
        "Stats",
    ],
    "routing.router": ["Choice", "Router"],
    "writing.items": ["NewEntry"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AgentMemoryError",
    "AsyncMemory",
    "CheckpointError",
    "Choice",
    "ClosedError",
    "Config",
    "Copied",
    "Copy",
    "CorruptSnapshotError",
    "DimensionMismatchError",
    "Encoder",
    "EncoderError",
    "EncoderMismatchError",
    "EncoderSpec",
    "Entry",
    "Erasure",
    "GenerationInfo",
    "GenerationState",
    "Hit",
    "Hits",
    "Imported",
    "IndexStateError",
    "InvalidInputError",
    "Job",
    "JobState",
    "LeaseHeldError",
    "LockTimeoutError",
    "Maintenance",
    "MaintenanceAction",
    "Memory",
    "MigrationError",
    "MissingDependencyError",
    "ModelNotFoundError",
    "NewEntry",
    "NotFoundError",
    "ReindexReport",
    "RemoteMemory",
    "Replay",
    "ReplaySource",
    "Report",
    "Retention",
    "Router",
    "Schedule",
    "SchemaTooNewError",
    "Session",
    "StaleGenerationError",
    "Stats",
    "StorageError",
    "Topic",
    "Topics",
    "Trace",
    "UnfinishedCopyError",
    "format_hits",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name == "__version__":
        from importlib.metadata import version

        return version("agent-memory")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
