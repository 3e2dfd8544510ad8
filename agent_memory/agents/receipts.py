"""Receipts: what must be known to leave an agent's files as they were found. They hold no content of these."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_memory.agents import people
from agent_memory.agents.people import Edit
from agent_memory.agents.places import FOLDER
from agent_memory.files import make_folder, write_bytes


def _locate(store: Path) -> Path:
    return store / FOLDER / "installed.json"


def read_receipts(store: Path) -> dict[str, dict[str, Any]]:
    """Return the receipts of a store, by the path of the file; none of a file that somebody has spoilt."""
    text = people.read_file(_locate(store))
    try:
        found = json.loads(text or b"{}")
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {path: receipt for path, receipt in found.items() if isinstance(receipt, dict)}


def write_receipts(store: Path, receipts: Mapping[str, Any]) -> None:
    """Keep the receipts of a store in place of the former ones."""
    if not receipts:
        _locate(store).unlink(missing_ok=True)
        return
    make_folder(store / FOLDER)
    write_bytes(_locate(store), json.dumps(receipts, indent=1).encode())


def note_folders(store: Path, receipts: dict[str, dict[str, Any]], edits: Sequence[Edit], made: Sequence[Path]) -> None:
    """Add the folders that were made for each edited file to its receipt."""
    if not made:
        return
    for edit in edits:
        above = set(Path(os.path.realpath(edit.path)).parents)
        receipts[str(edit.path)]["folders"] = [str(folder) for folder in made if folder in above]
    write_receipts(store, receipts)


def find_same(path: Path, receipts: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """Return the receipt of the same file under another name, as where two agents' folders are one by a link."""
    real = os.path.realpath(path)
    return next((receipt for other, receipt in receipts.items() if os.path.realpath(other) == real), None)


def digest(text: bytes) -> str:
    """Return what tells one content from another."""
    return hashlib.sha256(text).hexdigest()
