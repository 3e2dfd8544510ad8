"""Where a store on PostgreSQL is: the parts of ``postgresql://user@host/database?schema=name``."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from agent_memory.errors import InvalidInputError, MissingDependencyError

SCHEMES = ("postgresql", "postgres")
DEFAULT_SCHEMA = "agent_memory"

_SCHEMA = re.compile("[a-z_][a-z0-9_]{0,62}")
_PLACE = re.compile(
    r"(?:(?P<host>[A-Za-z0-9._-]+)|(?P<bracketed>\[[0-9A-Fa-f:.]+\]))(?::(?P<port>\d{1,5}))?"
    r"|(?P<folder>/[^,:]*)(?::(?P<folder_port>\d{1,5}))?"
)
_CITED = re.compile(r'"[^"]*"(?! in URI)')
_OWN = ("schema", "read_from", "index")
_SAFE = ("require", "verify-ca", "verify-full")
_SPOKEN = ("disable", *_SAFE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a store is.

    Attributes:
        options: What libpq is given: host, port, user, dbname and so on.
        schema: The schema that holds the store's tables; several stores may share a database.
        name: The address without a password, for messages.
        standby: Where a standby of the server is that may be read from; None for nowhere.
        index: Where vectors are searched, ``local`` or ``server``; None to leave that to the settings.
    """

    options: Mapping[str, str]
    schema: str
    name: str
    standby: Address | None = None
    index: str | None = None


def parse_address(url: str) -> Address:
    """Return the parts of a URL.

    TLS is required unless all of the hosts are this machine, or ``sslmode=disable`` says otherwise.

    Args:
        url: As libpq takes it, and among its parameters ``schema=NAME``, and perhaps ``read_from=HOST:PORT``
            and ``index=server``.

    Raises:
        InvalidInputError: It is no such URL, or its ``sslmode`` allows to reach another machine without TLS.
        MissingDependencyError: psycopg is not installed.
    """
    try:
        from psycopg import Error
        from psycopg.conninfo import conninfo_to_dict, make_conninfo
    except ImportError as error:
        raise MissingDependencyError("psycopg", "postgres") from error
    # What is wrong with it is said without citing it: a password may be in any part of a URL that is torn wrongly.
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidInputError("not the URL of a PostgreSQL database: it holds signs that no URL may") from None
    if parts.netloc.count("@") > 1 or "@" in parts.path or parts.fragment:
        raise InvalidInputError(
            "not the URL of a PostgreSQL database: write the signs '@', '/', '#' and '?' of a password as %40, %2F, "
            "%23 and %3F"
        )
    if parts.scheme not in SCHEMES:
        raise InvalidInputError(f"not the URL of a PostgreSQL database: its scheme is {parts.scheme!r}")
    asked = parse_qsl(parts.query, keep_blank_values=True)
    schemas = [value for name, value in asked if name == "schema"] or [DEFAULT_SCHEMA]
    if len(schemas) > 1 or not _SCHEMA.fullmatch(schemas[0]) or schemas[0].startswith("pg_"):
        raise InvalidInputError(
            f"schema={schemas[-1]!r}: give one name of lower-case letters, digits and underscores, not pg_…"
        )
    standbys = [value for name, value in asked if name == "read_from"]
    if len(standbys) > 1:
        raise InvalidInputError(f"read_from may name one standby, got {len(standbys)}: {', '.join(standbys)}")
    indexes = [value for name, value in asked if name == "index"]
    if len(indexes) > 1 or not set(indexes) <= {"local", "server"}:
        raise InvalidInputError(f"index={indexes[-1]!r}: give one of local, server")
    # Not urlunsplit, which leaves out "//" before no host; libpq takes no "+" for a space.
    rest = urlencode([(name, value) for name, value in asked if name not in _OWN], quote_via=quote)
    try:
        given = conninfo_to_dict(f"postgresql://{parts.netloc}{parts.path}{'?' if rest else ''}{rest}")
        options = {str(name): str(value) for name, value in given.items() if value is not None}
        make_conninfo("", **options)
    except Error as error:
        said = _CITED.sub('"…"', str(error).strip())
        raise InvalidInputError(f"not the URL of a PostgreSQL database: {said}") from None
    standby = None if not standbys else _make_address(_move(options, standbys[0]), schemas[0])
    return replace(_make_address(options, schemas[0], standby), index=indexes[0] if indexes else None)


def _move(options: Mapping[str, str], place: str) -> dict[str, str]:
    """Return what libpq is given for another server of the same database: ``host``, ``host:port`` or a folder."""
    found = _PLACE.fullmatch(place)
    if found is None:
        raise InvalidInputError(f"read_from={place!r}: give the host and port of a standby, as in db2.example:5432")
    moved = {name: value for name, value in options.items() if name not in ("host", "hostaddr", "port")}
    moved.setdefault("connect_timeout", "2")  # the primary is there meanwhile
    moved["host"] = (found["host"] or found["bracketed"] or found["folder"]).strip("[]")
    moved["port"] = found["port"] or found["folder_port"] or "5432"
    return moved


def _make_address(given: Mapping[str, str], schema: str, standby: Address | None = None) -> Address:
    options = dict(given)
    if not _is_local(options):
        mode = options.setdefault("sslmode", "require")
        if mode not in _SPOKEN:
            raise InvalidInputError(
                f"sslmode={mode!r} may send memories over the network in the clear; use one of {', '.join(_SAFE)}, "
                "or sslmode=disable to say that this network is private"
            )
    return Address(options=options, schema=schema, name=_name(options, schema), standby=standby)


def _is_local(options: Mapping[str, str]) -> bool:
    """Return whether every host of an address is this machine: a socket, ``localhost`` or a loopback address.

    What the URL does not say libpq takes from the environment, or from the file of a service, which is not read here.
    """
    from psycopg import pq

    known = {one.keyword.decode(): (one.val or b"").decode() for one in pq.Conninfo.get_defaults()}
    address = options.get("hostaddr") or known.get("hostaddr")
    if "service" in options and not (address and "hostaddr" in options) and "host" not in options:
        return False
    given = address or options.get("host") or known.get("host") or ""
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
