"""Retrieval quality on labelled data, and how a session's answers evolve."""
