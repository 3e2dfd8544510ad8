"""Backup and restore: a copy of the database, taken while it is in use, and verified before it counts."""

from __future__ import annotations

import logging
import operator
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace as dataclass_replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agent_memory.config import Config
from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.files import make_folder, remove_folder, write_beside
from agent_memory.live.store import Store, open_database
from agent_memory.live.targets import DATABASE, INDEX, check_target, is_own
from agent_memory.records import Copy, Erasure
from agent_memory.storage.base import Database
from agent_memory.storage.erasures import StoredCopy, StoredErasure
from agent_memory.storage.sqlite.copying import install_copy, read_store_id, restore_copy
from agent_memory.storage.sqlite.database import SqliteDatabase
from agent_memory.types import Progress
from agent_memory.upkeep.copying import copy

_SHORT_ID = 8
_HEX = re.compile("[0-9a-f]{32,64}")
_log = logging.getLogger("agent_memory")


def backup(store: Store, path: Path, progress: Progress | None = None) -> int:
    """Write a verified copy of a store to one file; see ``Memory.backup``."""
    target, begun = check_target(store.folder, path), datetime.now(UTC)
    try:
        make_folder(target.parent)
        with write_beside(target) as part:
            entries = store.database.copy_to(part, progress)
            install_copy(part, target)
    except OSError as error:
        raise StorageError(f"cannot write the backup {target}: {error}") from error
    if not store.database.read_only:
        with store.write() as tx:
            tx.erasures.note_copy(str(target), "backup", begun)
    return entries


def backup_into(store: Store, folder: Path, keep: int) -> tuple[Path, int]:
    """Write a backup into a folder and delete the store's oldest ones there; returns (file, entries).

    Whose a backup is, is in the file: those of other stores, links, and files that only have the name are left alone.
    """
    with store.read() as tx:
        store_id = tx.read_store_id()
    short = store_id[:_SHORT_ID]
    path = folder / f"memory-{short}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db"
    entries = backup(store, path)
    name = re.compile(rf"memory-{short}-[0-9]{{8}}T[0-9]{{12}}\.db")
    mine = sorted((one for one in folder.iterdir() if name.fullmatch(one.name)), reverse=True)
    gone = [one for one in mine if read_store_id(one) == store_id][keep:]
    for old in gone:
        old.unlink(missing_ok=True)
    if gone and not store.database.read_only:
        with store.write() as tx:
            tx.erasures.drop_copies([str(old) for old in gone])
    return path, entries


def restore(
    source: Path,
    place: Path | str,
    *,
    replace: bool = False,
    receipts: Sequence[Erasure | Mapping[str, Any]] = (),
    apply_forgets: bool = False,
) -> int:
    """Make a store of a backup; see ``Memory.restore``."""
    if not source.is_file():
        raise NotFoundError(f"there is no backup {source}")
    given = [_parse_receipt(one) for one in receipts]
    if isinstance(place, str):
        if replace:
            raise InvalidInputError(
                "a store on PostgreSQL is not replaced: others may have it open. Restore to another schema"
            )
        return _restore_served(source, place, given, apply=apply_forgets)
    folder = Path(os.path.realpath(place))
    database = folder / DATABASE
    if is_own(folder, Path(os.path.realpath(source))):
        raise InvalidInputError(f"{source} is the store itself, or belongs to it")
    if database.exists() and not replace:
        raise InvalidInputError(f"{folder} holds a store already; restore elsewhere, or say replace")
    is_new = not folder.exists()
    try:
        make_folder(folder)
        restored = restore_copy(source, database, lambda: _drop_index(folder / INDEX))
    except BaseException as error:
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        if isinstance(error, OSError):
            raise StorageError(f"cannot restore to {folder}: {error}") from error
        raise
    known = [one for one in (*restored.receipts, *given) if one.store_id == restored.origin]
    if not known and not restored.copies:
        return restored.entries
    opened = SqliteDatabase(database, lock_timeout_s=Config().lock_timeout_s)
    revived = _forget_again(opened, known, restored.copies, apply=apply_forgets)
    return _tell(source, folder, restored.entries, revived, apply=apply_forgets)


