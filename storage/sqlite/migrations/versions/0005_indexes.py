"""Smaller indexes: one over keys instead of two, and none over sessions for entries without a session."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Replace the indexes; entries stay as they are."""
    version = sa.text("CASE WHEN superseded_at IS NULL THEN 0 ELSE id END")
    op.drop_index("ux_entries_current")
    op.drop_index("ix_entries_key")
    op.create_index("ux_entries_key", "entries", ["namespace", "key", version], unique=True)
    op.drop_index("ix_entries_session")
    present = sa.text("session_id IS NOT NULL")
    op.create_index("ix_entries_session", "entries", ["session_id"], sqlite_where=present)
