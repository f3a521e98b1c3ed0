"""Words that every room uses: errors, clock, identifiers, secrets and limits; it imports nothing of ours."""
