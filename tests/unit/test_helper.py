"""Commands that a resident helper answers: the same bytes as without it, whatever happens to it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from agent_memory import Memory
from agent_memory.cli import keeping
from agent_memory.resident import wire

pytestmark = pytest.mark.slow

RUN = """
import atexit, os, sys
def tell():
    with open(os.environ["WHO"], "w") as file:
        file.write("alone" if "agent_memory.memory" in sys.modules or "typer" in sys.modules else "helped")
atexit.register(tell)
from agent_memory.__main__ import main
main()
"""
"""A command that tells afterwards who has done its work."""

TEXTS = ("Alice moved to Berlin in May.", "Bob is allergic to peanuts.", "Zoë drinks café au lait ☕.")


def make_store(folder):
    with Memory(folder) as memory:
        for number, text in enumerate(TEXTS):
            memory.add(text, key=f"k{number}", session="chat", speaker="ann", metadata={"n": number})
        memory.update("k0", text="Alice moved to Rome.")
        memory.add("The lamp is green.", key="lamp", namespace=("acme", "bob"))
    return folder


@contextlib.contextmanager
def help_commands(folder, *arguments, **environment):
    command = [sys.executable, "-W", "ignore", "-m", "agent_memory", "serve", "--socket-only", "--json"]
    process = subprocess.Popen(
        [*command, "--path", str(folder), *arguments], env={**os.environ, **environment}, stdout=subprocess.PIPE
    )
    try:
        assert json.loads(process.stdout.readline()) == {"socket": str(Path(folder) / wire.SOCKET)}
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)
        process.stdout.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("PYTHONWARNINGS", "ignore")
        for name in ("AGENT_MEMORY_PATH", "AGENT_MEMORY_TIMEZONE", "AGENT_MEMORY_HELPER", "AGENT_MEMORY_HOOKS"):
            patch.delenv(name, raising=False)
        yield folder


@pytest.fixture(scope="module")
def helped(home, tmp_path_factory):
    """A store that a helper serves, for tests that leave both as they are."""
    folder = make_store(tmp_path_factory.mktemp("work") / "a store")
    with help_commands(folder):
        yield folder


@pytest.fixture
def store(home, tmp_path):
    return make_store(tmp_path / "store")


def run(folder, *arguments, off=False, cwd=None, **options):
    """Run a command; returns who has done its work, its exit code and what it printed."""
    environment = {**os.environ, "WHO": f"{folder}.who", **options.pop("env", {})}
    if off:
        environment["AGENT_MEMORY_HELPER"] = "0"
    place = [] if "AGENT_MEMORY_PATH" in environment or "--path" in arguments else ["--path", str(folder)]
    words = list(arguments)
    words[1:1] = place
    options.setdefault("capture_output", True)
    done = subprocess.run([sys.executable, "-c", RUN, *words], env=environment, cwd=cwd, check=False, **options)
    return [Path(f"{folder}.who").read_text(), done.returncode, done.stdout, done.stderr]


CASES = {
    "a question": ["recall", "Where does Alice live?"],
    "in JSON": ["recall", "Where does Alice live?", "--json", "--explain"],
    "nothing": ["recall", "Alice", "--where", '{"n": 99}'],
    "a filter": ["recall", "Who?", "-w", '{"n": {"$gte": 1}}', "-k", "1"],
    "a list": ["list", "--json"],
    "sessions": ["session", "list"],
    "one": ["get", "k2"],
    "no such key": ["get", "no such key"],
    "a scope": ["list", "-n", "acme/bob"],
    "versions": ["history", "k0"],
    "why": ["why", "Where does Alice live?", "k1"],
    "counts": ["stats"],
    "replaced": ["add", "Carol sings.", "--key", "carol"],
    "no text": ["add", " ", "--key", "nothing"],
    "bad filter": ["recall", "Alice", "-w", "{"],
    "bad mode": ["recall", "Alice", "--mode", "nonsense"],
    "no question": ["recall"],
    "unknown option": ["list", "--colour"],
    "a zone": ["list", "--timezone", "Mars/Base"],
    "an option as a value": ["list", "--speaker", "-p"],
}
"""Commands by what they show."""


@pytest.mark.parametrize("case", CASES)
def test_output_and_exit_code_are_those_without_a_helper(helped, case):
    who, *with_helper = run(helped, *CASES[case])
    alone, *without = run(helped, *CASES[case], off=True)
    assert with_helper == without
    assert alone == "alone"
    if without[0] in (0, 3):
        assert who == "helped"


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({"PYTHONIOENCODING": "ascii"}, ["get", "k2"]),
        ({"PYTHONIOENCODING": "latin-1"}, ["list", "--json"]),
        ({"FORCE_COLOR": "1"}, ["recall", "Where does Alice live?"]),
        ({"FORCE_COLOR": "1", "COLUMNS": "40"}, ["get", "k1"]),
        ({"AGENT_MEMORY_TIMEZONE": "Europe/Berlin"}, ["recall", "peanuts", "--since", "2024"]),
    ],
    ids=str,
)
def test_the_environment_is_that_of_the_command(helped, environment, arguments):
    who, *with_helper = run(helped, *arguments, env=environment)
    assert with_helper == run(helped, *arguments, env=environment, off=True)[1:]
    assert who == "helped"
    assert with_helper[0] == 0


def read_terminal(folder, *arguments, off):
    """Run a command whose output is a terminal of 60 columns."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    environment = {"TERM": "xterm-256color", "NO_COLOR": "", "PYTHONIOENCODING": "utf-8"}
    streams = {"stdin": follower, "stdout": follower, "stderr": follower, "capture_output": False}
    who, code, *_ = run(folder, *arguments, off=off, env=environment, **streams)
    os.close(follower)
    printed = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(leader, 65536):
            printed += part
    os.close(leader)
    return [who, code, printed]


