"""How MCP clients connect; a module of its own, so that the command line can name it without loading a store."""

from __future__ import annotations

from enum import StrEnum


class Transport(StrEnum):
    """How a server is reached."""

    STDIO = "stdio"
    HTTP = "http"
