"""The command ``agent-memory``, also as ``python -m agent_memory``."""

from __future__ import annotations

import atexit
import gc
import os
import sys

_BRIEF = ("recall", "add", "hook")


def main() -> None:
    """Run the command line, by the store's helper if there is one.

    A hook goes its own way: Typer and Rich would take it longer than what it does.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who calls; the next file that is opened would take its place
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    from agent_memory.resident import client

    sys.argv[1:] = client.drop_option(sys.argv[1:])
    code = client.run(sys.argv[1:])
    if code is not None:
        sys.exit(code)
    if sys.argv[1:2] and sys.argv[1] in _BRIEF:
        # A tenth of their time would go into looking for garbage among modules that have just been imported.
        gc.disable()
        atexit.register(gc.freeze)
    if sys.argv[1:2] == ["hook"] and not {"-h", "--help"} & set(sys.argv):
        from agent_memory.agents import hook

        sys.exit(hook.main(sys.argv[2:]))
    from agent_memory.cli import main

    main()


if __name__ == "__main__":
    main()
