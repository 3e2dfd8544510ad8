"""Encoders of a text alone."""
