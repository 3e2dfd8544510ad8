"""The operator's tasks: re-index, maintenance, periodic jobs, backup, check."""
