"""Vectors that are zero in the first dimensions get an index of their own: the approximate one leaves them out."""

from typing import Any

from alembic import op
from psycopg import sql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_INDEXES = (
    "SELECT c.relname, pg_get_expr(indexprs, indrelid) FROM pg_index JOIN pg_class c ON c.oid = indrelid "
    "JOIN pg_class i ON i.oid = indexrelid "
    "WHERE c.relnamespace = current_schema()::regnamespace AND i.relname = c.relname || '_near'"
)
_EXTENSION = "SELECT nspname FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'vector'"


def upgrade() -> None:
    """Make that index where there is an approximate one."""
    raw: Any = op.get_bind().connection.driver_connection
    for table, prefix in raw.execute(_INDEXES).fetchall():
        (extension,) = raw.execute(_EXTENSION).fetchone()
        raw.execute(
            sql.SQL("CREATE INDEX {} ON {} (row_id) WHERE {}.l2_norm({}) = 0").format(
                sql.Identifier(f"{table}_flat"), sql.Identifier(table), sql.Identifier(extension), sql.SQL(prefix)
            )
        )
