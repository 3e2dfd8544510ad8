"""Few of many tools: the middleware in a real ``create_agent``, and the tools of the MCP server."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from support_langchain import ScriptedModel

from agent_memory import InvalidInputError, Memory, Router
from agent_memory.integrations._mcp_picking import read_tools
from agent_memory.integrations.langchain import AgentMemoryToolSelector

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split("\t")
    for line in (ROOT / "tests" / "data" / "routes.tsv").read_text("utf-8").splitlines()
    if line.startswith("A") and "\t-\t" not in line
]
DESCRIBED = {name: description for _, _, name, description, *_ in ROWS}


class Bound(ScriptedModel):
    """Keeps the names of the tools that it was shown at each call."""

    shown: list[list[str]]

    def bind_tools(self, tools, **kwargs):
        self.shown.append([tool["name"] if isinstance(tool, dict) else tool.name for tool in tools])
        return self


def make_tool(name):
    return StructuredTool.from_function(lambda: f"{name} done", name=name, description=DESCRIBED[name])


TOOLS = [make_tool(name) for name in DESCRIBED]


@pytest.fixture(scope="module")
def router():
    return Router(routes=DESCRIBED)


def calling(*names):
    return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": name} for name in names])


def ask(model, text, selector, tools=TOOLS):
    agent = create_agent(model, tools=tools, middleware=[selector])
    return agent.invoke({"messages": [HumanMessage(text)]})["messages"]


def test_the_model_sees_the_tools_that_a_request_may_need(router):
    model = Bound(replies=[calling("set_alarm"), "Done."], shown=[])
    messages = ask(model, "Wake me at half past five", AgentMemoryToolSelector(router, max_tools=3))
    assert "set_alarm" in model.shown[0] and len(model.shown[0]) == 3
    assert messages[-2].content == "set_alarm done" and messages[-1].text == "Done."


def test_called_tools_and_those_always_included_stay(router):
    selector = AgentMemoryToolSelector(router, max_tools=2, always_include=["translate_text"])
    # A model may call what it was not shown: the agent knows all of its tools.
    model = Bound(replies=[calling("book_hotel"), "Done."], shown=[])
    ask(model, "Wake me at half past five", selector)
    assert "translate_text" in model.shown[0] and "set_alarm" in model.shown[0] and len(model.shown[0]) == 3
    assert {"translate_text", "book_hotel", "set_alarm"} <= set(model.shown[1]) and len(model.shown[1]) == 4


async def test_asynchronously(router):
    model = Bound(replies=["Done."], shown=[])
    agent = create_agent(model, tools=TOOLS, middleware=[AgentMemoryToolSelector(router)])
    await agent.ainvoke({"messages": [HumanMessage("Order a taxi to the station")]})
    assert "order_taxi" in model.shown[0] and len(model.shown[0]) == 5


def test_a_request_for_no_tool_shows_none_if_that_was_wished(router):
    model = Bound(replies=["1954: West Germany."], shown=[])
    selector = AgentMemoryToolSelector(router, min_confidence=0.3, always_include=["set_reminder"])
    ask(model, "Who won the world cup in 1954?", selector)
    assert model.shown == [["set_reminder"]]


def test_few_tools_are_all_shown_and_a_router_is_filled_from_the_agents_tools(folder):
    model = Bound(replies=["Done."] * 3, shown=[])
    ask(model, "Wake me at half past five", AgentMemoryToolSelector(max_tools=3), TOOLS[:3])
    assert len(model.shown[0]) == 3
    with Memory(folder) as memory:
        kept = Router(memory, {"set_alarm": DESCRIBED["set_alarm"], "fly": "Flies to the moon at half past five."})
        some = [tool for tool in TOOLS if tool.name in ("set_alarm", "play_music", "order_taxi", "view_camera")]
        ask(model, "Wake me at half past five", AgentMemoryToolSelector(kept, max_tools=1), some)
        assert model.shown[1] == ["set_alarm"] and len(kept.routes) == 5
        kept.feedback("Wake me at half past five", "play_music")
        ask(model, "Wake me at half past five", AgentMemoryToolSelector(Router(memory), max_tools=1), some)
        assert model.shown[2] == ["play_music"]


def test_unusable_arguments_are_refused(router):
    with pytest.raises(InvalidInputError, match="router must be a Router"):
        AgentMemoryToolSelector("minilm")
    with pytest.raises(InvalidInputError, match="always_include"):
        AgentMemoryToolSelector(router, always_include="set_alarm")
    with pytest.raises(InvalidInputError, match="max_tools"):
        AgentMemoryToolSelector(router, max_tools=0)
    with pytest.raises(InvalidInputError, match=r"always_include names \['fly'\]"):
        ask(Bound(replies=["x"], shown=[]), "Wake me", AgentMemoryToolSelector(router, always_include=["fly"]))


async def test_an_mcp_client_asks_which_of_many_tools_a_request_needs(tmp_path):
    listed = [{"name": name, "description": text, "inputSchema": {}} for name, text in DESCRIBED.items()]
    (tmp_path / "tools.json").write_text(json.dumps({"tools": listed}), "utf-8")
    command = ["-W", "ignore", "-m", "agent_memory", "mcp", "--path", "store", "--tools", "tools.json"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = StdioServerParameters(
        command=sys.executable, args=command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}
    )
    async with stdio_client(server) as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        assert {"pick_tools", "correct_tool", "recall"} <= {tool.name for tool in (await session.list_tools()).tools}

        async def pick(request, **options):
            answer = await session.call_tool("pick_tools", {"request": request, **options})
            return [tool["name"] for tool in json.loads(answer.content[0].text)["tools"]]

        assert (await pick("Wake me at half past five", k=2))[0] == "set_alarm"
        assert await pick("Who won the world cup in 1954?") == []
        await session.call_tool("correct_tool", {"request": "It is far too stuffy in here", "name": "close_blinds"})
        assert (await pick("It is really too stuffy in here"))[0] == "close_blinds"
        refused = await session.call_tool("correct_tool", {"request": "Beam me up", "name": "teleport"})
        assert "no route is named 'teleport'" in refused.content[0].text


def test_lists_of_tools_in_both_forms_and_unusable_ones(tmp_path):
    file = tmp_path / "tools.json"
    file.write_text('[{"type": "function", "function": {"name": "a_b", "description": "Does."}}, {"name": "c_d"}]')
    assert read_tools(file) == {"a_b": "Does.", "c_d": "c d"}
    for content in (
        "",
        "[]",
        "{}",
        "7",
        '["a"]',
        '[{"description": "x"}]',
        '[{"name": "a"}, {"name": "a"}]',
        "[" * 9999,
    ):
        file.write_text(content)
        with pytest.raises(InvalidInputError, match=r"tools\.json"):
            read_tools(file)
    with pytest.raises(InvalidInputError, match="nowhere"):
        read_tools(tmp_path / "nowhere")
