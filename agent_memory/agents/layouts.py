"""Where each agent keeps hooks, MCP servers and skills, and what is to stand there.

As published in November 2026: Claude Code's settings (schema at SchemaStore), Codex's ``hooks.json`` (schema at
SchemaStore) and ``config.toml``, Cursor's ``hooks.json`` version 1 and ``mcp.json``, OpenCode's plug-ins and
``opencode.json``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Any

from agent_memory.agents.events import CLAUDE_CODE, CODEX, CURSOR, OPENCODE

NAME = "agent-memory"
"""The name of the MCP server and of the skill."""

_TIMEOUT_S = 10
_EVENTS = {
    CLAUDE_CODE: ("SessionStart", "UserPromptSubmit", "Stop", "SessionEnd"),
    CODEX: ("SessionStart", "UserPromptSubmit", "Stop"),
    CURSOR: ("sessionStart", "beforeSubmitPrompt", "afterAgentResponse", "stop", "sessionEnd"),
}


class Scope(StrEnum):
    """Whose sessions are remembered."""

    USER = "user"
    PROJECT = "project"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is to stand in one file.

    Attributes:
        kind: ``hooks``, ``mcp``, ``skill`` or ``plug-in``.
        path: The file.
        members: Members of a JSON object that are ours, by path.
        items: Items of arrays of a JSON object that are ours, by the array's path.
        defaults: Members that a new file needs, such as the version of its format.
        table: A table of a TOML file that is ours, by path.
        text: The whole file, if all of it is ours.
    """

    kind: str
    path: Path
    members: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    items: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    defaults: Mapping[tuple[str, ...], Any] = field(default_factory=dict)
    table: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    text: bytes | None = None


def list_parts(agent: str, scope: Scope, root: Path, command: Sequence[str], store: str | None) -> list[Part]:
    """Return what is to be written for an agent.

    Args:
        agent: One of ``events.AGENTS``.
        scope: For the user, or for one project.
        root: The home folder, or the project's.
        command: What runs ``agent-memory``.
        store: The folder of the store, if it is not the default one.
    """
    where = ["--path", store] if store else []
    hook = {name: [*command, "hook", name, "--agent", agent, *where] for name in _EVENTS.get(agent, ())}
    server = [*command, "mcp", "--project", "${workspaceFolder}" if agent == CURSOR else ".", *where]
    return _LAYOUTS[agent](scope, root, hook, server, [*command], where)


_Hooks = Mapping[str, Sequence[str]]


def _claude_code(
    scope: Scope, root: Path, hook: _Hooks, server: Sequence[str], command: Sequence[str], where: Sequence[str]
) -> list[Part]:
    folder = _home(root, "CLAUDE_CONFIG_DIR", ".claude") if scope is Scope.USER else root / ".claude"
    moved = scope is Scope.USER and os.environ.get("CLAUDE_CONFIG_DIR")
    servers = root / ".mcp.json" if scope is Scope.PROJECT else (folder if moved else root) / ".claude.json"
    entry = {"type": "stdio", "command": server[0], "args": list(server[1:])}
    return [
        Part(kind="hooks", path=folder / "settings.json", items=_group(hook)),
        Part(kind="mcp", path=servers, members={("mcpServers", NAME): entry}),
        _skill(folder / "skills"),
    ]


def _codex(
    scope: Scope, root: Path, hook: _Hooks, server: Sequence[str], command: Sequence[str], where: Sequence[str]
) -> list[Part]:
    folder = _home(root, "CODEX_HOME", ".codex") if scope is Scope.USER else root / ".codex"
    entry = {"command": server[0], "args": list(server[1:])}
    return [
        Part(kind="hooks", path=folder / "hooks.json", items=_group(hook)),
        Part(kind="mcp", path=folder / "config.toml", table={("mcp_servers", NAME): entry}),
        _skill(root / ".agents" / "skills"),
    ]


def _cursor(
    scope: Scope, root: Path, hook: _Hooks, server: Sequence[str], command: Sequence[str], where: Sequence[str]
) -> list[Part]:
    folder = root / ".cursor"
    items: dict[tuple[str, ...], Any] = {
        ("hooks", name): {"command": shlex.join(words)} for name, words in hook.items()
    }
    entry = {"command": server[0], "args": list(server[1:])}
    return [
        Part(kind="hooks", path=folder / "hooks.json", items=items, defaults={("version",): 1}),
        Part(kind="mcp", path=folder / "mcp.json", members={("mcpServers", NAME): entry}),
        _skill(folder / "skills"),
    ]


