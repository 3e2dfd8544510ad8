"""One question before and after a correction: python examples/evolving_session.py [folder].

The conversation is scripted; the embedded encoders find the answers. "A new pair of running shoes." and "I would love
a cookbook" mention neither Ben nor a birthday: that is known from the session alone.
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
    """Ask a store with a session encoder and a store without one."""
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
