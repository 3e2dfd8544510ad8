"""The database: the only source of truth for acknowledged memories."""
