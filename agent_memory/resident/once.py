"""What a command that was begun by a helper must know to do its work once, by whomever it is done."""

from __future__ import annotations

import time

key = ""
"""Key that a new entry without one gets; empty for a fresh one."""

since = 0.0
"""Since when the work may have been done already, in seconds since 1970; 0 if nobody has begun it."""


def begin(new_key: str) -> None:
    """Note that the work is begun now, and the key that a new entry gets."""
    global key, since
    key, since = new_key, time.time() - 0.001  # times in the store are cut to microseconds, and clocks are read twice


def forget() -> None:
    """Note that the next work is another one."""
    global key, since
    key, since = "", 0.0
