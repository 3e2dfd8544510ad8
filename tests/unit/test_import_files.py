"""Imports of files that are damaged, huge, packed, interrupted, or only to be counted."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import pickle
import zipfile
from datetime import UTC, datetime

import pytest
from support import WordEncoder

from agent_memory import Config, InvalidInputError, Memory, NotFoundError, StorageError, format_hits
from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.writing.foreign import files
from agent_memory.writing.foreign.values import read_values
from agent_memory.writing.times import read_time


def line(number, **fields):
    return json.dumps({"id": f"c{number}", "segments": [{"idx": 0, "text": f"fact {number}", **fields}]})


def write(path, lines):
    path.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in lines) + b"\n")
    return path


def replace(text, old, new):
    assert old in text
    return text.replace(old, new)


GOOD = line(3, score=1, note="x")
BAD = {
    "NaN": replace(GOOD, "1", "NaN"),
    "-Infinity": replace(GOOD, '"score": 1', '"score": -Infinity'),
    "1e999": replace(GOOD, '"score": 1', '"score": 1e999'),
    "deep 1e999": replace(GOOD, '"score": 1', '"score": [{"a": -1e999}]'),
    "a number of 5,000 digits": replace(GOOD, '"score": 1', '"score": ' + "9" * 5_000),
    "a lone surrogate in metadata": replace(GOOD, '"x"', '"\\ud83d"'),
    "a lone surrogate in a name": replace(GOOD, '"note"', '"\\uDE00"'),
    "a lone surrogate in the text": replace(GOOD, "fact 3", "fact \\ud83d 3"),
    "a text that is a number": replace(GOOD, '"fact 3"', "3"),
    "a text that is a list": replace(GOOD, '"fact 3"', '["fact"]'),
    "a speaker that is a number": replace(GOOD, '"note"', '"speaker": 5, "note"'),
    "no text": replace(GOOD, '"text"', '"txet"'),
    "a segment that is a string": replace(GOOD, '{"idx": 0, "text": "fact 3", "score": 1, "note": "x"}', '"hi"'),
    "a name twice": replace(GOOD, '"note": "x"', '"note": "x", "note": "y"'),
    "an id twice": replace(GOOD, '"id": "c3"', '"id": "c3", "id": "c4"'),
    "a time that is none": replace(GOOD, '"note": "x"', '"time": "soon"'),
    "a time that may be two days": replace(GOOD, '"note": "x"', '"time": "05/08/2023"'),
    "a time that is a list": replace(GOOD, '"note": "x"', '"time": []'),
    "a byte order mark": codecs.BOM_UTF8 + GOOD.encode(),
    "Latin-1": GOOD.replace("fact", "café").encode("latin-1"),
    "UTF-16": GOOD.encode("utf-16"),
    "half a line": GOOD[:30],
    "two values": GOOD + GOOD,
    "not an object": "[1]",
    "nested deeply": "[" * 100_000,
    "deep metadata": replace(GOOD, '"score": 1', '"score": ' + "[" * 90 + "]" * 90),
    "a control character in the id": replace(GOOD, '"c3"', '"c\\n3"'),
    "a raw control character": replace(GOOD, '"x"', '"a\x01b"'),
    "another form": '{"role": "user", "content": "hi"}',
    "plain text": "hello there",
}


@pytest.mark.parametrize("place", [2, 70])
@pytest.mark.parametrize("name", BAD)
def test_whatever_is_malformed_is_named_by_its_line_and_nothing_of_the_file_is_kept(open_memory, tmp_path, name, place):
    lines = [line(number) for number in range(80)]
    lines[place - 1] = BAD[name]
    memory = open_memory(config=Config(batch_size=8))
    memory.add("stays", key="stays")
    seq = memory.stats().seq
    with pytest.raises(InvalidInputError, match=rf"file.jsonl, line {place}: ") as raised:
        memory.import_(write(tmp_path / "file.jsonl", lines))
    assert len(str(raised.value)) < 500
    assert [entry.key for entry in memory.entries()] == ["stays"]
    assert memory.stats().seq == seq


PACKED = ["plain", "gzip", "zip", "pretty", "array", "crlf", "bom", "utf-16", "blank lines", "nested in a folder"]


@pytest.mark.parametrize("how", PACKED)
def test_a_file_is_read_however_it_was_written(open_memory, tmp_path, how):
    values = [{"id": f"c{n}", "segments": [{"idx": 0, "text": f"größe {n}"}]} for n in range(5)]
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in values)
    path, options = tmp_path / "file.jsonl", {}
    data = {
        "gzip": lambda: gzip.compress(text.encode()),
        "zip": lambda: archive(
            {"sub/file.jsonl": text.encode(), "__MACOSX/._file.jsonl": b"\xff", "readme.txt": b"hi"}
        ),
        "pretty": lambda: "\n".join(json.dumps(one, indent=2) for one in values).encode(),
        "array": lambda: json.dumps(values, indent=1).encode(),
        "crlf": lambda: text.replace("\n", "\r\n").encode(),
        "bom": lambda: text.encode("utf-8-sig"),
        "utf-16": lambda: text.encode("utf-16"),
        "blank lines": lambda: ("\n\n" + text.replace("\n", "\n \n") + "\n\n").encode(),
    }.get(how, text.encode)()
    if how == "nested in a folder":
        path = tmp_path / "folder"
        (path / "deep").mkdir(parents=True)
        (path / "deep" / "one.jsonl").write_bytes(data)
        (path / "link.json").symlink_to(path / "deep" / "one.jsonl")
        (path / "other.json").write_text('{"hello": 1}')
        options = {"format": "conversations"}
    else:
        path.write_bytes(data)
    memory = open_memory()
    assert memory.import_(path, **options) == 5
    assert {entry.text for entry in memory.entries()} == {f"größe {n}" for n in range(5)}


def archive(members, **options):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return packed.getvalue()


MANY = b"\n".join(line(number, note="x" * 200).encode() for number in range(2_000))


@pytest.mark.parametrize("how", ["gzip", "zip"])
@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_damaged_archives_are_named_and_nothing_is_kept(open_memory, tmp_path, how, damage):
    data = bytearray(gzip.compress(MANY) if how == "gzip" else archive({"a.jsonl": MANY}))
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0xFF
    (tmp_path / "file.gz").write_bytes(data)
    memory = open_memory()
    with pytest.raises(InvalidInputError, match="damaged|line"):
        memory.import_(tmp_path / "file.gz")
    assert memory.entries() == []


def test_archives_that_unpack_to_too_much_are_refused(open_memory, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "FREE_BYTES", 1 << 20)
    bomb = b'{"id": "c", "segments": [{"text": "' + b"a" * (8 << 20) + b'"}]}'
    (tmp_path / "bomb.zip").write_bytes(archive({"a.json": bomb}))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bomb))
    memory = open_memory()
    for name in ("bomb.zip", "bomb.gz"):
        with pytest.raises(InvalidInputError, match="unpacks to more than"):
            memory.import_(tmp_path / name)
    monkeypatch.setattr(files, "MAX_MEMBERS", 3)
    (tmp_path / "many.zip").write_bytes(archive({f"{n}.json": b"{}" for n in range(4)}))
    with pytest.raises(InvalidInputError, match="more than 3 files"):
        memory.import_(tmp_path / "many.zip")
    assert memory.entries() == []


def test_names_in_an_archive_are_no_paths(open_memory, tmp_path):
    good = line(1).encode()
    (tmp_path / "odd.zip").write_bytes(
        archive({"../../out.json": good, "/etc/abs.json": line(2), "new\nline.json": line(3)})
    )
    memory = open_memory()
    before = {path.name for path in tmp_path.iterdir()}
    assert memory.import_(tmp_path / "odd.zip") == 3
    assert {path.name for path in tmp_path.iterdir()} == before
    (tmp_path / "none.zip").write_bytes(archive({"a.json": b'{"hello": 1}', "b.txt": b"x"}))
    (tmp_path / "bad.zip").write_bytes(archive({"a.json": line(1), "b.json": b'{"hello": '}))
    with pytest.raises(InvalidInputError, match="none is in a format"):
        memory.import_(tmp_path / "none.zip")
    with pytest.raises(InvalidInputError, match=r"bad.zip, b.json, line 1: "):
        memory.import_(tmp_path / "bad.zip")


@pytest.mark.parametrize("data", [b"\xff\xfe{", b"PK\x03\x04", b"\x1f\x8b", b"SQLite format 3\x00", b"[", b'"', b"{"])
def test_files_that_only_begin_like_one_are_refused(open_memory, tmp_path, data):
    (tmp_path / "file").write_bytes(data)
    memory = open_memory()
    with pytest.raises((InvalidInputError, StorageError)):
        memory.import_(tmp_path / "file")
    assert memory.entries() == []


def test_databases_of_nobody_known_and_vectors_in_exports_are_refused(open_memory, tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("CREATE TABLE t (a)")
    lines = ['{"agent_memory_export": 1}', json.dumps({"key": "k", "text": "x", "vector": [1.0]})]
    memory = open_memory()
    with pytest.raises(InvalidInputError, match="none of mem0, chroma, langgraph"):
        memory.import_(tmp_path / "x.db")
    with pytest.raises(InvalidInputError, match="line 2: an export holds no vectors"):
        memory.import_(write(tmp_path / "a.jsonl", lines))
    assert memory.entries() == []


def test_an_encrypted_archive_is_refused(open_memory, tmp_path):
    data = bytearray(archive({"a.json": line(1)}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + place] |= 1
    (tmp_path / "secret.zip").write_bytes(data)
    with pytest.raises(InvalidInputError, match="encrypted"):
        open_memory().import_(tmp_path / "secret.zip")


def test_the_items_of_a_long_array_are_read_one_by_one_with_their_lines():
    items = [{"n": number, "text": "\n" * (number % 3) + "é" * (number % 5_000)} for number in range(200)]
    data = json.dumps(items, indent=1, ensure_ascii=False).encode()
    found = list(read_values(io.BytesIO(data)))
    assert [value for _, value in found] == items
    assert [number for number, _ in found] == [2 + 4 * number for number in range(200)]
    for bad, at in ((data[:-2], 801), (data + b"{}", 802), (data.replace(b'"n": 150', b'"n": nul'), 603)):
        with pytest.raises(InvalidInputError, match=rf"^line {at}: not JSON"):
            list(read_values(io.BytesIO(bad)))


def test_what_an_import_did_is_counted_truly(open_memory, tmp_path):
    memory = open_memory()
    segments = [
        {"text": "one"},
        {"text": "two", "time": "2024-05-01"},
        {"text": "  "},
        {"content": "three", "role": "ann"},
    ]
    path = write(tmp_path / "a.jsonl", [json.dumps({"id": "c", "segments": segments})])
    dry = memory.import_(path, dry_run=True)
    assert (dry, dry.new, dry.skipped, dry.dry_run, memory.entries()) == (3, 3, 1, True, [])
    done = memory.import_(path)
    assert (done.new, done.updated, done.unchanged, done.skipped, done.undated, done.sessions) == (3, 0, 0, 1, 2, 1)
    assert done.reasons == {"empty": 1}
    assert done.formats == ("conversations",)
    assert memory.get("c:3").speaker == "ann"
    segments[1]["text"] = "changed"
    write(path, [json.dumps({"id": "c", "segments": [*segments, {"text": "four"}]})])
    assert memory.import_(path, dry_run=True).updated == 1
    again = memory.import_(path)
    assert (again, again.new, again.updated, again.unchanged) == (2, 1, 1, 2)
    assert pickle.loads(pickle.dumps(again)).as_dict() == again.as_dict()
    assert "updated=1" in repr(again)


def test_entries_that_share_a_name_are_all_kept_or_the_last_is(open_memory, tmp_path):
    memory = open_memory()
    same = [{"idx": 1, "text": "a says one"}, {"idx": 1, "text": "b says two"}, {"idx": 1, "text": "a says one"}]
    path = write(
        tmp_path / "a.jsonl", [json.dumps({"id": "c", "segments": same}), line(1), line(1), line(1, idx=0, more=1)]
    )
    done = memory.import_(path)
    assert (done.new, done.reasons, len(memory.entries())) == (4, {"repeated": 2}, 4)
    assert memory.import_(path).unchanged == 4
    lines = ['{"agent_memory_export": 1}'] + [json.dumps({"key": "k", "text": f"text {n}"}) for n in range(3)]
    done = memory.import_(write(tmp_path / "b.jsonl", lines))
    assert (done, done.new, done.reasons) == (1, 1, {"replaced further down": 2})
    assert memory.get("k").text == "text 2"


def test_expired_entries_and_recalled_memory_are_skipped(open_memory, tmp_path):
    lines = ['{"agent_memory_export": 1}', json.dumps({"key": "k", "text": "x", "expires_at": "2001-01-01"})]
    memory = open_memory()
    for _ in range(2):
        assert memory.import_(write(tmp_path / "a.jsonl", lines)).reasons == {"expired": 1}
    memory.add("Al likes tea")
    said = format_hits(memory.recall("tea"))
    lines = [line(1), json.dumps({"id": "c", "segments": [{"text": said}, {"text": f"{said}\nI see."}]})]
    done = memory.import_(write(tmp_path / "b.jsonl", lines))
    assert (done.new, done.reasons) == (2, {"recalled memory": 1})
    assert memory.get("c:1").text.strip() == "I see."
    assert memory.import_(tmp_path / "b.jsonl").unchanged == 2


NOON = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
TIMES = {
    1683554160: NOON,
    1683554160.25: NOON.replace(microsecond=250_000),
    1683554160000: NOON,
    1683554160000000: NOON,
    "1683554160": NOON,
    "2023-05-08T13:56:00Z": NOON,
    "2023-05-08T13:56:00.000+0000": NOON,
    "2023-05-08 13:56 UTC": NOON,
    "2023-05-08 15:56:00+02:00": NOON,
    "Mon, 08 May 2023 13:56:00 GMT": NOON,
    "Mon, 8 May 2023 06:56:00 -0700": NOON,
    "Mon, 08 May 2023 09:56:00 EDT": NOON,
    "1:56 pm on 8 May, 2023": NOON,
    "May 8, 2023 1:56 PM": NOON,
    "Monday, May 8, 2023 at 1:56 PM": NOON,
    "2023/05/08 (Mon) 13:56": NOON,
    "08.05.2023, 13:56": NOON,
    "8 May 2023": NOON.replace(hour=0, minute=0),
    "8 mai 2023": NOON.replace(hour=0, minute=0),
    "20230508": NOON.replace(hour=0, minute=0),
    "5/20/2023": datetime(2023, 5, 20, tzinfo=UTC),
}
UNCLEAR = [
    "soon",
    "yesterday",
    "13:56",
    "Monday",
    "May 8",
    "32 May 2023",
    "2023-13-01",
    "2023-02-30",
    "05/08/2023",
    "12",
]
UNCLEAR += [0, -5, 12, 1e300, True, [], {}, "8 May 2023 or so", "1" * 30, "see 2023"]


@pytest.mark.parametrize("value", TIMES, ids=str)
def test_times_of_other_systems_are_understood(open_memory, tmp_path, value):
    memory = open_memory()
    memory.import_(write(tmp_path / "a.jsonl", [line(1, time=value)]))
    assert memory.get("c1:0").event_time == TIMES[value]


@pytest.mark.parametrize("value", UNCLEAR, ids=str)
def test_times_that_name_no_moment_are_errors_unless_told_otherwise(open_memory, tmp_path, value):
    with pytest.raises(InvalidInputError):
        read_time(value)
    memory = open_memory()
    path = write(tmp_path / "a.jsonl", [line(1, time="2024-05-01"), line(2, time=value)])
    with pytest.raises(InvalidInputError, match="line 2: event_time"):
        memory.import_(path)
    assert memory.entries() == []
    began = datetime.now(UTC)
    done = memory.import_(path, assume_now=True)
    assert (done.new, done.undated) == (2, 1)
    assert memory.get("c2:0").event_time >= began
    assert memory.import_(path, assume_now=True).unchanged == 2


@pytest.mark.parametrize("how", ["lines", "list"])
def test_items_are_read_as_add_many_takes_them(open_memory, tmp_path, how):
    ann = {"text": "I moved to Rome.", "speaker": "ann", "event_time": "8 May 2023", "metadata": {"place": "Rome"}}
    items = [ann, "Bob likes tea.", {"text": "Two"}, {"text": "Two"}, {"text": " "}, {"text": "k", "key": "k"}]
    path = tmp_path / "notes.jsonl"
    path.write_text(json.dumps(items) if how == "list" else "\n".join(map(json.dumps, items)))
    memory = open_memory(namespace=("acme",))
    done = memory.import_(path)
    assert (done.new, done.formats, done.reasons) == (4, ("items",), {"repeated": 1, "empty": 1})
    first = memory.entries()[0]
    assert (first.text, first.speaker, first.metadata) == (ann["text"], "ann", {"place": "Rome"})
    assert (first.event_time, first.namespace) == (datetime(2023, 5, 8, tzinfo=UTC), ("acme",))
    assert memory.import_(path).unchanged == 4


@pytest.mark.parametrize(
    "fault", [{"colour": "red"}, {"vector": [1.0]}, {"event_time": "5/8/2023"}, {"importance": 2}, {"namespace": "x"}]
)
def test_an_item_with_a_fault_is_named_by_its_line_and_none_is_kept(open_memory, tmp_path, fault):
    path = write(tmp_path / "notes.jsonl", [json.dumps({"text": "a"}), json.dumps({"text": "b", **fault})])
    memory = open_memory()
    with pytest.raises(InvalidInputError, match="line 2: "):
        memory.import_(path)
    assert memory.entries() == []


def test_an_item_cannot_vouch_for_what_a_person_said(open_memory, tmp_path):
    path = write(tmp_path / "notes.jsonl", [json.dumps({"text": "a", "metadata": {"provenance": "user"}})])
    memory = open_memory()
    memory.import_(path)
    assert memory.entries()[0].provenance == "import"


def test_options_that_are_none_are_refused(open_memory, tmp_path):
    memory, path = open_memory(), write(tmp_path / "a.jsonl", [line(1)])
    for options in ({"format": "zep"}, {"format": "codex", "source": "claude"}, {"dry_run": 1}, {"assume_now": "yes"}):
        with pytest.raises(InvalidInputError):
            memory.import_(path, **options)
    with pytest.raises(NotFoundError):
        memory.import_(tmp_path / "none.json", format="chatgpt")
    assert memory.import_(path, format="conversations", source="conversations") == 1


def test_a_file_that_changes_while_it_is_imported_is_imported_as_it_was_checked(tmp_path):
    path = write(tmp_path / "a.jsonl", [line(number) for number in range(10)])
    with Memory(tmp_path / "store", encoder=WordEncoder(), config=Config(batch_size=2)) as memory:
        memory.import_(path, progress=lambda done, total: path.write_text("garbage"))
        assert len(memory.entries()) == 10
        assert memory.check().ok
