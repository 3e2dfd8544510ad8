"""The pages and examples of what ``make test`` covers, run as they are written with the embedded encoder."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pages
import pytest
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from support_langchain import ScriptedModel

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_the_page_of_langchain():
    model = ScriptedModel(replies=["Noted.", "Berlin."])
    names = pages.run("langchain", model=model)
    assert "Alice moved to Berlin." in str(model.seen[1][0].content)
    assert names["state"]["messages"][-1].text == "Berlin."
    names["memory"].close()


def test_the_page_of_langgraph():
    names = pages.run("langgraph")
    assert names["found"][0].value["text"] == "Alice moved to Berlin."
    names["store"].close()


def test_the_page_of_mcp():
    assert pages.run("mcp")["server"].name == "agent-memory"
    page = (pages.PAGES / "mcp.md").read_text("utf-8")
    printed = json.loads(page.split("```json\n")[1].split("```")[0])
    assert printed == json.loads((EXAMPLES / "mcp_config.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("example", "printed"),
    [
        (
            "evolving_session",
            "before the correction\n"
            "  with the session  A new pair of running shoes.\n"
            "  without           So, what would you like?\n"
            "after it\n"
            "  with the session  Wait, no shoes please, my sister got me some. I would love a cookbook instead.\n"
            "  without           Wait, no shoes please, my sister got me some. I would love a cookbook instead.\n",
        ),
        ("amem_retriever", "Alice lives in Porto now. ['home', 'move']\n"),
        ("plain_loop", "What must I not eat? -> You said: My name is Alice and I am allergic to peanuts.\n"),
        ("langchain_rag", "At six.\n"),
        ("langgraph_agent", "friday: Where does Alice live? -> Berlin.\n"),
    ],
)
def test_examples(example, printed, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [example, str(tmp_path / "store")])
    runpy.run_path(str(EXAMPLES / f"{example}.py"), run_name="__main__")
    assert capsys.readouterr().out.endswith(printed)


async def test_the_example_of_an_mcp_configuration(tmp_path):
    server = json.loads((EXAMPLES / "mcp_config.json").read_text("utf-8"))["mcpServers"]["memory"]
    assert server["command"] == "agent-memory"
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-W", "ignore", "-m", "agent_memory.cli.app", *server["args"]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
    )
    async with stdio_client(parameters) as streams, ClientSession(streams[0], streams[1]) as session:
        await session.initialize()
        await session.call_tool("remember", {"text": "Alice moved to Berlin."})
        result = await session.call_tool("recall", {"query": "Where does Alice live?"})
        assert "Alice moved to Berlin." in result.content[0].text
    assert (tmp_path / "my-agent" / "memory.db").exists()


def test_every_adapter_has_a_page():
    adapters = {path.stem for path in (ROOT / "agent_memory" / "integrations").glob("[a-z]*.py")}
    expected = {name.replace("_", "-") for name in adapters if not name.startswith("langchain_")}
    assert {page.stem for page in pages.PAGES.glob("*.md")} == expected | {"mem0"}  # which uses LangChain's
