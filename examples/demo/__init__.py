"""The conversation that ``agent-memory demo`` remembers, and the questions that it asks."""
