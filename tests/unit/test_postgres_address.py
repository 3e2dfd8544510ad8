"""Addresses of stores on PostgreSQL: what is read of them, and how they keep memories off the open network."""

from __future__ import annotations

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

from agent_memory import Memory, inputs
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


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:S3cr%ZZet@h.example/db",
        "postgresql://u:S3cr%00et@h.example/db",
        "postgresql://u:S3cret／x@h.example/db",
        "postgresql://u:S3cr#et@h.example/db",
        "postgresql://u:S3cr/et@h.example/db",
        "postgresql://u:S3cr@et@h.example/db",
        "postgresql://u:[S3cret@h.example/db",
        "postgresql://u@h.example/db?password=S3cret&nonsense=S3cret",
    ],
)
def test_no_message_cites_a_part_of_a_torn_address(url):
    with pytest.raises(InvalidInputError) as caught:
        parse_address(url)
    assert not any(part in str(caught.value) for part in ("S3cr", "et@", "h.example"))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url",
    [
        " postgresql://u:S3cret@h/db",
        "postgresql//u:S3cret@h/db",
        "POSTGRESQL://u:S3cret@h/db",
        "postgres:/u:S3cret@h/db",
    ],
)
def test_what_is_nearly_an_address_is_no_folder(url, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError) as caught:
        Memory(url)
    assert "S3cret" not in str(caught.value) and not list(tmp_path.iterdir())


def test_parts_that_a_url_leaves_out_or_writes_with_spaces_are_read_as_libpq_reads_them():
    assert parse_address("postgresql:///db?host=/run/pg&user=me").options == {
        "host": "/run/pg", "user": "me", "dbname": "db",
    }  # fmt: skip
    options = parse_address(
        "postgresql://me@localhost/db?password=my%20S3cret%2Bx&options=-c%20search_path%3Dx"
    ).options
    assert (options["password"], options["options"]) == ("my S3cret+x", "-c search_path=x")


@pytest.mark.parametrize(("variable", "host"), [("PGHOST", ""), ("PGHOSTADDR", ""), ("PGHOSTADDR", "localhost")])
def test_a_server_elsewhere_that_the_environment_names_is_reached_by_tls(monkeypatch, variable, host):
    monkeypatch.setenv(variable, "192.0.2.2")
    assert parse_address(f"postgresql://me@{host}/db").options["sslmode"] == "require"
    with pytest.raises(InvalidInputError, match="prefer"):
        parse_address(f"postgresql://me@{host}/db?sslmode=prefer")


def test_a_service_may_name_any_server_and_is_reached_by_tls():
    assert parse_address("postgresql://me@/db?service=mine").options["sslmode"] == "require"
    assert "sslmode" not in parse_address("postgresql://me@localhost/db?service=mine").options
