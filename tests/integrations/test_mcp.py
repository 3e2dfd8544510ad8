"""The MCP server through the real client of the installed ``mcp``, version 1 or 2."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from support import TESTS, WordEncoder

from agent_memory import InvalidInputError, Memory, MissingDependencyError
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
    assert {tool.name for tool in tools} == {"remember", "recall", "read", "forget", "why", "list_sessions"}
    assert all(tool.description for tool in tools)
    kept = await call(session, "remember", text="Al likes tea", session="s 1", speaker="al", key="a/b c")
    assert kept["key"] == "a/b c"
    await call(session, "remember", text="Bo likes coffee", metadata={"year": 2025}, importance=0.5, key="k")
    hits = (await call(session, "recall", query="Al likes what", k=1))["hits"]
    assert [(hit["text"], hit["rank"], hit["speaker"]) for hit in hits] == [("Al likes tea", 1, "al")]
    hits = (await call(session, "recall", query="likes", where={"year": {"$gte": 2024}}))["hits"]
    assert [hit["text"] for hit in hits] == ["Bo likes coffee"]
    reason = await call(session, "why", query="Al likes tea", key="k")
    assert (reason["key"], reason["returned"], reason["rank"]) == ("k", True, 2)
    assert reason["detail"]
    reason = await call(session, "why", query="x", key="missing")
    assert (reason["returned"], reason["stage"]) == (False, "unknown")
    sessions = (await call(session, "list_sessions"))["sessions"]
    assert [(each["name"], each["entries"]) for each in sessions] == [("s 1", 1)]
    assert (await read(session, "memory://entries/k"))["metadata"] == {"provenance": "agent", "year": 2025}
    assert (await read(session, "memory://entries/a%2Fb%20c"))["text"] == "Al likes tea"
    assert [entry["key"] for entry in (await read(session, "memory://entries"))["entries"]] == ["a/b c", "k"]
    found = await read(session, "memory://sessions/s%201")
    assert [entry["key"] for entry in found["entries"]] == ["a/b c"]
    templates = await session.list_resource_templates()
    listed = getattr(templates, "resource_templates", None) or templates.resourceTemplates
    assert len(listed) == 5
    for tool, arguments, message in (
        ("remember", {"text": " "}, "must not be empty"),
        ("recall", {"query": "x", "where": {"$bad": 1}}, "unknown filter operator"),
        ("forget", {}, "say what to forget"),
        ("why", {"query": " ", "key": "k"}, "query must not be empty"),
        ("read", {"key": "missing"}, "missing"),
        ("list_sessions", {"cursor": "x"}, "cursor must be"),
    ):
        result = await session.call_tool(tool, arguments)
        assert is_error(result)
        assert message in result.content[0].text
    assert await call(session, "forget", key="k") == {"forgotten": 1}
    assert await call(session, "forget", session="s 1") == {"forgotten": 1}
    assert await call(session, "recall", query="likes") == {"hits": [], "evidence": "none"}


async def test_over_stdio(folder):
    async with over_stdio(folder) as session:
        await use(session)


async def test_what_one_server_keeps_the_next_one_finds(folder):
    async with over_stdio(folder) as session:
        await call(session, "remember", text="Al likes tea")
    async with over_stdio(folder) as first, over_stdio(folder) as second:
        await call(first, "remember", text="Bo likes coffee")
        assert len((await call(second, "recall", query="likes"))["hits"]) == 2
    with Memory(folder, encoder=WordEncoder()) as memory:
        assert [entry.text for entry in memory.entries()] == ["Al likes tea", "Bo likes coffee"]


async def test_an_argument_that_a_tool_does_not_know_is_refused_and_nothing_is_done(folder, open_memory):
    open_memory().add("Al likes tea", session="chat-9", key="k", metadata={"topic": "tea"})
    async with over_stdio(folder) as session:
        tools = {tool.name: tool for tool in (await session.list_tools()).tools}
        for name, arguments in (
            ("forget", {"session": "chat-9", "filter": {"topic": "coffee"}}),
            ("remember", {"text": "Bo likes coffee", "when": "2025-01-01"}),
            ("recall", {"query": "tea", "filter": {}}),
            ("read", {"key": "k", "offset": 1}),
            ("why", {"query": "tea", "key": "k", "session": "chat-9"}),
            ("list_sessions", {"limit": 1}),
        ):
            result = await session.call_tool(name, arguments)
            assert is_error(result)
            assert list(arguments)[-1] in result.content[0].text
            schema = getattr(tools[name], "input_schema", None) or tools[name].inputSchema
            assert schema["additionalProperties"] is False
            assert all(about.get("description") for about in schema["properties"].values())
    assert [entry.text for entry in open_memory().entries()] == ["Al likes tea"]


async def test_tools_say_whether_they_read_or_destroy(folder):
    async with over_stdio(folder) as session:
        hints = {tool.name: tool.annotations.model_dump(by_alias=True) for tool in (await session.list_tools()).tools}
    assert {name for name, hint in hints.items() if hint["readOnlyHint"]} == {"recall", "read", "why", "list_sessions"}
    assert [name for name, hint in hints.items() if hint["destructiveHint"]] == ["forget"]
    assert not any(hint["openWorldHint"] for hint in hints.values())


async def test_the_server_gives_the_version_of_this_package(folder):
    async with AsyncExitStack() as stack:
        arguments = ["-W", "ignore", str(SERVER), str(folder), "stdio", "0"]
        server = StdioServerParameters(command=sys.executable, args=arguments, env=environment())
        streams = await stack.enter_async_context(stdio_client(server))
        session = await stack.enter_async_context(ClientSession(streams[0], streams[1]))
        greeting = await session.initialize()
    about = getattr(greeting, "server_info", None) or greeting.serverInfo
    assert (about.name, about.version) == ("agent-memory", version("agent-memory"))


async def test_answers_are_bounded_and_go_on_at_their_cursor(folder, open_memory):
    memory = open_memory()
    memory.add_many([{"text": f"fact number {n}", "key": f"k{n:03}", "session": f"s/{n:03}"} for n in range(230)])
    long = "word " * 30_000
    memory.add_many([{"text": long, "key": "long/one", "session": "s/000", "metadata": {"x": "y" * 9_000}}])
    async with over_stdio(folder) as session:
        address, keys, sizes = "memory://entries", [], []
        while address:
            shown = await read(session, address)
            keys += [entry["key"] for entry in shown["entries"]]
            sizes.append(len(shown["entries"]))
            address = shown.get("next")
        assert keys == [f"k{n:03}" for n in range(230)] + ["long/one"]
        assert sizes == [100, 100, 31]

        (first, last) = (await read(session, "memory://sessions/s%2F000"))["entries"]
        assert first["key"] == "k000"
        assert (len(last["text"]), last["text_chars"], last["metadata_chars"] > 9_000) == (4_001, 150_000, True)

        names, cursor = [], None
        while cursor is not False:
            answer = await call(session, "list_sessions", **({} if cursor is None else {"cursor": cursor}))
            names += [each["name"] for each in answer["sessions"]]
            cursor = answer.get("next", False)
        assert names == [f"s/{n:03}" for n in range(230)]

        ranking = [hit["key"] for hit in (await call(session, "recall", query="fact number 7", k=60))["hits"]]
        first = await call(session, "recall", query="fact number 7", k=20)
        second = await call(session, "recall", query="fact number 7", k=20, cursor=first["next"])
        assert [hit["key"] for hit in first["hits"] + second["hits"]] == ranking[:40]

        text, answer = "", {"next": "0"}
        while "next" in answer:
            answer = await call(session, "read", key="long/one", cursor=answer["next"])
            text += answer["text"]
        assert text == long
        shown = await read(session, (await read(session, "memory://entries/long%2Fone"))["next"])
        assert shown["text"] == long[50_000:100_000]


def converse(server, *requests):
    """Send requests to a server over its standard input; returns the last answer."""
    for number, (method, parameters) in enumerate(requests):
        message = {"jsonrpc": "2.0", "method": method, "params": parameters}
        notification = method.startswith("notifications/")
        server.stdin.write(json.dumps(message if notification else {**message, "id": number}) + "\n")
        server.stdin.flush()
        answer = None if notification else json.loads(server.stdout.readline())
    return answer


def snapshots(folder):
    return [path for path in (folder / "index").rglob("*") if path.is_file()]


def test_a_stop_signal_closes_the_store_though_the_client_stays(folder):
    command = [sys.executable, "-W", "ignore", str(SERVER), str(folder), "stdio", "0"]
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        answer = converse(
            server,
            ("initialize", about),
            ("notifications/initialized", {}),
            ("tools/call", {"name": "remember", "arguments": {"text": "Al likes tea"}}),
            ("tools/call", {"name": "recall", "arguments": {"query": "tea"}}),
        )
        assert "Al likes tea" in json.dumps(answer)
        assert not snapshots(folder)
        server.terminate()
        assert server.wait(timeout=60) == -signal.SIGTERM
    assert snapshots(folder)


@contextmanager
def over_http(folder, *token):
    """Serves a folder at a free port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", str(SERVER), str(folder), "http", str(port), *token]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 60
            while not listens(port):
                assert time.monotonic() < deadline
                assert server.poll() is None
                time.sleep(0.1)
            yield server, port
        finally:
            server.kill()


