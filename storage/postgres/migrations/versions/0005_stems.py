"""Terms are stemmed as FTS5 does it; rows by another version of Porter's stemmer are written again."""

from typing import Any

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forget by which rules rows were written: whoever opens the store next writes them again, step by step."""
    raw: Any = op.get_bind().connection.driver_connection
    raw.execute("DELETE FROM meta WHERE name = 'words'")
