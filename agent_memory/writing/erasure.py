"""``Eraser``: deletes entries with all that was derived from them, in the database and in every file, and proves it."""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from agent_memory import inputs
from agent_memory.errors import AgentMemoryError, IndexStateError, InvalidInputError, NotFoundError, StorageError
from agent_memory.files import clean_parts, failpoint
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.records import Entry, Erasure
from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import canonical_json
from agent_memory.storage.erasures import StoredErasure
from agent_memory.storage.filters import EVERYTHING, parse_filter
from agent_memory.storage.records import Condition, Removed
from agent_memory.telemetry.stages import stage
from agent_memory.types import IdArray, Namespace

_log = logging.getLogger("agent_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    """What is to be forgotten.

    Attributes:
        selection: How the rows are selected; see ``Erasure``.
        digest: See ``Erasure``.
        select: Returns the rows in a transaction.
        later: Whether what has replaced them goes, too.
        queries_of: A namespace of which all logged queries go; None for those alone that could find the rows.
        deferred: Whether their traces in files are left to maintenance.
        key: The key that was asked for.
        session: The session that was asked for.
    """

    selection: str
    digest: str
    select: Callable[[Transaction], IdArray]
    later: bool
    queries_of: Namespace | None = None
    deferred: bool = False
    key: str | None = None
    session: str | None = None

    def find(self, tx: Transaction) -> list[int]:
        """Return the rows with all that belongs to them, ascending."""
        return list(map(int, tx.entries.select_lineage(self.select(tx), later=self.later)))


def digest_selection(namespace: Sequence[str], **selection: Any) -> str:  # noqa: ANN401 - the arguments of ``forget``
    """Return the digest by which a receipt names a scope and a selection without telling them.

    Args:
        namespace: The scope, in full.
        selection: The arguments of ``forget`` that were given: ``key``, ``where``, ``session``, ``everything``.
    """
    given = {name: value for name, value in selection.items() if value not in (None, False)}
    return hashlib.sha256(canonical_json({"namespace": list(namespace), **given}).encode()).hexdigest()


class Eraser:
    """Forgets entries of one store.

    Args:
        store: The store.
        namespace: The memory's namespace.
        discard_queries: Drops the queries asked in, above or below some namespaces that this process has not logged.
    """

    def __init__(
        self, store: Store, namespace: Namespace, discard_queries: Callable[[Collection[Namespace]], None]
    ) -> None:
        self._store, self._namespace, self._discard_queries = store, namespace, discard_queries

    def forget(
        self,
        key: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        session: str | None = None,
        everything: bool = False,
        namespace: Sequence[str] | None = None,
        deferred: bool = False,
        dry_run: bool = False,
    ) -> Erasure:
        """Delete entries for good, with all that was derived from them; returns how many, as a receipt.

        What is selected is every row that matches: current, superseded, expired, former versions. With each row goes
        its whole line: former and later versions, the entries it has superseded and those that have superseded it,
        directly or indirectly, whether they match or not. When the call returns, no file of the store holds their
        texts, metadata, speakers, keys or vectors, and what is left is what a store would hold that never knew them.
        Copies are out of reach: the receipt names the backups and exports that this store knows of.

        Args:
            key: One entry, in exactly this namespace; a superseded one, too.
            where: Every entry that the filter matches, here and in the namespaces below; not empty.
            session: Every entry of a session (together with ``where``: those that match).
            everything: True to delete all entries here and in the namespaces below, and what the query log holds of
                queries asked there.
            namespace: Where to look; this memory's namespace if left out.
            deferred: True to return once the entries are unreadable, and to leave the traces in files to
                ``maintenance``, for many calls in a row.
            dry_run: True to say what would go, and to delete nothing.

        Raises:
            InvalidInputError: Nothing, or a contradiction, was said about what to forget.

        Example:
            >>> entry = memory.add("PIN 1234", key="pin")
            >>> memory.forget("pin")
            1
        """
        given = {"key": key, "where": where, "session": session, "everything": everything}
        return self._carry_out(self._make_wish(given, namespace, deferred), dry_run)

    def forget_version(
        self,
        key: str,
        *,
        accept: Callable[[Entry | None], None],
        namespace: Sequence[str] | None = None,
        deferred: bool = False,
        dry_run: bool = False,
    ) -> Erasure:
        """Forget one entry, as ``forget`` does, unless ``accept`` raises.

        Args:
            key: The entry's key.
            accept: Called with the entry as it is read in the transaction that deletes it; with None if there is none.
            namespace: As for ``forget``.
            deferred: As for ``forget``.
            dry_run: As for ``forget``.
        """
        wish = self._make_wish({"key": key}, namespace, deferred)
        scope = inputs.resolve_namespace(namespace, self._namespace)

        def select(tx: Transaction) -> IdArray:
            try:
                current = tx.entries.find(scope, key, self._store.database.now())[1]
            except NotFoundError:
                current = None
            accept(current)
            return wish.select(tx)

        return self._carry_out(replace(wish, select=select), dry_run)

    def _make_wish(self, given: Mapping[str, Any], namespace: Sequence[str] | None, deferred: bool) -> _Wish:
        """Return what the arguments of ``forget`` ask for."""
        key, where, session = (given.get(name) for name in ("key", "where", "session"))
        scope = inputs.resolve_namespace(namespace, self._namespace)
        everything = inputs.check_flag("everything", given.get("everything", False))
        filtered = (where is not None and parse_filter(where) != EVERYTHING) or session is not None
        if sum([key is not None, filtered, everything]) != 1:
            raise InvalidInputError("say what to forget: a key, a non-empty where and/or session, or everything")
        condition = Condition(
            namespace=scope,
            state="any",
            where=parse_filter(where),
            key=inputs.check_optional_name("key", key),
            session=inputs.check_optional_name("session", session),
        )
        return _Wish(
            selection="everything" if everything else next(name for name, value in given.items() if value is not None),
            digest=digest_selection(scope, **given),
            select=lambda tx: tx.entries.select_ids(condition),
            later=True,
            queries_of=scope if everything else None,
            key=condition.key,
            session=condition.session,
            deferred=inputs.check_flag("deferred", deferred),
        )

    def _carry_out(self, wish: _Wish, dry_run: bool) -> Erasure:
        if inputs.check_flag("dry_run", dry_run):
            return self._preview(wish)
        with stage("forget", store=self._store, key=wish.key, session=wish.session) as facts:
            erasure = self._erase(wish)
            facts["records"] = int(erasure)
        return erasure

    def purge(self) -> Erasure:
        """Forget what has expired or is beyond its retention, in the memory's namespace and below."""
        moment = self._store.database.now()
        scope = self._namespace

        def select(tx: Transaction) -> IdArray:
            expired = tx.entries.select_ids(Condition(namespace=scope, state="past", moment=moment))
            return np.union1d(expired, self.find_surplus(tx, moment))

        digest = digest_selection(scope, expired=True)
        return self._erase(_Wish(selection="expired", digest=digest, select=select, later=False))

    def find_surplus(self, tx: Transaction, now: datetime) -> IdArray:
        """Return the rows in the memory's namespace and below that are beyond their retention."""
        found = np.empty(0, np.int64)
        for name, rule in self._store.config.retention.items():
            place = tuple(name.split("/")) if name else ()
            shared = min(len(place), len(self._namespace))
            if place[:shared] != self._namespace[:shared]:
                continue
            scope = max(place, self._namespace, key=len)
            before = None if rule.max_age is None else now - rule.max_age
            # Of a namespace that this memory sees a part of, the number of entries is none of its business.
            newest = rule.max_entries if scope == place else None
            found = np.union1d(found, tx.entries.select_surplus(scope, before=before, newest=newest))
        return found

    def resume(self) -> None:
        """Finish erasures that a killed process has left unfinished, but for deferred ones; raises nothing."""
        if self._store.database.read_only:
            return
        left: list[str] = []
        try:
            with self._store.read() as tx:
                left = tx.erasures.list_unfinished(deferred=False)
            if left:
                self._store.call_in_space(self._evolve_again)
                self.finish()
        except AgentMemoryError as error:
            _log.warning("%d erasures are still to be finished: %s", len(left), error)

    def _evolve_again(self, space: Space) -> None:
        """Evolve the sessions of which a restore has forgotten entries without a session encoder."""
        if space.sessions.encoder is None:
            return
        with self._store.write() as tx:
            generation = tx.generations.live()
            if generation is not None:
                space.sessions.accept(generation)
                dirty = tx.sessions.find_unevolved(generation, space.sessions.latents_bytes)
                space.sessions.replay(tx, generation, dirty)
                space.sessions.replay_past(tx, generation, dirty)

    def finish(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Take the traces of all unfinished erasures out of files; returns (snapshots deleted, what is left)."""
        store = self._store
        files: list[str] = []
        pending: list[str] = []
        with store.read() as tx:
            tokens = tx.erasures.list_unfinished()
        clean_parts(store.folder)
        try:
            with store.read() as tx:
                files += store.index.erase(tx, store.space.accept, wait_s=store.config.lock_timeout_s)
            with store.read() as tx:
                store.columns.erase(tx)
                files += store.words.erase(tx, wait_s=store.config.lock_timeout_s)
        except IndexStateError as error:
            pending.append(f"index: {error}")
        failpoint("erasure-index-written")
        now = self._store.database.now()
        done = [] if pending else tokens
        try:
            left = store.database.erase_traces(
                lambda tx: tx.erasures.finish(done, now), wait_s=store.config.lock_timeout_s
            )
        except StorageError as error:
            left = str(error)
        if left is not None:
            pending.append(f"database: {left}")
        for one in pending:
            _log.warning("what was forgotten may still be in a file of %s: %s", store.folder, one)
        return tuple(files), tuple(pending)

    def _is_unfinished(self) -> bool:
        with self._store.read() as tx:
            return bool(tx.erasures.list_unfinished())

    # --- steps -------------------------------------------------------------------------------------------

    def _preview(self, wish: _Wish) -> Erasure:
        with self._store.read() as tx:
            ids = wish.find(tx)
            found = tx.entries.fetch(ids)
            store_id = tx.read_store_id()
            backups, exports = self._find_copies(tx, store_id, ids)
        keys = {(entry.namespace, entry.key) for entry in found.values()}
        return Erasure(
            len(keys),
            store_id=store_id,
            made_at=self._store.database.now(),
            selection=wish.selection,
            digest=wish.digest,
            ids=tuple(ids),
            rows=len(found),
            backups=backups,
            exports=exports,
            dry_run=True,
        )

    def _erase(self, wish: _Wish) -> Erasure:
        erasure, facts = self._store.call_in_space(lambda space: self._delete(wish, space))
        files: tuple[str, ...] = ()
        if not erasure.ids and not facts["queries"]:
            # The last of many calls may find nothing, because somebody was faster: what was deferred for it stays due.
            files, left_over = ((), ()) if wish.deferred or not self._is_unfinished() else self.finish()
            return _make_receipt(erasure, facts, files=files, pending=left_over)
        failpoint("erasure-committed")
        if wish.deferred:
            pending: tuple[str, ...] = ("deferred: maintenance takes the traces out of the files",)
        else:
            files, pending = self.finish()
        with self._store.read() as tx:
            backups, exports = self._find_copies(tx, erasure.store_id, erasure.ids)
            left = tx.erasures.find_left(erasure.ids)
        verified: tuple[str, ...] = () if left else ("no row, vector or word of them is in the database",)
        if not pending:
            verified += (
                self._store.database.erased,
                "no index snapshot was written before they were deleted",
            )
        return _make_receipt(
            erasure,
            facts,
            files=files,
            pending=(*left, *pending),
            verified=verified,
            backups=backups,
            exports=exports,
        )

    def _delete(self, wish: _Wish, space: Space) -> tuple[StoredErasure, dict[str, int]]:
        """Delete the rows and all in the database that was derived from them, in one transaction."""
        space.sessions.warm(self._store.database, lambda tx: tx.sessions.find_sessions(wish.find(tx)))
        with self._store.write() as tx:
            ids = wish.find(tx)
            removed = tx.drafts.remove(ids)
            self._end_waiting(tx)
            facts = {"keys": removed.keys, "rows": removed.rows, "vectors": removed.vectors, "latents": removed.latents}
            facts["replayed"] = self._replay(tx, removed, space)
            facts["queries"] = self._clear_queries(tx, removed, wish)
            facts["jobs"] = 0 if removed.since is None else tx.jobs.clear_errors(removed.since)
            facts["seq"] = tx.changes.last_seq()
            erasure = StoredErasure(
                token=secrets.token_hex(16),
                store_id=tx.read_store_id(),
                made_at=self._store.database.now(),
                selection=wish.selection,
                digest=wish.digest,
                ids=tuple(ids),
                facts=facts,
                deferred=wish.deferred,
            )
            if ids or facts["queries"]:
                tx.erasures.add(erasure)
        return erasure, facts

    def _end_waiting(self, tx: Transaction) -> None:
        """Take back that vectors are awaited if all that waited for theirs are gone."""
        generation = tx.generations.live()
        if generation is not None and tx.vectors.is_awaiting():
            tx.vectors.end_waiting(generation)

    def _replay(self, tx: Transaction, removed: Removed, space: Space) -> int:
        generation = tx.generations.live()
        if generation is None or not removed.rows:
            return 0
        space.sessions.accept(generation)
        replayed = space.sessions.replay(tx, generation, removed.dirty)
        return replayed + space.sessions.replay_past(tx, generation, removed.dirty_past)

    def _clear_queries(self, tx: Transaction, removed: Removed, wish: _Wish) -> int:
        count = 0
        if wish.queries_of is not None:
            self._discard_queries([wish.queries_of])
            count += tx.queries.clear(wish.queries_of)
        if removed.since is not None:
            self._discard_queries(removed.scopes)
            count += tx.queries.clear_about(removed.scopes)
        return count

    def _find_copies(
        self, tx: Transaction, store_id: str, ids: Sequence[int]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the backups that hold some of these rows, and the exports and stores elsewhere that may."""
        if not ids:
            return (), ()
        known = [one for one in tx.erasures.list_copies() if one.last_id >= ids[0] and one.exists]
        backups = [one.path for one in known if one.kind == "backup"]
        backups = [path for path in backups if self._store.database.count_in_copy(Path(path), store_id, ids)]
        return tuple(backups), tuple(one.path for one in known if one.kind != "backup")


def _make_receipt(erasure: StoredErasure, facts: Mapping[str, int], **more: Any) -> Erasure:  # noqa: ANN401 - as Erasure
    """Return the receipt of what was stored; without a token if there was nothing to forget."""
    return Erasure(
        facts["keys"],
        token=erasure.token if erasure.ids or facts["queries"] else "",
        store_id=erasure.store_id,
        made_at=erasure.made_at,
        selection=erasure.selection,
        digest=erasure.digest,
        ids=erasure.ids,
        **{name: number for name, number in facts.items() if name not in ("keys", "seq")},
        **more,
    )
