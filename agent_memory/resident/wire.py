"""What a command and the helper send each other: one JSON object a message, and the bytes that belong to it."""

from __future__ import annotations

import json
import os
import socket
import struct

SOCKET = "helper.sock"
"""Name of the helper's socket in the folder of a store."""

READY = "ready"
"""Key of the helper's first answer: whether it would do the command."""

GO = b"!"
"""What the command sends then. Only after it, the helper begins: who has gone by then does the work alone."""

_LENGTHS = struct.Struct("!II")
_MOST = 64 << 20  # bytes of a message

HAS_SOCKETS = hasattr(socket, "AF_UNIX")
"""Whether this system has what the helper is found by."""


class WireError(OSError):
    """The other side has gone, or sends something else."""


def send(connection: socket.socket, facts: dict[str, object], body: bytes = b"") -> None:
    """Send a message.

    Args:
        connection: To whom.
        facts: Anything that JSON can hold.
        body: Bytes beside it.

    Raises:
        OSError: The other side has gone, takes nothing, or the message is too long.
    """
    head = json.dumps(facts).encode()
    if len(head) + len(body) > _MOST:
        raise WireError(f"a message may have {_MOST} bytes, got {len(head) + len(body)}")
    connection.sendall(_LENGTHS.pack(len(head), len(body)) + head + body)


def receive(connection: socket.socket) -> tuple[dict[str, object], bytes]:
    """Return the next message and its bytes.

    Raises:
        OSError: The other side has gone, says nothing for too long, or sends something else.
    """
    head_bytes, body_bytes = _LENGTHS.unpack(read_exactly(connection, _LENGTHS.size))
    if head_bytes + body_bytes > _MOST:
        raise WireError(f"a message may have {_MOST} bytes, got {head_bytes + body_bytes}")
    try:
        facts = json.loads(read_exactly(connection, head_bytes))
    except ValueError as error:
        raise WireError(f"a message is no JSON: {error}") from error
    if not isinstance(facts, dict):
        raise WireError(f"a message is a JSON object, got {type(facts).__name__}")
    return facts, read_exactly(connection, body_bytes)


def read_exactly(connection: socket.socket, count: int) -> bytes:
    """Return that many bytes; raises OSError if they do not come."""
    parts = []
    while count:
        part = connection.recv(min(count, 1 << 20))
        if not part:
            raise WireError("the other side has gone")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def identify_package() -> str:
    """Return where this code lies: two processes with the same one have the same version and schema."""
    return os.path.realpath(os.path.dirname(os.path.dirname(__file__)))


def identify_store(folder: str) -> list[int]:
    """Return what tells a store from all others of this machine; raises OSError if there is none in the folder."""
    found = os.stat(os.path.join(folder, "memory.db"))
    return [found.st_dev, found.st_ino]


def has_own_peer(connection: socket.socket) -> bool:
    """Return whether the same person runs the other side, where the system tells (Linux)."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    given = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return bool(struct.unpack("3i", given)[1] == os.geteuid())


class Visit:
    """Enters a folder while the block runs, so that its socket has a short name: a path of one ends at 107 bytes.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: str) -> None:
        self._folder, self._home = folder, -1

    def __enter__(self) -> None:
        self._home = os.open(".", os.O_RDONLY)
        try:
            os.chdir(self._folder)
        except OSError:
            os.close(self._home)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            os.fchdir(self._home)
        finally:
            os.close(self._home)
