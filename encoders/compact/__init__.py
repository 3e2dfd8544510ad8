"""The embedded session encoder."""
