"""Long-term memory for AI agents, inside the agent's own process."""