@pytest.mark.parametrize("arguments", [["recall", "Where does Alice live?"], ["get", "k1"]], ids=" ".join)
def test_a_terminal_is_written_to_in_its_width_and_colours(helped, arguments, monkeypatch):
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    who, *with_helper = read_terminal(helped, *arguments, off=False)
    assert with_helper == read_terminal(helped, *arguments, off=True)[1:]
    assert who == "helped"
    assert (b"\x1b[" in with_helper[1]) is (arguments[0] == "recall")


def test_a_folder_is_found_however_it_is_named(helped, tmp_path):
    (tmp_path / "link").symlink_to(helped)
    for arguments, options in (
        (["list", "-p", helped.name], {"cwd": helped.parent}),
        (["list", f"--path={helped}"], {}),
        (["list", f"-p{helped}"], {}),
        (["list"], {"env": {"AGENT_MEMORY_PATH": f"{helped.parent}/../{helped.parent.name}/{helped.name}"}}),
        (["list", "--path", str(tmp_path / "link")], {}),
    ):
        options = {"env": {"AGENT_MEMORY_PATH": "/nowhere"}} | options
        assert run(helped, *arguments, **options)[:2] == ["helped", 0], arguments


def test_a_text_comes_through_standard_input(helped):
    said = "Dora paints.\nShe likes blue: é.".encode()
    for off in (False, True):
        who, code, printed, _ = run(helped, "add", "-", "--key", "said", input=said, off=off)
        assert (code, printed) == (0, b"remembered said\n")
        assert who == ("alone" if off else "helped")
        assert said in run(helped, "get", "said")[2]
    spoilt = [
        run(helped, "add", "-", input=b"\xff", env={"PYTHONIOENCODING": "utf-8:strict"}, off=off) for off in (0, 1)
    ]
    assert spoilt[0][1:] == spoilt[1][1:]
    assert spoilt[0][1] == 2


