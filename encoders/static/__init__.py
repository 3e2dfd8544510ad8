"""Encoders that embed a text by itself, without a session.

``runtime`` and ``windows`` are the base of those that run a model here; ``bert`` and ``linear`` are the network of the
MiniLM encoders.
"""
