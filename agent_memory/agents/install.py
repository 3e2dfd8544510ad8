"""Writes hooks, an MCP server and a skill into an agent's settings, and takes them out again."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agent_memory.agents import jsonc, people, toml
from agent_memory.agents.layouts import (
    NAME,
    Part,
    Scope,
    blank_command,
    drop_hook,
    is_our_hook,
    is_our_server,
    list_parts,
    read_asset,
    renew_hook,
)
from agent_memory.agents.people import Edit
from agent_memory.agents.places import FOLDER, hold
from agent_memory.agents.receipts import digest, find_same, note_folders, read_receipts, write_receipts
from agent_memory.errors import InvalidInputError
from agent_memory.files import make_folder

_LOCK = "install.lock"
_SCHEMAS = "https://agent-plugins.org/schemas/1.0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What became of one file.

    Attributes:
        kind: ``hooks``, ``mcp``, ``skill`` or ``plug-in``.
        path: The file.
        state: ``written``, ``unchanged``, ``removed``, ``absent``, or ``kept``: somebody else's entry of that name.
    """

    kind: str
    path: Path
    state: str


def find_command() -> list[str]:
    """Return what runs ``agent-memory`` from anywhere: the script beside this interpreter, or a module of it."""
    script = Path(sys.executable).with_name(NAME)
    # Without -P, a project that holds modules of the same names would have them run.
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-P", "-m", "agent_memory"]


def install(agent: str, scope: Scope, root: Path, store: Path, *, given_store: str | None = None) -> list[Installed]:
    """Write what an agent needs into its settings; what is there already stays as it is.

    Args:
        agent: One of ``events.AGENTS``.
        scope: For the user, or for one project.
        root: The home folder, or the project's.
        store: The folder of the store, which remembers what was made, for ``uninstall``.
        given_store: The store that the hooks are to use, if it is not the default one.

    Raises:
        InvalidInputError: A file is not what its agent can read, or is read-only; nothing was written.
        StorageError: A file cannot be read or written; nothing was changed.
    """
    parts = list_parts(agent, scope, root, _choose_command(scope), given_store)
    for name in [*(str(part.path) for part in parts), *_choose_command(scope), str(given_store)]:
        if not _is_utf8(name):
            raise InvalidInputError(f"{name!r} cannot be written into settings: it is not UTF-8")
    make_folder(store / FOLDER)
    with hold(store / FOLDER / _LOCK, wait=True):
        return _install(agent, parts, store)


def _install(agent: str, parts: Sequence[Part], store: Path) -> list[Installed]:
    former = read_receipts(store)
    receipts = dict(former)
    edits, done = [], []
    for part in parts:
        before = people.read_file(part.path)
        # Where nothing of ours is left, the file is another than the one that the receipt is about.
        known = None if _look(part, agent) == "absent" else former.get(str(part.path))
        receipt = dict(known or _make_receipt(part, before))
        after = _apply(part, before, receipt, agent)
        state = "unchanged" if after == before else "written"
        if after != before:
            edits.append(Edit(part.path, before, after))
            receipts[str(part.path)] = receipt
        elif receipt.get("foreign") or part.text not in (None, after):
            state = "kept"
        elif part.text is not None:  # another agent's, in a folder that both read: the last to go deletes it
            receipts.setdefault(str(part.path), receipt)
        done.append(Installed(kind=part.kind, path=part.path, state=state))
    # First the receipt: without it, a file that was made could not be told from one that was found.
    write_receipts(store, receipts)
    try:
        made = people.write_all(edits)
    except BaseException:
        write_receipts(store, former)
        raise
    note_folders(store, receipts, edits, made)
    return done