async def test_over_streamable_http(folder):
    with over_http(folder) as (server, port):
        async with session_of(streamable_http_client(f"http://127.0.0.1:{port}/mcp")) as session:
            await use(session)
            assert not snapshots(folder)
            server.terminate()  # with the client still there
            await asyncio.to_thread(server.wait, 60)
        assert snapshots(folder)


def greet(port, **headers):
    """Return the status of the answer to a first request with the given headers."""
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    fixed = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    connection.request("POST", "/mcp", json.dumps(message), {**fixed, **headers})
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_the_own_host_and_origin_are_answered_over_http(folder):
    with over_http(folder) as (_, port):
        for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
            assert greet(port, Host=host) == 200
            assert greet(port, Host=host, Origin=f"http://{host}") == 200
        for host in (
            "evil.example",
            f"evil.example:{port}",
            "127.0.0.1",
            f"127.0.0.1:{port + 1}",
            f"localhost.evil:{port}",
        ):
            assert greet(port, Host=host) == 421
        for origin in ("http://evil.example", f"http://evil.example:{port}", "null", f"http://127.0.0.1:{port}.evil"):
            assert greet(port, Origin=origin) == 403


def test_over_http_a_token_that_was_set_must_be_shown(folder):
    with over_http(folder, "s3cret") as (_, port):
        assert greet(port, Authorization="Bearer s3cret") == 200
        for shown in (
            "",
            "Bearer",
            "Bearer ",
            "Bearer s3cre",
            "Bearer s3crett",
            "Bearer S3CRET",
            "Basic s3cret",
            "s3cret",
        ):
            assert greet(port, Authorization=shown) == 401
        assert greet(port) == 401
        assert greet(port, Authorization="Bearer s3cret", Host="evil.example") == 421


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "example.org", "127.0.0.1.example.org"])
def test_an_address_that_others_can_reach_needs_a_token(memory, folder, host):
    for token in (None, "", " "):
        with pytest.raises(InvalidInputError, match="token"):
            integration.run_server(memory, integration.Transport.HTTP, host=host, token=token)
    with pytest.raises(InvalidInputError, match="token"):
        integration.build_server(memory, host=host)


