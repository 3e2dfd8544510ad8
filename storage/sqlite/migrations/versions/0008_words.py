"""The full-text index takes its terms from ``storage/words`` alone; its rows are written again after this migration."""

from alembic import op

from agent_memory.storage.sqlite.slots import driver

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace the index by an empty one with the same settings; see ``rewriting``."""
    connection = driver(op.get_bind())
    settings = connection.execute("SELECT k, v FROM lexical_config WHERE k <> 'version'").fetchall()
    connection.execute("DROP TABLE lexical")
    connection.execute("CREATE VIRTUAL TABLE lexical USING fts5(terms, content='', tokenize='porter ascii')")
    connection.executemany("INSERT INTO lexical(lexical, rank) VALUES (?, ?)", settings)
