"""Picks what a text is for among tools, skills, intents or namespaces that a few sentences describe."""
