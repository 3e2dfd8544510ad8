"""The spool: what was captured, one small file a message, until it is in the store.

A file is whole and on disk before the hook that wrote it ends; secrets and private passages are out of it already. It
is deleted when the store has acknowledged its entry. Whoever takes the spool in holds its lock; what comes meanwhile,
or while the store is locked by others, stays for the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.agents import notes
from agent_memory.agents.events import AGENTS
from agent_memory.agents.places import FOLDER, hold
from agent_memory.errors import InvalidInputError
from agent_memory.files import failpoint, make_folder, write_bytes

if TYPE_CHECKING:
    from agent_memory.memory import Memory

_SUFFIX = ".json"
_LOCK = "lock"
_BATCH = 200
_MOST = 10_000  # files: more are what an agent gone wild has written


def spool_folder(store: Path) -> Path:
    """Return the folder of the spool of a store."""
    return store / FOLDER / "spool"


def put(store: Path, item: dict[str, Any]) -> Path:
    """Keep one captured message; it is on disk when this returns.

    Args:
        store: The store's folder, which need not exist yet.
        item: Arguments of ``Memory.add``, in JSON.

    Raises:
        OSError: It cannot be written, or there is too much already.
    """
    folder = spool_folder(store)
    make_folder(folder)
    if len(list_files(store)) >= _MOST:
        raise OSError(f"{_MOST} captured messages wait in {folder}; run `agent-memory agent take-in`")
    file = folder / f"{time.time_ns():020d}-{os.getpid()}-{os.urandom(3).hex()}{_SUFFIX}"
    write_bytes(file, json.dumps(item, ensure_ascii=True).encode())
    return file


def list_files(store: Path) -> list[Path]:
    """Return the files that wait, oldest first."""
    try:
        names = os.listdir(spool_folder(store))
    except OSError:
        return []
    return [spool_folder(store) / name for name in sorted(names) if name.endswith(_SUFFIX) and name[0] != "."]


def take_in(store: Path, *, wait_s: float = 30.0) -> int:
    """Write what waits into the store; returns how many entries are new or changed.

    Args:
        store: The store's folder.
        wait_s: Seconds to wait for another process that writes to the store.

    Raises:
        AgentMemoryError: The store cannot be opened or written; what was not written still waits.
    """
    written = 0
    left: set[Path] = set()
    # Once more after the lock is free: whoever brought a file meanwhile has found it held, and left.
    while not left.issuperset(list_files(store)):
        with hold(spool_folder(store) / _LOCK, wait=False) as mine:
            if not mine:
                break
            written += _take_all(store, wait_s, left)
    return written


def _take_all(store: Path, wait_s: float, left: set[Path]) -> int:
    """Write what waits; ``left`` gets the files that cannot be read now."""
    from agent_memory.memory import Memory

    written = 0
    with Memory(store, config={"lock_timeout_s": wait_s}) as memory:
        while files := [file for file in list_files(store) if file not in left][:_BATCH]:
            found = {file: _read(file) for file in files}
            left |= {file for file, item in found.items() if item is None}
            items = {(tuple(item["namespace"]), item["key"]): item for item in found.values() if item}
            known: dict[tuple[tuple[str, ...], str], str] = {}
            for place in {place for place, _ in items}:
                keys = [key for namespace, key in items if namespace == place]
                with contextlib.suppress(InvalidInputError):  # which `_add` will note
                    known |= {(place, key): entry.text for key, entry in memory.get_many(keys, namespace=place).items()}
            fresh = [item for place, item in items.items() if known.get(place) != item["text"]]
            _add(memory, fresh, store)
            failpoint("spool-written")
            written += len(fresh)
            for file in files:
                if file not in left:
                    file.unlink(missing_ok=True)
    return written


def _add(memory: Memory, items: list[dict[str, Any]], store: Path) -> None:
    """Add items; one that the store refuses for what it is must not hold up the others."""
    try:
        memory.add_many(items)
    except InvalidInputError:
        for item in items:
            try:
                memory.add_many([item])
            except InvalidInputError as error:
                agent = item.get("metadata", {}).get("agent")
                notes.note_error(store, agent if agent in AGENTS else "unknown", "take-in", error)


def read_waiting(store: Path, namespace: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return what waits for a project, oldest first."""
    items = [item for file in list_files(store)[-_BATCH:] if (item := _read(file))]
    return [item for item in items if tuple(item["namespace"]) == namespace]


def _read(file: Path) -> dict[str, Any] | None:
    """Return what a file holds: nothing if somebody else has spoilt it; None if it cannot be read now."""
    try:
        item = json.loads(file.read_bytes())
    except OSError:
        return None
    except (ValueError, RecursionError):
        return {}
    if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in ("text", "key")):
        return {}
    place, facts = item.setdefault("namespace", []), item.get("metadata", {})
    named = isinstance(place, list) and all(isinstance(part, str) for part in place)
    return item if named and isinstance(facts, dict) else {}
