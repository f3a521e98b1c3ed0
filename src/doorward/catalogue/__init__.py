"""What servers and tools exist, and what is known of each."""
