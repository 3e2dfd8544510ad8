"""An agent without a framework: python examples/plain_loop.py [folder]."""

from __future__ import annotations

import sys
import tempfile

from agent_memory import Hit, Memory

TURNS = ["My name is Alice and I am allergic to peanuts.", "I live in Berlin.", "What must I not eat?"]


def model(question: str, hits: list[Hit]) -> str:
    """Stand in for a language model that sees a question and what was recalled about it."""
    if not question.endswith("?"):
        return "Noted."
    return f"You said: {hits[0].text}" if hits else "I do not know."


def main(folder: str) -> None:
    """Recall before each answer, remember after it."""
    with Memory(folder) as memory:
        for turn in TURNS:
            hits = memory.recall(turn, k=3, speaker="alice")
            answer = model(turn, hits)
            memory.add(turn, session="chat-1", speaker="alice")
            memory.add(answer, session="chat-1", speaker="agent")
            print(f"{turn} -> {answer}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