def uninstall(agent: str, scope: Scope, root: Path, store: Path) -> list[Installed]:
    """Take out of an agent's settings what ``install`` has put there; files are as they were found.

    Args:
        agent: As for ``install``.
        scope: As for ``install``.
        root: As for ``install``.
        store: As for ``install``.

    Raises:
        InvalidInputError: As of ``install``.
        StorageError: As of ``install``.
    """
    parts = list_parts(agent, scope, root, _choose_command(scope), None)
    if not (store / FOLDER).is_dir():
        return _uninstall(agent, parts, store)
    with hold(store / FOLDER / _LOCK, wait=True):
        return _uninstall(agent, parts, store)


def _uninstall(agent: str, parts: Sequence[Part], store: Path) -> list[Installed]:
    receipts = read_receipts(store)
    edits, done, folders = [], [], []
    for part in parts:
        before = people.read_file(part.path)
        receipt = receipts.pop(str(part.path), None)
        after = _undo(part, before, receipt, agent)
        if part.text is not None and (other := find_same(part.path, receipts)) is not None:
            other["folders"] = [*other.get("folders", ()), *(receipt or {}).get("folders", ())]
            receipt, after = None, before
        state = "absent" if before is None or after == before else "removed"
        if part.text is not None and before is not None and after == before:
            state = "kept"
        if after != before:
            edits.append(Edit(part.path, before, after))
        folders += [Path(name) for name in (receipt or {}).get("folders", ())]
        if part.kind == "skill" and after is None:
            folders.append(part.path.parent)  # made for it, also where another store has the receipt
        done.append(Installed(kind=part.kind, path=part.path, state=state))
    people.write_all(edits)
    people.remove_empty(folders)
    write_receipts(store, receipts)
    return done


def inspect(agent: str, scope: Scope, root: Path, store: Path) -> list[Installed]:
    """Return what of an agent's parts is there: ``installed``, ``absent``, ``partly``, or ``unreadable``.

    Args:
        agent: As for ``install``.
        scope: As for ``install``.
        root: As for ``install``.
        store: As for ``install``.
    """
    return [
        Installed(kind=part.kind, path=part.path, state=_look(part, agent))
        for part in list_parts(agent, scope, root, _choose_command(scope), None)
    ]


def write_plugin(folder: Path) -> list[Path]:
    """Write a portable package, of the form Agent Plugins 1.0: a manifest, the MCP server, the skill.

    Args:
        folder: Where to; it must be empty or missing.

    Raises:
        InvalidInputError: Something is there already.
        StorageError: It cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInputError(f"{folder} is not an empty folder")
    server = {"type": "stdio", "command": NAME, "args": ["mcp", "--project", "."]}
    manifest = {
        "$schema": f"{_SCHEMAS}/plugin.schema.json",
        "name": NAME,
        "version": version(NAME),
        "description": "A memory of what earlier sessions of a project decided, preferred and left open.",
        "license": "Apache-2.0",
    }
    servers = {"$schema": f"{_SCHEMAS}/mcp.schema.json", "mcpServers": {NAME: server}}
    contents = {
        "plugin.json": json.dumps(manifest, indent=2) + "\n",
        "mcp.json": json.dumps(servers, indent=2) + "\n",
        f"skills/{NAME}/SKILL.md": read_asset("SKILL.md"),
    }
    people.write_all([Edit(folder / name, None, text.encode()) for name, text in contents.items()])
    return [folder / name for name in contents]


def _choose_command(scope: Scope) -> list[str]:
    """Return what settings run. A project's are shared: by name, where the search path leads here."""
    command = find_command()
    found = shutil.which(NAME)
    same = found is not None and os.path.realpath(found) == os.path.realpath(command[0])
    return [NAME] if scope is Scope.PROJECT and same else command


# --- one file ----------------------------------------------------------------------------------------


