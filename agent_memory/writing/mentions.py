"""The times that a text mentions, told from when it was said."""

from __future__ import annotations

from datetime import datetime

from agent_memory import timewords
from agent_memory.config import Config
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import LONGEST_MENTION, Span

_PAGE_ROWS = 500


def list_mentions(text: str, moment: datetime, config: Config) -> list[Span]:
    """Return the spans of at most a year that a text mentions; none of a text longer than the settings allow."""
    if len(text) > config.max_mention_chars:
        return []
    found = timewords.intervals(text, moment.astimezone(config.zone), date_order=config.date_order)
    return [(one.start, one.end) for one in found if one.end - one.start <= LONGEST_MENTION]


def read_unread(tx: Transaction, config: Config) -> int:
    """Read the texts of the next entries from before mentions were kept; returns how many, 0 if none are left."""
    page = tx.mentions.select_unread(_PAGE_ROWS)
    tx.mentions.put({entry_id: list_mentions(text, moment, config) for entry_id, text, moment in page})
    return len(page)
