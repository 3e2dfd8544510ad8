"""One question before and after a correction: python examples/evolving_session.py [folder].

Only the conversation is written down; what is found comes from the embedded encoders. "A new pair of running shoes."
and "I would love a cookbook" name neither Ben nor a birthday: the session does.
"""

from __future__ import annotations

import sys
import tempfile

from agent_memory import Memory

QUESTION = "What would Ben like for his birthday?"
BEFORE = [
    ("Ann", "So, what would you like?"),
    ("Ben", "A new pair of running shoes."),
    ("Ann", "For your birthday, then."),
]
CORRECTION = [
    ("Ann", "I am off to buy your present."),
    ("Ben", "Wait, no shoes please, my sister got me some. I would love a cookbook instead."),
]


def main(folder: str) -> None:
    """Ask with the session encoder and, in a second store, without it."""
    evolving, static = Memory(f"{folder}/evolving"), Memory(f"{folder}/static", session_encoder=None)
    with evolving, static:
        print(QUESTION)
        for title, turns in (("before the correction", BEFORE), ("after it", CORRECTION)):
            for speaker, text in turns:
                for memory in (evolving, static):
                    memory.add(text, session="chat", speaker=speaker)
            print(title)
            for name, memory in (("with the session", evolving), ("without", static)):
                print(f"  {name:16}  {memory.recall(QUESTION, session='chat', k=1)[0].text}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
