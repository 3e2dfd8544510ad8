"""Exports of chats and transcripts of agents, in invented small files of each format."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime

import pytest

from agent_memory import Config, InvalidInputError
from agent_memory.writing.foreign.found import Options
from agent_memory.writing.foreign.registry import Format, read_file


def node(name, parent, role, text, **more):
    message = {
        "id": name,
        "author": {"role": role, **more.pop("author", {})},
        "create_time": more.pop("time", None),
        "content": {"content_type": more.pop("kind", "text"), "parts": text if isinstance(text, list) else [text]},
        "metadata": more.pop("metadata", {}),
        **more,
    }
    return name, {"id": name, "parent": parent, "children": [], "message": message}


def chatgpt():
    nodes = [
        ("root", {"id": "root", "parent": None, "children": ["sys"], "message": None}),
        node("sys", "root", "system", ""),
        node(
            "u1",
            "sys",
            "user",
            "Where should I go in May?",
            time=1715000001.5,
            metadata={"attachments": [{"name": "map.pdf"}]},
        ),
        node("call", "u1", "assistant", "", recipient="web", kind="code"),
        node("result", "call", "tool", "42 pages", author={"name": "web"}),
        node("thought", "result", "assistant", "hm", kind="thoughts"),
        node("old", "thought", "assistant", "Go to Porto.", time=1715000009),
        node("new", "thought", "assistant", "Go to Lisbon.", time=1715000010, metadata={"model_slug": "gpt-5"}),
        node(
            "u2",
            "new",
            "user",
            [{"content_type": "image_asset_pointer", "asset_pointer": "file://x"}, "Like this?"],
            kind="multimodal_text",
        ),
        node("hidden", "u2", "user", "profile", metadata={"is_visually_hidden_from_conversation": True}),
    ]
    trip = {
        "title": "A trip",
        "create_time": 1715000000,
        "conversation_id": "conv-1",
        "mapping": dict(nodes),
        "current_node": "hidden",
    }
    short = dict([node("a", None, "user", "Hello", time=1715100000)])
    return [trip, {"title": "Hi", "id": "conv-2", "mapping": short}]


def test_chatgpt_conversations_become_sessions_of_their_current_branch(open_memory, tmp_path):
    memory, path = open_memory(), tmp_path / "conversations.json"
    path.write_text(json.dumps(chatgpt()))
    dry = memory.import_(path, dry_run=True)
    assert (dry.new, dry.sessions, dry.formats, memory.entries()) == (4, 2, ("chatgpt",), [])
    done = memory.import_(path)
    assert done.reasons == {"instructions": 2, "tool": 2, "thoughts": 1, "another branch": 1}
    trip = [entry for entry in memory.entries() if entry.session == "conv-1"]
    assert [(entry.key, entry.speaker, entry.text) for entry in trip] == [
        ("conv-1:u1", "user", "Where should I go in May?"),
        ("conv-1:new", "assistant", "Go to Lisbon."),
        ("conv-1:u2", "user", "Like this?"),
    ]
    assert trip[0].event_time == datetime(2024, 5, 6, 12, 53, 21, 500_000, tzinfo=UTC)
    assert trip[2].event_time == trip[1].event_time  # none of its own
    assert trip[0].metadata == {"source": "chatgpt", "title": "A trip", "attachments": ["map.pdf"]}
    assert trip[1].metadata["model"] == "gpt-5"
    assert [tool["name"] for tool in trip[1].metadata["tools"]] == ["web", "web"]
    assert trip[2].metadata["attachments"] == ["image"]
    assert memory.import_(path).unchanged == 4
    assert memory.import_(path, all_branches=True).new == 1
    assert memory.get("conv-1:old").text == "Go to Porto."


@pytest.mark.parametrize(
    "mapping",
    [
        {"a": {"parent": "b", "message": None}, "b": {"parent": "a", "message": None}},
        {"a": {"parent": "a", "message": None}},
        {"a": {"parent": "gone", "message": None}},
        {},
    ],
)
def test_trees_that_are_none_end(open_memory, tmp_path, mapping):
    (tmp_path / "c.json").write_text(json.dumps([{"mapping": mapping, "current_node": "a"}]))
    assert open_memory().import_(tmp_path / "c.json") == 0


@pytest.mark.parametrize("change", [{"parts": 5}, {"parts": [5]}, {"content_type": 7}])
def test_a_malformed_message_of_chatgpt_is_named_and_nothing_is_kept(open_memory, tmp_path, change):
    conversations = chatgpt()
    conversations[1]["mapping"]["a"]["message"]["content"] = change
    (tmp_path / "c.json").write_text(json.dumps(conversations, indent=1))
    memory = open_memory()
    with pytest.raises(InvalidInputError, match=r"line \d+, conversation 2, message a: "):
        memory.import_(tmp_path / "c.json")
    assert memory.entries() == []


def claude():
    def message(name, sender, text, parent=None, **more):
        return {
            "uuid": name,
            "sender": sender,
            "text": text,
            "created_at": "2024-05-06T10:00:00Z",
            "parent_message_uuid": parent,
            **more,
        }

    blocks = [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Take the train."},
        {"type": "tool_use", "name": "search", "input": {"q": "train to Porto"}},
        {"type": "tool_result", "content": [{"type": "text", "text": "coach 7"}]},
    ]
    messages = [
        message(
            "m1", "human", "How do I get to Porto?", attachments=[{"file_name": "plan.txt", "extracted_content": "…"}]
        ),
        message("m2", "assistant", "Fly.", "m1"),
        message("m3", "assistant", "ignored", "m1", content=blocks),
        message("m4", "human", "", "m3", files=[{"file_name": "x.png"}]),
    ]
    return [
        {
            "uuid": "u1",
            "name": "Porto",
            "created_at": "2024-05-06T09:00:00Z",
            "chat_messages": messages,
            "current_leaf_message_uuid": "m4",
        }
    ]


def test_claude_conversations_keep_what_was_said_and_name_what_was_done(open_memory, tmp_path):
    memory = open_memory()
    packed = tmp_path / "data.zip"
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("users.json", json.dumps([{"uuid": "x", "full_name": "Ann"}]))
        file.writestr("conversations.json", json.dumps(claude()))
    done = memory.import_(packed)
    assert (done.new, done.formats, done.reasons) == (2, ("claude",), {"another branch": 1, "tool": 1, "empty": 1})
    one, two = memory.entries()
    assert (one.key, one.session, one.speaker, one.metadata["title"]) == ("u1:m1", "u1", "user", "Porto")
    assert one.metadata["attachments"] == ["plan.txt"]
    assert (two.text, two.speaker) == ("Take the train.", "assistant")
    assert two.metadata["tools"] == [{"name": "search", "input": '{"q": "train to Porto"}'}]
    assert memory.import_(packed, format="claude", all_branches=True).new == 1
    with pytest.raises(InvalidInputError, match="none is in a format"):
        memory.import_(packed, format="chatgpt")


def claude_code():
    shared = {"sessionId": "s-1", "cwd": "/home/ann/app", "gitBranch": "main", "timestamp": "2025-06-01T08:00:00.000Z"}

    def record(name, kind, content, **more):
        return {
            "type": kind,
            "uuid": name,
            "message": {"role": kind, "content": content, "model": "claude"},
            **shared,
            **more,
        }

    return [
        {"type": "summary", "summary": "Fix the login", "leafUuid": "x"},
        {"type": "file-history-snapshot", "messageId": "x", "snapshot": {}},
        record("1", "user", "<command-name>/clear</command-name>"),
        record("2", "user", "Caveat: below", isMeta=True),
        record("3", "user", "The login fails.<system-reminder>be nice</system-reminder>"),
        record("4", "assistant", [{"type": "thinking", "thinking": "hm"}]),
        record("5", "assistant", [{"type": "text", "text": "I look at auth.py."}]),
        record("6", "assistant", [{"type": "tool_use", "name": "Read", "input": {"file": "auth.py"}}]),
        record("7", "user", [{"type": "tool_result", "content": "def login(): ..."}]),
        record("8", "assistant", [{"type": "text", "text": "sub-agent"}], isSidechain=True),
        record(
            "9", "assistant", [{"type": "text", "text": "The token had expired."}], timestamp="2025-06-01T08:05:00Z"
        ),
    ]


def test_a_transcript_of_claude_code_keeps_the_talk(open_memory, tmp_path):
    folder = tmp_path / "projects" / "-home-ann-app"
    folder.mkdir(parents=True)
    (folder / "s-1.jsonl").write_text("\n".join(map(json.dumps, claude_code())))
    memory = open_memory()
    assert memory.import_(folder / "s-1.jsonl").formats == ("claude-code",)
    assert [(entry.speaker, entry.text) for entry in memory.entries()] == [
        ("user", "The login fails."),
        ("assistant", "I look at auth.py."),
        ("assistant", "The token had expired."),
    ]
    looked = memory.get("s-1:5")
    assert looked.metadata["tools"] == [{"name": "Read", "input": '{"file": "auth.py"}'}]
    assert (looked.metadata["title"], looked.metadata["cwd"], looked.metadata["branch"]) == (
        "Fix the login",
        "/home/ann/app",
        "main",
    )
    assert memory.import_(tmp_path / "projects", format="claude-code").unchanged == 3
    assert memory.recall("why did the login fail", session="s-1")


CODEX_ID = "019a2d7a-41c4-78b1-b7cc-a45d62a89cd5"


def codex():
    def item(**payload):
        return {"timestamp": "2025-10-29T00:59:39.522Z", "type": "response_item", "payload": payload}

    def said(role, text):
        return item(
            type="message",
            role=role,
            content=[{"type": "input_text" if role == "user" else "output_text", "text": text}],
        )

    return [
        {
            "timestamp": "2025-10-29T00:59:38Z",
            "type": "session_meta",
            "payload": {"id": CODEX_ID, "cwd": "/srv", "git": {"branch": "dev"}},
        },
        said("developer", "be brief"),
        said("user", "<environment_context>\n<cwd>/srv</cwd></environment_context>"),
        said("user", "# AGENTS.md instructions for /srv"),
        {"timestamp": "2025-10-29T00:59:38Z", "type": "turn_context", "payload": {"model": "gpt-5-codex"}},
        said("user", "Why is the build red?"),
        {
            "timestamp": "2025-10-29T00:59:38Z",
            "type": "event_msg",
            "payload": {"type": "user_message", "message": "Why is the build red?"},
        },
        item(type="reasoning", summary=[]),
        item(type="function_call", name="shell", arguments='{"command":["make"]}', call_id="1"),
        item(type="function_call_output", call_id="1", output="error"),
        said("assistant", "A test needs the network."),
    ]


def test_a_transcript_of_codex_keeps_the_talk(open_memory, tmp_path):
    path = tmp_path / f"rollout-2025-10-29T00-59-38-{CODEX_ID}.jsonl"
    path.write_text("\n".join(map(json.dumps, codex())))
    memory = open_memory()
    assert memory.import_(path).formats == ("codex",)
    question, answer = memory.entries()
    assert (question.session, question.speaker, question.text) == (CODEX_ID, "user", "Why is the build red?")
    assert answer.metadata["tools"] == [{"name": "shell", "input": '{"command":["make"]}'}]
    assert answer.metadata["cwd"] == "/srv"
    longer = [
        *codex(),
        {
            "timestamp": 1761700000,
            "type": "response_item",
            "payload": {"type": "message", "role": "user", "content": "Thanks"},
        },
    ]
    path.write_text("\n".join(map(json.dumps, longer)))
    done = memory.import_(path)
    assert (done.new, done.unchanged) == (1, 2)


MESSAGES = [
    {"role": "system", "content": "You are helpful."},
    {
        "role": "user",
        "name": "ann",
        "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}],
    },
    {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "look", "arguments": "{}"}}]},
    {"role": "tool", "content": "a cat"},
    {"role": "assistant", "content": "A cat.", "created_at": 1715000000},
]


def as_sharegpt(message):
    names = {"user": "human", "assistant": "gpt"}
    rest = {name: part for name, part in message.items() if name not in ("role", "content")}
    return {"from": names.get(message["role"], message["role"]), "value": message.get("content"), **rest}


@pytest.mark.parametrize("how", ["list", "object", "lines", "lines of objects", "ShareGPT"])
def test_lists_of_roles_and_contents_become_sessions(open_memory, tmp_path, how):
    other, turn = [{"role": "user", "content": "Bye"}], {"from": "human", "value": "Bye"}
    data = {
        "list": json.dumps(MESSAGES, indent=1),
        "object": json.dumps({"id": "t1", "title": "Cats", "messages": MESSAGES}),
        "lines": "\n".join(map(json.dumps, MESSAGES)),
        "lines of objects": "\n".join(json.dumps({"messages": one}) for one in (MESSAGES, other)),
        "ShareGPT": json.dumps([{"conversations": [as_sharegpt(one) for one in MESSAGES]}, {"conversations": [turn]}]),
    }[how]
    (tmp_path / "chat.json").write_text(data)
    memory = open_memory()
    done = memory.import_(tmp_path / "chat.json")
    assert (done.formats, done.sessions) == (("messages",), 2 if how in ("lines of objects", "ShareGPT") else 1)
    question, answer = memory.entries()[:2]
    assert (question.speaker, question.text, question.metadata["attachments"]) == (
        "ann",
        "What is this?",
        ["image_url"],
    )
    assert (answer.speaker, answer.text, answer.metadata["tools"]) == (
        "assistant",
        "A cat.",
        [{"name": "look", "input": "{}"}],
    )
    assert question.session == answer.session
    assert (how != "object") or (question.session, question.metadata["title"]) == ("t1", "Cats")
    assert memory.import_(tmp_path / "chat.json").new == 0


def test_two_conversations_in_files_of_one_name_are_two_sessions(open_memory, tmp_path):
    memory = open_memory()
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        path = tmp_path / str(number) / "chat.json"
        path.write_text(
            json.dumps([{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"question {number}"}])
        )
        assert memory.import_(path).new == 1
    assert len(memory.sessions()) == 2


def test_letta_agents_say_what_they_send(open_memory, tmp_path):
    def sends(text):
        return {
            "role": "assistant",
            "content": [{"type": "text", "text": "I think."}],
            "created_at": "2025-01-01T10:00:00+00:00",
            "tool_calls": [{"function": {"name": "send_message", "arguments": json.dumps({"message": text})}}],
        }

    messages = [
        {"role": "system", "content": [{"type": "text", "text": "base"}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": json.dumps({"type": "user_message", "message": "I like tea."})}],
        },
        {"role": "user", "content": [{"type": "text", "text": json.dumps({"type": "heartbeat", "reason": "…"})}]},
        sends("Noted: tea."),
        {"role": "tool", "content": [{"type": "text", "text": "{}"}]},
    ]
    old = {
        "agent_type": "memgpt_agent",
        "name": "Loop",
        "core_memory": [{"label": "human", "value": "Name: Ann"}],
        "messages": messages,
    }
    new = {
        "agents": [{"name": "Loop", "block_ids": ["b1"], "messages": messages, "agent_type": "memgpt_v2_agent"}],
        "blocks": [{"id": "b1", "label": "human", "value": "Name: Ann"}],
        "passages": [{"id": "p1", "text": "Ann moved to Berlin.", "created_at": "2025-02-01T00:00:00Z"}],
    }
    for name, value in (("old", old), ("new", new)):
        memory = open_memory(path=tmp_path / name)
        (tmp_path / "loop.af").write_text(json.dumps(value, indent=2))
        assert memory.import_(tmp_path / "loop.af").formats == ("letta",)
        block, question, answer, *passages = memory.entries()
        assert (block.text, block.metadata["block"], block.session) == ("Name: Ann", "human", None)
        assert [(one.speaker, one.text) for one in (question, answer)] == [
            ("user", "I like tea."),
            ("assistant", "Noted: tea."),
        ]
        assert [one.text for one in passages] == (["Ann moved to Berlin."] if name == "new" else [])
    (tmp_path / "archive.json").write_text(
        json.dumps([{"text": "Ann plays chess.", "archive_id": "a1", "tags": ["game"]}])
    )
    assert memory.import_(tmp_path / "archive.json").new == 1


def test_a_message_that_is_too_long_is_refused_by_itself(open_memory, tmp_path):
    memory = open_memory(config=Config(max_text_chars=100))
    conversations = claude()
    conversations[0]["chat_messages"][0]["text"] = "x" * 101
    (tmp_path / "c.json").write_text(json.dumps(conversations))
    done = memory.import_(tmp_path / "c.json")
    assert (done.new, done.refused) == (1, 1)
    assert "conversation 1, message 1: text has 101 characters" in done.problems[0]


@pytest.mark.parametrize("name", ["chatgpt", "claude", "claude-code", "codex", "messages"])
def test_a_time_that_is_none_is_named_in_every_format(open_memory, tmp_path, name):
    data = {
        "chatgpt": lambda: json.dumps([{"id": "c", "mapping": dict([node("a", None, "user", "hi", time="soon")])}]),
        "claude": lambda: json.dumps(claude()).replace("2024-05-06T10:00:00Z", "soon"),
        "claude-code": lambda: "\n".join(map(json.dumps, claude_code())).replace("2025-06-01T08:05:00Z", "soon"),
        "codex": lambda: "\n".join(map(json.dumps, codex())).replace("2025-10-29T00:59:39.522Z", "soon"),
        "messages": lambda: json.dumps(MESSAGES).replace("1715000000", '"soon"'),
    }[name]()
    (tmp_path / "c.json").write_text(data)
    memory = open_memory()
    with pytest.raises(InvalidInputError, match=r"line \d+.*: event_time: the time 'soon' is not understood"):
        memory.import_(tmp_path / "c.json", format=name)
    assert memory.entries() == []
    assert memory.import_(tmp_path / "c.json", assume_now=True) > 0


def test_readers_can_be_used_without_a_store(tmp_path):
    (tmp_path / "c.json").write_text(json.dumps(chatgpt()))
    found = [one for _, one in read_file(tmp_path / "c.json", None, Options())]
    assert [one.item["session"] for one in found if one.item] == ["conv-1"] * 3 + ["conv-2"]
    assert {one.reason for one in found if not one.item} == {"instructions", "tool", "thoughts", "another branch"}
    assert [str(one) for one in Format][:3] == ["agent-memory", "conversations", "chatgpt"]


def test_a_long_export_is_read_without_being_held(open_memory, tmp_path):
    with open(tmp_path / "c.json", "w") as file:
        file.write("[")
        for number in range(3_000):
            tree = dict([node("a", None, "user", f"question {number} " + "x" * 3_000, time=1715000000 + number)])
            file.write(("," if number else "") + json.dumps({"id": f"c{number}", "mapping": tree}))
        file.write("]")
    import tracemalloc

    tracemalloc.start()
    done = open_memory().import_(tmp_path / "c.json", dry_run=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (done.new, done.sessions) == (3_000, 3_000)
    assert peak < 8 << 20  # of a file of 10 MiB
