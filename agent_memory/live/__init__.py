"""What an open ``Memory`` holds: the store, its embedding space, sessions and index."""
