"""How memories are written for others: as names, JSON, prompts, and passages of long texts."""
