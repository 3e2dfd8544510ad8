"""One module per schema revision, named and numbered in order."""
