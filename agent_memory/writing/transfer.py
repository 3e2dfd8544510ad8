"""Export and import: writes a JSON Lines file; reads such a file, conversations, or another system's store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, tzinfo
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import write_atomically
from agent_memory.live.store import Store
from agent_memory.live.targets import check_target
from agent_memory.payload import to_json
from agent_memory.records import Entry
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Condition
from agent_memory.times import to_utc
from agent_memory.types import Namespace, Progress
from agent_memory.writing import foreign
from agent_memory.writing.items import ValidEntry, parse_entry
from agent_memory.writing.writer import Writer

FORMAT = 1
"""Version of the export format; others are refused."""

_PAGE = 1_000
_MARK = "agent_memory_export"  # key of the header line
_SEGMENT_FIELDS = ("idx", "text", "speaker")  # not copied to metadata
_TIME_FORMATS = (
    "%B-%d-%Y",
    "%Y/%m/%d (%a) %H:%M",
    "%Y/%m/%d",
    "%I:%M %p on %d %B, %Y",
    "%d.%m.%Y, %H:%M:%S",
)


class Transfer:
    """Brings entries from a store to files, and from files into it.

    Args:
        store: The store.
        writer: Writes the entries.
        namespace: The memory's namespace; entries lie in it or below it.
    """

    def __init__(self, store: Store, writer: Writer, namespace: Namespace) -> None:
        self._store, self._writer, self._namespace = store, writer, namespace

    def export(self, path: str | Path, *, progress: Progress | None = None) -> int:
        """Write all live entries of the namespace to one JSON Lines file; returns how many.

        The file appears whole or not at all. Its first line is a header with format and package version.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> memory.export("alice.jsonl")
            1
        """
        file = check_target(self._store.folder, inputs.parse_path("path", path))
        now = datetime.now(UTC)
        with self._store.read() as tx:
            count = _write(tx, Condition(namespace=self._namespace, moment=now), file, progress)
        if not self._store.database.read_only:
            with self._store.write() as tx:
                tx.erasures.note_copy(str(file), "export", now)
        return count

    def import_(self, path: str | Path, *, progress: Progress | None = None, source: str | None = None) -> int:
        """Read an export, a file of conversations or another store into this memory; returns how many were new.

        Entries that are already there, unchanged, are left alone, so that an interrupted import can be run
        again; so are those that have expired since the file was written. Every line is validated before the first
        entry is written. ``created_at`` is the moment of import. Times without a zone are meant in that of
        ``Config.timezone``.

        Args:
            path: The file; of a Chroma or mem0 store also its folder.
            progress: Called with (entries done, entries in all).
            source: Whose store it is: ``"mem0"`` (``history.db``), ``"chroma"``, ``"langgraph"`` (SqliteStore); None
                for a JSON Lines file. Collections and prefixes become namespaces; texts are encoded again.

        Raises:
            InvalidInputError: A line is malformed; the message gives its number. Nothing was written.
            NotFoundError: There is no such file.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> count = memory.export("alice.jsonl")
            >>> memory.import_("alice.jsonl")
            0
        """
        file = inputs.parse_path("path", path)

        def parse() -> Iterator[ValidEntry]:
            return self._parse_lines(file) if source is None else self._parse_foreign(source, file)

        try:
            total = sum(1 for _ in parse())
            new, done, batch = 0, 0, []
            for item in parse():
                batch.append(item)
                if len(batch) == self._store.config.batch_size or done + len(batch) == total:
                    new += self._add_missing(batch)
                    done += len(batch)
                    batch = []
                    if progress is not None:
                        progress(done, total)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no file {file}") from error
        except OSError as error:
            raise StorageError(f"cannot read {file}: {error}") from error
        return new

    def _add_missing(self, batch: list[ValidEntry]) -> int:
        """Write the items of a batch that are new or differ from the stored entry; returns how many."""
        stored: dict[tuple[Namespace, str], Entry] = {}
        with self._store.read() as tx:
            for namespace in {item.namespace or self._namespace for item in batch}:
                keys = [item.key for item in batch if (item.namespace or self._namespace) == namespace]
                found = tx.entries.select_by_key(namespace, keys, datetime.now(UTC))
                stored |= {(namespace, key): entry for key, entry in found.items()}
        now = datetime.now(UTC)
        missing = [
            item
            for item in batch
            if (item.expires_at is None or item.expires_at > now)
            and (
                (entry := stored.get((item.namespace or self._namespace, item.key))) is None
                or not _is_same(item, entry)
            )
        ]
        items = ({name: getattr(item, name) for name in ValidEntry.__slots__} for item in missing)
        self._writer.add_many(items, session=None, progress=None, expired=True)
        return len(missing)

    def _parse_lines(self, path: Path) -> Iterator[ValidEntry]:
        """Yield the validated items of an export or a file of conversations."""
        with path.open("rb") as file:
            read = None
            for number, raw in enumerate(file, start=1):
                if not raw.strip():
                    continue
                try:
                    line = inputs.parse_object("it", raw)
                    if read is None:
                        read = _choose_reader(line)
                        if read is _read_export:
                            continue
                    for item in read(line, self._namespace):
                        yield self._parse_item(item)
                except InvalidInputError as error:
                    raise InvalidInputError(f"{path}, line {number}: {error}") from error

    def _parse_item(self, item: dict[str, Any]) -> ValidEntry:
        config = self._store.config
        return parse_entry({**item, "event_time": _parse_time(item.get("event_time"), config.zone)}, config)

    def _parse_foreign(self, source: str, path: Path) -> Iterator[ValidEntry]:
        """Yield the validated items of another system's store."""
        for item in foreign.read_items(source, path):
            try:
                item["namespace"] = (*self._namespace, *item.get("namespace", ()))
                yield self._parse_item(item)
            except InvalidInputError as error:
                raise InvalidInputError(f"{path}, item {item['key']!r}: {error}") from error


