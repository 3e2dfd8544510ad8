"""A LangChain chain that answers from documents: python examples/langchain_rag.py [folder]."""

from __future__ import annotations

import sys
import tempfile

from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from scripted_model import ScriptedModel

from agent_memory import Memory
from agent_memory.integrations.langchain import AgentMemoryVectorStore

DOCUMENTS = [
    Document("The warehouse in Hamburg opens at six in the morning.", metadata={"year": 2025}),
    Document("The warehouse in Hamburg opens at eight in the morning.", metadata={"year": 2019}),
    Document("Parcels above 30 kg need two people.", metadata={"year": 2025}),
]


def join_texts(documents: list[Document]) -> str:
    """Return the text of documents as the context of a prompt."""
    return "\n".join(document.page_content for document in documents)


def answer_from_context(messages: list[BaseMessage]) -> AIMessage:
    """Replace a language model that reads its context."""
    return AIMessage("At six." if "opens at six" in str(messages[0].content) else "I do not know.")


def main(folder: str) -> None:
    """Index documents and ask about them, with a filter on their metadata."""
    with Memory(folder) as memory:
        store = AgentMemoryVectorStore(memory, namespace=("handbook",))
        store.add_documents(DOCUMENTS, ids=["hours", "old-hours", "parcels"])
        retriever = store.as_retriever(search_kwargs={"k": 1, "filter": {"year": {"$gte": 2024}}})
        prompt = ChatPromptTemplate.from_template("Context:\n{context}\n\nQuestion: {question}")
        model = ScriptedModel(replies=[answer_from_context])
        inputs = {"context": retriever | join_texts, "question": RunnablePassthrough()}
        chain = inputs | prompt | model | StrOutputParser()
        print(chain.invoke("When does the Hamburg warehouse open?"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
