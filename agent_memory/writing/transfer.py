"""Export and import: writes a JSON Lines file; reads such a file, conversations, or another system's file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.files import write_atomically
from agent_memory.formats.payload import to_json
from agent_memory.live.store import Store
from agent_memory.live.targets import check_target
from agent_memory.records import Entry
from agent_memory.reports import Imported
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Condition
from agent_memory.types import Namespace, Progress
from agent_memory.writing.writer import Writer

_REPORTED = ("duplicate_of", "may_supersede")  # by a write, to whoever made it
_PAGE = 1_000


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
        now = self._store.database.now()
        with self._store.read() as tx:
            count = _write(tx, Condition(namespace=self._namespace, moment=now), file, progress)
        if not self._store.database.read_only:
            with self._store.write() as tx:
                tx.erasures.note_copy(str(file), "export", now)
        return count

    def import_(
        self,
        path: str | Path,
        *,
        format: str | None = None,
        source: str | None = None,
        dry_run: bool = False,
        assume_now: bool = False,
        all_branches: bool = False,
        progress: Progress | None = None,
    ) -> Imported:
        """Read an export, conversations, or another system's file into this memory; returns what became of it.

        The whole file is checked before the first entry is written: if anything in it is malformed, nothing of it is
        kept. An import that is interrupted keeps what it has written until then; run it again, and it writes the rest.
        Entries that are already there, unchanged, are left alone. ``created_at`` is the moment of import.

        The form of a file is recognised, of JSON also gzip-compressed or in a zip archive. What other systems keep of
        tools, instructions and thoughts is not talk: it is skipped, or becomes metadata. A message that is too long for
        this memory is refused by itself, and so is an odd item of a database; ``problems`` of the result names them.

        Args:
            path: The file. Where the format is named also a folder: that of a Chroma or mem0 store, or one whose JSON
                files are read, and those in folders below it.
            format: ``"agent-memory"`` (an export), ``"conversations"`` (a list of segments), ``"chatgpt"``,
                ``"claude"``, ``"claude-code"``, ``"codex"``, ``"messages"`` (role and content), ``"letta"``;
                ``"mem0"`` (``history.db``), ``"chroma"`` or ``"langgraph"`` (``SqliteStore``);
                ``"items"``, as ``add_many`` takes them. None: the file shows it.
                Chroma's collections become namespaces; LangGraph's items come to lie where ``AgentMemoryStore`` looks.
            source: The former name of ``format``.
            dry_run: Check and count only.
            assume_now: Take the moment of import for event times that cannot be understood, which are errors otherwise.
            all_branches: Keep also what is not on the branch of a conversation that was open last: regenerated answers,
                edited questions, and what sub-agents said.
            progress: Called with (entries done, entries in all).

        Raises:
            InvalidInputError: Something in the file is malformed; the message names the line. Nothing was written.
            NotFoundError: There is no such file.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> count = memory.export("alice.jsonl")
            >>> memory.import_("alice.jsonl")
            Imported(unchanged=1, formats=('agent-memory',))
        """
        from agent_memory.writing.foreign.registry import parse_format  # a dozen readers, for imports alone
        from agent_memory.writing.importing import Importer

        file = inputs.parse_path("path", path)
        if format is not None and source is not None and format != source:
            raise InvalidInputError(f"format and source are one thing; got {format!r} and {source!r}")
        importer = Importer(
            self._store,
            self._writer,
            self._namespace,
            assume_now=inputs.check_flag("assume_now", assume_now),
            dry_run=inputs.check_flag("dry_run", dry_run),
            progress=progress,
        )
        chosen = parse_format(source if format is None else format)
        return importer.run(file, chosen, all_branches=inputs.check_flag("all_branches", all_branches))


def _write(tx: Transaction, condition: Condition, path: Path, progress: Progress | None = None) -> int:
    """Write the entries that satisfy a condition, in the order they were added; returns how many."""
    from importlib.metadata import version

    from agent_memory.writing.foreign.native import FORMAT, MARK

    total = tx.entries.count(condition)
    header = {MARK: FORMAT, "version": version("agent-memory"), "entries": total}
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
    known = {name: part for name, part in value.items() if part is not None and name not in _REPORTED}
    return (json.dumps(known, ensure_ascii=False) + "\n").encode()
