"""The write path: from items and files to committed entries."""