def _apply(part: Part, before: bytes | None, receipt: dict[str, Any], agent: str) -> bytes | None:
    """Return a file with our part in it."""
    with _naming(part.path):
        if part.text is not None:  # what somebody has changed or written is theirs
            if before is None or _is_untouched(part, before, receipt):
                receipt["written"] = digest(part.text)
                return part.text
            return before
        if part.table:
            return _apply_table(part, before or b"", receipt)
        text = before if before is not None and before.strip() else b"{}\n"
        for path, value in part.defaults.items():
            if jsonc.find(text, path) is None:
                text = jsonc.put(text, path, value)
        for path, value in part.members.items():
            known = jsonc.read(jsonc.find(text, path))
            renewed = _renew(known, value, receipt)
            if renewed is not None and renewed != known:
                text = jsonc.put(text, path, renewed)
        for path, item in part.items.items():
            text = _put_item(text, path, item, agent)
        return before if before is not None and before.strip() == b"" and text == b"{}\n" else text


def _apply_table(part: Part, before: bytes, receipt: dict[str, Any]) -> bytes:
    ((path, values),) = part.table.items()
    known = toml.read(before).get(path[0], {})
    known = known.get(path[1]) if isinstance(known, dict) else None
    if known is None:
        return toml.put_table(before, path, values)
    return before if _renew(known, values, receipt) is None else toml.change_table(before, path, values)


def _put_item(text: bytes, path: tuple[str, ...], item: Mapping[str, Any], agent: str) -> bytes:
    known = jsonc.read(jsonc.find(text, path))
    if known is not None and not isinstance(known, list):
        raise InvalidInputError(f"{'.'.join(path)} must be an array, got {type(known).__name__}")
    for place, one in enumerate(known or ()):
        if is_our_hook(one, path[-1], agent):
            renewed = renew_hook(one, item, path[-1], agent)
            return text if one == renewed else jsonc.replace_item(text, path, place, renewed)
    return jsonc.append(text, path, item)


def _undo(part: Part, before: bytes | None, receipt: Mapping[str, Any] | None, agent: str) -> bytes | None:
    """Return a file without our part; None if we have made it and nothing else is in it."""
    if before is None:
        return None
    with _naming(part.path):
        if part.text is not None:  # what somebody has changed or written is theirs
            return None if _is_untouched(part, before, receipt) else before
        if part.table:
            after = _undo_table(part, before, receipt)
            return None if receipt and receipt.get("made") and not after.strip() else after
        if not before.strip():
            return before
        after = _undo_json(part, before, receipt, agent)
        if receipt and "blank" in receipt and jsonc.read(jsonc.parse(after)) == {}:
            return None if receipt.get("made") else str(receipt["blank"]).encode()
        return after


def _is_untouched(part: Part, text: bytes, receipt: Mapping[str, Any] | None) -> bool:
    """Return whether a file that is all ours is as an installation has written it, also one for another store."""
    written = receipt is not None and receipt.get("written") == digest(text)
    return written or blank_command(text) == blank_command(part.text or b"")


def _undo_table(part: Part, before: bytes, receipt: Mapping[str, Any] | None) -> bytes:
    ((path, _),) = part.table.items()
    known = toml.read(before).get(path[0], {})
    entry = known.get(path[1]) if isinstance(known, dict) else None
    mine = _is_mine(entry, receipt)
    return toml.remove_table(before, path, entry) if mine and isinstance(entry, dict) else before


def _undo_json(part: Part, text: bytes, receipt: Mapping[str, Any] | None, agent: str) -> bytes:
    text, gone = _take_out_hooks(part, text, agent)
    for member in part.members:
        if _is_mine(jsonc.read(jsonc.find(text, member)), receipt):
            text = jsonc.remove(text, member)
            gone.append(member)
    held = [path for path in _list_containers(part) if any(each[: len(path)] == path for each in gone)]
    # Innermost first: what was made for ours, and holds nothing now.
    made = [tuple(path) for path in (receipt or {}).get("paths", held)]
    for path in sorted(made, key=len, reverse=True):
        if jsonc.read(jsonc.find(text, path)) in ([], {}):
            text = jsonc.remove(text, path)
    for default in part.defaults:
        # Hooks that came later need it too; those that were there before did without.
        needed = ("hooks",) in made and jsonc.find(text, ("hooks",)) is not None
        if receipt is not None and default[0] in receipt.get("defaults", ()) and not needed:
            text = jsonc.remove(text, default)
    return text


