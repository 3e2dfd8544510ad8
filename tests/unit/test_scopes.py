"""Row-level security on PostgreSQL: what roles without a scope, and with one, can read."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from support import WordEncoder

from agent_memory import AgentMemoryError, Config, Memory

_NUMBERS = itertools.count()
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = %s::regnamespace"


@pytest.fixture
def schema(url):
    return url.rpartition("schema=")[2]


@pytest.fixture
def owner(postgres):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        yield connection


@pytest.fixture
def make_role(owner, schema):
    """Makes a role that may read the schema's tables, for one that is there already."""
    made = []

    def make(*roots):
        name = f"tenant_{next(_NUMBERS)}"
        made.append(name)
        owner.execute(f"CREATE ROLE {name} LOGIN")
        owner.execute(f"ALTER ROLE {name} SET default_transaction_read_only TO on")
        owner.execute(f"GRANT USAGE ON SCHEMA {schema} TO {name}")
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}")
        for root in roots:
            owner.execute(f"INSERT INTO {schema}.scopes VALUES (%s, %s)", (name, root))
        return name

    yield make
    for name in made:
        owner.execute(f"DROP OWNED BY {name}")
        owner.execute(f"DROP ROLE {name}")


def fill(memory):
    for root in ("acme", "acme2", "beta"):
        for number in range(4):
            memory.add(
                f"{root} keeps secret {number} next Friday",
                key=f"k{number}",
                namespace=(root, "team"),
                session="chat",
                metadata={"n": number},
            )
    memory.add("nobody's secret", key="root")
    memory.update("k3", text="beta keeps another secret", namespace=("beta", "team"))
    memory.recall("secret")


def open_as(url, role, **config):
    config = {"lock_timeout_s": 5, **config}
    return Memory(url.replace("memory@", f"{role}@"), encoder=WordEncoder(), session_encoder=None, config=config)


def count_rows(postgres, role, schema):
    with psycopg.connect(postgres.url().replace("memory@", f"{role}@"), autocommit=True) as connection:
        names = [row[0] for row in connection.execute(TABLES, (schema,)) if row[0] != "alembic_version"]
        return {name: connection.execute(f"SELECT count(*) FROM {schema}.{name}").fetchone()[0] for name in names}


@pytest.mark.parametrize("index", ["local", "server"])
def test_a_role_reads_its_own_root_namespaces_and_without_a_scope_nothing(
    postgres, url, owner, schema, make_role, index
):
    with Memory(url, encoder=WordEncoder(), session_encoder=None, config=Config(index=index, query_log=10)) as memory:
        fill(memory)
        owner.execute(f"SELECT {schema}.protect()")
        before = memory.recall("secret", k=20)
        assert len(before) == 13  # the owner works as before
        nobody, tenant, both = make_role(), make_role("acme"), make_role("acme", "beta")
        counted = count_rows(postgres, nobody, schema)
        assert set(counted.values()) == {0}, counted
        assert {"entries", "vectors", "lexical", "changes", "scopes"} <= set(counted)
        counted = count_rows(postgres, tenant, schema)
        assert (counted["entries"], counted["vectors"], counted["sessions"], counted["scopes"]) == (4, 4, 1, 1)
        assert (counted["jobs"], counted["schedules"], counted["copies"]) == (0, 0, 0)
        with open_as(url, tenant, index=index) as theirs:
            for mode in ("hybrid", "dense", "lexical"):
                hits = theirs.recall("secret", k=20, mode=mode)
                assert {hit.entry.namespace for hit in hits} == {("acme", "team")}
            assert len(theirs.recall("secret", k=20, where={"n": {"$gte": 2}})) == 2
            assert theirs.check().problems == ()
            assert {entry.namespace[0] for entry in theirs.entries()} == {"acme"}
            memory.add("acme has a new secret", key="new", namespace=("acme",))
            assert theirs.recall("new secret")[0].entry.key == "new"
            memory.forget("k0", namespace=("acme", "team"))
            assert "k0" not in {hit.entry.key for hit in theirs.recall("secret", k=20)}
            with pytest.raises(AgentMemoryError):
                theirs.add("mine")
        with open_as(url, both, index=index) as theirs:
            assert {hit.entry.namespace[0] for hit in theirs.recall("secret", k=20)} == {"acme", "beta"}
        memory.reindex(encoder=WordEncoder(128))
        owner.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {nobody}")
        assert set(count_rows(postgres, nobody, schema).values()) == {0}  # tables that were made since, too
        assert memory.check().problems == ()


def test_until_the_owner_turns_it_on_roles_read_what_they_are_granted(postgres, url, owner, schema, make_role):
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        fill(memory)
        role = make_role()
        assert count_rows(postgres, role, schema)["entries"] == 14
        owner.execute(f"SELECT {schema}.protect()")
        assert count_rows(postgres, role, schema)["entries"] == 0
        owner.execute(f"SELECT {schema}.protect(false)")
        assert count_rows(postgres, role, schema)["entries"] == 14
