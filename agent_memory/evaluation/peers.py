"""Other ways to rank the turns of a benchmark, run on the same data as ``recall``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.registry import load_encoder
from agent_memory.evaluation.published import Haystack
from agent_memory.evaluation.vectors import average_neighbours, cut_vectors
from agent_memory.types import FloatArray

Rank = Callable[[Haystack, int], list[list[str]]]
"""Returns, for each question of a haystack, the ids of the first turns, best first."""

_CHROMA_MODEL = Path("~/.cache/chroma/onnx_models/all-MiniLM-L6-v2/onnx/model.onnx")


def load_peers(encoder: Encoder) -> tuple[dict[str, Rank], dict[str, str]]:
    """Return the peers that can run on this machine, and why others cannot.

    ``bm25`` needs bm25s, ``chroma`` needs chromadb and the model that it would otherwise download. ``minilm`` and
    ``average``, the moving average of the vectors of ``encoder``, are always there.

    Args:
        encoder: The encoder that is evaluated.
    """
    peers: dict[str, Rank] = {}
    missing: dict[str, str] = {}
    if find_spec("bm25s"):
        peers["bm25"] = _rank_by_words
    else:
        missing["bm25"] = "bm25s is not installed; run: pip install 'agent-memory[peers]'"
    minilm = load_encoder("minilm")
    peers["minilm"] = lambda haystack, k: _rank_by_vectors(haystack, k, minilm)
    peers["average"] = lambda haystack, k: _rank_by_vectors(haystack, k, encoder, average=True)
    if not find_spec("chromadb"):
        missing["chroma"] = "chromadb is not installed"
    elif not _CHROMA_MODEL.expanduser().is_file():
        missing["chroma"] = f"its model is not in {_CHROMA_MODEL.parent}, and nothing is downloaded"
    else:
        peers["chroma"] = _rank_by_chroma
    return peers, missing


def _rank_by_words(haystack: Haystack, k: int) -> list[list[str]]:
    import bm25s
    import Stemmer

    logging.getLogger("bm25s").setLevel(logging.WARNING)
    stemmer = Stemmer.Stemmer("english")

    def cut(texts: Sequence[str]) -> list[list[str]]:
        words: list[list[str]] = bm25s.tokenize(
            list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
        )
        return words

    corpus = cut([turn.text for turn in haystack.turns])
    if not any(corpus):  # bm25s does not index texts without any word
        return [[] for _ in haystack.questions]
    index = bm25s.BM25()
    index.index(corpus, show_progress=False)
    ranked = []
    for words in cut([question.text for question in haystack.questions]):
        known = [word for word in words if word in index.vocab_dict]
        scores = index.get_scores(known) if known else np.zeros(len(haystack.turns), np.float32)
        ranked.append(_choose(haystack, scores, k, least=0.0))
    return ranked


def _rank_by_vectors(haystack: Haystack, k: int, encoder: Encoder, *, average: bool = False) -> list[list[str]]:
    turns = encoder.encode_documents([turn.text for turn in haystack.turns])
    rows = cut_vectors(average_neighbours(turns), turns.shape[1]) if average else turns
    asked = encoder.encode_queries([question.text for question in haystack.questions])
    return [_choose(haystack, rows @ vector, k) for vector in asked]


def _choose(haystack: Haystack, scores: FloatArray, k: int, *, least: float = -np.inf) -> list[str]:
    """Return the ids of the turns with the highest scores above ``least``."""
    order = np.argsort(-scores, kind="stable")[:k]
    return [haystack.turns[i].id for i in order if scores[i] > least]


def _rank_by_chroma(haystack: Haystack, k: int) -> list[list[str]]:
    import chromadb

    client = chromadb.EphemeralClient()
    collection = client.get_or_create_collection("benchmark")
    ids = [str(number) for number in range(len(haystack.turns))]
    try:
        for start in range(0, len(ids), 1_000):
            part = slice(start, start + 1_000)
            collection.add(ids=ids[part], documents=[turn.text for turn in haystack.turns[part]])
        answers: Mapping[str, Sequence[Sequence[str]]] = collection.query(
            query_texts=[question.text for question in haystack.questions], n_results=min(k, len(ids)), include=[]
        )
        return [[haystack.turns[int(i)].id for i in row] for row in answers["ids"]]
    finally:
        client.delete_collection("benchmark")