async def test_forgetting_all_that_there_is_must_be_said(folder, open_memory):
    memory = open_memory()
    memory.add_many([{"text": f"fact {n}", "metadata": {"n": n}, "session": "s"} for n in range(3)])
    async with over_stdio(folder) as session:
        for where in (
            {"n": {"$gte": 0}},
            {"$or": [{"n": 1}, {"n": {"$ne": 1}}]},
            {"x": {"$exists": False}},
            {"$not": {"x": 1}},
            {"$and": [{}]},
            {},
        ):
            result = await session.call_tool("forget", {"where": where})
            assert is_error(result)
            assert len(memory.entries()) == 3
        for arguments in ({"key": "k", "everything": True}, {"session": "s", "everything": True}):
            assert is_error(await session.call_tool("forget", arguments))
        assert await call(session, "forget", where={"n": 0}) == {"forgotten": 1}
        assert await call(session, "forget", where={"n": {"$gte": 0}}, everything=True) == {"forgotten": 2}
        memory.add("fact")
        assert await call(session, "forget", everything=True) == {"forgotten": 1}
        assert await call(session, "forget", where={"n": 0}) == {"forgotten": 0}


async def test_optional_arguments_given_as_empty_text_are_left_out(folder, open_memory):
    async with over_stdio(folder) as session:
        names = ("session", "speaker", "key", "metadata", "event_time", "expires_at", "importance")
        kept = await call(session, "remember", text="Al likes tea", **dict.fromkeys(names, ""))
        assert "session" not in kept or kept["session"] is None
        names = ("k", "session", "speaker", "where", "since", "until", "cursor")
        assert len((await call(session, "recall", query="tea", **dict.fromkeys(names, "")))["hits"]) == 1
        assert (await call(session, "read", key=kept["key"], cursor=""))["text"] == "Al likes tea"
        assert "next" not in await call(session, "list_sessions", cursor="")
        empty = {"session": "", "where": "", "everything": ""}
        assert is_error(await session.call_tool("forget", {"key": "", **empty}))
        assert await call(session, "forget", key=kept["key"], **empty) == {"forgotten": 1}


