"""The resident helper: a warm process that does the work of commands, and answers in a blink.

``client`` and ``wire`` import next to nothing, because commands wait for them; ``cli.helper`` is the process.
"""
