"""The MCP server through the real client of the installed ``mcp``, version 1 or 2."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from support import TESTS, WordEncoder

from agent_memory import Memory, MissingDependencyError
from agent_memory.integrations import mcp as integration

SERVER = Path(__file__).parent / "support_mcp.py"


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}


@asynccontextmanager
async def session_of(transport):
    async with AsyncExitStack() as stack:
        streams = await stack.enter_async_context(transport)
        session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
        await session.initialize()
        yield session


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def over_stdio(folder):
    arguments = ["-W", "ignore", str(SERVER), str(folder), "stdio", "0"]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment())
    return session_of(stdio_client(server))


def is_error(result):
    return result.is_error if hasattr(result, "is_error") else result.isError


async def call(session, tool, /, **arguments):
    result = await session.call_tool(tool, arguments)
    assert not is_error(result), result.content
    structured = getattr(result, "structured_content", None) or getattr(result, "structuredContent", None)
    return structured["result"] if set(structured) == {"result"} else structured


async def read(session, uri):
    result = await session.read_resource(uri)
    return json.loads(result.contents[0].text)


async def use(session):
    tools = (await session.list_tools()).tools
    assert {tool.name for tool in tools} == {"remember", "recall", "forget", "why", "list_sessions"}
    assert all(tool.description for tool in tools)
    kept = await call(session, "remember", text="Al likes tea", session="s 1", speaker="al", key="a/b c")
    assert kept["key"] == "a/b c"
    await call(session, "remember", text="Bo likes coffee", metadata={"year": 2025}, importance=0.5, key="k")
    hits = await call(session, "recall", query="Al likes what", k=1)
    assert [(hit["text"], hit["rank"], hit["speaker"]) for hit in hits] == [("Al likes tea", 1, "al")]
    hits = await call(session, "recall", query="likes", where={"year": {"$gte": 2024}})
    assert [hit["text"] for hit in hits] == ["Bo likes coffee"]
    reason = await call(session, "why", query="Al likes tea", key="k")
    assert (reason["key"], reason["returned"], reason["rank"]) == ("k", True, 2)
    assert reason["detail"]
    reason = await call(session, "why", query="x", key="missing")
    assert (reason["returned"], reason["stage"]) == (False, "unknown")
    sessions = await call(session, "list_sessions")
    assert [(each["name"], each["entries"]) for each in sessions] == [("s 1", 1)]
    assert (await read(session, "memory://entries/k"))["metadata"] == {"year": 2025}
    assert (await read(session, "memory://entries/a%2Fb%20c"))["text"] == "Al likes tea"
    assert [entry["key"] for entry in await read(session, "memory://entries")] == ["a/b c", "k"]
    assert [entry["key"] for entry in await read(session, "memory://sessions/s%201")] == ["a/b c"]
    templates = await session.list_resource_templates()
    listed = getattr(templates, "resource_templates", None) or templates.resourceTemplates
    assert len(listed) == 2
    for tool, arguments, message in (
        ("remember", {"text": " "}, "must not be empty"),
        ("recall", {"query": "x", "where": {"$bad": 1}}, "unknown filter operator"),
        ("forget", {}, "say what to forget"),
        ("why", {"query": " ", "key": "k"}, "query must not be empty"),
    ):
        result = await session.call_tool(tool, arguments)
        assert is_error(result)
        assert message in result.content[0].text
    assert await call(session, "forget", key="k") == {"forgotten": 1}
    assert await call(session, "forget", session="s 1") == {"forgotten": 1}
    assert await call(session, "recall", query="likes") == []


async def test_over_stdio(folder):
    async with over_stdio(folder) as session:
        await use(session)


async def test_what_one_server_keeps_the_next_one_finds(folder):
    async with over_stdio(folder) as session:
        await call(session, "remember", text="Al likes tea")
    async with over_stdio(folder) as first, over_stdio(folder) as second:
        await call(first, "remember", text="Bo likes coffee")
        assert len(await call(second, "recall", query="likes")) == 2
    with Memory(folder, encoder=WordEncoder()) as memory:
        assert [entry.text for entry in memory.entries()] == ["Al likes tea", "Bo likes coffee"]


async def test_over_streamable_http(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", str(SERVER), str(folder), "http", str(port)]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while not listens(port):
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.1)
            async with session_of(streamable_http_client(f"http://127.0.0.1:{port}/mcp")) as session:
                await use(session)
        finally:
            server.terminate()


def test_without_the_package_the_error_names_the_extra(memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingDependencyError, match=r"agent-memory\[mcp\]") as caught:
        integration.build_server(memory)
    assert caught.value.extra == "mcp"
