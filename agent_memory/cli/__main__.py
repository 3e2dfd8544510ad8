"""``python -m agent_memory.cli``: the command line without its script."""

from agent_memory.cli.app import main

main()
