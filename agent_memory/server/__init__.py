"""The memory over HTTP: REST, MCP, events and the inspector, on one port (extra ``server``)."""
