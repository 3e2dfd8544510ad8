"""How far the index of vectors on the server is; its tables are made when it is first asked for."""

from typing import Any

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table that says how far each generation's index is."""
    raw: Any = op.get_bind().connection.driver_connection
    raw.execute(
        "CREATE TABLE nearest (generation_id bigint PRIMARY KEY REFERENCES generations (id) ON DELETE CASCADE, "
        "seq bigint NOT NULL DEFAULT 0, filled bigint NOT NULL DEFAULT 0, complete boolean NOT NULL DEFAULT false, "
        "rows bigint NOT NULL DEFAULT 0, candidates bigint NOT NULL DEFAULT 0, recall double precision NOT NULL "
        "DEFAULT 1)"
    )
