"""Nearest-neighbour search over tiers of one vector: NumPy in, NumPy out."""
