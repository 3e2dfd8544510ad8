"""Vectors of the passages of long texts, beside the vector of the whole."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; what was stored before has no passages until its texts are encoded again."""
    op.create_table(
        "passages",
        sa.Column("entry_id", sa.Integer, primary_key=True),
        sa.Column("generation_id", sa.Integer, primary_key=True),
        sa.Column("spans", sa.LargeBinary, nullable=False),
        sa.Column("vectors", sa.LargeBinary, nullable=False),
        sa.Column("checksum", sa.Integer),
        sa.ForeignKeyConstraint(
            ["entry_id", "generation_id"], ["vectors.entry_id", "vectors.generation_id"], ondelete="CASCADE"
        ),
    )
