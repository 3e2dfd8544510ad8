"""Backfill: reads the transcripts of the past, by the rules by which the hooks capture the present."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.agents.capture import MODEL, PERSON, make_item
from agent_memory.agents.events import CLAUDE_CODE, CODEX
from agent_memory.agents.projects import find_project
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.files import failpoint
from agent_memory.inputs import parse_time
from agent_memory.types import Progress
from agent_memory.writing.foreign.found import Item, Options
from agent_memory.writing.foreign.registry import Format, read_file

if TYPE_CHECKING:
    from agent_memory.memory import Memory

FORMATS = {CLAUDE_CODE: Format.CLAUDE_CODE, CODEX: Format.CODEX}
"""The agents whose transcripts can be read."""

_BATCH = 200
_PROBLEMS = 100
_log = logging.getLogger("agent_memory")


@dataclass(kw_only=True)
class Backfilled:
    """What a backfill has done.

    Attributes:
        new: Number of entries written.
        known: Number of entries that were there already.
        files: Number of transcripts read.
        projects: Number of projects they belong to.
        problems: Transcripts that could not be read, and why; none of them was written.
    """

    new: int = 0
    known: int = 0
    files: int = 0
    projects: int = 0
    problems: list[str] = field(default_factory=list)


def backfill(memory: Memory, agent: str, path: Path, *, progress: Progress | None = None) -> Backfilled:
    """Write what people and agents said in the transcripts of a file or folder; run again, it writes the rest.

    A transcript is checked whole before any of it is written. Its entries have the keys that the hooks give, so what
    these have captured is not written twice, and keeps its provenance; that of a transcript is ``import``.

    Args:
        memory: A memory without a namespace; each project has one of its own.
        agent: ``claude-code`` or ``codex``.
        path: A transcript, or a folder of them, such as ``~/.claude/projects`` or ``~/.codex/sessions``.
        progress: Called with (transcripts done, all of them).

    Raises:
        InvalidInputError: The transcripts of this agent cannot be read.
        NotFoundError: There is no such file or folder.
        StorageError: The store cannot be written; what was written before stays.
    """
    if agent not in FORMATS:
        raise InvalidInputError(f"agent must be one of {', '.join(FORMATS)}, got {agent!r}")
    if not path.exists():
        raise NotFoundError(f"there is no file {path}")
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    done, projects = Backfilled(), set[tuple[str, ...]]()
    for number, file in enumerate(files, start=1):
        try:
            items = list(_read(file, agent, memory.config.max_text_chars))
        except (ValueError, OSError) as error:  # InvalidInputError is one; so is a path that no system takes
            if len(done.problems) < _PROBLEMS:
                done.problems.append(f"{file}, {error}")
        else:
            projects |= {tuple(item["namespace"]) for item in items}
            for start in range(0, len(items), _BATCH):
                _write(memory, items[start : start + _BATCH], done)
                failpoint("backfill-batch")
            done.files += 1
        if progress is not None:
            progress(number, len(files))
    done.projects = len(projects)
    return done


def _read(file: Path, agent: str, most: int) -> Iterator[dict[str, Any]]:
    """Yield the entries of a transcript: what the person said, and the last answer before they spoke again."""
    answer: Item | None = None
    for _, found in read_file(file, FORMATS[agent], Options(max_text_chars=most)):
        if found.item is None:
            continue
        if found.item["speaker"] == PERSON:
            yield from _convert(answer, agent)
            yield from _convert(found.item, agent)
            answer = None
        else:
            answer = found.item
    yield from _convert(answer, agent)


def _convert(found: Item | None, agent: str) -> Iterator[dict[str, Any]]:
    if found is None:
        return
    facts = found.get("metadata") or {}
    folder = facts.get("cwd")
    time = found.get("event_time")
    item = make_item(
        found["text"],
        agent=agent,
        session=found["session"],
        speaker=PERSON if found["speaker"] == PERSON else MODEL,
        provenance="import",
        namespace=find_project(folder if isinstance(folder, str) and folder else "/"),
        time=time if isinstance(time, str) and _is_time(time) else datetime.now(UTC).isoformat(),
    )
    if item is not None:
        yield item


def _is_time(text: str) -> bool:
    try:
        parse_time("time", text)
    except InvalidInputError:
        return False
    return True


def _write(memory: Memory, items: list[dict[str, Any]], done: Backfilled) -> None:
    """Write the items of a batch that are not there yet, each once."""
    wanted: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {}
    for item in items:
        wanted.setdefault((tuple(item["namespace"]), item["key"]), item)
    known = {
        (namespace, key)
        for namespace in {namespace for namespace, _ in wanted}
        for key in memory.get_many([key for place, key in wanted if place == namespace], namespace=namespace)
    }
    fresh = [item for place, item in wanted.items() if place not in known]
    if fresh:
        memory.add_many(fresh)
    done.new += len(fresh)
    done.known += len(wanted) - len(fresh)
