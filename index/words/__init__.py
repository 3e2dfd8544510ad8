"""The words tier: BM25 over postings in NumPy arrays, a cache of what the storage back end indexes."""

from agent_memory.index.words.segment import Page
from agent_memory.index.words.snapshot import load_words
from agent_memory.index.words.tier import WordsTier
from agent_memory.index.words.view import WordsView

__all__ = ["Page", "WordsTier", "WordsView", "load_words"]
