"""What the command line prints reaches any output, and it ends quietly when it is stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from agent_memory import Memory

TEXT = "naïve ✓ 日本 🎉"

# Runs several commands in one process, each with a line before it: a process of its own for each takes long.
SEVERAL = """
import json, sys
from agent_memory.cli import main
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["agent-memory", *arguments]
    sys.stdout.write("--- " + " ".join(arguments[:2]) + "\\n")
    sys.stdout.flush()
    try:
        main()
    except SystemExit as ended:
        assert ended.code in (0, None), arguments
"""

OUTPUTS = {
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "C": {"LC_ALL": "C"},
    "C without UTF-8 mode": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output") / "store"
    with Memory(folder) as memory:
        memory.add(TEXT, key="✓", session="日本", metadata={"é": "→"})
        memory.add_many({"text": f"filler {number}", "key": f"f{number}"} for number in range(60))
        memory.add("long", key="long", metadata={"long": "x" * 900_000})  # more than any pipe holds
    return folder


def command(*arguments):
    return [sys.executable, "-W", "ignore", "-m", "agent_memory.cli", *map(str, arguments)]


def environment(**more):
    # Unbuffered, Python itself takes the part of a write that a closed pipe has swallowed for the whole.
    return {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "", **more}


@pytest.mark.slow
@pytest.mark.parametrize("output", OUTPUTS)
def test_no_encoding_of_the_output_is_too_small(store, tmp_path, output):
    """FORCE_COLOR shows progress bars and styles as on a terminal."""
    place = ["--path", str(store)]
    commands = [
        ["list", "--json", "--limit", "1", *place],
        ["get", "f7", "--json", *place],
        ["--help"],
        ["recall", "--help"],
        ["list", *place],
        ["list", "--sessions", *place],
        ["session", "show", "日本", *place],
        ["recall", "filler 7", "--explain", *place],
        ["stats", *place],
        ["models", "list"],
        ["export", str(tmp_path / "out.jsonl"), *place],
    ]
    file = tmp_path / "out.txt"
    with file.open("wb") as out:
        arguments = [sys.executable, "-c", SEVERAL, json.dumps(commands)]
        env = environment(**OUTPUTS[output], FORCE_COLOR="1", COLUMNS="80")
        result = subprocess.run(arguments, env=env, stdout=out, stderr=subprocess.PIPE, check=False)
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
    parts = file.read_bytes().split(b"--- ")
    listed, got = (json.loads(part.split(b"\n", 1)[1].decode()) for part in parts[1:3])
    assert (listed[0]["text"], listed[0]["key"], listed[0]["metadata"]) == (TEXT, "✓", {"é": "→"})
    assert got["text"] == "filler 7"
    shown = next(part for part in parts if part.startswith(b"list --path"))
    assert b"na\xefve ?" in shown if output == "cp1252" else b"na" in shown


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["list", "--limit", "1", "--json"], ["--help"], ["models", "list"]]
)
def test_a_closed_pipe_ends_it_quietly(store, arguments):
    place = ["--path", store] if arguments[0] == "list" else []
    with subprocess.Popen(
        command(*arguments, *place), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        child.stdout.close()
        errors = child.stderr.read()
    assert (child.returncode, errors) == (141, b"")


def test_the_first_line_of_many_can_be_taken(store):
    lines = command("get", "long", "--json", "--path", store)
    with subprocess.Popen(lines, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"{\n"
        child.stdout.close()
        errors = child.stderr.read()
    assert (child.returncode, errors) == (141, b"")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_full_disk_is_an_error_of_one_line(store, form):
    with open("/dev/full", "wb") as full:
        listed = command("list", "--path", store, *form)
        result = subprocess.run(listed, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_an_interrupted_command_exits_130_without_a_traceback(tmp_path):
    with open(tmp_path / "in.jsonl", "w") as file:
        file.writelines(json.dumps({"role": "user", "content": f"turn {n} " * 20}) + "\n" for n in range(300_000))
    arguments = command("import", tmp_path / "in.jsonl", "--path", tmp_path / "store", "--format", "messages")
    with subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        while not (tmp_path / "store" / "memory.db").exists() and child.poll() is None:
            time.sleep(0.05)
        time.sleep(2)  # it reads the file for much longer
        child.send_signal(signal.SIGINT)
        child.wait(timeout=60)
        printed, errors = child.stdout.read(), child.stderr.read()
    assert (child.returncode, printed) == (130, b"")
    assert not errors.strip()


def test_an_interrupted_mcp_server_does_not_wait_for_input(tmp_path):
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    with subprocess.Popen(
        command("mcp", "--path", tmp_path / "store"),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        child.stdin.write(json.dumps(message).encode() + b"\n")
        child.stdin.flush()
        assert json.loads(child.stdout.readline())["id"] == 1
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
        assert not child.stderr.read().strip()


def test_a_server_over_http_says_where_it_listens(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = command("mcp", "--path", tmp_path / "store", "--transport", "http", "--port", port, "--json")
    with subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert json.loads(child.stdout.readline()) == {"url": f"http://127.0.0.1:{port}/mcp"}
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=60) == 130
        assert b"Traceback" not in child.stderr.read()


def test_a_worker_says_in_json_lines_that_it_works_and_was_stopped(store):
    arguments = command("jobs", "run", "--path", store, "--json")
    with subprocess.Popen(arguments, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        begun = json.loads(child.stdout.readline())
        child.send_signal(signal.SIGINT)
        ended = json.loads(child.stdout.read())
    assert (begun["state"], ended["state"], child.returncode) == ("working", "stopped", 0)


def test_standard_input_that_is_no_text_is_refused(tmp_path):
    arguments = command("add", "-", "--path", tmp_path / "store")
    result = subprocess.run(
        arguments, env=environment(PYTHONIOENCODING="utf-8"), input=b"caf\xe9", capture_output=True, check=False
    )
    assert result.returncode == 2
    assert result.stderr.startswith(b"error: standard input is not text in utf-8")
    assert not (tmp_path / "store").exists()


def test_texts_neither_style_nor_steer_the_terminal(tmp_path):
    text, key = "[bold]:warning: \x1b[31mred\x07 [/nothing]", "[/key] :smile:"
    with Memory(tmp_path) as memory:
        memory.add(text, key=key, speaker="[red]")
    commands = [[*words, "--path", str(tmp_path)] for words in (["list"], ["recall", "warning"], ["get", key])]
    result = subprocess.run(
        [sys.executable, "-c", SEVERAL, json.dumps(commands)],
        env=environment(PYTHONIOENCODING="utf-8"),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert (
        result.stdout.count("[bold]:warning: \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} [/nothing]") == 3
    )
    assert result.stdout.count(key) == 3  # of which one is the command's own
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_stream_that_is_closed_keeps_no_command_from_its_work(tmp_path, closed):
    with Memory(tmp_path) as memory:
        memory.add("tea", key="a")
    command = f"exec '{sys.executable}' -m agent_memory list --path '{tmp_path}' {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("tea" in done.stdout) is (closed != ">&-")
