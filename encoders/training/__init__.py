"""The commands that trained the embedded encoders; they need the source tree, the data sets and matplotlib.

``train`` and ``axes`` train the static encoder and ``evaluate`` scores it, ``session_train`` trains the compact session
encoder, ``evo_train`` and ``evo_ablate`` train EvoEmbedding. The other modules are their parts.
"""
