"""Reads files of other systems, and of this one: a module for each format, and ``registry`` to choose among them."""
