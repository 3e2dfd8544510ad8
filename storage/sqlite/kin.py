"""Statements that lead from entries to others: neighbours in a session, and what takes the place of what."""

from __future__ import annotations

_BESIDE = "FROM entries other WHERE other.session_id = mine.session_id AND other.superseded_at IS NULL AND other.id"
# A former version was copied to a new row; its place in the session is that of the entry that kept the key.
_PLACED = """
SELECT one.id, one.session_id, coalesce(
    (SELECT kept.id FROM entries kept
     WHERE kept.id = one.superseded_by AND kept.key = one.key AND kept.namespace = one.namespace), one.id) AS place
FROM entries one WHERE one.id IN (SELECT value FROM json_each(?)) AND one.session_id IS NOT NULL
"""
NEIGHBOURS = f"""
SELECT mine.id, (SELECT max(other.id) {_BESIDE} < mine.place), (SELECT min(other.id) {_BESIDE} > mine.place)
FROM ({_PLACED}) mine
"""


_LINEAGE = """
WITH RECURSIVE line(id) AS (
    SELECT id FROM entries WHERE id IN (SELECT value FROM json_each(?))
    UNION SELECT former.id FROM line JOIN entries former ON former.superseded_by = line.id
    {later}
) SELECT id FROM line ORDER BY id
"""
EARLIER = _LINEAGE.format(later="")
BOTH_WAYS = _LINEAGE.format(
    later="UNION SELECT one.superseded_by FROM line JOIN entries one ON one.id = line.id "
    "WHERE one.superseded_by IS NOT NULL"
)
