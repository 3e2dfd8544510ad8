"""A retriever for A-MEM, and for systems like it: python examples/amem_retriever.py [folder]."""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from agent_memory import Memory


class AgentMemoryRetriever:
    """What A-MEM asks of its ``ChromaRetriever``; metadata come back as they were given, lists included."""

    def __init__(self, memory: Memory, collection_name: str = "memories") -> None:
        self.memory, self.namespace = memory, (collection_name,)

    def add_document(self, document: str, metadata: dict[str, Any], doc_id: str) -> None:
        """Keep a note, in the place of one with the same id."""
        self.memory.add(document, key=doc_id, metadata=metadata, namespace=self.namespace)

    def delete_document(self, doc_id: str) -> None:
        """Forget a note."""
        self.memory.forget(doc_id, namespace=self.namespace)

    def search(self, query: str, k: int = 5) -> dict[str, list[list[Any]]]:
        """Return the k closest notes in lists of one row, as Chroma does; a distance is 1 minus the score."""
        hits = self.memory.recall(query, k=k, namespace=self.namespace)
        return {
            "ids": [[hit.entry.key for hit in hits]],
            "documents": [[hit.text for hit in hits]],
            "metadatas": [[dict(hit.entry.metadata) for hit in hits]],
            "distances": [[1 - hit.score for hit in hits]],
        }


def main(folder: str) -> None:
    """Keep three notes, replace one, and search."""
    with Memory(folder) as memory:
        retriever = AgentMemoryRetriever(memory)
        retriever.add_document("Alice lives in Berlin.", {"tags": ["home"], "links": []}, "1")
        retriever.add_document("Alice is allergic to peanuts.", {"tags": ["health"], "links": ["1"]}, "2")
        retriever.add_document("Alice lives in Porto now.", {"tags": ["home", "move"], "links": ["2"]}, "1")
        found = retriever.search("Where does Alice live?", k=1)
        print(f"{found['documents'][0][0]} {found['metadatas'][0][0]['tags']}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
