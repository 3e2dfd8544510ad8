"""How the embedded default was trained: needs the source tree, the data sets and matplotlib."""
