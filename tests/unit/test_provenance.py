"""Where words come from: shown by ``format_hits``, and raised by no later write, through whatever door it comes."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from agent_memory import AsyncMemory, Memory, format_hits
from agent_memory.cli import app
from agent_memory.integrations._mcp_tools import Tools
from agent_memory.records import PROVENANCES, cap_provenance, read_provenance

RANK = {None: -1, **{level: place for place, level in enumerate(PROVENANCES)}}


@pytest.fixture
def memory(tmp_path):
    with Memory(tmp_path / "store") as memory:
        memory.add("The launch is in May.", key="launch", metadata={"provenance": "agent", "topic": "launch"})
        yield memory


def test_a_block_for_a_prompt_says_where_each_line_comes_from(memory):
    memory.add("The launch is in June.", speaker="alice", metadata={"provenance": "user"})
    memory.add("The launch is in July.")
    memory.add("The launch is in August.", metadata={"provenance": "somebody's own field"})
    block = format_hits(memory.recall("When is the launch?", k=9))
    assert "provenance agent) The launch is in May." in block
    assert "alice, provenance user) The launch is in June." in block
    assert block.count("provenance") == 2


def _update(memory, level):
    return memory.update("launch", metadata={"provenance": level})


def _add(memory, level):
    return memory.add("The launch is in May.", key="launch", metadata={"provenance": level})


def _add_twice(memory, level):
    return memory.add_many(
        [{"text": "x", "key": "launch"}, {"text": "y", "key": "launch", "metadata": {"provenance": level}}]
    )[-1]


def _expire_and_add(memory, level):
    memory.set_expiry({"launch": "2001-01-01"})
    return _add(memory, level)


def _supersede_and_add(memory, level):
    memory.add("The launch is in June.", key="newer", metadata={"provenance": "user"})
    memory.supersede("launch", "newer")
    return _add(memory, level)


def _import_own(memory, level):
    file = memory.path / "export.jsonl"
    memory.export(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        if line.get("key") == "launch":
            line["metadata"]["provenance"] = level
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    memory.import_(file)
    return memory.get("launch")


def _cli(memory, level):
    given = json.dumps({"provenance": level})
    arguments = ["update", "launch", "--metadata", given, "-p", str(memory.path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    arguments = ["add", "The launch is in May.", "--key", "launch", "--metadata", given, "-p", str(memory.path)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return memory.get("launch")


def _mcp(memory, level):
    asyncio.run(Tools(memory, RuntimeError).remember("It is in May.", key="launch", metadata={"provenance": level}))
    return memory.get("launch")


def _aio(memory, level):
    async def call():
        async with AsyncMemory(memory.path) as other:
            return await other.add("It is in May.", key="launch", metadata={"provenance": level})

    return asyncio.run(call())


DOORS = [_update, _add, _add_twice, _expire_and_add, _supersede_and_add, _import_own, _cli, _mcp, _aio]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__.strip("_"))
def test_no_door_raises_the_provenance_of_an_entry(memory, door):
    written = door(memory, "user")
    assert RANK[written.provenance] <= RANK["agent"]
    assert memory.get("launch").provenance == written.provenance
    assert memory.recall("launch", k=1, where={"key": "launch"}) is not None


@pytest.mark.parametrize("door", [_update, _add, _import_own, _cli, _aio], ids=lambda door: door.__name__.strip("_"))
def test_a_later_write_may_lower_it(memory, door):
    assert door(memory, "tool").provenance == "tool"


def test_what_was_lowered_stays_lowered(memory):
    memory.update("launch", metadata={"provenance": "import"})
    assert memory.update("launch", metadata={"provenance": "agent"}).provenance == "import"


def test_an_entry_of_unknown_origin_stays_so(memory):
    memory.add("No origin.", key="plain")
    assert memory.update("plain", metadata={"provenance": "import"}).provenance is None
    assert memory.add("No origin.", key="plain", metadata={"provenance": "user", "n": 1}).metadata == {"n": 1}


def test_other_metadata_change_without_it(memory):
    assert memory.update("launch", metadata={"topic": "dates"}).metadata == {"topic": "dates", "provenance": "agent"}
    assert memory.update("launch", importance=0.5).provenance == "agent"
    with pytest.raises(Exception, match="metadata"):
        memory.update("launch", metadata="")


def test_new_words_are_not_what_the_former_speaker_said(memory):
    memory.add("We ship on Friday.", key="ship", metadata={"provenance": "user"})
    assert memory.update("ship", text="We ship on Monday.").provenance is None
    memory.add("We ship on Friday.", key="other", metadata={"provenance": "user"})
    changed = memory.update("other", text="We ship on Monday.", metadata={"provenance": "agent"})
    assert changed.provenance == "agent"


def test_what_a_model_remembers_is_marked_as_its_own(memory):
    async def remember(**given):
        return await Tools(memory, RuntimeError).remember("Some fact.", **given)

    assert asyncio.run(remember())["metadata"] == {"provenance": "agent"}
    assert asyncio.run(remember(metadata={"provenance": "user", "n": 1}))["metadata"] == {"provenance": "agent", "n": 1}
    assert asyncio.run(remember(metadata={"provenance": "tool"}))["metadata"] == {"provenance": "tool"}


def test_a_strangers_file_cannot_vouch_for_a_person(memory, tmp_path):
    file = tmp_path / "list.json"
    file.write_text(json.dumps([{"role": "user", "content": "I said so.", "metadata": {"provenance": "user"}}]))
    memory.import_(file, format="messages")
    (entry,) = memory.entries(where={"role": {"$exists": False}}, limit=9)[-1:]
    assert entry.text == "I said so."
    assert entry.provenance in (None, "import")


@given(
    st.dictionaries(st.sampled_from(["provenance", "x"]), st.sampled_from([*PROVENANCES, "other", 3, None])), st.data()
)
def test_a_cap_never_raises_and_keeps_all_else(metadata, data):
    most = data.draw(st.sampled_from([None, *PROVENANCES]))
    capped = cap_provenance(metadata, most)
    assert (
        RANK[read_provenance(capped)] <= min(RANK[most], max(RANK[read_provenance(metadata)], -1)) or capped is metadata
    )
    assert {k: v for k, v in capped.items() if k == "x"} == {k: v for k, v in metadata.items() if k == "x"}
