"""Addresses of stores on PostgreSQL: what is read of them, and how they keep memories off the open network."""

from __future__ import annotations

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.storage.postgres.address import parse_address
from agent_memory.storage.postgres.dialect import translate


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", ""])
def test_a_server_on_this_machine_needs_no_tls(host):
    assert "sslmode" not in parse_address(f"postgresql://me@{host}/db").options


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me@db.example/db",
        "postgresql://me@10.0.0.7/db",
        "postgresql://me@localhost,db.example/db",
        "postgresql://me@localhost/db?hostaddr=10.0.0.7",
    ],
)
def test_a_server_elsewhere_is_reached_by_tls(url):
    assert parse_address(url).options["sslmode"] == "require"


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_a_mode_that_falls_back_to_no_tls_is_refused(mode):
    with pytest.raises(InvalidInputError, match=mode):
        parse_address(f"postgresql://me@db.example/db?sslmode={mode}")


def test_whoever_knows_the_network_may_do_without_tls():
    assert parse_address("postgresql://me@db.example/db?sslmode=disable").options["sslmode"] == "disable"


def test_the_name_has_no_password():
    address = parse_address("postgresql://me:secret@db.example:5433/db?schema=team_a")
    assert address.name == "postgresql://me@db.example:5433/db?schema=team_a"
    assert address.schema == "team_a"
    assert "schema" not in address.options


@pytest.mark.parametrize("schema", ["", "Team", "a-b", "a;b", 'a"b', "pg_catalog", "a&schema=b"])
def test_a_schema_is_a_plain_name(schema):
    with pytest.raises(InvalidInputError, match="schema"):
        parse_address(f"postgresql://me@localhost/db?schema={schema}")


@pytest.mark.parametrize("url", ["postgresql://me@localhost/db?nonsense=1", "postgresql://[me@localhost/db"])
def test_what_libpq_does_not_take_is_refused(url):
    with pytest.raises(InvalidInputError):
        parse_address(url)


@pytest.mark.parametrize("value", ["postgresql://me@h/db", "postgres://h/db", "postgresql:/me@h/db"])
def test_an_address_is_no_path(value):
    with pytest.raises(InvalidInputError, match="must be a path"):
        inputs.parse_path("path", value)


@pytest.mark.parametrize(
    ("sqlite", "postgres"),
    [
        ("SELECT a FROM t WHERE id IN (SELECT value FROM json_each(?))", "bigint"),
        ("SELECT a FROM t WHERE t.key IN (SELECT value FROM json_each(?))", "t.key = ANY(ARRAY("),
        ("SELECT a FROM t LIMIT ? OFFSET ?", "LIMIT nullif(%s, -1) OFFSET %s"),
        ("INSERT OR IGNORE INTO t (a) VALUES (?)", "INSERT INTO t (a) VALUES (%s) ON CONFLICT DO NOTHING"),
        ("SELECT 10 % 3", "SELECT 10 %% 3"),
    ],
)
def test_statements_are_spelled_in_the_words_of_postgresql(sqlite, postgres):
    assert postgres in translate(sqlite).sql
