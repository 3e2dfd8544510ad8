"""Where things of the coding agents are kept: beside the store, in its folder, for their owner alone."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = "agents"
VARIABLE = "AGENT_MEMORY_PATH"
DEFAULT = "~/.agent-memory"


def find_store(path: str | None = None) -> Path:
    """Return the folder of the store: the given one, ``AGENT_MEMORY_PATH``, or that in the home folder.

    Raises:
        FileNotFoundError: There is no home folder, or an address was given; nothing was made.
    """
    given = path or os.environ.get(VARIABLE) or DEFAULT
    if "://" in given:
        raise FileNotFoundError(f"hooks need a folder, and {given.split(':')[0]}:// is an address")
    try:
        folder = Path(given).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{given} cannot be found: there is no home folder") from error
    if not folder.is_absolute():
        folder = Path.cwd() / folder
    return folder
