"""Schedules of periodic jobs, and when they are due. APScheduler's triggers compute the times."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.live.store import Store
from agent_memory.reports import Schedule
from agent_memory.storage.base import Transaction

KINDS = ("maintain", "purge", "compact", "retrain", "verify", "snapshot", "backup")

DEFAULTS = (
    Schedule(name="maintain", kind="maintain", trigger="every 1h"),
    Schedule(name="snapshot", kind="snapshot", trigger="every 10m"),
    Schedule(name="verify", kind="verify", trigger="30 3 * * 0"),
)
"""Schedules that a worker gives to a store without any."""

_EVERY = re.compile(r"every (\d{1,6}) ?([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_trigger(text: str) -> Any:  # noqa: ANN401 - APScheduler has no types
    """Return APScheduler's trigger for a cron expression in UTC or ``every N unit``.

    Raises:
        InvalidInputError: It is neither.
        MissingDependencyError: APScheduler is not installed.
    """
    try:
        from apscheduler.triggers.cron import CronTrigger
        from apscheduler.triggers.interval import IntervalTrigger
    except ImportError as error:
        raise MissingDependencyError("APScheduler", "jobs") from error
    match = _EVERY.fullmatch(text.strip())
    try:
        if match:
            if int(match[1]) == 0:
                raise ValueError("the interval is 0")
            return IntervalTrigger(**{_UNITS[match[2]]: int(match[1])}, timezone=UTC)
        return CronTrigger.from_crontab(text, timezone=UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"trigger must be a cron expression or 'every 30m', got {text!r}: {error}") from error


def make_schedule(name: str, kind: str, trigger: str, options: Mapping[str, Any] | None) -> Schedule:
    """Return a validated schedule; raises InvalidInputError."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidInputError(f"kind must be one of {KINDS}, got {inputs.describe(kind)}")
    if not isinstance(trigger, str):
        raise InvalidInputError(f"trigger must be a string, got {inputs.type_name(trigger)}")
    if options is not None and (not isinstance(options, Mapping) or not all(isinstance(one, str) for one in options)):
        raise InvalidInputError(f"options must be a mapping of names, got {inputs.type_name(options)}")
    given = dict(options or {})
    if unknown := set(given) - ({"folder", "keep"} if kind == "backup" else set()):
        raise InvalidInputError(f"a {kind} job has no options {sorted(unknown)}")
    if kind == "backup" and not isinstance(given.get("folder"), str):
        raise InvalidInputError("a backup job needs the option folder")
    if "keep" in given and (isinstance(given["keep"], bool) or not isinstance(given["keep"], int) or given["keep"] < 1):
        raise InvalidInputError(f"keep must be a positive number of backups, got {given['keep']!r}")
    if kind == "backup":
        # A later change of the working directory must not move it.
        given["folder"] = str(inputs.parse_path("folder", given["folder"]))
    parse_trigger(trigger)
    return Schedule(name=inputs.check_optional_name("name", name) or kind, kind=kind, trigger=trigger, options=given)


def seal(schedule: Schedule, folder: Path) -> str:
    """Return what ties a schedule to this machine, this user and a store's folder; see ``Schedule.made_here``."""
    what = [schedule.name, schedule.kind, schedule.trigger, dict(schedule.options)]
    facts = [_identify_machine(), os.getuid(), os.path.realpath(folder), *what]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def read_schedules(tx: Transaction, folder: Path) -> list[Schedule]:
    """Return the schedules of a store in a folder, by name; backups that came from elsewhere are marked."""
    return [
        one
        if one.kind != "backup" or tx.schedules.find_seal(one.name) == seal(one, folder)
        else replace(one, made_here=False)
        for one in tx.schedules.list_all()
    ]


@cache
def _identify_machine() -> str:
    for file in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            found = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if found:
            return found
    node = uuid.getnode()
    return platform.node() if node >> 40 & 1 else f"{node:012x}"  # the bit marks an address made up for this process


def find_due_time(schedule: Schedule, now: datetime) -> datetime:
    """Return when a schedule runs next; a run that was missed while no worker ran is due now."""
    trigger = parse_trigger(schedule.trigger)
    last = schedule.last_run_at
    if last is None or last > now:  # never, or the clock was set back since
        last = None
        if _EVERY.fullmatch(schedule.trigger.strip()):
            return now
    moment = trigger.get_next_fire_time(last, now if last is None else last + timedelta(microseconds=1))
    return max(now, moment) if moment is not None else datetime.max.replace(tzinfo=UTC)


class Scheduler:
    """The schedules of one store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def schedules(self) -> list[Schedule]:
        """Return the periodic jobs of the store, sorted by name.

        Example:
            >>> memory.schedules()
            []
        """
        with self._store.read() as tx:
            return read_schedules(tx, self._store.folder)

    def schedule(
        self, kind: str, trigger: str, *, name: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Schedule:
        """Schedule a periodic job for workers (``agent-memory jobs run``, or ``maintenance="background"``).

        Args:
            kind: ``maintain`` (everything ``maintenance`` does), ``purge`` (delete expired entries), ``compact``
                (delete former generations, shrink full-text index, change log and file), ``retrain`` (rebuild the
                tiers if they need it), ``verify`` (``check``), ``snapshot`` or ``backup``.
            trigger: A cron expression of five fields in UTC, ``"0 3 * * *"``, or ``"every 30m"`` (s, m, h, d).
            name: Name of the schedule, by default its kind; replaces an existing schedule of that name.
            options: For ``backup``: ``folder``, and ``keep``, the number of backups to keep there (7).

        Raises:
            InvalidInputError: An argument is unusable.
            MissingDependencyError: APScheduler is not installed.

        Example:
            >>> memory.schedule("backup", "0 3 * * *", options={"folder": "backups"}).trigger
            '0 3 * * *'
        """
        wanted = make_schedule(kind if name is None else name, kind, trigger, options)
        with self._store.write() as tx:
            tx.schedules.put(wanted, self._store.database.now(), seal=seal(wanted, self._store.folder))
        return wanted

    def unschedule(self, name: str) -> None:
        """Delete a schedule.

        Args:
            name: Name of the schedule.

        Raises:
            NotFoundError: There is no such schedule.

        Example:
            >>> schedule = memory.schedule("purge", "every 1h")
            >>> memory.unschedule("purge")
        """
        with self._store.write() as tx:
            tx.schedules.remove(inputs.check_name("name", name))

    def pause_schedule(self, name: str, *, paused: bool = True) -> None:
        """Pause a schedule, or resume it with ``paused=False``.

        Args:
            name: Name of the schedule.
            paused: False to resume.

        Raises:
            NotFoundError: There is no such schedule.

        Example:
            >>> schedule = memory.schedule("purge", "every 1h")
            >>> memory.pause_schedule("purge")
        """
        inputs.check_flag("paused", paused)
        with self._store.write() as tx:
            tx.schedules.set_paused(inputs.check_name("name", name), paused)
