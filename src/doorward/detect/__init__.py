"""What a text or a definition looks like: views of it, patterns in it and findings about it, as pure functions."""