async def test_times_are_periods_in_the_zone_that_is_named(folder):
    async with over_stdio(folder) as session:
        await call(session, "remember", text="Lunch at the ramen place", event_time="2024-01-01")

        async def found(**options):
            return len((await call(session, "recall", query="lunch", **options))["hits"])

        assert await found(since="2024", until="2024-01-01") == 1
        assert await found(since="2024", timezone="America/Los_Angeles") == 0, "there it was the evening before"
        assert await found(until="2023", timezone="America/Los_Angeles") == 1
        for tool, arguments in (
            ("recall", {"query": "lunch", "since": "12"}),
            ("recall", {"query": "lunch", "timezone": "Mars/Base"}),
            ("remember", {"text": "tea", "event_time": "soon"}),
            ("remember", {"text": "tea", "expires_at": "2020-01-01"}),
        ):
            assert is_error(await session.call_tool(tool, arguments))


def test_without_the_package_the_error_names_the_extra(memory, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(MissingDependencyError, match=r"agent-memory\[mcp\]") as caught:
        integration.build_server(memory)
    assert caught.value.extra == "mcp"


async def test_a_projects_server_keeps_no_secrets_and_no_private_passages(folder, tmp_path):
    arguments = ["-W", "ignore", "-m", "agent_memory.cli", "mcp", "--project", str(tmp_path), "--path", str(folder)]
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment())
    async with session_of(stdio_client(server)) as session:
        kept = await call(session, "remember", text="The api password is hunter2x9. <private>I am ill.</private>")
        assert kept["text"] == "The api password is [secret removed]."
        assert is_error(await session.call_tool("remember", {"text": "<private>needle</private>"}))


async def test_an_answer_stays_bounded_whatever_the_metadata_are(folder):
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add("word " * 30_000, key="long", metadata={"note": "x" * 900_000})
        memory.add("word " * 30_000, key="short", metadata={"note": "y"})
    async with over_stdio(folder) as session:
        for key, metadata in [("long", None), ("short", {"note": "y"})]:
            first = await call(session, "read", key=key)
            assert len(json.dumps(first)) < 70_000
            assert first.get("metadata") == metadata
            rest = await call(session, "read", key=key, cursor=first["next"])
            assert "metadata" not in rest and (first["text"] + rest["text"]) == ("word " * 30_000)[:100_000]
            assert first.get("metadata_chars") == (900_012 if metadata is None else None)