def test_a_helper_can_be_done_without(helped):
    assert run(helped, "list", env={"AGENT_MEMORY_HELPER": "0"})[0] == "alone"
    assert run(helped, "list", "--no-helper")[:2] == ["alone", 0]
    assert run(helped, "--no-helper", "--path", str(helped), "list")[0] == "alone"
    assert run(helped, "add", "--key", "dashes", "--", "--no-helper")[:3] == ["helped", 0, b"remembered dashes\n"]


def test_an_output_that_is_full_or_closed_ends_a_command_as_without_a_helper(helped):
    ends = []
    for off in (False, True):
        with open("/dev/full", "wb") as full:
            done = run(helped, "list", off=off, stdout=full, stderr=subprocess.PIPE, capture_output=False)
        reader, writer = os.pipe()
        os.close(reader)
        broken = run(helped, "list", off=off, stdout=writer, stderr=subprocess.PIPE, capture_output=False)
        os.close(writer)
        ends.append((done[1], done[3], broken[1], broken[3]))
    assert ends[0] == ends[1]
    assert (ends[0][0], ends[0][2]) == (1, 141)


def test_an_answer_belongs_to_the_store_that_is_named_and_each_store_has_its_helper(helped, store):
    with help_commands(store):
        assert run(store, "add", "Only here.", "--key", "here")[:2] == ["helped", 0]
        assert run(helped, "get", "here")[:2] == ["helped", 3]
        # The arguments that are looked at first name one store, those that count another.
        _, code, printed, _ = run(helped, "get", "--path", str(helped), "here", "--path", str(store))
        assert (code, b"Only here." in printed) == (0, True)
        assert run(store, "serve", "--socket-only")[1] == 4


def test_another_store_at_the_same_place_is_not_taken_for_the_old_one(store, tmp_path):
    with help_commands(store) as process:
        store.rename(tmp_path / "moved")
        make_store(store)
        with Memory(store) as memory:
            memory.add("A new beginning.", key="new")
        assert run(store, "get", "new")[:2] == ["alone", 0]
        assert run(tmp_path / "moved", "get", "new")[:2] == ["alone", 3]
        (tmp_path / "moved" / wire.SOCKET).rename(store / wire.SOCKET)
        assert run(store, "get", "new")[:2] == ["alone", 0]
        assert process.wait(60) == 0


def test_a_socket_that_nobody_listens_to_stands_in_no_ones_way(store):
    with help_commands(store) as process:
        process.kill()
        process.wait()
    assert (store / wire.SOCKET).is_socket()
    assert run(store, "list")[:2] == ["alone", 0]
    with help_commands(store):
        assert run(store, "list")[0] == "helped"
    assert not (store / wire.SOCKET).exists()


@pytest.mark.parametrize("answers", [b"", b"\0\0\0\2\0\0\0\0{}", b"nonsense" * 9, b"\xff" * 8], ids=range(4))
def test_nonsense_at_the_socket_is_left_alone(store, answers):
    with socket.socket(socket.AF_UNIX) as stranger:
        former = os.umask(0o177)
        stranger.bind(str(store / wire.SOCKET))
        os.umask(former)
        stranger.listen(1)
        code = f"""
import socket, sys
listening = socket.socket(fileno=int(sys.argv[1]))
for _ in range(2):
    connection, _ = listening.accept()
    connection.recv(1 << 20)
    connection.sendall({answers!r})
    connection.close()
"""
        command = [sys.executable, "-c", code, str(stranger.fileno())]
        with subprocess.Popen(command, pass_fds=[stranger.fileno()]) as process:
            assert run(store, "get", "k1")[:2] == ["alone", 0]
            assert run(store, "add", "Once.", "--key", "once")[:3] == ["alone", 0, b"remembered once\n"]
            process.wait(60)
    assert len(json.loads(run(store, "history", "once", "--json", off=True)[2])) == 1


def test_a_socket_that_others_may_write_to_is_not_trusted(store):
    with help_commands(store):
        (store / wire.SOCKET).chmod(0o666)
        assert run(store, "list")[:2] == ["alone", 0]
        (store / wire.SOCKET).chmod(0o600)
        assert run(store, "list")[0] == "helped"


