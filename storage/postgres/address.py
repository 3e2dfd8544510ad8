"""Where a store on PostgreSQL is: the parts of ``postgresql://user@host/database?schema=name``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from agent_memory.errors import InvalidInputError, MissingDependencyError

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "agent_memory"

_SCHEMA = re.compile("[a-z_][a-z0-9_]{0,62}")
_SAFE = ("require", "verify-ca", "verify-full")
_SPOKEN = ("disable", *_SAFE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a store is.

    Attributes:
        options: What libpq is given: host, port, user, dbname and so on.
        schema: The schema that holds the store's tables; several stores may share a database.
        name: The address without a password, for messages.
    """

    options: Mapping[str, str]
    schema: str
    name: str


def parse_address(url: str) -> Address:
    """Return the parts of a URL.

    TLS is required unless all of the hosts are this machine, or ``sslmode=disable`` says otherwise.

    Args:
        url: As libpq takes it, and ``schema=NAME`` among its parameters.

    Raises:
        InvalidInputError: It is no such URL, or its ``sslmode`` allows to reach another machine without TLS.
        MissingDependencyError: psycopg is not installed.
    """
    try:
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise MissingDependencyError("psycopg", "postgres") from error
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidInputError(f"not the URL of a PostgreSQL database: {error}") from error
    if parts.scheme not in SCHEMES:
        raise InvalidInputError(f"not the URL of a PostgreSQL database: its scheme is {parts.scheme!r}")
    asked = parse_qsl(parts.query, keep_blank_values=True)
    schemas = [value for name, value in asked if name == "schema"] or [DEFAULT_SCHEMA]
    if len(schemas) > 1 or not _SCHEMA.fullmatch(schemas[0]) or schemas[0].startswith("pg_"):
        raise InvalidInputError(
            f"schema={schemas[-1]!r}: give one name of lower-case letters, digits and underscores, not pg_…"
        )
    rest = urlencode([(name, value) for name, value in asked if name != "schema"])
    try:
        given = conninfo_to_dict(urlunsplit((*parts[:3], rest, "")))
        options = {str(name): str(value) for name, value in given.items() if value is not None}
        make_conninfo("", **options)
    except Error as error:
        raise InvalidInputError(f"not the URL of a PostgreSQL database: {str(error).strip()}") from error
    if not _is_local(options):
        mode = options.setdefault("sslmode", "require")
        if mode not in _SPOKEN:
            raise InvalidInputError(
                f"sslmode={mode!r} may send memories over the network in the clear; use one of {', '.join(_SAFE)}, "
                "or sslmode=disable to say that this network is private"
            )
    return Address(options=options, schema=schemas[0], name=_name(options, schemas[0]))


def _is_local(options: Mapping[str, str]) -> bool:
    """Return whether every host of an address is this machine: a socket, ``localhost`` or a loopback address."""
    given = options.get("hostaddr") or options.get("host") or ""
    return all(not host or host.startswith(("/", "@")) or _is_loopback(host) for host in given.split(","))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _name(options: Mapping[str, str], schema: str) -> str:
    user, host = options.get("user"), options.get("host") or options.get("hostaddr") or "localhost"
    port = f":{options['port']}" if "port" in options else ""
    place = f"{user}@{host}{port}" if user else f"{host}{port}"
    return f"postgresql://{place}/{options.get('dbname', user or '')}?schema={schema}"
