"""Import: checks a whole file first, then writes its entries in batches.

Nothing of a file is written before its last line was checked. What passes goes to a temporary file without a name, so
that what is written later is what was checked, whatever happens to the file meanwhile. The entries are then written in
several transactions. Their keys come from the file: an import that was killed keeps what it has written, and when it is
run again it writes the rest.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import failpoint
from agent_memory.formats.prompt import without_recalled
from agent_memory.live.store import Store
from agent_memory.records import Entry, cap_provenance
from agent_memory.reports import Imported
from agent_memory.types import Namespace, Progress
from agent_memory.writing.foreign.found import Found, Item, Options
from agent_memory.writing.foreign.registry import Format, is_own, is_store, read_file
from agent_memory.writing.items import FIELDS, ValidEntry, parse_entry
from agent_memory.writing.times import read_time
from agent_memory.writing.writer import Writer

_PROBLEMS = 100
_TIMES = ("event_time", "expires_at")


class _Refused(Exception):
    """An entry that cannot be kept, of a file whose other entries are."""


@dataclass
class _Checked:
    """What checking a file has found; the entries themselves are in a temporary file, one a line."""

    reasons: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    refused: int = 0
    undated: int = 0
    sessions: set[tuple[Namespace, str]] = field(default_factory=set)
    formats: dict[Format, None] = field(default_factory=dict)
    last: dict[bytes, int] = field(default_factory=dict)  # number of the last line with a key, by the key's digest
    lines: int = 0

    @property
    def total(self) -> int:
        """Number of entries to be written: of several with one key the last."""
        return len(self.last)


class Importer:
    """Reads a file into a store.

    Args:
        store: The store.
        writer: Writes the entries.
        home: The memory's namespace; entries lie in it or below it.
        assume_now: Take the time of the import for times that cannot be understood.
        dry_run: Count, and write nothing.
        progress: Called with (entries done, entries in all).
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        home: Namespace,
        *,
        assume_now: bool,
        dry_run: bool,
        progress: Progress | None,
    ) -> None:
        self._store, self._writer, self._home = store, writer, home
        self._assume_now, self._dry_run, self._progress = assume_now, dry_run, progress
        self._now = self._store.database.now()

    def run(self, path: Path, format_: Format | None, *, all_branches: bool) -> Imported:
        """Check a file, then write its entries."""
        options = Options(all_branches=all_branches, max_text_chars=self._store.config.max_text_chars)
        try:
            with tempfile.TemporaryFile("w+", encoding="utf-8", dir=self._find_room()) as spool:
                checked = self._check(path, format_, options, spool)
                spool.seek(0)
                failpoint("import-checked")
                return self._write(spool, checked)
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no file {path}") from error
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error}") from error

    def _find_room(self) -> Path | None:
        """Return where to keep the checked entries: in the store's folder, unless that cannot be written."""
        return self._store.folder if self._store.folder.is_dir() and not self._store.database.read_only else None

    # --- checking ----------------------------------------------------------------------------------------

    def _check(self, path: Path, format_: Format | None, options: Options, spool: IO[str]) -> _Checked:
        checked = _Checked()
        try:
            for format_found, found in read_file(path, format_, options):
                checked.formats[format_found] = None
                self._check_one(found, format_found, checked, spool)
        except InvalidInputError as error:
            raise InvalidInputError(f"{path}, {error}") from error
        return checked

    def _check_one(self, found: Found, format_: Format, checked: _Checked, spool: IO[str]) -> None:
        try:
            if found.refused:
                raise _Refused(found.refused)
            reason = found.reason or (self._find_reason(found.item) if found.item else "")
            if found.item is None or reason:
                checked.reasons[reason] += 1
                return
            entry = self._parse(found, format_)
        except _Refused as error:
            checked.refused += 1
            if len(checked.problems) < _PROBLEMS:
                checked.problems.append(f"{found.place}: {error}")
            return
        if entry.expires_at is not None and entry.expires_at <= self._now:
            checked.reasons["expired"] += 1
            return
        self._keep(entry, checked, spool)

    def _find_reason(self, item: Item) -> str:
        """Return why an entry is passed over that is sound in itself."""
        text = item.get("text")
        recalled = isinstance(text, str) and text.strip() and not without_recalled(text).strip()
        return "recalled memory" if recalled else ""

    def _parse(self, found: Found, format_: Format) -> ValidEntry:
        """Return the validated form of an entry, its namespace in full."""
        item: Item = dict(found.item or {})
        for name in _TIMES:
            item[name] = self._read_time(name, item, found.place, format_)
        try:
            if format_ is Format.ITEMS or not is_own(format_):
                if isinstance(item.get("metadata"), Mapping):  # a file cannot vouch for what a person said
                    item["metadata"] = cap_provenance(item["metadata"], "import")
            if not is_own(format_):
                item["namespace"] = (*self._home, *item.get("namespace", ()))
            elif format_ is Format.CONVERSATIONS or item.get("namespace") is None:
                item["namespace"] = self._home
            entry = parse_entry(item, self._store.config)
            entry.check(self._store.database, inputs.resolve_namespace(entry.namespace, self._home))
        except InvalidInputError as error:
            if is_own(format_):
                raise InvalidInputError(f"{found.place}: {error}") from error
            raise _Refused(str(error)) from error
        return entry

    def _read_time(self, name: str, item: Item, place: str, format_: Format) -> datetime | None:
        try:
            # Databases keep UTC where they name no zone; people's files keep the clock on the wall.
            zone = UTC if is_store(format_) else self._store.config.zone
            if name == "expires_at":
                with suppress(InvalidInputError):
                    return inputs.parse_expiry(name, item.get(name), zone)  # the end of a day, not its beginning
            return read_time(item.get(name), zone)
        except InvalidInputError as error:
            if self._assume_now and name == "event_time":
                return None
            if is_store(format_):
                raise _Refused(f"{name}: {error}") from error
            raise InvalidInputError(f"{place}: {name}: {error}") from error

    def _keep(self, entry: ValidEntry, checked: _Checked, spool: IO[str]) -> None:
        namespace = entry.namespace or ()
        checked.undated += entry.event_time is None
        if entry.session is not None:
            checked.sessions.add((namespace, entry.session))
        digest = hashlib.sha256("\x1f".join((*namespace, entry.key)).encode()).digest()[:16]
        if digest in checked.last:
            checked.reasons["replaced further down"] += 1
        checked.last[digest] = checked.lines
        checked.lines += 1
        try:
            spool.write(_to_line(entry, digest))
        except OSError as error:
            raise StorageError(f"cannot keep the checked entries in a temporary file: {error}") from error

    # --- writing -----------------------------------------------------------------------------------------

    def _write(self, spool: IO[str], checked: _Checked) -> Imported:
        counts: Counter[str] = Counter()
        done = 0
        for batch in self._read_batches(spool, checked):
            counts += self._write_missing(batch)
            done += len(batch)
            if self._progress is not None:
                self._progress(done, checked.total)
            failpoint("import-batch")
        return Imported(
            new=counts["new"],
            updated=counts["updated"],
            unchanged=counts["unchanged"],
            refused=checked.refused,
            undated=checked.undated,
            sessions=len(checked.sessions),
            reasons=checked.reasons,
            problems=tuple(checked.problems),
            formats=tuple(map(str, checked.formats)),
            dry_run=self._dry_run,
        )

    def _read_batches(self, spool: IO[str], checked: _Checked) -> Iterator[list[ValidEntry]]:
        batch: list[ValidEntry] = []
        for number, line in enumerate(spool):
            digest, entry = _from_line(line, self._store)
            if checked.last[digest] != number:
                continue
            batch.append(entry)
            if len(batch) == self._store.config.batch_size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _write_missing(self, batch: Sequence[ValidEntry]) -> Counter[str]:
        """Write the entries of a batch that are new or differ from the stored ones; returns how many are which."""
        with self._store.read() as tx:
            stored = tx.entries.select_at([(one.namespace or (), one.key) for one in batch], self._store.database.now())
        counts: Counter[str] = Counter()
        missing = []
        for entry in batch:
            known = stored.get((entry.namespace or (), entry.key))
            state = "new" if known is None else "unchanged" if _is_same(entry, known[1]) else "updated"
            counts[state] += 1
            if state != "unchanged":
                missing.append({name: getattr(entry, name) for name in FIELDS})
        if missing and not self._dry_run:
            self._writer.add_many(missing, session=None, progress=None, expired=True)
        return counts


def _is_same(entry: ValidEntry, stored: Entry) -> bool:
    fields = set(FIELDS)
    if entry.event_time is None:
        fields -= {"event_time"}
    return all(getattr(stored, name) == getattr(entry, name) for name in fields)


def _to_line(entry: ValidEntry, digest: bytes) -> str:
    fields: dict[str, Any] = {name: getattr(entry, name) for name in FIELDS}
    fields["metadata"] = json.loads(entry.stored_metadata)
    fields |= {name: fields[name].isoformat() for name in _TIMES if fields[name] is not None}
    return json.dumps([digest.hex(), fields], ensure_ascii=False) + "\n"


def _from_line(line: str, store: Store) -> tuple[bytes, ValidEntry]:
    digest, fields = json.loads(line)
    return bytes.fromhex(digest), parse_entry(fields, store.config)