def test_a_helper_that_stands_still_holds_nobody_up_and_does_nothing_later(store):
    with help_commands(store) as process:
        process.send_signal(signal.SIGSTOP)
        assert run(store, "add", "Once.")[:2] == ["alone", 0]
        assert run(store, "list")[0] == "alone"
        process.send_signal(signal.SIGCONT)
        assert run(store, "list")[0] == "helped"
    with Memory(store) as memory:
        assert [entry.text for entry in memory.entries()].count("Once.") == 1


@pytest.mark.parametrize("moment", ["helper-begun", "helper-done"])
@pytest.mark.parametrize("key", [[], ["--key", "k0"]], ids=["without a key", "with a key"])
def test_an_entry_is_kept_once_when_the_helper_is_killed(store, moment, key):
    with help_commands(store, AGENT_MEMORY_FAILPOINT=moment):
        who, code, printed, _ = run(store, "add", "Said once.", *key, "--json")
        assert (who, code) == ("alone", 0)
    kept = json.loads(printed)
    with Memory(store) as memory:
        assert [entry.key for entry in memory.entries() if entry.text == "Said once."] == [kept["key"]]
        assert [entry.text for entry in memory.history(kept["key"])].count("Said once.") == 1


def call_hook(store, event, *, off=False, **facts):
    sent = json.dumps({"session_id": "s", "cwd": str(store.parent), "source": "startup", **facts}).encode()
    return run(store, "hook", event, "--path", str(store), off=off, input=sent)


