"""Nearest-neighbour search over tiers of one vector. NumPy in, NumPy out; knows nothing of text or storage."""
