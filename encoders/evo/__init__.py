"""EvoEmbedding (arXiv 2606.21649), the published session encoder.

``model`` embeds segments and queries, ``session`` adapts it to the contracts of this package, ``network`` holds the
arithmetic in torch, and the other modules read checkpoints, texts and token ids.
"""
