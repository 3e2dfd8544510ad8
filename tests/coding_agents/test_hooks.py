"""Hooks as an agent runs them: processes that speak JSON, in every state of the machine."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
import schemas
from scripted_agent import Agent

from agent_memory import Memory
from agent_memory.agents import events, notes, spool
from agent_memory.agents.projects import find_project

SECRET = "AKIAIOSFODNN7EXAMPLQ"


def texts(store, project):
    with Memory(store, namespace=find_project(project)) as memory:
        return {entry.text: entry for entry in memory.entries()}


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_two_days_of_work_the_second_knows_what_the_first_decided(claude, project, store):
    """A scripted agent that only speaks the hook protocol."""
    assert claude.hook("SessionStart", session_id="day-1", source="startup") == {}
    assert claude.hook("UserPromptSubmit", session_id="day-1", prompt="Let's plan the billing service.") == {}
    claude.hook("Stop", session_id="day-1", last_assistant_message="Which database shall it use?")
    said = "We decided to use PostgreSQL for billing, because of row locks. I prefer small commits."
    assert claude.hook("UserPromptSubmit", session_id="day-1", prompt=said) == {}
    claude.hook("Stop", session_id="day-1", last_assistant_message="Done. We still need to migrate the invoices.")
    claude.hook("SessionEnd", session_id="day-1", reason="exit")
    claude.wait()

    told = claude.hook("SessionStart", session_id="day-2", source="startup")
    jsonschema.validate(told, schemas.OUTPUTS["SessionStart"])
    brief = told["hookSpecificOutput"]["additionalContext"]
    assert "provenance user) We decided to use PostgreSQL for billing, because of row locks." in brief
    assert "provenance user) I prefer small commits." in brief
    assert "provenance agent) We still need to migrate the invoices." in brief
    assert "Which database" not in brief

    told = claude.hook("UserPromptSubmit", session_id="day-2", prompt="Which database does billing use, and why?")
    jsonschema.validate(told, schemas.OUTPUTS["UserPromptSubmit"])
    assert "PostgreSQL for billing, because of row locks" in told["hookSpecificOutput"]["additionalContext"]
    # Only the first prompt is answered by itself; the tool is there for the rest.
    assert claude.hook("UserPromptSubmit", session_id="day-2", prompt="Which database does billing use?") == {}
    assert claude.hook("UserPromptSubmit", session_id="day-3", prompt="Rename the colour constants") == {}

    entries = texts(store, project)
    assert entries[said].speaker == "user"
    assert entries[said].session == "day-1"
    assert entries[said].provenance == "user"
    assert entries["Which database shall it use?"].provenance == "agent"
    found = subprocess.run(
        [sys.executable, "-m", "agent_memory", "agent", "status", "claude-code", "--json"], capture_output=True
    )
    known = json.loads(found.stdout)["agents"]["claude-code"]
    assert known["run"]["event"] == "UserPromptSubmit"
    assert known["error"] is None


def test_codex_sends_and_gets_what_its_schemas_say(project, store):
    codex = Agent("codex", project, store)
    common = {"model": "m", "permission_mode": "default", "session_id": "s", "transcript_path": None, "turn_id": "t1"}
    prompt = {**common, "prompt": "We agreed to keep the old API for a year."}
    stop = {**common, "last_assistant_message": "Noted.", "stop_hook_active": False}
    for event, facts in (("UserPromptSubmit", prompt), ("Stop", stop)):
        jsonschema.validate({"cwd": str(project), "hook_event_name": event, **facts}, schemas.CODEX_INPUTS[event])
        jsonschema.validate(codex.hook(event, **facts), schemas.OUTPUTS[event])
    codex.wait()
    told = codex.hook("SessionStart", session_id="s2", source="startup")
    jsonschema.validate(told, schemas.OUTPUTS["SessionStart"])
    assert "keep the old API for a year" in told["hookSpecificOutput"]["additionalContext"]


def test_cursor_speaks_its_own_form_and_the_last_answer_of_a_turn_stays(project, store):
    cursor = Agent("cursor", project, store)
    common = {"conversation_id": "c", "generation_id": "g", "workspace_roots": [str(project)], "cursor_version": "3"}
    assert cursor.hook("sessionStart", **common) == {}
    assert cursor.hook("beforeSubmitPrompt", prompt="From now on we use tabs.", **common) == {"continue": True}
    for text in ("Looking.", "All files use tabs now."):
        assert cursor.hook("afterAgentResponse", text=text, **common) == {}
    assert cursor.hook("stop", status="completed", **common) == {}
    cursor.wait()
    assert set(texts(store, project)) == {"From now on we use tabs.", "All files use tabs now."}
    told = cursor.hook("sessionStart", **{**common, "conversation_id": "d"})
    assert "From now on we use tabs." in told["additional_context"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node, to run OpenCode's plug-in")
def test_the_plugin_of_opencode_runs_under_node(project, store, tmp_path):
    subprocess.run([sys.executable, "-m", "agent_memory", "agent", "install", "opencode", "--project"], check=True)
    plugin = project / ".opencode" / "plugins" / "agent-memory.js"
    module = tmp_path / "plugin.mjs"
    module.write_text(plugin.read_text())
    host = tmp_path / "host.mjs"
    host.write_text(
        f"""
        import {{ AgentMemory }} from {json.dumps(module.as_uri())}
        const client = {{ session: {{
          get: async ({{ path }}) => ({{ data: {{ id: path.id, parentID: path.id === "inner" ? "s" : undefined }} }}),
          messages: async () => ({{ data: [
            {{ info: {{ role: "user" }}, parts: [{{ type: "text", text: "Hi" }}] }},
            {{ info: {{ role: "assistant" }}, parts: [{{ type: "text", text: "We chose SQLite." }}] }},
          ] }}),
        }} }}
        const hooks = await AgentMemory({{ client, directory: {json.dumps(str(project))} }})
        const output = {{ message: {{ id: "m" }}, parts: [{{ type: "text", text: process.argv[3] }}] }}
        await hooks["chat.message"]({{ sessionID: process.argv[2] }}, output)
        await hooks.event({{ event: {{ type: "session.idle", properties: {{ sessionID: process.argv[2] }} }} }})
        console.log(JSON.stringify(output.parts))
        """
    )

    def chat(session, text):
        done = subprocess.run(["node", host, session, text], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    assert len(chat("s", "We decided to use SQLite.")) == 1
    Agent("opencode", project, store).wait()
    assert set(texts(store, project)) == {"We decided to use SQLite.", "We chose SQLite."}
    parts = chat("s2", "Hello again")
    assert "We decided to use SQLite." in parts[1]["text"] and parts[1]["synthetic"] is True


# --- what is captured, and what is not --------------------------------------------------------------------------------


def test_secrets_and_private_passages_reach_no_file(claude, project, store):
    claude.hook(
        "UserPromptSubmit",
        session_id=f"s-{SECRET}",
        prompt=f"The key is {SECRET}, password: hunter2hunter2. <private>my diagnosis</private> We use Go.",
    )
    claude.hook("Stop", session_id="s", last_assistant_message=f"I have set AWS_KEY={SECRET} in the file.")
    claude.hook("Stop", session_id="s", last_assistant_message="<private>all of it</private>")
    claude.call("Nonsense", session_id="s", prompt=SECRET)
    claude.wait()
    kept = b"".join(file.read_bytes() for file in files_below(store))
    for word in (SECRET, "hunter2", "diagnosis", "all of it"):
        assert word.encode() not in kept
    assert "The key is [secret removed], password: [secret removed].  We use Go." in texts(store, project)


def test_only_people_and_final_answers_are_captured(claude, project, store):
    claude.hook("PostToolUse", session_id="s", tool_response="secret output of a tool")
    claude.hook("Stop", session_id="s", agent_id="sub-1", last_assistant_message="A sub-agent's words.")
    claude.hook("UserPromptSubmit", session_id="s", prompt="<system-reminder>Be brief.</system-reminder>")
    assert spool.list_files(store) == []


def test_an_old_agent_without_the_answer_is_read_by_the_end_of_its_huge_transcript(claude, project, store, tmp_path):
    transcript = tmp_path / "huge.jsonl"
    said = {
        "type": "assistant",
        "message": {"role": "assistant", "content": [{"type": "text", "text": "We use Rust."}]},
    }
    with transcript.open("w") as file:
        file.truncate(3 << 30)  # sparse: more than memory would like
        file.seek(0, os.SEEK_END)
        file.write("\n" + json.dumps(said) + "\n" + json.dumps({"type": "user", "message": {"role": "user"}}) + "\n")
    claude.hook("Stop", session_id="s", transcript_path=str(transcript))
    claude.wait()
    assert set(texts(store, project)) == {"We use Rust."}


def test_the_same_words_twice_in_a_session_are_kept_once(claude, project, store):
    for _ in range(2):
        claude.hook("UserPromptSubmit", session_id="s", prompt="Always run the tests.")
    claude.hook("SessionEnd", session_id="s")
    claude.wait()
    claude.hook("UserPromptSubmit", session_id="s", prompt="Always run the tests.")
    claude.hook("SessionEnd", session_id="s")
    claude.wait()
    with Memory(store, namespace=find_project(project)) as memory:
        (entry,) = memory.entries()
        assert len(memory.history(entry.key)) == 1


# --- whatever happens, an agent goes on -------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["", "{", "[]", "null", "\ufeff{}", '{"prompt": 3, "session_id": []}', "\udcff"])
def test_nothing_that_an_agent_sends_makes_a_hook_fail(sent, project, store):
    for event in (*events.KINDS, "Unknown", "", "--agent"):
        command = [sys.executable, "-m", "agent_memory", "hook", event, "--agent", "claude-code"]
        if event not in ("UserPromptSubmit", "Stop", "Unknown", ""):
            continue
        done = subprocess.run(command, input=sent.encode("utf-8", "surrogateescape"), capture_output=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, b"")
    assert notes.read_note(store, "claude-code", "error") is not None


def test_a_missing_store_is_made_by_the_first_capture_and_not_by_a_start(claude, store):
    assert claude.hook("SessionStart", session_id="s") == {}
    assert not (store / "memory.db").exists()
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go.")
    claude.hook("SessionEnd", session_id="s")
    claude.wait()
    assert (store / "memory.db").exists()
    assert (store / "agents").stat().st_mode & 0o077 == 0


def test_no_home_folder_is_no_error_of_the_agent(project, monkeypatch):
    program = (
        "import os, pwd, sys; pwd.getpwuid = lambda _: (_ for _ in ()).throw(KeyError('nobody'));"
        "os.environ.pop('HOME'); from agent_memory.agents.hook import main; sys.exit(main(['UserPromptSubmit']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b'{"prompt": "We use Go."}', capture_output=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(project.glob("~*"))


def test_a_locked_store_delays_nobody_and_loses_nothing(claude, project, store):
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go for services.")
    claude.hook("SessionEnd", session_id="s")
    claude.wait()
    lock = sqlite3.connect(store / "memory.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    try:
        assert "We use Go for services." in str(claude.hook("SessionStart", session_id="s2"))
        claude.hook("UserPromptSubmit", session_id="s2", prompt="We use Rust instead.")
        claude.hook("Stop", session_id="s2", last_assistant_message="Fine.")
        assert len(spool.list_files(store)) == 2
        # What waits is told all the same.
        assert "We use Rust instead." in str(claude.hook("SessionStart", session_id="s3"))
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    claude.hook("SessionEnd", session_id="s2")
    claude.wait()
    assert set(texts(store, project)) == {"We use Go for services.", "We use Rust instead.", "Fine."}


def test_a_damaged_store_is_noted_and_nothing_is_lost(claude, project, store):
    store.mkdir()
    (store / "memory.db").write_bytes(b"not a database" * 100)
    assert claude.hook("SessionStart", session_id="s") == {}
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go.")
    assert notes.read_note(store, "claude-code", "error")["error"]
    assert len(spool.list_files(store)) == 1


def test_two_sessions_at_once_lose_nothing(claude, project, store):
    def work(number):
        for turn in range(3):
            claude.hook("UserPromptSubmit", session_id=f"s{number}", prompt=f"Session {number} wants {turn}.")
            claude.hook("Stop", session_id=f"s{number}", last_assistant_message=f"Session {number} got {turn}.")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, range(2)))
    claude.hook("SessionEnd", session_id="s0")
    claude.wait()
    wanted = {
        f"Session {number} {word} {turn}." for number in range(2) for turn in range(3) for word in ("wants", "got")
    }
    assert set(texts(store, project)) == wanted


def test_of_two_first_prompts_at_once_one_is_first(store):
    ready = threading.Barrier(8)

    def ask(_):
        ready.wait()
        return notes.is_first(store, "codex", "s")

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


def test_a_process_that_is_killed_between_store_and_spool_writes_nothing_twice(claude, project, store):
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go.")
    command = [sys.executable, "-m", "agent_memory", "hook", "take-in"]
    env = {**os.environ, "AGENT_MEMORY_FAILPOINT": "spool-written"}
    assert subprocess.run(command, env=env, timeout=240).returncode < 0
    assert len(spool.list_files(store)) == 1
    assert spool.take_in(store) == 0
    with Memory(store, namespace=find_project(project)) as memory:
        (entry,) = memory.entries()
        assert len(memory.history(entry.key)) == 1


def test_a_file_that_somebody_has_spoilt_does_not_hold_up_the_others(claude, project, store):
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go.")
    folder = spool.spool_folder(store)
    (folder / "0-spoilt.json").write_text("{")
    (folder / "1-odd.json").write_text('{"text": "x", "key": "k", "colour": 1}')
    for number, odd in enumerate(
        (
            {"namespace": 5},
            {"namespace": [""]},
            {"namespace": ["a/\0"]},
            {"metadata": 5},
            {"metadata": {"agent": "../x"}},
        )
    ):
        (folder / f"2-odd{number}.json").write_text(json.dumps({"text": "x", "key": f"k{number}", "colour": 1} | odd))
    (folder / "3-key.json").write_text('{"text": "x", "key": ""}')
    (folder / "4-deep.json").write_text("[" * 100_000)
    assert spool.take_in(store) >= 1
    assert spool.list_files(store) == []
    assert "We use Go." in texts(store, project)


def test_a_file_that_cannot_be_read_now_waits_on(claude, project, store):
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go.")
    unread = spool.spool_folder(store) / "0-unread.json"
    unread.mkdir()  # as root reads whatever its mode says
    assert spool.take_in(store) == 1
    assert spool.list_files(store) == [unread]
    assert spool.take_in(store) == 0


def test_hooks_can_be_turned_off(claude, store, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_HOOKS", "off")
    claude.hook("UserPromptSubmit", session_id="s", prompt="We use Go.")
    assert not store.exists()


def test_a_hook_imports_nothing_heavy_before_it_needs_it(project):
    program = (
        "import sys; from agent_memory.agents import hook; sys.stdin = open('/dev/null');"
        'sys.stdin.buffer; hook._read_input = lambda: \'{"session_id": "s", "prompt": "We use Go."}\';'
        "hook.notes.is_first = lambda *_: False; hook.main(['UserPromptSubmit']);"
        "heavy = {'torch', 'sqlalchemy', 'numpy', 'pydantic', 'typer', 'rich', 'detect_secrets'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr
