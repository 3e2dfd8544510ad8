"""Commands that write entries and read them back: add, get, history, update, list, forget."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_memory.cli.sessions import print_sessions
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    OUT,
    EncoderOption,
    EventTimeOption,
    ExpiresAtOption,
    ImportanceOption,
    JsonOption,
    KeyArgument,
    MetadataOption,
    NamespaceOption,
    PathOption,
    SessionOption,
    SpeakerOption,
    TimezoneOption,
    WhereOption,
    describe_origin,
    moment,
    open_store,
    parse_object,
    print_facts,
    print_json,
    print_line,
    printable,
    read_text,
    say,
    shorten,
)
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.files import write_bytes
from agent_memory.formats import payload
from agent_memory.resident import once

if TYPE_CHECKING:
    from agent_memory.memory import Memory
    from agent_memory.records import Entry

app = typer.Typer()


class Clearable(StrEnum):
    """Fields that ``update --clear`` empties."""

    SPEAKER = "speaker"
    METADATA = "metadata"
    EXPIRES_AT = "expires-at"
    IMPORTANCE = "importance"


@app.command(epilog='Example: agent-memory add "Alice moved to Berlin." -s chat-7 --speaker alice')
def add(
    text: Annotated[str, typer.Argument(help="What to remember; - reads standard input.")],
    path: PathOption = DEFAULT_PATH,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    key: Annotated[str | None, typer.Option(help="Your own key; an existing one is replaced.")] = None,
    metadata: MetadataOption = None,
    event_time: EventTimeOption = None,
    expires_at: ExpiresAtOption = None,
    importance: ImportanceOption = None,
    timezone: TimezoneOption = None,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remember a text."""
    what, facts = read_text(text), parse_object(metadata, "--metadata")
    with open_store(path, namespace, encoder=encoder, create=True, timezone=timezone, encodes=True) as memory:
        entry = _find_added(memory, what, key) or memory.add(
            what,
            session=session,
            speaker=speaker,
            key=key or once.key or None,
            metadata=facts,
            event_time=event_time,
            expires_at=expires_at,
            importance=importance,
        )
    note = f" (same text as {entry.duplicate_of})" if entry.duplicate_of else ""
    say(entry, f"remembered {entry.key}{note}", as_json=as_json)


def _find_added(memory: Memory, text: str, key: str | None) -> Entry | None:
    """Return the entry if a helper, which died then, has already added it for this command."""
    if not once.since:
        return None
    from agent_memory.formats.prompt import without_recalled  # brings NumPy, which --help can do without

    try:
        versions = memory.history(key or once.key)
    except NotFoundError:
        return None
    began = datetime.fromtimestamp(once.since, UTC)
    wanted = without_recalled(text)
    return next((one for one in versions[::-1] if one.updated_at >= began and one.text == wanted), None)


