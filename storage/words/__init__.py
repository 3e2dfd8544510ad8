"""Words: what of a text is indexed, and what of a query is searched for; the same rules for every back end."""
