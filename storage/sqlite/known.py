"""What the schema of a store may be: exactly what the migrations make, and nothing a stranger put in.

A trigger or a view in a file would act in every transaction of whoever opens it. So tables, indexes and their SQL are
compared with digests of each revision before anything else is read or migrated; tests hold the digests to what the
migrations create.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from agent_memory.storage.sqlite.driver import sqlite3

_SQLITES_OWN = {
    "sqlite_sequence": "CREATE TABLE sqlite_sequence(name,seq)",
    "sqlite_stat1": "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    "sqlite_stat4": "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
_SPACE = re.compile(r"[ \t\n\f\r]+")  # what SQLite takes for space, unlike \s
_BESIDE = re.compile(r" ?([(),]) ?")

_CHANGES: dict[str, dict[str, str | None]] = {
    "0001": {
        "alembic_version": "7a678bd4a80a6dcc2ee4d3788536d561",
        "changes": "2c87077403cf3306b1b0be9ebb91d00c",
        "entries": "907318f4a630a978ce119d0af342201a",
        "generations": "2649afd313c8081d5105c86947c354e0",
        "ix_entries_content": "f25e6c90ad31accf1c7dc058c925082c",
        "ix_entries_event_time": "fb7b01b7782f3af77633e94e58f550a1",
        "ix_entries_expires_at": "ac0c2f4a5115276295f8a286ae56fe1a",
        "ix_entries_key": "b39e904d584b1c7017790a1fabf63558",
        "ix_entries_session": "da5025a2f3dafa7919575b9bf8782db8",
        "ix_entries_superseded": "d3fb151c7e76bc2cf0b201c3b06da52e",
        "ix_sessions_name": "7bc47207a8caf67179ad7b50c5075f22",
        "lexical": "aa70ca02d3e38a04287e1fdf025de6b8",
        "lexical_config": "55a0621330c805a0346270260e511909",
        "lexical_data": "e9db0d582ec88d029825694a60017a90",
        "lexical_docsize": "313e5b0e1f38e2d02ec0858acb1304bd",
        "lexical_idx": "d48a0f104d0bfacc52dff5385dbe8035",
        "sessions": "6d89fbf26014acb3cb42141d9df1d8c8",
        "sqlite_autoindex_alembic_version_1": "cc3fd279c80660b2041884aeb9282128",
        "sqlite_autoindex_sessions_1": "d348006fd9ebd9c6d64dec78025e236a",
        "sqlite_autoindex_vectors_1": "3e25330f4e04e0330ba5535003006869",
        "ux_entries_current": "01eae4b4210e252ffe521adf2ac3bf3b",
        "vectors": "21e2af059267bfaecaf0b3aaf40e11ac",
    },
    "0002": {
        "generations": "2163cd2b3637adb003282347c34fe35c",
        "vectors": "858e722d2c0a993d82cf7ae6e5611af6",
    },
    "0003": {
        "assets": "b2d307a5dd2ad493049601fedc462e7c",
        "generations": "bb0624e418172b808625af7788542b8a",
        "ix_jobs_kind": "791dd9070c0a564d51aecf0df811884d",
        "jobs": "f23b39bb8dded6824ff6bd560999d893",
        "leases": "610f5b0017adf06a54d3b0ff01cb7e77",
        "schedules": "7c34c85a5a1a03a0d0cbcf800590b51d",
        "sqlite_autoindex_assets_1": "e289b6308a19876cce8718319da3ec98",
        "sqlite_autoindex_leases_1": "9cfaf46cd6ad8ad1d3d4d6697dab9903",
        "sqlite_autoindex_schedules_1": "08501be39e125ed772341176b1552d90",
        "ux_generations_live": "4415a39c3c9f6d047a23f208ec13b41b",
    },
    "0004": {
        "queries": "830bcf029321f584bdae5a559bf30d84",
    },
    "0005": {
        "ix_entries_key": None,
        "ix_entries_session": "9728c003f8851c58220c7eaaef298bc6",
        "ux_entries_current": None,
        "ux_entries_key": "ba7fd767456280f61fdfe90588bc538f",
    },
    "0006": {
        "assets": "2b6ecaffbca3a52b78dd5fa4128eea34",
        "entries": "a609ed7115ed4397b4e276bc4ff64c87",
        "generations": "173967b2a49f9e18d2cc2c3d15498886",
        "meta": "6f61089e1c0ffd6582cd32ef2780b1ee",
        "schedules": "688e347a1eb0b6898436ee5e44e52146",
        "sqlite_autoindex_meta_1": "1123501f26ac58ceec2d7198e9614be1",
        "vectors": "adf307df1e0ca43b90d5aea490b114d6",
    },
    "0007": {
        "copies": "ae7cb122321348c25b2612bf6d5f4e53",
        "erasures": "d624beecdcb58a8ba0bef52300220a19",
        "ix_erasures_unfinished": "fbc6c6169d65502cca5e0a28db84c96f",
        "sqlite_autoindex_copies_1": "c377075b5ae72538832f426460bcb62d",
    },
    "0008": {
        "lexical": "0831feb92c172b3678816c9b6908ec17",
    },
    "0009": {
        "ix_mentions_start": "ea9a52f310a9d4efd327322031181171",
        "mentions": "2fcc69f5c997bbf4d8d9bd89083e9265",
    },
    "0010": {
        "passages": "dae41ed259cee3fe79ed22abd3bf0313",
        "sqlite_autoindex_passages_1": "fce710fc79ae37170c0d501effe07348",
    },
}
"""Digests of the objects that each revision adds or changes, by name; None for what it drops."""

Row = tuple[str, str, str, int, str | None]


def digest(kind: str, table: str, sql: str | None) -> str:
    """Return what an object of a schema is recognised by; spaces that SQLAlchemy may set otherwise do not count."""
    if sql is not None and not isinstance(sql, str):
        return "no SQL"
    plain = _BESIDE.sub(r"\1", _SPACE.sub(" ", sql or "").strip())
    return hashlib.sha256(f"{kind}\0{table}\0{plain}".encode()).hexdigest()[:32]


def known_objects(revision: str) -> dict[str, str]:
    """Return the digests of all objects of a revision's schema, by name."""
    found: dict[str, str | None] = {}
    for number in sorted(_CHANGES):
        if number <= revision:
            found |= _CHANGES[number]
    return {name: value for name, value in found.items() if value is not None}


def read_objects(raw: sqlite3.Connection) -> list[Row]:
    """Return (kind, name, table, page, SQL) of all that a database's schema holds."""
    return list(raw.execute("SELECT type, name, tbl_name, rootpage, sql FROM main.sqlite_master"))


def find_difference(objects: Iterable[Row], revision: str) -> str | None:
    """Return what a schema has, lacks or has otherwise than its revision's; None if it is exactly that."""
    expected = known_objects(revision)
    pages: set[int] = set()
    for kind, name, table, page, sql in objects:
        what = f"the {str(kind)[:20]} {str(name)[:60]!r}"
        if name in _SQLITES_OWN:
            if (kind, table, sql) != ("table", name, _SQLITES_OWN[name]):
                return f"{what} is not what SQLite makes"
        elif name not in expected:
            return f"{what} is no part of a store"
        elif expected.pop(name) != digest(kind, table, sql):
            return f"{what} is not as agent-memory makes it"
        # Two tables on one page would be written through each other; virtual tables have none.
        if page in pages:
            return f"{what} lies upon another"
        pages |= {page} - {0}
    return f"{min(expected)!r} is missing" if expected else None
