"""Checksums of rows, an id of the store, and where a schedule was made."""

import secrets

import sqlalchemy as sa
from alembic import op

from agent_memory.storage.sqlite.checksums import checksum, exact_text
from agent_memory.storage.sqlite.slots import driver

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# As of this revision, whatever later ones add.
_COVERED = (
    (
        "entries",
        "checksum",
        'namespace, "key", session_id, speaker, text, metadata, event_time, expires_at, importance, content_hash, seq, '
        "created_at, updated_at, id, superseded_at, superseded_by",
    ),
    ("vectors", "checksum", "entry_id, generation_id, static"),
    ("vectors", "evolved_checksum", "entry_id, generation_id, evolved, latents"),
    (
        "generations",
        "checksum",
        "id, fingerprint, encoder, dimension, tiers, dtype, state, created_at, session_encoder, retired_at",
    ),
    ("assets", "checksum", "generation_id, name, content"),
    ("schedules", "checksum", 'name, kind, "trigger", options, paused, created_at, last_run_at, seal'),
)


_BLOBS = {("vectors", "checksum"): 1, ("vectors", "evolved_checksum"): 2, ("assets", "checksum"): 1}


def upgrade() -> None:
    """Add the columns and fill them from what is stored now."""
    op.create_table("meta", sa.Column("name", sa.Text, primary_key=True), sa.Column("value", sa.Text, nullable=False))
    op.add_column("schedules", sa.Column("seal", sa.Text))
    for table, column, _ in _COVERED:
        op.add_column(table, sa.Column(column, sa.Integer))
    connection = driver(op.get_bind())
    connection.execute("INSERT INTO meta VALUES ('store_id', ?)", (secrets.token_hex(16),))
    for table, column, names in _COVERED:
        blobs = _BLOBS.get((table, column), 0)
        filled = " WHERE evolved IS NOT NULL OR latents IS NOT NULL" if column == "evolved_checksum" else ""
        with exact_text(connection):
            rows = connection.execute(f"SELECT rowid, {names} FROM {table}{filled}")
            sums = [(checksum(row[1:], blobs), row[0]) for row in rows]
        connection.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", sums)