def _write(tx: Transaction, condition: Condition, path: Path, progress: Progress | None = None) -> int:
    """Write the entries that satisfy a condition, in the order they were added; returns how many."""
    total = tx.entries.count(condition)
    header = {_MARK: FORMAT, "version": version("agent-memory"), "entries": total}
    header["exported_at"] = datetime.now(UTC).isoformat()
    try:
        with write_atomically(path) as file:
            file.write(_to_line(header))
            for done, entry in enumerate(_read_entries(tx, condition), start=1):
                file.write(_to_line(to_json(entry)))
                if progress is not None and (done % _PAGE == 0 or done == total):
                    progress(done, total)
    except OSError as error:
        raise StorageError(f"cannot write the export {path}: {error}") from error
    return total


def _read_entries(tx: Transaction, condition: Condition) -> Iterator[Entry]:
    after_id = 0
    while page := tx.entries.select(condition, after_id=after_id, limit=_PAGE):
        yield from (entry for _, entry in page)
        after_id = page[-1][0]


def _to_line(value: Mapping[str, Any]) -> bytes:
    known = {name: part for name, part in value.items() if part is not None}
    return (json.dumps(known, ensure_ascii=False) + "\n").encode()


def _is_same(item: ValidEntry, entry: Entry) -> bool:
    fields = set(ValidEntry.__slots__)
    if item.event_time is None:
        fields -= {"event_time"}
    return all(getattr(entry, name) == getattr(item, name) for name in fields)


def _choose_reader(first: dict[str, Any]) -> Callable[[dict[str, Any], Namespace], Iterator[dict[str, Any]]]:
    if "segments" in first:
        return _read_conversation
    if _MARK not in first:
        raise InvalidInputError("neither an export of agent-memory nor a conversation with segments")
    if first[_MARK] != FORMAT:
        raise InvalidInputError(f"export format {first[_MARK]!r}; this version of agent-memory reads format {FORMAT}")
    return _read_export


def _read_export(line: dict[str, Any], home: Namespace) -> Iterator[dict[str, Any]]:
    item = {name: value for name, value in line.items() if name not in ("created_at", "updated_at")}
    if not isinstance(item.get("key"), str):
        raise InvalidInputError("an exported entry must have a key")
    namespace = item.setdefault("namespace", [])
    if not isinstance(namespace, list) or tuple(namespace[: len(home)]) != home:
        raise InvalidInputError(f"namespace {namespace} lies outside of this memory's {list(home)}")
    yield item


def _read_conversation(line: dict[str, Any], home: Namespace) -> Iterator[dict[str, Any]]:
    name, segments = line.get("id"), line.get("segments")
    if not isinstance(name, str) or not isinstance(segments, list):
        raise InvalidInputError("a conversation needs an id and a list of segments")
    for position, segment in enumerate(segments):
        if not isinstance(segment, dict):
            raise InvalidInputError(f"segment {position} of {name} is not an object")
        index = segment.get("idx", position)
        if not str(segment.get("text", "")).strip():  # an empty turn
            continue
        yield {
            "key": f"{name}:{index}",
            "namespace": home,
            "text": segment.get("text"),
            "session": name,
            "speaker": segment.get("speaker") or None,
            "event_time": segment.get("time") or None,
            "metadata": {key: value for key, value in segment.items() if key not in _SEGMENT_FIELDS} | {"idx": index},
        }


def _parse_time(value: object, zone: tzinfo) -> datetime | None:
    """Return a time in ISO 8601 or one of the formats of conversations; None stays None."""
    if isinstance(value, str):
        for format_ in _TIME_FORMATS:
            try:
                return to_utc(datetime.strptime(value, format_), zone)
            except ValueError:
                continue
    return inputs.parse_time("event_time", value, zone)
