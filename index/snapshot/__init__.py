"""Index snapshots: write, read, manifest."""
