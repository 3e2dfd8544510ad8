"""Receipts of what was forgotten, and the copies of the store that may still hold it; words are erased from now on."""

import sqlalchemy as sa
from alembic import op

from agent_memory.storage.sqlite.lexical import erase_words
from agent_memory.storage.sqlite.slots import driver

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the tables, and take the words of what was forgotten before out of the full-text index."""
    op.create_table(
        "erasures",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("token", sa.Text, nullable=False),
        sa.Column("store_id", sa.Text, nullable=False),
        sa.Column("made_at", sa.Integer, nullable=False),
        sa.Column("selection", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("ids", sa.Text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("deferred", sa.Integer, nullable=False),
        sa.Column("finished_at", sa.Integer),
        sqlite_autoincrement=True,
    )
    unfinished = sa.text("finished_at IS NULL")
    op.create_index("ix_erasures_unfinished", "erasures", ["id"], sqlite_where=unfinished)
    op.create_table(
        "copies",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("made_at", sa.Integer, nullable=False),
        sa.Column("last_id", sa.Integer, nullable=False),
    )
    raw = driver(op.get_bind())
    erase_words(raw)
    raw.execute("DELETE FROM sessions WHERE NOT EXISTS (SELECT 1 FROM entries WHERE session_id = sessions.id)")
