"""Export and import: one JSON Lines file out, and the same or a file of conversations in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import write_atomically
from agent_memory.inputs import ValidEntry, valid_entry
from agent_memory.payload import to_json
from agent_memory.records import Entry
from agent_memory.storage.sqlite import entries as reading
from agent_memory.types import Progress
from agent_memory.writing import foreign

if TYPE_CHECKING:
    from agent_memory.memory import Memory
    from agent_memory.storage.sqlite.database import Connection
    from agent_memory.storage.sqlite.entries import Condition

FORMAT = 1
"""Version of the export format; a higher one is refused."""

_PAGE = 1_000
_MARK = "agent_memory_export"
_SEGMENT_FIELDS = ("idx", "text", "speaker")  # of which the entry has a field of its own
_TIME_FORMATS = (
    "%B-%d-%Y",
    "%Y/%m/%d (%a) %H:%M",
    "%Y/%m/%d",
    "%I:%M %p on %d %B, %Y",
    "%d.%m.%Y, %H:%M:%S",
)


def export(connection: Connection, condition: Condition, path: Path, progress: Progress | None = None) -> int:
    """Write the entries that satisfy a condition, in the order they were added; returns how many.

    Raises:
        StorageError: The file cannot be written; a former file of that name is left as it was.
    """
    total = reading.count(connection, condition)
    header = {_MARK: FORMAT, "version": version("agent-memory"), "entries": total}
    header["exported_at"] = datetime.now(UTC).isoformat()
    try:
        with write_atomically(path) as file:
            file.write(_line(header))
            for done, entry in enumerate(_pages(connection, condition), start=1):
                file.write(_line(to_json(entry)))
                if progress is not None and (done % _PAGE == 0 or done == total):
                    progress(done, total)
    except OSError as error:
        raise StorageError(f"cannot write the export {path}: {error}") from error
    return total


def _pages(connection: Connection, condition: Condition) -> Iterator[Entry]:
    after_id = 0
    while page := reading.select_entries(connection, condition, after_id=after_id, limit=_PAGE):
        yield from (entry for _, entry in page)
        after_id = page[-1][0]


def _line(value: Mapping[str, Any]) -> bytes:
    known = {name: part for name, part in value.items() if part is not None}
    return (json.dumps(known, ensure_ascii=False) + "\n").encode()


def import_(memory: Memory, path: Path, progress: Progress | None = None, source: str | None = None) -> int:
    """Read a file into a memory; see ``Memory.import_``."""

    def read() -> Iterator[ValidEntry]:
        return _items(path, memory) if source is None else _foreign_items(source, path, memory)

    try:
        total = sum(1 for _ in read())
        new, done, batch = 0, 0, []
        for item in read():
            batch.append(item)
            if len(batch) == memory.config.batch_size or done + len(batch) == total:
                new += _add_missing(memory, batch)
                done += len(batch)
                batch = []
                if progress is not None:
                    progress(done, total)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error}") from error
    return new


def _add_missing(memory: Memory, batch: list[ValidEntry]) -> int:
    """Add the items of a batch whose key is new or whose content differs; returns how many."""
    stored = {
        (namespace, key): entry
        for namespace in {item.namespace for item in batch}
        for key, entry in memory.get_many(
            [item.key for item in batch if item.namespace == namespace], namespace=namespace
        ).items()
    }
    missing = [
        item for item in batch if (entry := stored.get((item.namespace, item.key))) is None or not _same(item, entry)
    ]
    memory.add_many({name: getattr(item, name) for name in ValidEntry.__slots__} for item in missing)
    return len(missing)


def _same(item: ValidEntry, entry: Entry) -> bool:
    fields = set(ValidEntry.__slots__)
    if item.event_time is None:
        fields -= {"event_time"}
    return all(getattr(entry, name) == getattr(item, name) for name in fields)


def _items(path: Path, memory: Memory) -> Iterator[ValidEntry]:
    """Yield the validated items of a file, an export or conversations."""
    with path.open("rb") as file:
        read = None
        for number, raw in enumerate(file, start=1):
            if not raw.strip():
                continue
            try:
                line = _parsed(raw)
                if read is None:
                    read = _reader(line)
                    if read is _from_export:
                        continue
                for item in read(line, memory):
                    yield valid_entry(item, memory.config)
            except InvalidInputError as error:
                raise InvalidInputError(f"{path}, line {number}: {error}") from error


def _foreign_items(source: str, path: Path, memory: Memory) -> Iterator[ValidEntry]:
    """Yield the validated items of another memory's store."""
    for item in foreign.items(source, path):
        try:
            item["namespace"] = (*memory.namespace, *item.get("namespace", ()))
            yield valid_entry(item, memory.config)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}, item {item['key']!r}: {error}") from error


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"not JSON: {error}") from error
    if not isinstance(line, dict):
        raise InvalidInputError(f"expected a JSON object, got {type(line).__name__}")
    return line


def _reader(first: dict[str, Any]) -> Callable[[dict[str, Any], Memory], Iterator[dict[str, Any]]]:
    if "segments" in first:
        return _from_conversation
    if _MARK not in first:
        raise InvalidInputError("neither an export of agent-memory nor a conversation with segments")
    if first[_MARK] != FORMAT:
        raise InvalidInputError(f"export format {first[_MARK]!r}; this version of agent-memory reads format {FORMAT}")
    return _from_export


def _from_export(line: dict[str, Any], memory: Memory) -> Iterator[dict[str, Any]]:
    item = {name: value for name, value in line.items() if name not in ("created_at", "updated_at")}
    if not isinstance(item.get("key"), str):
        raise InvalidInputError("an exported entry must have a key")
    namespace = item.setdefault("namespace", [])
    if not isinstance(namespace, list) or tuple(namespace[: len(memory.namespace)]) != memory.namespace:
        raise InvalidInputError(f"namespace {namespace} lies outside of this memory's {list(memory.namespace)}")
    yield item


def _from_conversation(line: dict[str, Any], memory: Memory) -> Iterator[dict[str, Any]]:
    name, segments = line.get("id"), line.get("segments")
    if not isinstance(name, str) or not isinstance(segments, list):
        raise InvalidInputError("a conversation needs an id and a list of segments")
    for position, segment in enumerate(segments):
        if not isinstance(segment, dict):
            raise InvalidInputError(f"segment {position} of {name} is not an object")
        index = segment.get("idx", position)
        if not str(segment.get("text", "")).strip():  # a turn in which nothing was said
            continue
        yield {
            "key": f"{name}:{index}",
            "namespace": memory.namespace,
            "text": segment.get("text"),
            "session": name,
            "speaker": segment.get("speaker") or None,
            "event_time": _time(segment.get("time")),
            "metadata": {key: value for key, value in segment.items() if key not in _SEGMENT_FIELDS} | {"idx": index},
        }


def _time(value: object) -> datetime | None:
    """Return a segment's time if its spelling is known; conversations without dates have none."""
    if not isinstance(value, str):
        return None
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        pass
    for spelling in _TIME_FORMATS:
        try:
            return datetime.strptime(value, spelling)
        except ValueError:
            continue
    return None
