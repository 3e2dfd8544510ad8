"""Every error that agent-memory raises on purpose.

    AgentMemoryError
    ├─ InvalidInputError(ValueError)
    │  └─ DimensionMismatchError
    ├─ NotFoundError(KeyError)
    ├─ MissingDependencyError(ImportError)
    ├─ EncoderError
    │  ├─ CheckpointError
    │  └─ ModelNotFoundError
    ├─ IndexStateError
    │  ├─ CorruptSnapshotError
    │  └─ StaleGenerationError
    │     └─ EncoderMismatchError (also an EncoderError)
    ├─ StorageError
    │  ├─ ExtensionError
    │  ├─ LeaseHeldError
    │  ├─ LockTimeoutError
    │  ├─ MigrationError
    │  ├─ SchemaTooNewError
    │  └─ UnfinishedCopyError
    └─ ClosedError

Errors of FAISS, SQLAlchemy and the model libraries are wrapped where they arise, with the original as
``__cause__``; none of them crosses the public surface.
"""

from __future__ import annotations

from pathlib import Path


class AgentMemoryError(Exception):
    """Base of all errors of this package."""


class InvalidInputError(AgentMemoryError, ValueError):
    """An argument is unusable; nothing was written."""


class DimensionMismatchError(InvalidInputError):
    """A vector has a different number of dimensions than the store or index it is meant for.

    Attributes:
        expected: Number of dimensions required.
        actual: Number of dimensions given.
    """

    def __init__(self, expected: int, actual: int) -> None:
        super().__init__(f"expected vectors of {expected} dimensions, got {actual}")
        self.expected = expected
        self.actual = actual


class NotFoundError(AgentMemoryError, KeyError):
    """There is no entry, session or file of the given name."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class MissingDependencyError(AgentMemoryError, ImportError):
    """An optional package is not installed.

    Attributes:
        extra: The extra of this distribution that installs it, as in ``agent-memory[extra]``.
    """

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'agent-memory[{extra}]'")
        self.extra = extra


class EncoderError(AgentMemoryError):
    """An encoder could not be loaded or did not return usable vectors."""


class CheckpointError(EncoderError):
    """Model weights are damaged, incomplete, or not the ones that were expected."""


class ModelNotFoundError(EncoderError):
    """A model is not on this machine; models are downloaded on explicit command only."""


class IndexStateError(AgentMemoryError):
    """An index cannot serve the request in its present state."""


class CorruptSnapshotError(IndexStateError):
    """Index files on disk are damaged, incomplete or hostile; they can be rebuilt from the store.

    Attributes:
        path: The file or folder that failed verification.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)


class StaleGenerationError(IndexStateError):
    """Vectors or index files belong to another generation (encoder, tiers) than the requested one."""


class EncoderMismatchError(StaleGenerationError, EncoderError):
    """The store's vectors were made by another encoder than the given one; nothing was changed."""


class StorageError(AgentMemoryError):
    """A database operation failed; its transaction was rolled back."""


class ExtensionError(StorageError):
    """The database lacks an extension that was asked for, or has one that is too old; nothing was changed.

    Attributes:
        extension: Its name.
        found: The version that is installed in the database; None if there is none.
        needed: The oldest version that is used.
    """

    def __init__(self, database: str, extension: str, found: str | None, needed: str) -> None:
        has = f"has {extension} {found}" if found else f"does not have {extension}"
        super().__init__(
            f"{database} {has}, and Config(index='server') needs {extension} {needed} or newer: install that on the "
            f"server and run CREATE EXTENSION vector (or ALTER EXTENSION vector UPDATE), or use Config(index='local')"
        )
        self.extension, self.found, self.needed = extension, found, needed


class LockTimeoutError(StorageError):
    """Another process held the write lock for longer than the timeout.

    Attributes:
        timeout_s: Seconds waited.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"another process has held the store's write lock for more than {timeout_s:g} s; "
            "retry, or raise Config.lock_timeout_s"
        )
        self.timeout_s = timeout_s


class LeaseHeldError(StorageError):
    """Another process is already doing this work on the store; nothing was changed.

    Attributes:
        name: Name of the lease.
        holder: Its holder: host, process id and a random number.
    """

    def __init__(self, name: str, holder: str) -> None:
        super().__init__(
            f"{holder} holds the lease {name!r} of this store; wait, or retry in a minute if that process is dead"
        )
        self.name = name
        self.holder = holder


class MigrationError(StorageError):
    """The schema could not be migrated to this version; the store is unchanged."""


class SchemaTooNewError(StorageError):
    """The store was written by a newer version of this package; it was not touched."""


class UnfinishedCopyError(StorageError):
    """The store is a copy of another that was begun and not finished: run the same copy again, or delete it."""


class ClosedError(AgentMemoryError):
    """The memory was closed."""
