"""Coding agents: their hooks, what is captured of their sessions, and what is written into their settings.

``hook`` and what it imports at first are light: a hook is a process of its own, started several times a minute.
"""
