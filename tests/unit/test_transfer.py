from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from support import WordEncoder

from agent_memory import Config, InvalidInputError, Memory, NotFoundError, StorageError

CONVERSATION = {
    "id": "c1",
    "segments": [
        {"idx": 0, "session": 1, "speaker": "user", "time": "March-15-2024", "text": "I moved to Rome"},
        {
            "idx": 1,
            "session": 1,
            "speaker": "assistant",
            "time": "2023/05/20 (Sat) 02:21",
            "text": "Well done",
        },
        {"idx": 2, "session": 2, "speaker": "", "time": "", "text": "What next?"},
        {"idx": 3, "session": 2, "speaker": "user", "time": "2024-05-01", "text": "  "},
        {"idx": 4, "speaker": "user", "time": "8 May 2024", "text": "Done"},
    ],
}


def fill(memory):
    memory.add(
        'tëxt\nwith ünïcode 🎉 and "quotes"',
        key="a",
        session="s",
        speaker="ann",
        metadata={"n": [1, {"x": None}], "t": True},
        event_time="2024-01-01T00:00:00.123456Z",
        expires_at="2999-01-01",
        importance=0.25,
    )
    memory.add("plain", key="b")
    memory.add("below", key="c", namespace=(*memory.namespace, "deeper"))


def test_export_and_import_are_lossless(open_memory, tmp_path):
    source = open_memory()
    fill(source)
    assert source.export(tmp_path / "out.jsonl") == 3
    target = open_memory(path=tmp_path / "other")
    assert target.import_(tmp_path / "out.jsonl") == 3
    for one, two in zip(source.entries(), target.entries(), strict=True):
        for field in ("key", "text", "namespace", "session", "speaker", "metadata", "event_time", "expires_at"):
            assert getattr(one, field) == getattr(two, field)
    assert target.import_(tmp_path / "out.jsonl") == 0
    assert target.check().ok


def test_header_names_format_version_and_count(open_memory, tmp_path):
    memory = open_memory()
    fill(memory)
    memory.export(tmp_path / "out.jsonl")
    header = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert header["agent_memory_export"] == 1
    assert header["entries"] == 3
    assert header["version"]


def test_import_encodes_only_what_is_new_or_changed(open_memory, tmp_path):
    source = open_memory()
    fill(source)
    source.export(tmp_path / "out.jsonl")
    encoder = WordEncoder()
    target = open_memory(path=tmp_path / "other", encoder=encoder)
    target.add("plain", key="b", event_time=source.get("b").event_time)
    target.add("old words", key="a")
    encoder.encoded.clear()
    assert target.import_(tmp_path / "out.jsonl") == 2
    assert sorted(encoder.encoded) == sorted([source.get("a").text, "below"])


def test_export_covers_the_namespace_only(open_memory, tmp_path):
    root, acme = open_memory(), open_memory(namespace=("acme",))
    fill(root)
    fill(acme)
    assert acme.export(tmp_path / "acme.jsonl") == 3
    with pytest.raises(InvalidInputError, match="outside"):
        open_memory(path=tmp_path / "x", namespace=("other",)).import_(tmp_path / "acme.jsonl")
    assert open_memory(path=tmp_path / "y").import_(tmp_path / "acme.jsonl") == 3


def test_conversations_become_sessions(open_memory, tmp_path):
    file = tmp_path / "conversations.jsonl"
    file.write_text(json.dumps(CONVERSATION) + "\n\n" + json.dumps(CONVERSATION | {"id": "c2"}) + "\n")
    memory = open_memory()
    seen = []
    assert memory.import_(file, progress=lambda *step: seen.append(step)) == 8
    assert seen[-1] == (8, 8)
    assert [(session.name, session.entries) for session in memory.sessions()] == [("c1", 4), ("c2", 4)]
    entry = memory.get("c1:0")
    assert entry.event_time == datetime(2024, 3, 15, tzinfo=UTC)
    assert entry.metadata == {"idx": 0, "session": 1, "time": "March-15-2024"}
    assert memory.get("c1:1").event_time == datetime(2023, 5, 20, 2, 21, tzinfo=UTC)
    assert memory.get("c1:2").speaker is None
    assert memory.import_(file) == 0


