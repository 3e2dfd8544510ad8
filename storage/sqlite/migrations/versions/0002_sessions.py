"""Session encoding: evolved vectors and latents beside the static vectors."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; an existing store has no session encoder."""
    op.add_column("generations", sa.Column("session_encoder", sa.Text))
    op.add_column("vectors", sa.Column("evolved", sa.LargeBinary))
    op.add_column("vectors", sa.Column("latents", sa.LargeBinary))
