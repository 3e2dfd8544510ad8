"""From text to vectors. Knows nothing of storage or indexes."""