MALFORMED = {
    "not json": "{",
    "list": "[1]",
    "no key": '{"text": "x"}',
    "no text": '{"key": "k"}',
    "empty text": '{"key": "k", "text": ""}',
    "unknown field": '{"key": "k", "text": "x", "colour": 1}',
    "bad time": '{"key": "k", "text": "x", "event_time": "soon"}',
    "bad namespace": '{"key": "k", "text": "x", "namespace": "acme"}',
    "deep": '{"key": "k", "text": "x", "metadata": ' + '{"a":' * 5000 + "1" + "}" * 5000 + "}",
    "not utf-8": b'{"key": "k", "text": "\xff"}',
    "nan": '{"key": "k", "text": "x", "importance": NaN}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_line_is_named_and_nothing_is_kept(open_memory, tmp_path, name):
    bad = MALFORMED[name]
    lines = [b'{"agent_memory_export": 1}']
    lines += [b'{"key": "k%d", "text": "fine"}' % number for number in range(5)]
    lines += [bad if isinstance(bad, bytes) else bad.encode()]
    (tmp_path / "in.jsonl").write_bytes(b"\n".join(lines))
    memory = open_memory(config=Config(batch_size=2))
    with pytest.raises(InvalidInputError, match="line 7"):
        memory.import_(tmp_path / "in.jsonl")
    assert memory.entries() == []


@pytest.mark.parametrize(
    "first",
    ['{"agent_memory_export": 2}', '{"hello": 1}', '{"id": 3, "segments": []}', '{"id": "a", "segments": 3}'],
)
def test_unknown_files_are_refused(open_memory, tmp_path, first):
    (tmp_path / "in.jsonl").write_text(first)
    with pytest.raises(InvalidInputError, match="line 1"):
        open_memory().import_(tmp_path / "in.jsonl")


def test_files_that_cannot_be_read_or_written(open_memory, tmp_path):
    memory = open_memory()
    with pytest.raises(NotFoundError):
        memory.import_(tmp_path / "missing.jsonl")
    with pytest.raises(StorageError):
        memory.import_(tmp_path)
    with pytest.raises(StorageError):
        memory.export(tmp_path / "no" / "such" / "folder.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    assert memory.import_(tmp_path / "empty.jsonl") == 0


def test_an_interrupted_import_is_resumed(open_memory, tmp_path):
    source = open_memory()
    source.add_many({"text": f"text {number}", "key": str(number)} for number in range(10))
    source.export(tmp_path / "out.jsonl")

    class Interrupted(Exception):
        pass

    def stop(done, total):
        if done >= 4:
            raise Interrupted

    target = Memory(tmp_path / "other", encoder=WordEncoder(), config=Config(batch_size=2))
    with pytest.raises(Interrupted):
        target.import_(tmp_path / "out.jsonl", progress=stop)
    assert len(target.entries()) == 4
    assert target.import_(tmp_path / "out.jsonl") == 6
    assert len(target.entries()) == 10
    target.close()


@pytest.mark.parametrize("kept", [0, 1])
def test_an_export_that_was_cut_between_two_lines_is_refused_whole(tmp_path, kept):
    with Memory(tmp_path / "a", encoder=WordEncoder()) as memory:
        fill(memory)
        memory.export(tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[: kept + 1]))
    with Memory(tmp_path / "b", encoder=WordEncoder()) as memory:
        with pytest.raises(InvalidInputError, match=f"promises {len(lines) - 1} entries, and {kept} follow"):
            memory.import_(tmp_path / "cut.jsonl")
        assert memory.check().entries == 0
        assert memory.import_(tmp_path / "whole.jsonl").new == len(lines) - 1
