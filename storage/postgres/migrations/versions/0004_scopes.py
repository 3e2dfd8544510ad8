"""Row-level security, which the owner turns on: what a role may read is told by the root namespaces in ``scopes``."""

from typing import Any

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SCOPES = r"""
CREATE TABLE scopes (role text COLLATE "C" NOT NULL, root text COLLATE "C" NOT NULL, PRIMARY KEY (role, root));
CREATE FUNCTION protect_table(given text) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    visible text := CASE
        WHEN given IN ('entries', 'sessions', 'queries')
            THEN 'split_part(namespace, E''\x1f'', 1) IN (SELECT root FROM scopes)'
        WHEN given IN ('mentions', 'lexical', 'vectors', 'passages') OR given ~ '^nearest_\d+$'
            THEN format('EXISTS (SELECT 1 FROM entries WHERE id = %I.entry_id)', given)
        WHEN given IN ('meta', 'totals', 'generations', 'assets', 'changes', 'erasures', 'leases', 'nearest')
            THEN 'EXISTS (SELECT 1 FROM scopes)'
        WHEN given = 'scopes' THEN 'role = current_user'
        ELSE 'false'
    END;
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', given);
    EXECUTE format('DROP POLICY IF EXISTS scoped ON %I', given);
    EXECUTE format('CREATE POLICY scoped ON %I FOR SELECT USING (%s)', given, visible);
END $$;
CREATE FUNCTION protect(turned_on boolean DEFAULT true) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    given text;
BEGIN
    FOR given IN SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace
        AND relkind = 'r' AND relname <> 'alembic_version'
    LOOP
        IF turned_on THEN
            PERFORM protect_table(given);
        ELSE
            EXECUTE format('ALTER TABLE %I DISABLE ROW LEVEL SECURITY', given);
        END IF;
    END LOOP;
END $$;
"""


def upgrade() -> None:
    """Create the table of scopes, and the functions that turn them on."""
    raw: Any = op.get_bind().connection.driver_connection
    raw.execute(_SCOPES)
