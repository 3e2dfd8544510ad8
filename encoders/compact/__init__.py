"""The embedded session encoder, ``CompactSessionEncoder``: weights, features and inference in NumPy."""