def _take_out_hooks(part: Part, text: bytes, agent: str) -> tuple[bytes, list[tuple[str, ...]]]:
    """Return a text without our hooks, and the places of the items that went."""
    gone: list[tuple[str, ...]] = []
    for array in part.items:
        known = jsonc.read(jsonc.find(text, array))
        for place in reversed(range(len(known) if isinstance(known, list) else 0)):
            if not is_our_hook(known[place], array[-1], agent):
                continue
            if (others := drop_hook(known[place], array[-1], agent)) is not None:
                text = jsonc.replace_item(text, array, place, others)
            else:
                text = jsonc.remove_item(text, array, place)
                gone.append((*array, ""))
    return text, gone


def _is_mine(entry: object, receipt: Mapping[str, Any] | None) -> bool:
    """Return whether an MCP server is ours: by the receipt, or else by what it runs."""
    return entry is not None and (is_our_server(entry) if receipt is None else bool(receipt.get("ours")))


def _renew(known: object, values: Mapping[str, Any], receipt: dict[str, Any]) -> dict[str, Any] | None:
    """Return an MCP server as it is to be, with what people have added to it; None if it is somebody else's.

    One that another installation has left, as for another store, becomes ours.
    """
    if known is None:
        return dict(values)
    if not isinstance(known, dict) or not (receipt.get("ours") or is_our_server(known)):
        receipt["foreign"] = True
        return None
    renewed = {**known, **values}
    if renewed != known:
        receipt["ours"] = True
    return renewed


def _look(part: Part, agent: str) -> str:
    try:
        text = people.read_file(part.path)
        if text is None or (part.text is None and not text.strip()):
            return "absent"
        if part.text is not None:
            return "installed"
        if part.table:
            ((table, _),) = part.table.items()
            return "installed" if table[1] in toml.read(text).get(table[0], {}) else "absent"
        there = [jsonc.find(text, path) is not None for path in part.members]
        for path in part.items:
            known = jsonc.read(jsonc.find(text, path))
            there.append(any(is_our_hook(one, path[-1], agent) for one in known or ()))
    except Exception:
        return "unreadable"
    return "installed" if all(there) else "partly" if any(there) else "absent"


def _list_containers(part: Part) -> list[tuple[str, ...]]:
    """Return the paths of the objects and arrays that hold our members and items."""
    paths = [path[:depth] for path in part.members for depth in range(1, len(path))]
    paths += [path[:depth] for path in part.items for depth in range(1, len(path) + 1)]
    return list(dict.fromkeys(paths))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the name of a file before what is wrong with it."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}, {error}") from error


def _make_receipt(part: Part, before: bytes | None) -> dict[str, Any]:
    """Return what must be known to leave a file as it was found. It holds nothing of what the file says."""
    receipt: dict[str, Any] = {"made": before is None}
    if part.text is not None:
        return receipt | {"ours": before is None, "written": digest(part.text)}
    if before is None or not before.strip():
        receipt["blank"] = (before or b"").decode("utf-8", "replace")
    if part.table:
        ((table, _),) = part.table.items()
        with _naming(part.path):
            known = toml.read(before or b"").get(table[0], {})
        return receipt | {"ours": not (isinstance(known, dict) and table[1] in known)}
    text = before if before is not None and before.strip() else b"{}"
    with _naming(part.path):
        receipt["paths"] = [path for path in _list_containers(part) if jsonc.find(text, path) is None]
        receipt["defaults"] = [path[0] for path in part.defaults if jsonc.find(text, path) is None]
        receipt["ours"] = not any(jsonc.find(text, path) is not None for path in part.members)
    return receipt


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
