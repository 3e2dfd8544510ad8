"""Answers from the minutes of a meeting, without a framework: python examples/plain_rag.py [folder].

With OPENAI_BASE_URL (and OPENAI_API_KEY, OPENAI_MODEL) any endpoint that speaks the OpenAI protocol writes the answer:
llama.cpp, Ollama, vLLM, a hosted one. Without, what it would be given is printed.
"""

from __future__ import annotations

import os
import sys
import tempfile

import httpx

from agent_memory import Hit, Memory
from agent_memory.encoders import EvoReranker

MINUTES = [
    ("Ann", "First, the launch. What do we still need before it?"),
    ("Ben", "The licences and the load test. Both are with Carol."),
    ("Ann", "Then the office party. What does everybody bring?"),
    ("Ben", "Two cakes and a bowl of salad."),
    ("Carol", "Plates and glasses, the blue ones."),
    ("Ann", "The budget of next year comes last. Who writes the draft?"),
]
QUESTION = "What does Ben bring to the office party?"


def index(memory: Memory) -> None:
    """Keep each contribution as a document of its own, as a pipeline that knows of no conversations does."""
    memory.add_many(
        {"text": text, "key": f"{at:02}", "namespace": ("minutes",)} for at, (_, text) in enumerate(MINUTES)
    )


def retrieve(memory: Memory, question: str, k: int = 2) -> list[Hit]:
    """Return the documents that answer a question; the reranker reads each where it was said."""
    said = [{"speaker": speaker, "text": text} for speaker, text in MINUTES]
    return memory.recall(question, k=k, rerank=EvoReranker(history=said), namespace=("minutes",))


def make_prompt(question: str, hits: list[Hit]) -> str:
    """Return what a language model reads."""
    context = "\n".join(f"[{hit.rank}] {hit.text}" for hit in hits)
    return f"Answer from these documents alone, and name the one you used.\n{context}\n\nQuestion: {question}"


def ask_model(prompt: str) -> str:
    """Return the answer of an OpenAI-compatible endpoint."""
    body = {
        "model": os.environ.get("OPENAI_MODEL", "default"),
        "messages": [{"role": "user", "content": prompt}],
    }
    headers = {"Authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"}
    url = f"{os.environ['OPENAI_BASE_URL'].rstrip('/')}/chat/completions"
    response = httpx.post(url, json=body, headers=headers, timeout=120).raise_for_status()
    return str(response.json()["choices"][0]["message"]["content"])


def main(folder: str) -> None:
    """Index the minutes, find what a question needs, and answer."""
    with Memory(folder) as memory:
        index(memory)
        prompt = make_prompt(QUESTION, retrieve(memory, QUESTION))
        print(ask_model(prompt) if os.environ.get("OPENAI_BASE_URL") else prompt)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
