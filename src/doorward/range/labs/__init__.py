"""One attack a file: what opens the hole, what closes it, and what the attacker sends."""
