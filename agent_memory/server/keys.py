"""Keys: made once, shown once, kept as a hash."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import TypeVar

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.reports import ApiKey, Role
from agent_memory.storage.sqlite.ledger import Ledger
from agent_memory.types import Namespace, Time

_FORM = re.compile(r"am_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_L = TypeVar("_L", int, datetime)
_RANKS = {Role.READER: 0, Role.WRITER: 1, Role.ADMIN: 2}
_MOST = 2**53


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: what a key allows, or without keys everything.

    Attributes:
        namespace: What is seen.
        role: What may be done.
        home: What could be seen; ``namespace`` is narrower if the request asks for it.
        key: The key; None where none is needed.
    """

    namespace: Namespace
    role: Role
    home: Namespace
    key: ApiKey | None = None

    @property
    def key_id(self) -> str | None:
        """Id of the key."""
        return None if self.key is None else self.key.id

    def may(self, role: Role) -> bool:
        """Return whether this caller may do what a role may."""
        return _RANKS[self.role] >= _RANKS[role]


ANYBODY = Principal((), Role.ADMIN, ())
"""Who asks a server without keys, which only this machine can reach."""


def create_key(
    ledger: Ledger,
    *,
    namespace: Sequence[str] = (),
    role: str = Role.READER,
    name: object = "",
    expires_at: Time | None = None,
    rate_per_minute: int | None = None,
    max_entries: int | None = None,
    zone: tzinfo = UTC,
    maker: ApiKey | None = None,
) -> tuple[ApiKey, str]:
    """Make a key; returns it and its text, which cannot be shown again.

    Args:
        ledger: Where it is kept, hashed.
        namespace: What it sees: this namespace and those below it.
        role: ``reader``, ``writer`` (also adds, changes and forgets) or ``admin`` (also keys, and with the namespace ()
            re-indexes, backups and the like).
        name: What it is for.
        expires_at: When it stops working; in the future. A day, month or year is its last.
        rate_per_minute: Requests a minute in its namespace.
        max_entries: Entries that its namespace may hold.
        zone: What a time without a zone is meant in.
        maker: The key with which it is made; the new one has its limits where it is given none, and none wider.

    Raises:
        InvalidInputError: An argument is unusable, or a limit wider than the maker's; nothing was written.
    """
    now = datetime.now(UTC)
    expiry = inputs.parse_expiry("expires_at", expires_at, zone)
    if expiry is not None and expiry <= now:
        raise InvalidInputError(f"expires_at must lie in the future, got {expiry.isoformat()} at {now.isoformat()}")
    rate_per_minute = _check_limit("rate_per_minute", rate_per_minute)
    max_entries = _check_limit("max_entries", max_entries)
    if maker is not None:
        expiry = _keep_within("expires_at", expiry, maker.expires_at)
        rate_per_minute = _keep_within("rate_per_minute", rate_per_minute, maker.rate_per_minute)
        max_entries = _keep_within("max_entries", max_entries, maker.max_entries)
    key = ApiKey(
        id=secrets.token_hex(6),
        name=inputs.check_name("name", name) if name else "",
        namespace=inputs.parse_namespace(namespace),
        role=inputs.parse_choice("role", role, Role),
        created_at=now,
        expires_at=expiry,
        rate_per_minute=rate_per_minute,
        max_entries=max_entries,
    )
    secret = secrets.token_urlsafe(32)
    ledger.add_key(key, _hash(secret))
    return key, f"am_{key.id}_{secret}"


def find_principal(ledger: Ledger, text: str | None) -> tuple[bool, Principal | None]:
    """Return (whether a key was ever made, who shows this one): None if it is none, was revoked or has expired."""
    match = None if text is None else _FORM.fullmatch(text)
    made, found = ledger.look_up(match[1] if match else None)
    if match is None or found is None or not hmac.compare_digest(found[1], _hash(match[2])):
        return made, None
    key = found[0]
    if key.revoked_at is not None or (key.expires_at is not None and key.expires_at <= datetime.now(UTC)):
        return made, None
    return made, Principal(key.namespace, key.role, key.namespace, key)


def _check_limit(what: str, value: int | None) -> int | None:
    return None if value is None else inputs.check_count(what, value, most=_MOST)


def _keep_within(what: str, value: _L | None, most: _L | None) -> _L | None:
    """Return a limit of a new key, which is none wider than that of the key it is made with."""
    if value is not None and most is not None and value > most:
        raise InvalidInputError(f"{what} must be within that of the key it is made with, {most}, got {value}")
    return most if value is None else value


def _hash(secret: str) -> str:
    """Return the hash of a secret of 256 random bits, which needs no salt and no slow function."""
    return hashlib.sha256(secret.encode()).hexdigest()
