"""Rerankers for the documents of other people's retrievers: LangChain's compressor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore

from agent_memory import InvalidInputError
from agent_memory.encoders import EvoReranker, load_encoder
from agent_memory.integrations.langchain import AgentMemoryCompressor, EncoderEmbeddings

ROOT = Path(__file__).parents[2]
CHAT = [
    {"text": "So, what would you like?", "speaker": "Ann"},
    {"text": "A new pair of running shoes.", "speaker": "Ben"},
    {"text": "For your birthday, then.", "speaker": "Ann"},
]
QUESTION = "What would Ben like for his birthday?"


class Lengths:
    """Prefers long texts."""

    def score(self, query, texts):
        return np.array([len(text) for text in texts], np.float32)


@pytest.fixture(scope="module")
def retriever():
    store = InMemoryVectorStore(EncoderEmbeddings(load_encoder()))
    store.add_documents([Document(said["text"], id=str(at), metadata={"at": at}) for at, said in enumerate(CHAT)])
    return store.as_retriever(search_kwargs={"k": 3})


def test_a_conversation_decides_what_another_stores_retriever_finds(retriever):
    compressor = AgentMemoryCompressor(EvoReranker(history=CHAT), top_n=2)
    assert retriever.invoke(QUESTION)[0].page_content == "So, what would you like?"
    found = compressor.compress_documents(retriever.invoke(QUESTION), QUESTION)
    assert [document.page_content for document in found] == ["A new pair of running shoes.", "For your birthday, then."]
    assert found[0].metadata["at"] == 1 and found[0].id == "1"
    assert found[0].metadata["relevance_score"] > found[1].metadata["relevance_score"]


def test_in_a_chain_and_in_langchains_own_retriever(retriever):
    compressor = AgentMemoryCompressor(EvoReranker(history=CHAT), top_n=1)
    chain = {"documents": retriever, "query": lambda query: query} | RunnableLambda(
        lambda given: compressor.compress_documents(given["documents"], given["query"])
    )
    assert [document.id for document in chain.invoke(QUESTION)] == ["1"]
    classic = pytest.importorskip("langchain_classic.retrievers")
    whole = classic.ContextualCompressionRetriever(base_compressor=compressor, base_retriever=retriever)
    assert [document.id for document in whole.invoke(QUESTION)] == ["1"]


async def test_asynchronously_and_without_a_change_to_what_was_given(retriever):
    given = retriever.invoke(QUESTION)
    found = await AgentMemoryCompressor().acompress_documents(given, QUESTION)
    assert len(found) == 3
    assert all("relevance_score" not in document.metadata for document in given)


def test_any_reranker_a_floor_and_a_limit():
    documents = [Document("ab"), Document("abcd"), Document("a"), Document("abcd")]
    found = AgentMemoryCompressor(Lengths(), min_score=2).compress_documents(documents, "x")
    assert [document.page_content for document in found] == ["abcd", "abcd", "ab"]
    assert AgentMemoryCompressor(Lengths(), top_n=1).compress_documents([], "x") == []
    blank = AgentMemoryCompressor(Lengths(), top_n=2).compress_documents(documents, " ")
    assert [document.page_content for document in blank] == ["ab", "abcd"]


def test_what_cannot_rerank_is_refused():
    class Short:
        def score(self, query, texts):
            return [1.0]

    for wrong in ("minilm", Lengths, object()):
        with pytest.raises(InvalidInputError, match="must have a method 'score'"):
            AgentMemoryCompressor(wrong)
    with pytest.raises(InvalidInputError, match="1 scores for 2 texts"):
        AgentMemoryCompressor(Short()).compress_documents([Document("a"), Document("b")], "x")
    with pytest.raises(InvalidInputError, match="top_n"):
        AgentMemoryCompressor(Lengths(), top_n=0).compress_documents([Document("a")], "x")


# --- the example of a plain pipeline ---------------------------------------------------------------------------------


@pytest.fixture
def endpoint():
    """An endpoint that speaks the OpenAI protocol and answers from the first document of its prompt."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], body))
            found = body["messages"][-1]["content"].split("[2] ")[1].split("\n")[0]
            answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": f"[2]: {found}"}}]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", asked
    server.shutdown()
    thread.join()
    server.server_close()


def run_example(folder, **environment):
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "plain_rag.py"), str(folder)]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    given = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}
    done = subprocess.run(
        command, env={**given, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_the_plain_pipeline_without_a_model(tmp_path):
    printed = run_example(tmp_path / "store")
    assert "[1] Then the office party. What does everybody bring?\n[2] Two cakes and a bowl of salad.\n" in printed


def test_the_plain_pipeline_with_an_openai_compatible_endpoint(tmp_path, endpoint):
    url, asked = endpoint
    printed = run_example(tmp_path / "store", OPENAI_BASE_URL=url, OPENAI_API_KEY="k1", OPENAI_MODEL="m1")
    assert printed == "[2]: Two cakes and a bowl of salad.\n"
    assert [(path, key, body["model"]) for path, key, body in asked] == [("/v1/chat/completions", "Bearer k1", "m1")]
