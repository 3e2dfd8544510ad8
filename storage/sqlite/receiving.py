"""What only SQLite needs when rows come from another database."""

from __future__ import annotations

from collections.abc import Mapping

from agent_memory.storage.sqlite.slots import Link, driver


def set_numbers(target: Link, numbers: Mapping[str, int]) -> None:
    """Make row numbers go on behind those that were used in the database that the rows are from."""
    raw = driver(target)
    for table, number in numbers.items():
        if not raw.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = ?", (number, table)).rowcount:
            raw.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))
