"""The schema of the state, step by step."""