def _opencode(
    scope: Scope, root: Path, hook: _Hooks, server: Sequence[str], command: Sequence[str], where: Sequence[str]
) -> list[Part]:
    config = Path(os.environ.get("XDG_CONFIG_HOME") or root / ".config") / "opencode"
    folder, settings = (config, config) if scope is Scope.USER else (root / ".opencode", root)
    names = ("opencode.json", "opencode.jsonc")
    file = next((settings / name for name in names if (settings / name).exists()), settings / names[0])
    run = json.dumps(list(command))
    plugin = read_asset("opencode.js").replace('const COMMAND = ["agent-memory"]', f"const COMMAND = {run}")
    if where:
        plugin = plugin.replace('"--agent", "opencode"]', f'"--agent", "opencode", ...{json.dumps(list(where))}]')
    entry = {"type": "local", "command": list(server), "enabled": True}
    return [
        Part(kind="plug-in", path=folder / "plugins" / "agent-memory.js", text=plugin.encode()),
        Part(kind="mcp", path=file, members={("mcp", NAME): entry}),
        _skill(folder / "skills"),
    ]


_LAYOUTS = {CLAUDE_CODE: _claude_code, CODEX: _codex, CURSOR: _cursor, OPENCODE: _opencode}


def read_asset(name: str) -> str:
    """Return a file that comes with this package."""
    return (files("agent_memory.agents") / "assets" / name).read_text(encoding="utf-8")


def blank_command(text: bytes) -> bytes:
    """Return OpenCode's plug-in, or another text, without what depends on the command and the store."""
    return _COMMAND.sub(b"", text)


_COMMAND = re.compile(rb'(?m)^const COMMAND = \[.*\]$|(?<="opencode"), \.\.\.\[.*?\](?=\])')


def is_our_hook(item: object, event: str, agent: str) -> bool:
    """Return whether an item of an array of hooks, or a hook of the group that it is, runs ours."""
    if not isinstance(item, Mapping):
        return False
    inner = item.get("hooks")
    if isinstance(inner, list):
        return any(is_our_hook(one, event, agent) for one in inner)
    try:
        words = shlex.split(str(item.get("command", "")))
    except ValueError:
        return False
    ours = any(Path(word).name in (NAME, "agent_memory") for word in words)
    return ours and [*words, "", ""][words.index("hook") + 1 if "hook" in words else -1] == event and agent in words


def renew_hook(item: Mapping[str, Any], ours: Mapping[str, Any], event: str, agent: str) -> dict[str, Any]:
    """Return an item with our hook as it is now; what else people have put into it stays."""
    if isinstance(item.get("hooks"), list) and "hooks" in ours:
        (new,) = ours["hooks"]
        hooks = [renew_hook(one, new, event, agent) if is_our_hook(one, event, agent) else one for one in item["hooks"]]
        return {**item, "hooks": hooks}
    return {**ours, **item, **{name: ours[name] for name in ("type", "command") if name in ours}}


def drop_hook(item: Mapping[str, Any], event: str, agent: str) -> dict[str, Any] | None:
    """Return an item without our hook; None if nothing is left of it."""
    others = [one for one in item.get("hooks", ()) if not is_our_hook(one, event, agent)]
    return {**item, "hooks": others} if others else None


def is_our_server(entry: object) -> bool:
    """Return whether an MCP server is the one that ``install`` writes, wherever the command is."""
    if not isinstance(entry, Mapping):
        return False
    command = entry.get("command")
    words = [*(command if isinstance(command, list) else [command]), *(entry.get("args") or [])]
    names = [Path(word).name for word in words if isinstance(word, str)]
    return (NAME in names or "agent_memory" in names) and "mcp" in names and "--project" in names


def _group(hook: _Hooks) -> dict[tuple[str, ...], Any]:
    return {
        ("hooks", name): {"hooks": [{"type": "command", "command": shlex.join(words), "timeout": _TIMEOUT_S}]}
        for name, words in hook.items()
    }


def _skill(folder: Path) -> Part:
    return Part(kind="skill", path=folder / NAME / "SKILL.md", text=read_asset("SKILL.md").encode())


def _home(root: Path, variable: str, name: str) -> Path:
    return Path(os.environ.get(variable) or root / name)
