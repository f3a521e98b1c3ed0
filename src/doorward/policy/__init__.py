"""May they: Cedar policies, roles and decisions with reasons."""
