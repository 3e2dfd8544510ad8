"""The first schema: entries, sessions, generations, vectors and the change log."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables of release 0.1."""
    _create_sessions()
    _create_entries()
    _create_generations()
    op.create_table(
        "changes",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("entry_id", sa.Integer, nullable=False),
        sa.Column("op", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.execute(
        "CREATE VIRTUAL TABLE lexical USING fts5(terms, content='', tokenize='porter unicode61 remove_diacritics 2')"
    )


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("head_seq", sa.Integer, nullable=False),
        sa.UniqueConstraint("namespace", "name"),
    )
    op.create_index("ix_sessions_name", "sessions", ["name"])


def _create_entries() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("namespace", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("session_id", sa.Integer, sa.ForeignKey("sessions.id")),
        sa.Column("speaker", sa.Text),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("metadata", sa.Text, nullable=False),
        sa.Column("event_time", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.Integer, nullable=False),
        sa.Column("expires_at", sa.Integer),
        sa.Column("importance", sa.Float),
        sa.Column("content_hash", sa.LargeBinary, nullable=False),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("superseded_at", sa.Integer),
        sa.Column("superseded_by", sa.Integer, sa.ForeignKey("entries.id", ondelete="SET NULL")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_entries_key", "entries", ["namespace", "key"])
    op.create_index(
        "ux_entries_current",
        "entries",
        ["namespace", "key"],
        unique=True,
        sqlite_where=sa.text("superseded_at IS NULL"),
    )
    superseded = sa.text("superseded_by IS NOT NULL")
    op.create_index("ix_entries_superseded", "entries", ["superseded_by"], sqlite_where=superseded)
    op.create_index("ix_entries_content", "entries", ["content_hash", "namespace"])
    op.create_index("ix_entries_session", "entries", ["session_id"])
    op.create_index("ix_entries_event_time", "entries", ["event_time"])
    present = sa.text("expires_at IS NOT NULL")
    op.create_index("ix_entries_expires_at", "entries", ["expires_at"], sqlite_where=present)


def _create_generations() -> None:
    op.create_table(
        "generations",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("encoder", sa.Text, nullable=False),
        sa.Column("dimension", sa.Integer, nullable=False),
        sa.Column("tiers", sa.Text, nullable=False),
        sa.Column("dtype", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.Integer, nullable=False),
    )
    op.create_table(
        "vectors",
        sa.Column("entry_id", sa.Integer, sa.ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
        sa.Column(
            "generation_id",
            sa.Integer,
            sa.ForeignKey("generations.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("static", sa.LargeBinary, nullable=False),
    )
