"""A scripted coding agent, for the tests of hooks."""

import fcntl
import json
import os
import subprocess
import sys
import time

from agent_memory.agents import spool


class Agent:
    """Speaks the hook protocol of an agent: JSON on standard input, JSON on standard output, as a process."""

    def __init__(self, name, folder, store):
        self.name, self.folder, self.store = name, folder, store

    def call(self, event, _command=None, **facts):
        """Run a hook; returns the finished process."""
        command = _command or [sys.executable, "-m", "agent_memory", "hook", event, "--agent", self.name]
        sent = json.dumps({"cwd": str(self.folder), "hook_event_name": event, **facts})
        return subprocess.run(command, input=sent, capture_output=True, text=True, timeout=120, env=dict(os.environ))

    def hook(self, event, **facts):
        """Run a hook that must succeed; returns what it printed, as JSON."""
        done = self.call(event, **facts)
        assert (done.returncode, done.stderr) == (0, ""), done
        return json.loads(done.stdout or "{}")

    def wait(self):
        """Wait until what was captured is in the store."""
        end = time.monotonic() + 240
        while spool.list_files(self.store):
            assert time.monotonic() < end, "what was captured was never taken in"
            time.sleep(0.1)
        with open(spool.spool_folder(self.store) / "lock", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
