"""Measure retrieval on conversations and passages, and look at a session."""