@app.command(epilog="Example: agent-memory get home")
def get(
    key: KeyArgument,
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show one entry in full."""
    with open_store(path, namespace) as memory:
        entry = memory.get(key)
    if as_json:
        print_json(entry)
    else:
        print_facts({name: value for name, value in _details(entry).items() if value not in (None, {}, ())})
        OUT.print(printable("\n" + entry.text))


def _details(entry: Entry) -> dict[str, object]:
    return {name: getattr(entry, name) for name in entry.__slots__ if name != "text"}


@app.command(epilog="Example: agent-memory history home --json")
def history(
    key: KeyArgument,
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show every version of an entry, oldest first; the current one comes last."""
    with open_store(path, namespace) as memory:
        versions = memory.history(key)
    if as_json:
        print_json(versions)
        return
    for entry in versions:
        until = "now" if entry.superseded_at is None else moment(entry.superseded_at)
        print_line((f"{moment(entry.updated_at)} to {until}  ", "dim"), shorten(entry.text))


@app.command(epilog='Example: agent-memory update home --text "Alice moved to Rome." --clear expires-at')
def update(
    key: KeyArgument,
    path: PathOption = DEFAULT_PATH,
    text: Annotated[str | None, typer.Option("--text", help="New text; - reads standard input.")] = None,
    speaker: SpeakerOption = None,
    metadata: MetadataOption = None,
    event_time: EventTimeOption = None,
    expires_at: ExpiresAtOption = None,
    importance: ImportanceOption = None,
    clear: Annotated[list[Clearable] | None, typer.Option("--clear", help="Empty this field; repeatable.")] = None,
    timezone: TimezoneOption = None,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change some fields of an entry; the former version stays in its history."""
    given = {
        "text": None if text is None else read_text(text),
        "speaker": speaker,
        "metadata": parse_object(metadata, "--metadata"),
        "event_time": event_time,
        "expires_at": expires_at,
        "importance": importance,
    }
    changed: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    emptied: dict[str, Any] = {field.replace("-", "_"): None for field in clear or ()}
    if both := sorted(changed.keys() & emptied.keys()):
        raise InvalidInputError(f"{both[0]} can be given or cleared, not both")
    if not changed and not emptied:
        raise InvalidInputError("say what to change: --text, --speaker, --metadata, … or --clear")
    with open_store(path, namespace, encoder=encoder, timezone=timezone) as memory:
        entry = memory.update(key, **changed, **emptied)
    say(entry, f"updated {entry.key}", as_json=as_json)


@app.command("list", epilog="Example: agent-memory list -s chat-7 --limit 20")
def list_(
    path: PathOption = DEFAULT_PATH,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    where: WhereOption = None,
    sessions: Annotated[bool, typer.Option("--sessions", help="List sessions instead of entries.")] = False,
    limit: Annotated[int, typer.Option(help="Maximum number of entries.")] = 50,
    offset: Annotated[int, typer.Option(help="Number of entries to skip.")] = 0,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """List entries in the order they were added, or sessions."""
    filters = parse_object(where, "--where")
    with open_store(path, namespace) as memory:
        if sessions:
            print_sessions(memory.sessions(), as_json=as_json)
            return
        found = memory.entries(session=session, speaker=speaker, where=filters, limit=limit, offset=offset)
    if as_json:
        print_json(found)
        return
    for entry in found:
        print_line(
            (printable(entry.key), "bold"), "  ", (describe_origin(entry), "dim"), "  ", shorten(entry.text, 120)
        )


@app.command(epilog="Example: agent-memory forget --session chat-7")
def forget(
    key: Annotated[str | None, typer.Argument(help="Key of one entry.")] = None,
    path: PathOption = DEFAULT_PATH,
    where: WhereOption = None,
    session: SessionOption = None,
    everything: Annotated[bool, typer.Option("--everything", help="All entries of the namespace.")] = False,
    namespace: NamespaceOption = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    deferred: Annotated[bool, typer.Option("--deferred", help="Leave traces in files to `maintenance`.")] = False,
    receipt: Annotated[Path | None, typer.Option(help="Write the receipt to this file, as JSON.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Delete entries for good, with all versions of them; forgetting what is not there is no error, and says 0."""
    filters = parse_object(where, "--where")
    with open_store(path, namespace) as memory:
        erasure = memory.forget(
            key, where=filters, session=session, everything=everything, deferred=deferred, dry_run=dry_run
        )
    if receipt is not None:
        write_bytes(receipt, payload.dumps(erasure.to_dict(), indent=2).encode() + b"\n")
    if as_json:
        facts = {name: getattr(erasure, name) for name in ("pending", "backups", "exports", "dry_run")}
        print_json({"forgotten": int(erasure), **{name: value for name, value in facts.items() if value}})
        return
    print_line(f"{'would forget' if dry_run else 'forgot'} {erasure} ({erasure.rows} rows)")
    for one in erasure.pending:
        print_line(f"  still to do: {one}")
    for one in erasure.backups:
        print_line(f"  out of reach: the backup {one} holds some of it")
    for one in erasure.exports:
        print_line(f"  out of reach: the export {one} may hold some of it")
