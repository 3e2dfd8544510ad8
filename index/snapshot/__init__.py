"""Index files: written, read and verified."""
