"""The database: the only place where acknowledged memories live."""
