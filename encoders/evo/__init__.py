"""EvoEmbedding as a session encoder."""
