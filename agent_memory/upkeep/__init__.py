"""What an operator does: re-index, maintenance, periodic jobs, backup, check."""
