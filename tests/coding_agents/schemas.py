"""The shapes that the agents publish for their files and hooks, without their words. Looked up in November 2026.

* Claude Code: ``hooks`` of ``claude-code-settings.json`` at SchemaStore.
* Codex: ``codex-hooks.json`` at SchemaStore; ``codex-rs/hooks/schema/generated`` in its repository.
* Cursor: ``schema/hooks.schema.json`` of the npm package ``cursor-hooks``. Cursor itself publishes none.
* Agent Plugins 1.0.0: ``schemas/1.0.0`` in its repository.
* MCP entries of Claude Code, Codex, Cursor and OpenCode: from their documentation, since no schema could be had.
"""

_TEXT = {"type": "string", "minLength": 1}
_STRINGS = {"type": "array", "items": {"type": "string"}}

CLAUDE_SETTINGS = {
    "type": "object",
    "properties": {
        "hooks": {
            "type": "object",
            "additionalProperties": False,
            "patternProperties": {
                "^(SessionStart|UserPromptSubmit|Stop|SessionEnd|PreToolUse|PostToolUse|SubagentStop|PreCompact)$": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["hooks"],
                        "properties": {
                            "matcher": {"type": "string"},
                            "hooks": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "required": ["type", "command"],
                                    "properties": {
                                        "type": {"const": "command"},
                                        "command": _TEXT,
                                        "timeout": {"type": "number", "exclusiveMinimum": 0},
                                        "async": {"type": "boolean"},
                                        "asyncRewake": {"type": "boolean"},
                                        "shell": {"enum": ["bash", "powershell"]},
                                        "if": {"type": "string"},
                                        "statusMessage": {"type": "string"},
                                        "args": _STRINGS,
                                    },
                                },
                            },
                        },
                    },
                }
            },
        }
    },
}

CODEX_HOOKS = {
    "type": "object",
    "required": ["hooks"],
    "additionalProperties": False,
    "properties": {
        "hooks": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["hooks"],
                    "properties": {
                        "matcher": {"type": "string"},
                        "hooks": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["type", "command"],
                                "properties": {
                                    "type": {"const": "command"},
                                    "command": _TEXT,
                                    "timeout": {"type": "integer", "minimum": 0},
                                    "async": {"type": "boolean"},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}

CURSOR_HOOKS = {
    "type": "object",
    "additionalProperties": False,
    "required": ["version", "hooks"],
    "properties": {
        "version": {"const": 1},
        "hooks": {
            "type": "object",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[A-Za-z0-9_.:-]+$"},
            "additionalProperties": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["command"],
                    "properties": {"command": _TEXT},
                },
            },
        },
    },
}

PLUGIN = {
    "type": "object",
    "required": ["$schema", "name"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://agent-plugins.org/schemas/1.0.0/plugin.schema.json"},
        "name": {"maxLength": 64, "pattern": r"^(?!.*(?:--|\.\.))[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$"},
        **{name: {"type": "string"} for name in ("version", "description", "homepage", "repository", "license")},
        "author": {"type": "object"},
        "keywords": _STRINGS,
        "extensions": {"type": "object"},
    },
}

PLUGIN_MCP = {
    "type": "object",
    "required": ["$schema", "mcpServers"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://agent-plugins.org/schemas/1.0.0/mcp.schema.json"},
        "mcpServers": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["type", "command"],
                "additionalProperties": False,
                "properties": {
                    "type": {"const": "stdio"},
                    "command": _TEXT,
                    "args": _STRINGS,
                    "env": {"type": "object"},
                    "cwd": {"type": "string"},
                },
            },
        },
    },
}

MCP_SERVERS = {
    "type": "object",
    "required": ["mcpServers"],
    "properties": {
        "mcpServers": {
            "additionalProperties": {
                "type": "object",
                "required": ["command"],
                "properties": {"type": {"const": "stdio"}, "command": _TEXT, "args": _STRINGS},
            }
        }
    },
}

CODEX_CONFIG = {
    "type": "object",
    "properties": {
        "mcp_servers": {
            "additionalProperties": {
                "type": "object",
                "required": ["command"],
                "properties": {"command": _TEXT, "args": _STRINGS},
            }
        }
    },
}

OPENCODE_CONFIG = {
    "type": "object",
    "properties": {
        "mcp": {
            "additionalProperties": {
                "type": "object",
                "required": ["type", "command"],
                "properties": {
                    "type": {"const": "local"},
                    "command": {**_STRINGS, "minItems": 1},
                    "enabled": {"type": "boolean"},
                },
            }
        }
    },
}


def _output(event):
    """What Codex accepts from a hook; Claude Code accepts the same of these events."""
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "continue": {"type": "boolean"},
            "decision": {"enum": ["block", None]},
            "hookSpecificOutput": {
                "type": "object",
                "additionalProperties": False,
                "required": ["hookEventName"],
                "properties": {"additionalContext": {"type": "string"}, "hookEventName": {"const": event}},
            },
            "reason": {"type": "string"},
            "stopReason": {"type": "string"},
            "suppressOutput": {"type": "boolean"},
            "systemMessage": {"type": "string"},
        },
    }


OUTPUTS = {event: _output(event) for event in ("SessionStart", "UserPromptSubmit", "Stop")}


def _input(event, **more):
    names = {name: {"type": "string"} for name in ("cwd", "model", "session_id")}
    modes = {"enum": ["default", "acceptEdits", "plan", "dontAsk", "bypassPermissions"]}
    properties = {
        **names,
        "hook_event_name": {"const": event},
        "permission_mode": modes,
        "transcript_path": {"type": ["string", "null"]},
        "turn_id": {"type": "string"},
        **more,
    }
    return {"type": "object", "additionalProperties": False, "required": list(properties), "properties": properties}


CODEX_INPUTS = {
    "UserPromptSubmit": _input("UserPromptSubmit", prompt={"type": "string"}),
    "Stop": _input("Stop", last_assistant_message={"type": ["string", "null"]}, stop_hook_active={"type": "boolean"}),
}
"""What Codex sends; no schema of what it sends at a session's start could be had."""
