"""Ranges of entries that processes claim while they fill a generation together."""

from typing import Any

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table of ranges."""
    raw: Any = op.get_bind().connection.driver_connection
    raw.execute(
        "CREATE TABLE ranges (generation_id bigint NOT NULL REFERENCES generations (id) ON DELETE CASCADE, "
        "first bigint NOT NULL, last bigint NOT NULL, entries bigint NOT NULL, encoded bigint, "
        "PRIMARY KEY (generation_id, first))"
    )
