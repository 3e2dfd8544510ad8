"""Bytes and messages that nobody meant: a typed error or success, nothing else changes, and the store stays sound.

``AGENT_MEMORY_FUZZ_SECONDS`` says how long each target is tried with ever new inputs; without it, each has a few dozen
inputs, the same every time. A failure names its seed: ``AGENT_MEMORY_FUZZ_SEED`` starts there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import os
import queue
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError
from support import TESTS, WordEncoder
from support_snapshot import assert_same, build_index, search_all_ways, use_everything

from agent_memory import AgentMemoryError, Config, Memory
from agent_memory.integrations.mcp import build_server
from agent_memory.storage.sqlite.driver import sqlite3

SECONDS = float(os.environ.get("AGENT_MEMORY_FUZZ_SECONDS", "0"))
SEED = int(os.environ.get("AGENT_MEMORY_FUZZ_SEED", str(int(time.time()) if SECONDS else 0)))
PATIENCE_S = 30

ODD_VALUES = (
    None, True, -1, 0, 2**63, 2**200, 1e308, float("nan"), float("inf"), "", " ", "\0", "\ud800", "é" * 300,
    "x" * 5000, [], {}, [[]], {"$gte": {}}, {"": None}, {"$and": [{}]}, {"a": {"$in": []}},
    "9999-12-31T23:59:59+14:00", "0001-01-01", "../../x",
)  # fmt: skip

pytestmark = pytest.mark.timeout(int(SECONDS) + 240)


class AnyTextEncoder(WordEncoder):
    """A word encoder that has a vector for texts without words, too."""

    def encode_documents(self, texts, *, progress=None):
        return super().encode_documents([f"word {text}" for text in texts], progress=progress)


def iter_rounds(count: int) -> Iterator[random.Random]:
    """Yield generators, ``count`` of them or for as long as the soak lasts; each round must end in good time."""
    start, number = time.monotonic(), 0
    while number < count if not SECONDS else time.monotonic() - start < SECONDS:
        began = time.monotonic()
        # Shown when the test fails: the last line is the one to start from.
        sys.stdout.write(f"seed {SEED + number}\n")
        yield random.Random(SEED + number)
        assert time.monotonic() - began < PATIENCE_S, f"seed {SEED + number} took too long"
        number += 1


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Return data with a few changes: flipped, replaced, repeated, moved, cut."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at, size = chance.randrange(len(changed) + 1), chance.choice([1, 2, 4, 16, 512, 4096])
        match chance.randrange(6):
            case 0 if at < len(changed):
                changed[at] ^= 1 << chance.randrange(8)
            case 1:
                changed[at : at + size] = chance.randbytes(size)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size]
            case 4:
                other = chance.randrange(len(changed) + 1)
                changed[at : at + size] = changed[other : other + size]
            case 5 if chance.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def mutate_value(value: object, chance: random.Random) -> object:
    """Return a JSON value with something odd somewhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        name = chance.choice(sorted(value))
        match chance.randrange(5):
            case 0:
                return {key: part for key, part in value.items() if key != name}
            case 1:
                return {**value, chance.choice(["extra", "", "namespace", name + " "]): chance.choice(ODD_VALUES)}
            case _:
                return {**value, name: mutate_value(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        return [*value[:at], mutate_value(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD_VALUES)


def fill(folder: Path) -> dict[str, str]:
    """Make a store with some of everything; return its texts by key."""
    with Memory(folder, encoder=AnyTextEncoder()) as memory:
        memory.add_many(
            {
                "text": f"note {number} about topic {number % 7}",
                "key": str(number),
                "session": f"s{number % 3}",
                "speaker": "al",
                "metadata": {"number": number, "tags": ["a", {"b": None}]},
                "importance": 0.5,
                "namespace": ("team", str(number % 2)),
                "event_time": "2025-03-01T10:00:00+00:00",
            }
            for number in range(16)
        )
        memory.update("3", namespace=("team", "1"), text="note 3 has changed")
        memory.recall("note")
        return {entry.key: entry.text for entry in memory.entries()}


def read_texts(folder: Path) -> dict[str, str]:
    with Memory(folder, encoder=AnyTextEncoder()) as memory:
        assert memory.check().ok
        return {entry.key: entry.text for entry in memory.entries()}


def test_snapshots(tmp_path):
    index = build_index()
    pristine = index.save(tmp_path / "pristine", generation="g", seq=5)
    files = {path.name: path.read_bytes() for path in pristine.iterdir()}
    expected, tried = search_all_ways(index), tmp_path / "tried"
    for chance in iter_rounds(60):
        folder = tried / pristine.name
        shutil.copytree(pristine, folder)
        for name in chance.sample(sorted(files), chance.choice([1, 1, 3])):
            if name == "manifest.json" and chance.random() < 0.7:
                content = json.dumps(mutate_value(json.loads(files[name]), chance)).encode()
            else:
                content = mutate(files[name], chance)
            (folder / name).write_bytes(content)
        with contextlib.suppress(AgentMemoryError):
            assert_same(expected, search_all_ways(use_everything(tried)))
        assert {path.name: path.read_bytes() for path in pristine.iterdir()} == files
        shutil.rmtree(tried)


def list_foreign() -> list[tuple[str, bytes]]:
    files = {"chroma": "chroma-1.5.9.sqlite3.gz", "langgraph": "langgraph-3.1.2-store.sqlite.gz"}
    files["mem0"] = "mem0-2.2.1-history.db.gz"
    return [(source, gzip.decompress((TESTS / "data" / name).read_bytes())) for source, name in files.items()]


def test_imports(tmp_path):
    fill(tmp_path / "store")
    with Memory(tmp_path / "store", encoder=AnyTextEncoder()) as memory:
        memory.export(tmp_path / "export.jsonl")
    lines, foreign = (tmp_path / "export.jsonl").read_bytes().splitlines(), list_foreign()
    config = Config(max_text_chars=10_000)
    with Memory(tmp_path / "other", encoder=AnyTextEncoder(), config=config) as memory:
        memory.add("stays", key="stays")
        for round_, chance in enumerate(iter_rounds(40)):
            path, source = tmp_path / "tried", None
            if chance.random() < 0.3:
                source, data = chance.choice(foreign)
                path.write_bytes(mutate(data, chance))
            elif chance.random() < 0.7:
                chosen = [json.loads(line) for line in lines]
                at = chance.randrange(-1, len(chosen))
                chosen[at] = mutate_value(chosen[at], chance)
                path.write_text("\n".join(map(json.dumps, chosen)))
            else:
                path.write_bytes(mutate(b"\n".join(lines), chance))
            given = path.read_bytes()
            try:
                memory.import_(path, source=source)
            except AgentMemoryError:
                assert [entry.key for entry in memory.entries()] == ["stays"], "a refused file left something"
            assert path.read_bytes() == given
            if round_ % 40 == 0:
                assert memory.check().ok
            memory.forget(everything=True)
            memory.add("stays", key="stays")
        assert memory.recall("stays", k=1)[0].entry.key == "stays"
        assert memory.check().ok


def change_by_sql(path: Path, chance: random.Random) -> None:
    """Change a database as somebody with SQLite's own tool may."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA writable_schema = ON")
        tables = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        table = chance.choice(tables)
        columns = [row[1] for row in raw.execute(f'PRAGMA table_info("{table}")')]
        column = chance.choice(columns)
        odd = ("NULL", "-1", "9223372036854775807", "'x'", "x'00ff'", "1e999", "''", "'[]'", "zeroblob(70000)")
        statement = chance.choice(
            [
                f'UPDATE "{table}" SET "{column}" = {chance.choice(odd)}',
                f'UPDATE "{table}" SET "{column}" = {chance.choice(odd)} WHERE rowid = {chance.randrange(1, 16)}',
                f'DELETE FROM "{table}" WHERE rowid % 3 = 0',
                f'DROP TABLE "{table}"',
                f'ALTER TABLE "{table}" ADD COLUMN strange',
                f'CREATE TRIGGER strange AFTER INSERT ON "{table}" BEGIN DELETE FROM "{table}"; END',
                f'CREATE VIEW strange AS SELECT * FROM "{table}"',
                f"UPDATE sqlite_master SET rootpage = {chance.randrange(50)} WHERE name = '{table}'",
                f"UPDATE sqlite_master SET sql = sql || ' ' WHERE name = '{table}'",
                f"PRAGMA user_version = {chance.randrange(9)}",
            ]
        )
        with contextlib.suppress(sqlite3.Error):
            raw.execute(statement)


def use_store(folder: Path) -> None:
    with Memory(folder, encoder=AnyTextEncoder()) as memory:
        memory.entries()
        memory.recall("note 4 about topic 4", k=3)
        memory.add("new", key="new")
        memory.forget("new")
        memory.check()


def test_backups(tmp_path):
    texts = fill(tmp_path / "store")
    with Memory(tmp_path / "store", encoder=AnyTextEncoder()) as memory:
        memory.backup(tmp_path / "copy.db")
    data = (tmp_path / "copy.db").read_bytes()
    shutil.copytree(tmp_path / "store", tmp_path / "target")
    refused = 0
    for chance in iter_rounds(30):
        path = tmp_path / "tried.db"
        path.write_bytes(data)
        if chance.random() < 0.5:
            change_by_sql(path, chance)
        else:
            path.write_bytes(mutate(data, chance))
        given = path.read_bytes()
        try:
            Memory.restore(path, tmp_path / "target", replace=True)
        except AgentMemoryError:
            refused += 1
            assert read_texts(tmp_path / "target") == texts, "a refused backup changed the store"
        else:
            # What cannot be told from a store may still be one of another encoder.
            with contextlib.suppress(AgentMemoryError):
                use_store(tmp_path / "target")
            shutil.rmtree(tmp_path / "target")
            shutil.copytree(tmp_path / "store", tmp_path / "target")
        assert path.read_bytes() == given
    assert refused
    assert read_texts(tmp_path / "store") == texts


CALLS = [
    ("remember", {"text": "Al likes tea", "session": "s", "speaker": "al", "key": "k", "metadata": {"year": 2025}}),
    ("remember", {"text": "Bo", "event_time": "2025-01-01", "expires_at": "2099-01-01", "importance": 0.5}),
    ("recall", {"query": "Al likes what", "k": 3, "where": {"year": {"$gte": 2024}}, "session": "s"}),
    ("read", {"key": "k", "cursor": None}),
    ("forget", {"key": "gone"}),
    ("forget", {"where": {"year": 1999}, "session": "none"}),
    ("why", {"query": "tea", "key": "k"}),
    ("list_sessions", {"cursor": None}),
]


def is_typed(error: BaseException | None) -> bool:
    """Return whether an error of a tool goes back to one of ours, or to arguments of a wrong type."""
    while error is not None:
        if isinstance(error, (AgentMemoryError, ValidationError)):
            return True
        error = error.__cause__
    return False


async def test_mcp_calls(tmp_path):
    fill(tmp_path / "store")
    with Memory(tmp_path / "store", encoder=AnyTextEncoder()) as memory:
        server = build_server(memory)
        for chance in iter_rounds(80):
            tool, arguments = chance.choice(CALLS)
            for _ in range(chance.choice([0, 1, 1, 3])):
                arguments = mutate_value(arguments, chance)
            if not isinstance(arguments, dict):
                continue
            try:
                await asyncio.wait_for(server.call_tool(tool, arguments), PATIENCE_S)
            except Exception as error:
                assert is_typed(error), (tool, arguments, error)
        assert memory.check().ok


class Server:
    """A real server over stdio, spoken to in raw lines."""

    def __init__(self, folder: Path) -> None:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-W", "ignore", str(TESTS / "integrations" / "support_mcp.py"), str(folder)]
        self.process = subprocess.Popen(
            [*command, "stdio", "0"],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        about = {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "fuzz", "version": "1"}}
        self.ask("initialize", about)
        self.send(json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"}).encode())

    def _read(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)

    def send(self, line: bytes) -> None:
        self.process.stdin.write(line.replace(b"\n", b" ") + b"\n")
        self.process.stdin.flush()

    def ask(self, method: str, params: dict[str, object]) -> object:
        """Send a request of our own and wait for its answer; others may come in between."""
        number = f"ours-{random.getrandbits(64)}"
        self.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode())
        while True:
            answer = json.loads(self.lines.get(timeout=PATIENCE_S))
            if answer.get("id") == number:
                return answer["result"]

    def close(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(PATIENCE_S) == 0
        self.process.stdout.close()


def test_mcp_messages(tmp_path):
    texts = fill(tmp_path / "store")
    # The server's encoder is a plain word encoder: both have the same name, and it has a vector for each of our words.
    server = Server(tmp_path / "store")
    try:
        for chance in iter_rounds(80):
            tool, arguments = chance.choice([call for call in CALLS if call[0] != "forget"])
            message: object = {
                "jsonrpc": "2.0",
                "id": chance.randrange(1000),
                "method": "tools/call",
                "params": {"name": tool, "arguments": arguments},
            }
            for _ in range(chance.choice([0, 1, 1, 3])):
                message = mutate_value(message, chance)
            line = json.dumps(message).encode()
            server.send(mutate(line, chance) if chance.random() < 0.5 else line)
            assert server.ask("ping", {}) is not None
            assert server.process.poll() is None
    finally:
        server.close()
    found = read_texts(tmp_path / "store")
    assert {key: found.get(key) for key in texts} == texts