@pytest.mark.parametrize("moment", ["none", "helper-begun", "helper-done"])
def test_a_hook_says_and_captures_the_same(store, moment, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_PROJECT", "shop")
    with Memory(store) as memory:
        memory.add("We decided to use PostgreSQL for the orders.", namespace=("projects", "shop"))
    copied = store.parent / "copied"
    shutil.copytree(store, copied)
    prompt = {"prompt": "Which database keeps the orders, PostgreSQL?"}
    with help_commands(store, AGENT_MEMORY_FAILPOINT=moment):
        told = call_hook(store, "UserPromptSubmit", **prompt)
        again = call_hook(store, "UserPromptSubmit", **prompt)
    alone = call_hook(copied, "UserPromptSubmit", off=True, **prompt)
    assert told[1:] == alone[1:]
    assert b"PostgreSQL" in told[2]
    assert told[0] == ("helped" if moment == "none" else "alone")
    assert again[1:] == [0, b"", b""]
    subprocess.run([sys.executable, "-m", "agent_memory", "agent", "take-in", "--path", str(store)], check=True)
    with Memory(store) as memory:
        assert [entry.text for entry in memory.entries(session="s")] == [prompt["prompt"]]


def test_the_name_of_a_folder_may_be_longer_than_that_of_a_socket(home, tmp_path):
    folder = make_store(tmp_path / ("long " * 20) / ("name " * 20))
    with help_commands(folder):
        assert run(folder, "list")[0] == "helped"


def test_a_folder_without_room_for_a_socket_is_said_to_have_none(store):
    (store / wire.SOCKET).mkdir()
    _, code, _, said = run(store, "serve", "--socket-only")
    assert (code, b"there can be no socket" in said) == (1, True)
    assert run(store, "list")[:2] == ["alone", 0]


def test_checks_backups_and_copies_leave_the_socket_alone(store, tmp_path):
    with help_commands(store):
        assert run(store, "check")[1:] == run(store, "check", off=True)[1:] == [0, b"5 entries, sound\n", b""]
        assert run(store, "backup", str(tmp_path / "backup"))[1] == 0
        assert [*tmp_path.glob(f"backup*/**/{wire.SOCKET}")] == []
        subprocess.run(["cp", "-a", store, tmp_path / "copy"], check=True)
        assert run(tmp_path / "copy", "add", "In the copy.", "--key", "copied")[:2] == ["alone", 0]
        assert run(store, "get", "copied")[:2] == ["helped", 3]
    with help_commands(tmp_path / "copy"):
        assert run(tmp_path / "copy", "get", "copied")[:2] == ["helped", 0]


def test_a_forked_process_does_not_answer_or_take_the_socket_away(store):
    code = """
import os, sys
from pathlib import Path
import typer
from agent_memory.agents.hook import run_resident
from agent_memory.cli.app import app
from agent_memory.cli.helper import Helper
helper = Helper(Path(sys.argv[1]), typer.main.get_group(app), run_resident, None)
child = os.fork()
if not child:
    helper.close()
    os._exit(0)
os.waitpid(child, 0)
print((Path(sys.argv[1]) / "helper.sock").is_socket(), flush=True)
sys.stdin.close()
helper.serve(lambda: False, lifeline=int(sys.argv[2]))
helper.close()
"""
    reader, writer = os.pipe()
    command = [sys.executable, "-W", "ignore", "-c", code, str(store), str(reader)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, pass_fds=[reader]) as process:
        assert process.stdout.readline() == b"True\n"
        assert run(store, "list")[0] == "helped"
        os.close(writer)
        assert process.wait(60) == 0
    os.close(reader)


def test_another_version_is_left_alone(helped):
    request = {"package": "/elsewhere/agent_memory", "store": wire.identify_store(str(helped))}
    for package, ready in (("/elsewhere/agent_memory", False), (wire.identify_package(), True)):
        with socket.socket(socket.AF_UNIX) as connection:
            with wire.Visit(str(helped)):
                connection.connect(wire.SOCKET)
            wire.send(connection, request | {"package": package})
            assert wire.receive(connection)[0][wire.READY] is ready


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_helps_commands_also_where_there_are_keys_and_its_end_is_the_helpers(store, workers):
    made = run(store, "keys", "create", "--role", "reader", "--path", str(store))
    assert made[1] == 0
    command = [sys.executable, "-W", "ignore", "-m", "agent_memory", "serve", "--port", "0", "--workers", str(workers)]
    for number in (signal.SIGTERM, signal.SIGKILL):
        with subprocess.Popen([*command, "--path", str(store), "-n", "acme"], stderr=subprocess.DEVNULL) as process:
            wait_for(lambda: (store / wire.SOCKET).exists() and run(store, "list")[0] == "helped")
            assert run(store, "get", "k1")[:2] == ["helped", 0]
            process.send_signal(number)
            process.wait(60)
        wait_for(lambda: not (store / wire.SOCKET).exists())


def find_helper(store):
    """The process that answers at a store's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, contextlib.chdir(store):
        probe.connect(wire.SOCKET)
        return struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="no names of peers")
def test_a_helper_that_dies_is_started_again_as_long_as_its_server_runs(store):
    command = [sys.executable, "-W", "ignore", "-m", "agent_memory", "serve", "--port", "0", "--path", str(store)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        for _ in range(2):
            wait_for(lambda: (store / wire.SOCKET).exists() and run(store, "list")[0] == "helped")
            helper = find_helper(store)
            os.kill(helper, signal.SIGKILL)
            assert run(store, "list")[:2] == ["alone", 0]
        wait_for(lambda: run(store, "list")[0] == "helped")
        assert find_helper(store) != helper
        process.terminate()
        process.wait(60)
    wait_for(lambda: not (store / wire.SOCKET).exists())


class Clock(threading.Event):
    """An event for which nobody waits long; it is set at the sixth time."""

    waited = ()

    def wait(self, timeout=None):
        self.waited += (timeout,)
        return self.is_set() or len(self.waited) == 6


def test_helpers_that_cannot_live_are_tried_ever_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "_MOST_PAUSE_S", 8.0)
    started, clock = tmp_path / "started", Clock()
    keeper = keeping._Keeper(tmp_path, [sys.executable, "-c", f"open({str(started)!r}, 'a').write('x')"], clock)
    wait_for(lambda: not keeper._thread.is_alive())
    keeper.end()
    assert clock.waited == (1, 2, 4, 8, 8, 8) and started.read_text() == "x" * 6
