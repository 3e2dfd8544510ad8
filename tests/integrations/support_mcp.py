"""Opens the store with the test encoder and serves it: what ``agent-memory mcp`` does, without a model."""

from __future__ import annotations

import sys

from support import WordEncoder

from agent_memory import Memory
from agent_memory.integrations.mcp import Transport, run_server

if __name__ == "__main__":
    path, transport, port, *token = sys.argv[1:]
    with Memory(path, encoder=WordEncoder()) as served:
        run_server(served, Transport(transport), port=int(port), token=token[0] if token else None)
