"""The times that texts mention; those of entries from before are read by maintenance, which finds a mark for it."""

import sqlalchemy as sa
from alembic import op

from agent_memory.storage.sqlite.slots import driver

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table, and note up to which entry texts are unread."""
    op.create_table(
        "mentions",
        sa.Column("entry_id", sa.Integer, sa.ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("start", sa.Integer, primary_key=True),
        sa.Column("stop", sa.Integer, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_mentions_start", "mentions", ["start"])
    unread = "INSERT INTO meta (name, value) SELECT 'mentions', max(id) FROM entries HAVING max(id) IS NOT NULL"
    driver(op.get_bind()).execute(unread)
