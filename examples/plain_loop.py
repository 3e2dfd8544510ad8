"""An agent without a framework: python examples/plain_loop.py [folder]."""

from __future__ import annotations

import sys
import tempfile

from agent_memory import Hit, Memory

TURNS = ["My name is Alice and I am allergic to peanuts.", "I live in Berlin.", "What must I not eat?"]


def answer(question: str, hits: list[Hit]) -> str:
    """Replace a language model that reads a question and what was recalled about it."""
    if not question.endswith("?"):
        return "Noted."
    return f"You said: {hits[0].text}" if hits else "I do not know."


def main(folder: str) -> None:
    """Recall before each answer, and remember the question and the answer."""
    with Memory(folder) as memory:
        for turn in TURNS:
            hits = memory.recall(turn, k=3, speaker="alice")
            reply = answer(turn, hits)
            memory.add(turn, session="chat-1", speaker="alice")
            memory.add(reply, session="chat-1", speaker="agent")
            print(f"{turn} -> {reply}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