def _restore_served(source: Path, url: str, given: Sequence[StoredErasure], *, apply: bool) -> int:
    """Make a store on PostgreSQL of a backup: of a copy of the file, which may have to be migrated first."""
    with TemporaryDirectory(prefix="agent-memory-restore-") as scratch:
        folder = Path(scratch)
        entries = restore_copy(source, folder / DATABASE, lambda: None, same_id=True).entries
        origin = read_store_id(folder / DATABASE)
        done = copy(folder, url, known=False)
    known = [one for one in given if one.store_id == origin]
    revived = _forget_again(open_database(url), known, (), apply=apply) if known else 0
    return _tell(source, done.target, entries, revived, apply=apply)


def _tell(source: Path, place: object, entries: int, revived: int, *, apply: bool) -> int:
    """Return how many entries were restored, and warn if forgotten ones are among them."""
    if revived and not apply:
        _log.warning(
            "%s is older than what was forgotten since: %d forgotten rows are back in %s; "
            "restore with apply_forgets=True to forget them again",
            source,
            revived,
            place,
        )
    return entries - (revived if apply else 0)


def _forget_again(
    database: Database, receipts: Sequence[StoredErasure], copies: Sequence[StoredCopy], *, apply: bool
) -> int:
    """Carry receipts and copies over into a restored store; deletes the rows of the receipts if asked.

    What sessions were evolved with is cleared, and evolved again when the store is opened.

    Returns:
        Number of rows of the receipts that the store holds, or held.
    """
    try:
        database.prepare()
        with database.write() as tx:
            for known in copies:
                tx.erasures.note_copy(known.path, known.kind, known.made_at, last_id=known.last_id)
            tokens = {one.token for one in tx.erasures.list_all()}
            newer = [one for one in receipts if one.token not in tokens]
            ids = sorted({entry_id for one in newer for entry_id in one.ids})
            held = sorted(tx.entries.fetch(ids))
            for one in newer:
                tx.erasures.add(dataclass_replace(one, deferred=False, finished_at=None if apply else one.made_at))
            if apply and held:
                removed = tx.drafts.remove(tx.entries.select_lineage(held, later=True).tolist())
                for session_id, first in removed.dirty_past.items():
                    tx.sessions.clear(session_id, first)
                tx.queries.clear_about(removed.scopes)
        if apply and held:
            database.erase_traces(lambda tx: None, wait_s=database.lock_timeout_s)
        return len(held)
    finally:
        database.close()


def _parse_receipt(receipt: Erasure | Mapping[str, Any]) -> StoredErasure:
    facts = receipt.to_dict() if isinstance(receipt, Erasure) else receipt
    try:
        made_at = datetime.fromisoformat(facts["made_at"]).astimezone(UTC)
        ids = tuple(sorted(map(operator.index, facts["ids"])))
        names = {name: str(facts[name]) for name in ("token", "store_id", "digest")}
        count = operator.index(facts["forgotten"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"this is no receipt of forget: {error!r}") from error
    sound = all(_HEX.fullmatch(name) for name in names.values()) and made_at <= datetime.now(UTC)
    if not sound or (ids and not 0 < ids[0] <= ids[-1] < 2**62) or count < 0 or made_at.year < 2000:
        raise InvalidInputError("this is no receipt of forget: a name, time or number in it is none of a store")
    return StoredErasure(
        selection=str(facts.get("selection", "")).encode("utf-8", "replace").decode()[:20],
        made_at=made_at,
        ids=ids,
        facts={"keys": count},
        deferred=False,
        token=names["token"],
        store_id=names["store_id"],
        digest=names["digest"],
    )


def list_copies(store: Store) -> list[Copy]:
    """Return the copies of a store that it knows of; see ``Memory.copies``."""
    with store.read() as tx:
        store_id, copies, erasures = tx.read_store_id(), tx.erasures.list_copies(), tx.erasures.list_all()
    found = []
    for one in copies:
        later = [erasure for erasure in erasures if erasure.made_at > one.made_at and erasure.ids]
        ids = sorted({entry_id for erasure in later for entry_id in erasure.ids if entry_id <= one.last_id})
        path = Path(one.path)
        looked = one.kind == "backup" and one.exists
        holds = store.database.count_in_copy(path, store_id, ids) if looked else None
        older = tuple(erasure.token for erasure in later if erasure.ids[0] <= one.last_id)
        found.append(
            Copy(
                path=one.path if "://" in one.path else path,
                kind=one.kind,
                made_at=one.made_at,
                exists=one.exists,
                older_than=older,
                holds=holds,
            )
        )
    return found


def _drop_index(index: Path) -> None:
    if index.is_symlink():
        index.unlink()
    remove_folder(index)
